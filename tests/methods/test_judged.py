"""What need not be judged: less is asked of the judge, and the same mixture trains."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import (
    Acceptance,
    Added,
    Capped,
    Credit,
    Decoupled,
    MixedGroup,
    RejectedStep,
    Replacement,
    Reward,
    Score,
    Soft,
    StepScores,
    StudentGroup,
    Suffix,
    Threshold,
    Whole,
)
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.round.context import Round
from ovd_lightning.seeds import seed_of
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Trajectory
from tests.helpers import ScriptedEngine, make_group, make_round, mean, plain

LINES = ("1+1=2", "2+0=2", "1+1=3", "3+0=3", "0+2=2")


def some(*what: Any) -> str:
    """A solution of one to four lines, right or wrong."""
    steps = [LINES[seed_of(*what, k) % 5] for k in range(seed_of(*what) % 4)]
    return "\n".join([*steps, f"\\boxed{{{2 + seed_of(*what, 'end') % 2}}}"])


def write(prompt: str, request: Request) -> str | None:
    return None if request.seed is not None and request.seed % 9 == 0 else some(prompt, request.seed)


def judge_of(seed: int, silent: bool) -> Callable[[str], dict[str, float]]:
    """A distribution that is a function of the prompt; ``silent``: one prompt in six has none."""

    def judge(prompt: str) -> dict[str, float]:
        if silent and seed_of(seed, prompt) % 6 == 0:
            return {}
        weights = [seed_of(seed, prompt, k) % 10 + 1 for k in range(10)]
        return {str(k): weight / sum(weights) for k, weight in enumerate(weights)}

    return judge


def play(
    tokenizer: Any, texts: Sequence[Sequence[str]], judge: Callable[[str], Any], **settings: Any
) -> tuple[list[Group], Round, ScriptedEngine]:
    engine = ScriptedEngine(judge, write, tokenizer)
    method = OVD(VerbalTeacher(engine, VerbalJudge(max_parse_failures=1.0)), group_size=len(texts[0]), **settings)
    round = make_round(tokenizer)
    groups = [make_group(round, of_group, group=g) for g, of_group in enumerate(texts)]
    method.consult(groups, round)
    method.annotate(groups, round)
    return groups, round, engine


def outcome(groups: Sequence[Group], engine: ScriptedEngine) -> list[Any]:
    """What trains and what was demonstrated."""
    trains = [[(y.key, y.text, y.source, y.student_tokens, y.advantages, y.grade) for y in g.mixture] for g in groups]
    return [trains, [(r.prompt, r.seed, r.max_tokens) for r in engine.written]]


def drawn(rng: random.Random) -> dict[str, Any]:
    """Settings of OVD."""
    acceptances: list[Acceptance] = [Threshold(), Soft(3.0, 20.0), Soft(2.0, 5.0)]
    replacements: list[Replacement] = [Whole(), Whole(), Added(), Added(Suffix()), Suffix(), Capped(1)]
    replacements += [Capped(2, Suffix()), Added(Capped(1))]
    credits: list[Credit] = [Reward(), Decoupled(), MixedGroup(), StudentGroup(), Score(), StepScores(), RejectedStep()]
    replacement, credit = rng.choice(replacements), rng.choice(credits)
    by_step = replacement.needs_step_scores or credit.needs_step_scores
    return {
        "threshold": rng.choice([0, 1, 3, 4.5, 7, 9, 10]),
        "replace_when": rng.choice(["score", "incorrect", "score_or_incorrect"]),
        "acceptance": rng.choice(acceptances),
        "replacement": replacement,
        "credit": credit,
        "scoring": Scoring(
            level="step" if by_step else rng.choice(["step", "step", "trajectory"]),
            reading=rng.choice(["sample", "mean", "argmax"]),
            aggregation=rng.choice(["min", "mean", "last"]),
        ),
    }


@pytest.mark.parametrize("silent", [False, True])
def test_the_same_trains_and_less_is_asked(tokenizer: Any, silent: bool) -> None:
    rng, prompts, less = random.Random(1), Counter[str](), 0
    for seed in range(100):
        settings = drawn(rng)
        if silent:  # what every score rejects is rejected without one, too
            settings |= {"threshold": rng.choice([1, 4.5, 7, 9]), "acceptance": Threshold()}
        texts = [[some(seed, g, j) for j in range(4)] for g in range(2)]
        asked = {}
        for judged in ("all", "needed"):
            groups, round, engine = play(tokenizer, texts, judge_of(seed, silent), judged=judged, **settings)
            asked[judged] = outcome(groups, engine), set(engine.judged), groups, round
            prompts[judged] += len(engine.judged)
        assert asked["needed"][0] == asked["all"][0], settings
        assert asked["needed"][1] <= asked["all"][1]
        less += asked["needed"][1] < asked["all"][1]
        assert mean(asked["all"][3], "score/judged_fraction") == 1
        for one, other in zip(asked["needed"][2], asked["all"][2], strict=True):
            for y, whole in zip(one.sampled, other.sampled, strict=True):
                assert y.score in (None, whole.score)
                assert y.accepted in (None, whole.accepted)
    assert less > 25
    assert prompts["needed"] < 0.85 * prompts["all"]


RIGHT = "1+1=2\n2+0=2\n0+2=2\n\\boxed{2}"
WRONG = "1+1=3\n3+0=3\n\\boxed{3}"


def by_step(scores: dict[str, int], default: int = 9) -> Callable[[str], int]:
    return lambda prompt: scores.get(prompt.split("Current Step: ")[1].splitlines()[0], default)


def steps_judged(groups: Sequence[Group]) -> list[list[int]]:
    return [[sum(s.judged for s in y.steps) for y in g.sampled] for g in groups]


@pytest.mark.parametrize(
    ("settings", "judged"),
    [
        ({}, [4, 0]),  # the wrong one is replaced anyway
        ({"replace_when": "score"}, [4, 3]),
        ({"replace_when": "incorrect"}, [0, 0]),
        ({"threshold": 0}, [0, 0]),
        ({"threshold": 10}, [0, 0]),
        ({"threshold": 10, "acceptance": Soft()}, [4, 0]),
        ({"scoring": Scoring(aggregation="last")}, [1, 0]),
        ({"threshold": 4, "scoring": Scoring(aggregation="mean")}, [2, 0]),  # (9 + 9 + 0 + 0) / 4 > 4
        ({"replacement": Suffix()}, [4, 3]),
        ({"credit": StepScores()}, [4, 3]),
        ({"credit": Score()}, [4, 3]),
        ({"replacement": Capped(1)}, [4, 3]),
        ({"judged": "all"}, [4, 3]),
    ],
    ids=plain,
)
def test_who_is_judged_where_every_step_is_good(tokenizer: Any, settings: dict[str, Any], judged: list[int]) -> None:
    groups, round, _ = play(tokenizer, [[RIGHT, WRONG]], by_step({}), **settings)
    assert steps_judged(groups) == [judged]
    assert mean(round, "score/judged_fraction") == sum(judged) / 7
    assert round.metrics.sums["teacher/scores"] >= sum(judged)


@pytest.mark.parametrize(
    ("settings", "judged"),
    [
        ({}, [2, 0]),
        ({"replace_when": "score"}, [2, 1]),
        ({"replacement": Suffix()}, [2, 1]),
        ({"replacement": Suffix(), "replace_when": "incorrect"}, [0, 1]),
        ({"scoring": Scoring(aggregation="mean")}, [3, 0]),  # (9 + 2 + 2 + 9) / 4 < 7
    ],
    ids=plain,
)
def test_judging_stops_at_the_first_rejected_step(tokenizer: Any, settings: dict[str, Any], judged: list[int]) -> None:
    scores = {"2+0=2": 2, "0+2=2": 2, "1+1=3": 1}
    groups, _, engine = play(tokenizer, [[RIGHT, WRONG]], by_step(scores), **settings)
    assert steps_judged(groups) == [judged]
    assert len(engine.judged) == sum(judged)


def test_a_step_of_every_trajectory_is_asked_for_together(tokenizer: Any) -> None:
    class Counting(ScriptedEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.calls: list[int] = []

        def next_text_logprobs(self, prompts: Any, texts: Any) -> Any:
            self.calls.append(len(prompts))
            return super().next_text_logprobs(prompts, texts)

    engine = Counting(by_step({"2+0=2": 2}), write, tokenizer)
    method, round = OVD(VerbalTeacher(engine), group_size=3, replace_when="score"), make_round(tokenizer)
    groups = [make_group(round, [f"{g}{text}" for text in (RIGHT, WRONG, "5\n6\n\\boxed{2}")], group=g) for g in (0, 1)]
    method.consult(groups, round)
    # first steps, second steps, and those of the two that are not yet rejected
    assert engine.calls == [6, 6, 4]


def test_what_is_logged_is_of_what_was_judged(tokenizer: Any) -> None:
    texts = [RIGHT, WRONG, "5\n6\n\\boxed{2}", "7\n\\boxed{5}"]
    groups, round, _ = play(tokenizer, [texts], by_step({"5": 3}))
    assert [y.accepted for y in groups[0].sampled] == [True, None, False, None]
    assert [y.score for y in groups[0].sampled] == [9, None, None, None], "3 or less is all that is known"
    assert mean(round, "ovd/acceptance_rate") == 0.25, "what is wrong is rejected as well"
    assert mean(round, "score/accepted_fraction") == 0.5, "of those about whom the judge decides"
    assert mean(round, "ovd/replaced_fraction") > 0.5
    assert mean(round, "score/judged_fraction") == 5 / 12
    assert mean(round, "score/mean") == (4 * 9 + 3) / 5
    assert sum(round.metrics.histograms["score/histogram"][1]) == 5
    for name in ("score/trajectory_mean", "score/mean_when_correct", "score/mean_when_wrong"):
        assert round.metrics.means[name] == (0, 0), "no sample of the student's trajectories"
    _, round, _ = play(tokenizer, [texts], by_step({"5": 3}), threshold=10)
    assert mean(round, "ovd/acceptance_rate") == 0, "known without a score"


class Gentle(Threshold):
    """Reads more than the score, and says nothing about it."""

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return sum(s.score or 0.0 for s in y.steps) >= 20


class Coin(Threshold):
    """Draws, and says nothing about it."""

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return rng.random() < 0.5


def test_a_rule_that_draws_without_saying_so_draws_the_same_again(tokenizer: Any) -> None:
    texts = [[some(i, j) for j in range(8)] for i in range(3)]
    drawn = []
    for _ in range(2):
        groups, _, _ = play(tokenizer, texts, judge_of(0, False), acceptance=Coin(), replace_when="score")
        drawn.append([y.accepted for group in groups for y in group.sampled])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {True, False}


class Best(Whole):
    """Replaces the one with the worst score, and says nothing about it."""

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        return sorted(rejected, key=lambda y: y.score or 0.0)[:1]


class Doubled(Reward):
    """Credits scores, and says nothing about it."""

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        return [2 * reward for reward in rewards]


@pytest.mark.parametrize(
    ("settings", "judged"),
    [
        ({"acceptance": Gentle(), "threshold": 10}, [4, 0]),
        ({"replacement": Best()}, [4, 3]),
        ({"credit": Doubled()}, [4, 3]),
    ],
)
def test_a_rule_that_says_nothing_gets_every_score(tokenizer: Any, settings: dict[str, Any], judged: list[int]) -> None:
    groups, _, _ = play(tokenizer, [[RIGHT, WRONG]], by_step({"2+0=2": 1}), **settings)
    assert steps_judged(groups) == [judged]
