"""The verbal teacher: demonstrations, and what judge and demonstrator share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.helpers import ScriptedEngine, problem


def one_to_ten(prompt: str) -> dict[str, float]:
    return {"0": 0.9, "x": 0.1} if prompt.endswith("1") else {"1": 0.5, "3": 0.25, "0": 0.05}


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
    VerbalTeacher(engine, judge=VerbalJudge(chat=True)).demonstrate(["ab", "cd"], ["", "ef"], [5, 6], [10, 3])
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
        judge = VerbalJudge(scale="one_to_ten", chat=chat)
        teacher = VerbalTeacher(engine, judge, demonstrator_chat=demonstrator_chat)
        judge.score(["ab"])
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


def test_engines_are_checked_and_woken_once(tokenizer: Any) -> None:
    judge, writer = ScriptedEngine(tokenizer=tokenizer), ScriptedEngine(tokenizer=tokenizer)
    both, one = VerbalTeacher(judge, demonstrator=writer), VerbalTeacher(judge)
    assert (both.engines, one.engines) == ([judge, writer], [judge])
    both.check()
    with both.awake():
        assert (judge.checks, writer.checks, judge.awakenings, writer.awakenings) == (1, 1, 1, 1)


def test_settings_tell_teachers_apart() -> None:
    engine, other = ScriptedEngine(), ScriptedEngine(name="judge")
    teachers = [
        VerbalTeacher(engine), VerbalTeacher(engine, demonstrator=ScriptedEngine(name="writer")),
        *(VerbalTeacher(engine, VerbalJudge(**s)) for s in (
            {"chat": True}, {"scale": "one_to_ten"}, {"read": "text"}, {"reference": True}, {"engine": other},
        )),
        VerbalTeacher(engine, demonstrator_chat=True), VerbalTeacher(engine, demonstration_thinking="strip"),
    ]  # fmt: skip
    told = [json.dumps(teacher.settings()) for teacher in teachers]
    assert len(set(told)) == len(teachers)
    assert VerbalTeacher(engine, VerbalJudge(text_temperature=0.1)).settings() == teachers[0].settings(), (
        "no text is sampled"
    )


def test_a_chat_needs_a_template(tiny_model: str) -> None:
    from ovd_lightning.engines.hf import HFEngine

    engine = HFEngine(tiny_model)
    VerbalTeacher(engine).check()
    with pytest.raises(ConfigError, match=r"init_args\.chat: is true, but the tokenizer of hf:.* has no chat template"):
        VerbalTeacher(engine, VerbalJudge(chat=True)).check()
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator_chat: is true"):
        VerbalTeacher(engine, demonstrator_chat=True).check()
    engine.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    VerbalTeacher(engine, VerbalJudge(chat=True)).check()


def test_a_thought_whose_end_no_text_shows_cannot_be_stripped(tokenizer: Any) -> None:
    class Special:
        all_special_tokens = ("<eos>", "</think>")

    teacher = VerbalTeacher(
        ScriptedEngine(), demonstrator=ScriptedEngine(tokenizer=Special()), demonstration_thinking="strip"
    )
    with pytest.raises(ConfigError, match=r"demonstration_thinking: is strip, but </think> is a special token"):
        teacher.check()
    VerbalTeacher(
        ScriptedEngine(), demonstrator=ScriptedEngine(tokenizer=tokenizer), demonstration_thinking="strip"
    ).check()


def test_judge_and_demonstrator_need_room_for_different_things(tokenizer: Any) -> None:
    """A thought is never judged: it may be longer than the judge's context."""
    task = ArithmeticTask(train_size=1)
    tokens = len(tokenizer.encode(step_prompt("1+1+0=?", [], "", SCALES["zero_to_nine"])))

    def check(judge: int, writer: int, how: dict[str, Any] | None = None, **settings: Any) -> None:
        judging, writing = (ScriptedEngine(tokenizer=tokenizer, context=context) for context in (judge, writer))
        teacher = VerbalTeacher(judging, VerbalJudge(**(how or {})), writing, **settings)
        teacher.check_problems(task, [problem()], 50)

    check(tokens + 50 + 1, 8 + 50)
    with pytest.raises(ConfigError, match=rf"init_args\.engine: .* 50 tokens may need {tokens + 51}"):
        check(tokens + 50, 8 + 50)
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator: .* 50 tokens may need 58"):
        check(tokens + 51, 8 + 49)
    check(tokens + 51, 8 + 1000, demonstration_tokens=1000)
    with pytest.raises(ConfigError, match=r"init_args\.demonstrator: .* 1000 tokens may need 1008"):
        check(tokens + 51, 1000, demonstration_tokens=1000)
    with pytest.raises(ConfigError, match=rf"init_args\.engine: .* may need {tokens + 50 + 300}"):
        check(tokens + 51, 8 + 50, {"read": "text", "score_tokens": 300})
