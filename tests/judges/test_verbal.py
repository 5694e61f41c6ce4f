"""The verbal judge: distributions, texts, the cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import UnparsedScores
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.judges.verbal import VerbalJudge, space_stands_alone
from ovd_lightning.packaged import PACKAGE
from tests.helpers import ScriptedEngine


def cached(engine: ScriptedEngine, path: str, **settings: Any) -> VerbalJudge:
    judge = VerbalJudge(**settings)
    judge.bind(engine, AnswerCache(path))
    return judge


# ------------------------------------------------------------------ distributions


def test_the_distribution_is_normalised_over_the_score_tokens(tokenizer: Any) -> None:
    # 0.3 and 0.1 on digits, 0.6 elsewhere: mass 0.4, probabilities 3/4 and 1/4
    engine = ScriptedEngine(lambda prompt: {"7": 0.3, "2": 0.1, "T": 0.6}, tokenizer=tokenizer)
    (judgement,) = VerbalJudge(engine).score(["p"])
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
    (judgement,) = VerbalJudge(engine).score(["p"])
    # 0.2 + 0.3 on 7 and 0.1 on 5
    assert judgement.mass == pytest.approx(0.6)
    assert judgement.distribution == pytest.approx([0, 0, 0, 0, 0, 1 / 6, 0, 5 / 6, 0, 0])


def test_one_token_is_counted_once() -> None:
    same = {f" {d}": 1 + d for d in range(10)}  # a vocabulary that drops the space
    engine = ScriptedEngine(lambda prompt: {"7": 0.5, " 7": 0.5}, tokenizer=SpacedTokenizer(**same))
    (judgement,) = VerbalJudge(engine).score(["p"])
    assert judgement.mass == pytest.approx(0.5)


def test_a_hidden_vocabulary_is_asked_for_digits_without_space() -> None:
    # such an endpoint answers "7" with what it gave "7" and " 7" together
    engine = ScriptedEngine(lambda prompt: {"7": 0.8, " 7": 0.8})
    (judgement,) = VerbalJudge(engine).score(["p"])
    assert judgement.mass == pytest.approx(0.8)


def one_to_ten(prompt: str) -> dict[str, float]:
    return {"0": 0.9, "x": 0.1} if prompt.endswith("1") else {"1": 0.5, "3": 0.25, "0": 0.05}


def test_ten_is_a_one_and_a_zero(tokenizer: Any) -> None:
    engine = ScriptedEngine(one_to_ten, tokenizer=tokenizer)
    (judgement,) = VerbalJudge(engine, scale="one_to_ten").score(["p:"])
    # P(10) = 0.5 * 0.9 = 0.45; P(1) = 0.5 * 0.1 = 0.05; P(3) = 0.25; "0" alone is no score: mass 0.75
    assert judgement.mass == pytest.approx(0.75)
    assert judgement.distribution == pytest.approx([0.05 / 0.75, 0, 1 / 3, 0, 0, 0, 0, 0, 0, 0.45 / 0.75])
    assert engine.judged == ["p:", "p:1"]


def test_ten_as_a_token_of_its_own_counts_too() -> None:
    def judge(prompt: str) -> dict[str, float]:
        return {} if prompt.endswith("1") else {"10": 0.2, " 10": 0.1, "3": 0.3}

    engine = ScriptedEngine(judge, tokenizer=SpacedTokenizer(**{"10": 50, "_10": 51}))
    (judgement,) = VerbalJudge(engine, scale="one_to_ten").score(["p:"])
    assert judgement.distribution == pytest.approx([0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.5])


def spaced(prompt: str) -> dict[str, float]:
    """A space, and the digit behind it, where the vocabulary has no " 7"."""
    if prompt.endswith(" 1"):
        return {"0": 0.4}
    return {"7": 0.5, "3": 0.25, "1": 0.25} if prompt.endswith(": ") else {" ": 0.8, "7": 0.1, "1": 0.02}


def test_a_score_behind_a_space_is_read(tokenizer: Any) -> None:
    """As a Qwen without its template writes it; read without the space, a thousandth of the probability decided."""
    assert space_stands_alone(tokenizer)
    engine = ScriptedEngine(spaced, tokenizer=tokenizer)
    judge = VerbalJudge(engine)
    (judgement,) = judge.score(["p:"])
    assert engine.judged == ["p:", "p: "]
    assert judge.ledger.asked == 2
    # P(7) = 0.1 + 0.8 * 0.5, P(3) = 0.8 * 0.25, P(1) = 0.02 + 0.8 * 0.25
    assert judgement.mass == pytest.approx(0.92)
    expected = [0, 0.22, 0, 0.2, 0, 0, 0, 0.5, 0, 0]
    assert judgement.distribution == pytest.approx([p / 0.92 for p in expected])
    (ten,) = VerbalJudge(engine, scale="one_to_ten").score(["p:"])
    assert ten.distribution == pytest.approx([p / 0.92 for p in [0.132, 0, 0.2, 0, 0, 0, 0.5, 0, 0, 0.088]])
    engine.judged.clear()
    VerbalJudge(engine).score(["p: "])  # whose text ends with it
    assert engine.judged == ["p: "]


@pytest.mark.parametrize("asset", ["teacher", "tools/teacher", "web/teacher"])
def test_the_embedded_teachers_answer_at_once(asset: str) -> None:
    """So that no round of a quickstart asks twice."""
    judge = VerbalJudge(HFEngine(str(PACKAGE / "assets" / asset)))
    judge.engine.start()
    (judgement,) = judge.score([step_prompt("1+1=?", [], "1+1=2", judge.scale)])
    assert judge.ledger.asked == 1
    assert judgement.distribution is not None


def test_a_chat_judge_gets_one_user_message_and_its_own_one(tokenizer: Any) -> None:
    prompts: list[Any] = []

    class Chat(ScriptedEngine):
        def next_text_logprobs(self, given: Any, texts: Any) -> Any:
            prompts.extend(given)
            return super().next_text_logprobs(given, texts)

    VerbalJudge(Chat(one_to_ten, tokenizer=tokenizer), scale="one_to_ten", chat=True).score(["p:"])
    user = {"role": "user", "content": "p:"}
    assert prompts == [[user], [user, {"role": "assistant", "content": "1"}]]


def test_low_mass_is_a_parse_failure(tokenizer: Any) -> None:
    masses = {"a": 0.02, "b": 0.001, "c": 0.0}
    engine = ScriptedEngine(lambda prompt: {"7": masses[prompt]}, tokenizer=tokenizer)
    judge = VerbalJudge(engine, min_mass=0.01, max_parse_failures=0.7)
    a, b, c = judge.score(["a", "b", "c"])
    assert a.distribution is not None
    assert b.distribution is None
    assert b.mass == pytest.approx(0.001)
    assert (c.distribution, c.mass) == (None, 0.0)
    ledger = judge.take_ledger()
    assert (ledger.scores, ledger.asked, ledger.parse_failures) == (3, 3, 2)
    assert judge.take_ledger().scores == 0


# ------------------------------------------------------------------ asked once


def test_equal_prompts_are_asked_once(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: int(prompt), tokenizer=tokenizer)
    judge = VerbalJudge(engine)
    judgements = judge.score(["3", "5", "3", "3"])
    assert [j.distribution.index(1.0) for j in judgements if j.distribution] == [3, 5, 3, 3]
    assert sorted(engine.judged) == ["3", "5"]
    judge.score(["5", "8"], seed=17)  # a distribution needs no seed
    assert sorted(engine.judged) == ["3", "5", "8"]
    ledger = judge.take_ledger()
    assert (ledger.scores, ledger.asked) == (6, 3)
    assert judge.score([]) == []


def test_the_disk_cache_answers_after_reopening(tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    first, second = (ScriptedEngine(lambda prompt: {"3": 0.4, "9": 0.2}, tokenizer=tokenizer) for _ in range(2))
    judge = cached(first, path)
    before = judge.score(["p", "q"])
    judge.cache.close()
    assert cached(second, path).score(["q", "p"]) == before[::-1]
    assert second.judged == []


def test_the_cache_knows_who_was_asked_and_how(tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    settings: list[dict[str, Any]] = [
        {}, {"scale": "one_to_ten"}, {"chat": True}, {"read": "text"},
        {"read": "text", "text_temperature": 0.1}, {"read": "text", "score_tokens": 2},
    ]  # fmt: skip
    for kwargs in settings:
        engine = ScriptedEngine(lambda prompt: 3, lambda prompt, request: "3", tokenizer=tokenizer)
        cached(engine, path, **kwargs).score(["p"])
        assert engine.judged or engine.written, kwargs
    other = ScriptedEngine(lambda prompt: 3, tokenizer=tokenizer, name="another model")
    cached(other, path).score(["p"])
    assert other.judged == ["p"]


@pytest.mark.parametrize("read", ["distribution", "text"])
def test_a_request_that_failed_is_asked_again(read: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.sqlite")
    broken = ScriptedEngine(lambda prompt: None, lambda prompt, request: None, tokenizer=tokenizer)
    judge = cached(broken, path, read=read, max_parse_failures=1)
    (judgement,) = judge.score(["p"])
    assert (judgement.distribution, judgement.mass) == (None, 0.0)
    assert judge.take_ledger().mass == [0.0]
    mended = ScriptedEngine(lambda prompt: 4, lambda prompt, request: "4", tokenizer=tokenizer)
    (judgement,) = cached(mended, path, read=read).score(["p"])
    assert judgement.distribution is not None
    assert judgement.distribution[4] == 1


def test_parse_failures_may_be_counted_over_several_calls(tokenizer: Any) -> None:
    """One failure of one prompt says nothing of a teacher."""
    engine = ScriptedEngine(lambda prompt: {"T": 1.0}, tokenizer=tokenizer)
    judge, unparsed = VerbalJudge(engine), UnparsedScores(least=3)
    for prompt in "abc":
        assert judge.score([prompt], unparsed=unparsed)[0].distribution is None
    with pytest.raises(RuntimeError, match="4 of 4 scoring prompts got no score"):
        judge.score(["d"], unparsed=unparsed)


def test_too_many_parse_failures_stop_the_run(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: 3 if prompt == "good" else {"T": 1.0}, tokenizer=tokenizer, name="qwen")
    judge = VerbalJudge(engine, max_parse_failures=0.5)
    assert [j.distribution is None for j in judge.score(["good", "bad"])] == [False, True]
    with pytest.raises(RuntimeError, match="2 of 3 scoring prompts got no score from qwen") as error:
        judge.score(["good", "bad", "worse"])
    assert all(mend in str(error.value) for mend in ("chat: true", "read: text", "score_tokens", "max_parse_failures"))


# ------------------------------------------------------------------ scores as text


def test_scores_as_text_are_one_hot_and_seeded(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: {"a": "Score: 7", "b": "none"}[prompt], tokenizer=tokenizer)
    judge = VerbalJudge(engine, read="text", text_temperature=0.3, score_tokens=16)
    a, b = judge.score(["a", "b"], seed=1)
    assert a.distribution == [float(s == 7) for s in range(10)]
    assert (a.mass, b.distribution, b.mass) == (1.0, None, 0.0)
    judge.score(["a"], seed=1)
    assert len(engine.written) == 2
    judge.score(["a"], seed=2)  # another seed is another sample
    assert len(engine.written) == 3
    seeds = [request.seed for request in engine.written]
    assert len(set(seeds)) == 3
    assert engine.used.completion > 0


# ------------------------------------------------------------------ settings


def test_a_vocabulary_without_digits_is_refused_before_anything_loads() -> None:
    lacking = SpacedTokenizer()
    del lacking.ids["4"], lacking.ids["7"]
    with pytest.raises(ConfigError, match=r"is distribution, but no token of scripted is 4 or 7\. Use read: text"):
        VerbalJudge(ScriptedEngine(tokenizer=lacking)).check()
    VerbalJudge(ScriptedEngine(tokenizer=lacking), read="text").check()
    VerbalJudge(ScriptedEngine()).check()  # a hidden vocabulary cannot be checked


def test_masses_are_probabilities(tokenizer: Any) -> None:
    engine = ScriptedEngine(lambda prompt: {"0": 0.5, "9": 0.5}, tokenizer=tokenizer)
    (judgement,) = VerbalJudge(engine).score(["p"])
    assert judgement.distribution is not None
    assert math.isclose(sum(judgement.distribution), 1)
