"""The verbal teacher: distributions, texts, the cache, and demonstrations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.teachers.prompts import SCALES, step_prompt
from ovd_lightning.teachers.verbal import UnparsedScores, VerbalTeacher
from tests.helpers import ScriptedEngine, problem

# ------------------------------------------------------------------ distributions


def test_the_distribution_is_normalised_over_the_score_tokens(tokenizer: Any) -> None:
    # 0.3 and 0.1 on digits, 0.6 elsewhere: mass 0.4, probabilities 3/4 and 1/4
    engine = ScriptedEngine(lambda prompt: {"7": 0.3, "2": 0.1, "T": 0.6}, tokenizer=tokenizer)
    (judgement,) = VerbalTeacher(engine).score(["p"])
    assert judgement.mass == pytest.approx(0.4)
    assert judgement.distribution == pytest.approx([0, 0, 0.25, 0, 0, 0, 0, 0.75, 0, 0])


class SpacedTokenizer:
    """A vocabulary in which a digit is one token with a space before it and without."""

    unk_token_id = 0

    def __init__(self, **ids: int) -> None:
        self.ids = {**{str(d): [1 + d] for d in range(10)}, **{f" {d}": [11 + d] for d in range(10)}}
        self.ids |= {name.replace("_", " "): [i] for name, i in ids.items()}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self.ids.get(text, [100, 101])


def test_a_digit_after_a_space_adds_to_the_digit() -> None:
    engine = ScriptedEngine(lambda prompt: {"7": 0.2, " 7": 0.3, " 5": 0.1}, tokenizer=SpacedTokenizer())
    (judgement,) = VerbalTeacher(engine).score(["p"])
    # 0.2 + 0.3 on 7 and 0.1 on 5
    assert judgement.mass == pytest.approx(0.6)
    assert judgement.distribution == pytest.approx([0, 0, 0, 0, 0, 1 / 6, 0, 5 / 6, 0, 0])


def test_one_token_is_counted_once() -> None:
    same = {f" {d}": 1 + d for d in range(10)}  # a vocabulary that drops the space
    engine = ScriptedEngine(lambda prompt: {"7": 0.5, " 7": 0.5}, tokenizer=SpacedTokenizer(**same))
    (judgement,) = VerbalTeacher(engine).score(["p"])
    assert judgement.mass == pytest.approx(0.5)


def test_a_hidden_vocabulary_is_asked_for_digits_without_space() -> None:
    # such an endpoint answers "7" with what it gave "7" and " 7" together
    engine = ScriptedEngine(lambda prompt: {"7": 0.8, " 7": 0.8})
    (judgement,) = VerbalTeacher(engine).score(["p"])
    assert judgement.mass == pytest.approx(0.8)


def one_to_ten(prompt: str) -> dict[str, float]:
    return {"0": 0.9, "x": 0.1} if prompt.endswith("1") else {"1": 0.5, "3": 0.25, "0": 0.05}


def test_ten_is_a_one_and_a_zero(tokenizer: Any) -> None:
    engine = ScriptedEngine(one_to_ten, tokenizer=tokenizer)
    (judgement,) = VerbalTeacher(engine, scale="one_to_ten").score(["p:"])
    # P(10) = 0.5 * 0.9 = 0.45; P(1) = 0.5 * 0.1 = 0.05; P(3) = 0.25; "0" alone is no score: mass 0.75
    assert judgement.mass == pytest.approx(0.75)
    assert judgement.distribution == pytest.approx([0.05 / 0.75, 0, 1 / 3, 0, 0, 0, 0, 0, 0, 0.45 / 0.75])
    assert engine.judged == ["p:", "p:1"]


def test_ten_as_a_token_of_its_own_counts_too() -> None:
    def judge(prompt: str) -> dict[str, float]:
        return {} if prompt.endswith("1") else {"10": 0.2, " 10": 0.1, "3": 0.3}

    engine = ScriptedEngine(judge, tokenizer=SpacedTokenizer(**{"10": 50, "_10": 51}))
    (judgement,) = VerbalTeacher(engine, scale="one_to_ten").score(["p:"])
    assert judgement.distribution == pytest.approx([0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.5])


def test_a_chat_judge_gets_one_user_message_and_its_own_one(tokenizer: Any) -> None:
    prompts: list[Any] = []

    class Chat(ScriptedEngine):
        def next_text_logprobs(self, given: Any, texts: Any) -> Any:
            prompts.extend(given)
            return super().next_text_logprobs(given, texts)

    VerbalTeacher(Chat(one_to_ten, tokenizer=tokenizer), scale="one_to_ten", chat=True).score(["p:"])
    user = {"role": "user", "content": "p:"}
    assert prompts == [[user], [user, {"role": "assistant", "content": "1"}]]


def test_low_mass_is_a_parse_failure(tokenizer: Any) -> None:
    masses = {"a": 0.02, "b": 0.001, "c": 0.0}
    engine = ScriptedEngine(lambda prompt: {"7": masses[prompt]}, tokenizer=tokenizer)
    teacher = VerbalTeacher(engine, min_mass=0.01, max_parse_failures=0.7)
    a, b, c = teacher.score(["a", "b", "c"])
    assert a.distribution is not None
    assert b.distribution is None
    assert b.mass == pytest.approx(0.001)
    assert (c.distribution, c.mass) == (None, 0.0)
    ledger = teacher.take_ledger()
    assert (ledger.scores, ledger.asked, ledger.parse_failures) == (3, 3, 2)
    assert teacher.take_ledger().scores == 0


# ------------------------------------------------------------------ asked once


def test_equal_prompts_are_asked_once(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: int(prompt), tokenizer=tokenizer)
    teacher = VerbalTeacher(engine)
    judgements = teacher.score(["3", "5", "3", "3"])
    assert [j.distribution.index(1.0) for j in judgements if j.distribution] == [3, 5, 3, 3]
    assert sorted(engine.judged) == ["3", "5"]
    teacher.score(["5", "8"], seed=17)  # a distribution needs no seed
    assert sorted(engine.judged) == ["3", "5", "8"]
    ledger = teacher.take_ledger()
    assert (ledger.scores, ledger.asked) == (6, 3)
    assert teacher.score([]) == []


def test_the_disk_cache_answers_after_reopening(tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    first, second = (ScriptedEngine(lambda prompt: {"3": 0.4, "9": 0.2}, tokenizer=tokenizer) for _ in range(2))
    teacher = VerbalTeacher(first, cache=path)
    before = teacher.score(["p", "q"])
    teacher.close()
    assert first.closed
    assert VerbalTeacher(second, cache=path).score(["q", "p"]) == before[::-1]
    assert second.judged == []


def test_the_cache_knows_who_was_asked_and_how(tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    settings: list[dict[str, Any]] = [
        {}, {"scale": "one_to_ten"}, {"chat": True}, {"read": "text"},
        {"read": "text", "text_temperature": 0.1}, {"read": "text", "score_tokens": 2},
    ]  # fmt: skip
    for kwargs in settings:
        engine = ScriptedEngine(lambda prompt: 3, lambda prompt, request: "3", tokenizer=tokenizer)
        VerbalTeacher(engine, cache=path, **kwargs).score(["p"])
        assert engine.judged or engine.written, kwargs
    other = ScriptedEngine(lambda prompt: 3, tokenizer=tokenizer, name="another model")
    VerbalTeacher(other, cache=path).score(["p"])
    assert other.judged == ["p"]


@pytest.mark.parametrize("read", ["distribution", "text"])
def test_a_request_that_failed_is_asked_again(read: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    broken = ScriptedEngine(lambda prompt: None, lambda prompt, request: None, tokenizer=tokenizer)
    teacher = VerbalTeacher(broken, read=read, max_parse_failures=1, cache=path)
    (judgement,) = teacher.score(["p"])
    assert (judgement.distribution, judgement.mass) == (None, 0.0)
    assert teacher.take_ledger().mass == [0.0]
    mended = ScriptedEngine(lambda prompt: 4, lambda prompt, request: "4", tokenizer=tokenizer)
    (judgement,) = VerbalTeacher(mended, read=read, cache=path).score(["p"])
    assert judgement.distribution is not None
    assert judgement.distribution[4] == 1


def test_parse_failures_may_be_counted_over_several_calls(tokenizer: Any) -> None:
    """One failure of one prompt says nothing of a teacher."""
    engine = ScriptedEngine(lambda prompt: {"T": 1.0}, tokenizer=tokenizer)
    teacher, unparsed = VerbalTeacher(engine), UnparsedScores(least=3)
    for prompt in "abc":
        assert teacher.score([prompt], unparsed=unparsed)[0].distribution is None
    with pytest.raises(RuntimeError, match="4 of 4 scoring prompts got no score"):
        teacher.score(["d"], unparsed=unparsed)


def test_too_many_parse_failures_stop_the_run(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: 3 if prompt == "good" else {"T": 1.0}, tokenizer=tokenizer, name="qwen")
    teacher = VerbalTeacher(engine, max_parse_failures=0.5)
    assert [j.distribution is None for j in teacher.score(["good", "bad"])] == [False, True]
    with pytest.raises(RuntimeError, match="2 of 3 scoring prompts got no score from qwen") as error:
        teacher.score(["good", "bad", "worse"])
    assert all(mend in str(error.value) for mend in ("chat: true", "read: text", "score_tokens", "max_parse_failures"))


# ------------------------------------------------------------------ scores as text


def test_scores_as_text_are_one_hot_and_seeded(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: {"a": "Score: 7", "b": "none"}[prompt], tokenizer=tokenizer)
    teacher = VerbalTeacher(engine, read="text", text_temperature=0.3, score_tokens=16)
    a, b = teacher.score(["a", "b"], seed=1)
    assert a.distribution == [float(s == 7) for s in range(10)]
    assert (a.mass, b.distribution, b.mass) == (1.0, None, 0.0)
    teacher.score(["a"], seed=1)
    assert len(engine.written) == 2
    teacher.score(["a"], seed=2)  # another seed is another sample
    assert len(engine.written) == 3
    seeds = [request.seed for request in engine.written]
    assert len(set(seeds)) == 3
    assert teacher.used.completion > 0


# ------------------------------------------------------------------ demonstrations


def test_demonstrations(tokenizer: Any) -> None:
    judge = ScriptedEngine(tokenizer=tokenizer)
    writer = ScriptedEngine(write=lambda prompt, request: prompt.upper(), tokenizer=tokenizer)
    teacher = VerbalTeacher(judge, demonstrator=writer)
    completions = teacher.demonstrate(["ab", "cd"], ["", "ef"], [5, 6], [10, 3])
    assert [c.text for c in completions] == ["AB", "CDE"]
    assert [c.truncated for c in completions] == [False, True]
    assert writer.written == [
        Request(prompt="ab", seed=5, max_tokens=10), Request(prompt="cdef", seed=6, max_tokens=3),
    ]  # fmt: skip
    assert judge.written == []
    assert teacher.take_ledger().demonstrations == 2
    assert teacher.used == (2 + 4, 3 + 3)  # of both engines; "AB" and its end, "CDE"
    assert teacher.demonstrate([], [], [], []) == []


def test_a_chat_demonstrator_continues_its_own_message(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer=tokenizer)
    VerbalTeacher(engine, chat=True).demonstrate(["ab", "cd"], ["", "ef"], [5, 6], [10, 3])
    assert [request.prompt for request in engine.written] == [
        [{"role": "user", "content": "ab"}],
        [{"role": "user", "content": "cd"}, {"role": "assistant", "content": "ef"}],
    ]


def test_judge_and_demonstrator_of_one_engine_may_be_asked_differently(tokenizer: Any) -> None:
    """A reasoning model: the score is the next token after the bare prompt, answers come through its template."""
    asked: list[Any] = []

    class Reasoner(ScriptedEngine):
        def next_text_logprobs(self, given: Any, texts: Any) -> Any:
            asked.extend(given)
            return super().next_text_logprobs(given, texts)

    user = {"role": "user", "content": "ab"}
    for chat, demonstrator_chat in ((False, True), (True, False), (False, None), (True, None)):
        asked.clear()
        engine = Reasoner(one_to_ten, tokenizer=tokenizer)
        teacher = VerbalTeacher(engine, scale="one_to_ten", chat=chat, demonstrator_chat=demonstrator_chat)
        teacher.score(["ab"])
        teacher.demonstrate(["ab"], [""], [0], [9])
        assert asked == ([[user], [user, {"role": "assistant", "content": "1"}]] if chat else ["ab", "ab1"])
        answers_in_chat = chat if demonstrator_chat is None else demonstrator_chat
        assert [request.prompt for request in engine.written] == ([[user]] if answers_in_chat else ["ab"])


def test_the_tasks_system_message_goes_before_the_prompt_of_a_chat(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer=tokenizer)
    VerbalTeacher(engine, demonstrator_chat=True).demonstrate(["ab", "cd"], ["", "ef"], [5, 6], [9, 9], system="be")
    VerbalTeacher(engine).demonstrate(["ab"], ["ef"], [5], [9], system="be")
    system = {"role": "system", "content": "be"}
    assert [request.prompt for request in engine.written] == [
        [system, {"role": "user", "content": "ab"}],
        [system, {"role": "user", "content": "cd"}, {"role": "assistant", "content": "ef"}],
        "abef",
    ]


class Stopping(ScriptedEngine):
    """Ends at a stop text, which stays; ``stops`` are those that it was given, call by call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stops: list[tuple[str, ...]] = []

    def generate(self, requests: Any, sampling: Any) -> Any:
        self.stops.append(sampling.stop)
        return super().generate(requests, sampling)

    def _complete(self, request: Request, sampling: Any) -> Any:
        completion = super()._complete(request, sampling)
        ends = [completion.text.find(s) + len(s) for s in sampling.stop if s in completion.text]
        if ends:
            completion.text = completion.text[: min(ends)]
            completion.token_ids = self.tokenizer.encode(completion.text, add_special_tokens=False)
            completion.truncated = False
        return completion


@pytest.mark.parametrize(
    ("says", "stop", "text", "stops"),
    [
        ("one\ntwo", "\n", "one\n", [("\n",)]),
        ("one", "\n", "one", [("\n",)]),
        ("\n\none\ntwo", "\n", "\n\none\n", [("\n",), ()]),  # asked again for what follows the bare separator
        ("one\n\ntwo", "\n\n", "one\n\n", [("\n\n",)]),
    ],
)
def test_a_demonstration_of_one_step(says: str, stop: str, text: str, stops: list[Any], tokenizer: Any) -> None:
    engine = Stopping(write=lambda prompt, request: says, tokenizer=tokenizer)
    (completion,) = VerbalTeacher(engine).demonstrate(["ab"], ["x\n"], [5], [99], stop=(stop,))
    assert completion.text == text
    assert not completion.truncated
    assert engine.stops == stops
    whole = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert completion.token_ids == (None if len(stops) == 2 else whole[:-1] if text.endswith(stop) else whole)


def test_what_cannot_stop_is_cut(tokenizer: Any) -> None:
    """A stop text may stand within a thought; and some endpoints do not tell whether they stopped at one."""

    class BlackBox(Stopping):
        keeps_stop = False

    says = "<think>1\n2</think>one\ntwo"
    for engine, thinking, text in (
        (Stopping(write=lambda prompt, request: says), "strip", "one\n"),
        (BlackBox(write=lambda prompt, request: "one\ntwo"), "keep", "one\n"),
        (BlackBox(write=lambda prompt, request: "one"), "keep", "one"),
    ):
        teacher = VerbalTeacher(engine, demonstration_thinking=thinking)  # type: ignore[arg-type]
        (completion,) = teacher.demonstrate(["ab"], [""], [5], [99], stop=("\n",))
        assert (completion.text, completion.token_ids, completion.truncated) == (text, None, False)
        assert engine.stops == [()]


def test_a_template_that_trims_what_was_begun(tokenizer: Any) -> None:
    """The teacher then repeats the end of the line."""
    engine = Stopping(write=lambda prompt, request: "\n\ntwo\nthree", tokenizer=tokenizer)
    teacher = VerbalTeacher(engine, demonstrator_chat=True)
    (completion,) = teacher.demonstrate(["ab"], ["one\n\n"], [5], [99])
    assert (completion.text, completion.token_ids) == ("two\nthree", None)
    (step,) = teacher.demonstrate(["ab"], ["one\n\n"], [5], [99], stop=("\n\n",))
    assert step.text == "two\nthree"
    (fresh,) = teacher.demonstrate(["ab"], [""], [5], [99])
    assert fresh.text == "\n\ntwo\nthree", "nothing to be repeated"


def test_thoughts_are_kept_or_stripped(tokenizer: Any) -> None:
    says = {"a": "<think>hm</think>\n\nyes", "b": "<think>hm, or", "c": "yes"}
    engine = ScriptedEngine(write=lambda prompt, request: says[prompt])
    ask = (["a", "b", "c"], [""] * 3, [1, 2, 3], [99] * 3)
    kept = VerbalTeacher(engine).demonstrate(*ask)
    assert [c.text for c in kept] == list(says.values())
    stripped = VerbalTeacher(engine, demonstration_thinking="strip").demonstrate(*ask)
    assert [(c.text, c.error) for c in stripped] == [("yes", None), ("", "the thought did not end"), ("yes", None)]


def test_the_teacher_has_a_limit_of_its_own(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer=tokenizer)
    VerbalTeacher(engine, demonstration_tokens=99).demonstrate(["ab", "cd"], ["", "ef"], [5, 6], [10, 3])
    assert [request.max_tokens for request in engine.written] == [99, 99]


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [("text_temperature", -1), ("max_parse_failures", 1.5), ("scale", "one_to_five"), ("read", "logits"),
     ("score_tokens", 0), ("demonstration_tokens", 0), ("demonstration_thinking", "hide")],
)  # fmt: skip
def test_wrong_settings_are_named(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"teacher\.init_args\.{setting}: is "):
        VerbalTeacher(ScriptedEngine(), **{setting: value})


def test_engines_are_checked_and_woken_once(tokenizer: Any) -> None:
    judge, writer = ScriptedEngine(tokenizer=tokenizer), ScriptedEngine(tokenizer=tokenizer)
    both, one = VerbalTeacher(judge, writer), VerbalTeacher(judge)
    assert (both.engines, one.engines) == ([judge, writer], [judge])
    both.check()
    with both.awake():
        assert (judge.checks, writer.checks, judge.awakenings, writer.awakenings) == (1, 1, 1, 1)


def test_settings_tell_teachers_apart() -> None:
    engine = ScriptedEngine()
    teachers = [
        VerbalTeacher(engine), VerbalTeacher(engine, ScriptedEngine(name="writer")), VerbalTeacher(engine, chat=True),
        VerbalTeacher(engine, scale="one_to_ten"), VerbalTeacher(engine, read="text"),
        VerbalTeacher(engine, demonstrator_chat=True), VerbalTeacher(engine, demonstration_thinking="strip"),
    ]  # fmt: skip
    told = [json.dumps(teacher.settings()) for teacher in teachers]
    assert len(set(told)) == len(teachers)
    assert VerbalTeacher(engine, text_temperature=0.1).settings() == teachers[0].settings(), "no text is sampled"


def test_a_chat_needs_a_template(tiny_model: str) -> None:
    from ovd_lightning.engines.hf import HFEngine

    engine = HFEngine(tiny_model)
    VerbalTeacher(engine).check()
    with pytest.raises(ConfigError, match=r"init_args\.chat: is true, but the tokenizer of hf:.* has no chat template"):
        VerbalTeacher(engine, chat=True).check()
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator_chat: is true"):
        VerbalTeacher(engine, demonstrator_chat=True).check()
    engine.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    VerbalTeacher(engine, chat=True).check()


def test_a_thought_whose_end_no_text_shows_cannot_be_stripped(tokenizer: Any) -> None:
    class Special:
        all_special_tokens = ("<eos>", "</think>")

    teacher = VerbalTeacher(ScriptedEngine(), ScriptedEngine(tokenizer=Special()), demonstration_thinking="strip")
    with pytest.raises(ConfigError, match=r"demonstration_thinking: is strip, but </think> is a special token"):
        teacher.check()
    VerbalTeacher(ScriptedEngine(), ScriptedEngine(tokenizer=tokenizer), demonstration_thinking="strip").check()


def test_judge_and_demonstrator_need_room_for_different_things(tokenizer: Any) -> None:
    """A thought is never judged: it may be longer than the judge's context."""
    task = ArithmeticTask(train_size=1)
    tokens = len(tokenizer.encode(step_prompt("1+1+0=?", [], "", SCALES["zero_to_nine"])))

    def check(judge: int, writer: int, **settings: Any) -> None:
        engines = (ScriptedEngine(tokenizer=tokenizer, context=context) for context in (judge, writer))
        VerbalTeacher(*engines, **settings).check_problems(task, [problem()], 50)

    check(tokens + 50 + 1, 8 + 50)
    with pytest.raises(ConfigError, match=rf"init_args\.engine: .* 50 tokens may need {tokens + 51}"):
        check(tokens + 50, 8 + 50)
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator: .* 50 tokens may need 58"):
        check(tokens + 51, 8 + 49)
    check(tokens + 51, 8 + 1000, demonstration_tokens=1000)
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator: .* 1000 tokens may need 1008"):
        check(tokens + 51, 1000, demonstration_tokens=1000)
    with pytest.raises(ConfigError, match=rf"init_args\.engine: .* may need {tokens + 50 + 300}"):
        check(tokens + 51, 8 + 50, read="text", score_tokens=300)


def test_a_vocabulary_without_digits_is_refused_before_anything_loads() -> None:
    lacking = SpacedTokenizer()
    del lacking.ids["4"], lacking.ids["7"]
    with pytest.raises(ConfigError, match=r"4, 7 is not one token in the vocabulary of scripted\. Use read: text"):
        VerbalTeacher(ScriptedEngine(tokenizer=lacking)).check()
    VerbalTeacher(ScriptedEngine(tokenizer=lacking), read="text").check()
    VerbalTeacher(ScriptedEngine()).check()  # a hidden vocabulary cannot be checked


def test_masses_are_probabilities(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: {"0": 0.5, "9": 0.5}, tokenizer=tokenizer)
    (judgement,) = VerbalTeacher(engine).score(["p"])
    assert judgement.distribution is not None
    assert math.isclose(sum(judgement.distribution), 1)
