"""OVD, option by option, on groups small enough to follow by hand. Everything is judged; tests/methods/test_judged.py
holds that less does as well.

The engine is scripted: it scores a step, and writes a trajectory, as the test says.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ovd_lightning import functional as F
from ovd_lightning.engines.base import Completion, Request, Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import Judgement
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
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
    Reward,
    Soft,
    StepScores,
    StudentGroup,
    Suffix,
    Threshold,
    Whole,
)
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.round.collate import collate
from ovd_lightning.round.context import Round
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Step, Trajectory
from tests.helpers import EOS, PAD, ScriptedEngine, make_group, make_round, mean, problem

RIGHT = "1+1=2\n2+0=2\n\\boxed{2}"
WRONG = "1+1=3\n3+0=3\n\\boxed{3}"
LATE = "1+1=2\n2+0=3\n\\boxed{3}"
TAUGHT = "1+1=2\n\\boxed{2}"
"""What the teacher writes: correct, and unlike what the student does."""
NOTHING = {"x": 1.0}
"""A judge's answer without a score."""


def judge_of(scores: Mapping[str, Any], default: Any = 9) -> Callable[[str], Any]:
    """Scores by the text of the current step, or of the whole solution."""

    def judge(prompt: str) -> Any:
        found = re.search(r"(?:Current Step|Solution): (.*)\nRate", prompt, re.DOTALL)
        assert found is not None
        return scores.get(found[1], default)

    return judge


class Annotated:
    """One annotated round: the groups, what was asked, and what was logged."""

    def __init__(self, method: OVD, engine: ScriptedEngine, round: Round, groups: list[Group]) -> None:
        self.method, self.engine, self.round, self.groups = method, engine, round, groups
        self.before = [[replace(y) for y in group.sampled] for group in groups]
        method.consult(groups, round)
        method.annotate(groups, round)

    @property
    def mixture(self) -> list[Trajectory]:
        return self.groups[0].mixture

    @property
    def sources(self) -> list[str]:
        return [y.source for y in self.mixture]

    @property
    def advantages(self) -> list[float]:
        """One a trajectory; fails where they differ within one."""
        assert all(len(set(y.advantages)) == 1 and len(y.advantages) == len(y.completion_ids) for y in self.mixture)
        return [y.advantages[0] for y in self.mixture]


@pytest.fixture
def annotate(tokenizer: Any) -> Callable[..., Annotated]:
    def run(
        *texts: Sequence[str],
        scores: Mapping[str, Any] | None = None,
        default: Any = 9,
        write: Callable[[str, Request], str | None] = lambda prompt, request: TAUGHT,
        teacher: Mapping[str, Any] | None = None,
        judge: Mapping[str, Any] | None = None,
        index: int = 0,
        seed: int = 0,
        max_tokens: int = 64,
        engine_tokenizer: Any = tokenizer,
        **settings: Any,
    ) -> Annotated:
        engine = ScriptedEngine(judge_of(scores or {}, default), write, engine_tokenizer)
        taught = VerbalTeacher(engine, VerbalJudge(**(judge or {})), **(teacher or {}))
        method = OVD(taught, group_size=max(len(texts[0]), 2), **{"judged": "all", **settings})
        round = make_round(tokenizer, index, seed, max_tokens)
        groups = [make_group(round, group, group=g) for g, group in enumerate(texts)]
        return Annotated(method, engine, round, groups)

    return run


Annotate = Callable[..., Annotated]


# ------------------------------------------------------------------ scores


def test_every_step_is_scored_with_the_prompt_of_the_appendix(annotate: Annotate) -> None:
    run = annotate([LATE], scores={"1+1=2": 8, "2+0=3": 3, "\\boxed{3}": 1}, replace_when="incorrect")
    scale, question = SCALES["zero_to_nine"], "1+1+0=?"
    assert run.engine.judged == [
        step_prompt(question, [], "1+1=2", scale),
        step_prompt(question, ["1+1=2"], "2+0=3", scale),
        step_prompt(question, ["1+1=2", "2+0=3"], "\\boxed{3}", scale),
    ]
    (y,) = run.groups[0].sampled
    assert [s.score for s in y.steps] == [8, 3, 1]
    assert y.steps[1].distribution == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert mean(run.round, "score/mean") == 4
    assert run.round.metrics.histograms["score/histogram"] == (list(range(10)), [0, 1, 0, 1, 0, 0, 0, 0, 1, 0])
    assert run.engine.awakenings == 1


def test_the_whole_trajectory_is_scored_at_once(annotate: Annotate) -> None:
    run = annotate([RIGHT, WRONG], scores={WRONG: 4}, scoring=Scoring(level="trajectory"), replace_when="score")
    scale = SCALES["zero_to_nine"]
    assert run.engine.judged == [response_prompt("1+1+0=?", text, scale) for text in (RIGHT, WRONG)]
    assert [y.score for y in run.groups[0].sampled] == [9, 4]
    assert run.groups[0].sampled[1].distribution == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert all(s.score is None for y in run.groups[0].sampled for s in y.steps)
    assert run.sources == ["student", "teacher"]
    assert mean(run.round, "score/mean") == 6.5


@pytest.mark.parametrize(("aggregation", "score"), [("min", 2), ("mean", 5), ("last", 5)])
def test_step_aggregation(annotate: Annotate, aggregation: str, score: float) -> None:
    # 8, 2, 5: the least is 2, the mean (8 + 2 + 5) / 3 = 5, the last 5
    run = annotate([RIGHT], scores={"1+1=2": 8, "2+0=2": 2, "\\boxed{2}": 5}, scoring=Scoring(aggregation=aggregation))
    assert run.groups[0].sampled[0].score == score


def test_the_last_score_is_the_last_there_is(annotate: Annotate) -> None:
    run = annotate([RIGHT], scores={"1+1=2": 8, "2+0=2": 3, "\\boxed{2}": NOTHING}, scoring=Scoring(aggregation="last"))
    assert run.groups[0].sampled[0].score == 3


SPREAD = [0.1, 0.0, 0.0, 0.3, 0.0, 0.4, 0.0, 0.0, 0.0, 0.2]


def read(run: Annotated, samples: int, distribution: list[float] | None = SPREAD) -> list[float | None]:
    y = run.groups[0].sampled[0]
    judgement = Judgement(distribution, 1.0)
    scale = run.method.teacher.scale
    draws = (run.round.random("score", y.group, i, 0, y.source) for i in range(samples))
    return [run.method.scoring.read(judgement, scale, random) for random in draws]


def test_the_score_is_sampled_at_its_temperature(annotate: Annotate) -> None:
    run = annotate([RIGHT], scoring=Scoring(reading="sample", temperature=0.7))
    counts = Counter(read(run, 8000))
    for value, p in enumerate(F.temper(SPREAD, 0.7)):
        assert counts[float(value)] / 8000 == pytest.approx(p, abs=0.02)
    assert set(counts) == {0, 3, 5, 9}
    # p^(1/0.7): 0.037276, 0.179061, 0.270090, 0.100341, sum 0.586768: the mode gains over its 0.4
    assert counts[5.0] / 8000 == pytest.approx(0.27009 / 0.586768, abs=0.02)


def test_the_score_is_the_mean_or_the_mode(annotate: Annotate) -> None:
    # 0 + 0.3 * 3 + 0.4 * 5 + 0.2 * 9 = 4.7
    assert read(annotate([RIGHT], scoring=Scoring(reading="mean")), 1) == [pytest.approx(4.7)]
    assert read(annotate([RIGHT], scoring=Scoring(reading="argmax")), 1) == [5.0]
    for reading in ("sample", "mean", "argmax"):
        assert read(annotate([RIGHT], scoring=Scoring(reading=reading)), 1, None) == [None]


def test_modes_on_the_other_scale(annotate: Annotate) -> None:
    ten = {"scale": "one_to_ten"}
    # the same ten places, one further: 4.7 + 1
    assert read(annotate([RIGHT], scoring=Scoring(reading="mean"), judge=ten), 1) == [pytest.approx(5.7)]
    assert read(annotate([RIGHT], scoring=Scoring(reading="argmax"), judge=ten), 1) == [6.0]
    assert set(read(annotate([RIGHT], scoring=Scoring(reading="sample"), judge=ten), 500)) == {1, 4, 6, 10}


def test_ten_needs_two_tokens(tokenizer: Any) -> None:
    def judge(prompt: str) -> dict[str, float]:
        return {"0": 0.75} if prompt.endswith(":1") else {"1": 0.8, "4": 0.2}

    ten = VerbalJudge(ScriptedEngine(judge, tokenizer=tokenizer), scale="one_to_ten")
    (judgement,) = ten.score(["Output only a single number from 1 to 10:"])
    # P("10") = P("1") P("0" | "1") = 0.8 * 0.75 = 0.6, P("1") keeps 0.2, P("4") = 0.2
    assert judgement.distribution == pytest.approx([0.2, 0, 0, 0.2, 0, 0, 0, 0, 0, 0.6])


# ------------------------------------------------------------------ acceptance


@pytest.mark.parametrize(
    ("scale", "threshold", "accepted"),
    [
        # the scores are 0, 6, 7 and 9 (1, 7, 8 and 10 on the other scale)
        ("zero_to_nine", 0, [True, True, True, True]),
        ("zero_to_nine", 6, [False, True, True, True]),
        ("zero_to_nine", 7, [False, False, True, True]),
        ("zero_to_nine", 6.5, [False, False, True, True]),
        ("zero_to_nine", 9, [False, False, False, True]),
        ("zero_to_nine", 10, [False, False, False, False]),
        ("one_to_ten", 1, [True, True, True, True]),
        ("one_to_ten", 8, [False, False, True, True]),
        ("one_to_ten", 11, [False, False, False, False]),
    ],
)
def test_acceptance_at_the_threshold(tokenizer: Any, scale: Any, threshold: float, accepted: list[bool]) -> None:
    low = SCALES[scale].low
    of_step = judge_of({str(s): s + low for s in (0, 6, 7, 9)}, default=9 + low)

    def judge(prompt: str) -> Any:
        """A ten is a "1" and then, with certainty, a "0"."""
        score = of_step(prompt.removesuffix(":1") + ":")
        if prompt.endswith(":1"):
            return {"0": 1.0} if score == 10 else {"x": 1.0}
        return {"1": 1.0} if score == 10 else score

    teacher = VerbalTeacher(ScriptedEngine(judge, lambda *_: TAUGHT, tokenizer), VerbalJudge(scale=scale))
    round = make_round(tokenizer)
    group = make_group(round, [f"{s}\n\\boxed{{2}}" for s in (0, 6, 7, 9)])
    method = OVD(teacher, threshold=threshold, replace_when="score", judged="all")
    method.consult([group], round)
    method.annotate([group], round)
    assert [y.score for y in group.sampled] == [s + low for s in (0, 6, 7, 9)]
    assert [y.accepted for y in group.sampled] == accepted
    assert [y.source == "student" for y in group.mixture] == accepted


def test_soft_acceptance_is_a_probability(annotate: Annotate) -> None:
    rule, y, random = Soft(3.0, 20.0), annotate([RIGHT]).groups[0].sampled[0], Random(0)
    for score, probability in ((9.0, 1.0), (6.0, 0.369453), (3.0, 0.135914), (0.0, 0.05)):  # exp(S/3) / 20
        accepted = [rule.accepts(y, score, 10, random) for _ in range(4000)]
        assert sum(accepted) / 4000 == pytest.approx(probability, abs=0.02)
    run = annotate([RIGHT] * 8, acceptance=rule, threshold=10, replace_when="score")
    assert all(y.accepted for y in run.groups[0].sampled), "the threshold plays no part"


def test_a_trajectory_without_a_score_is_accepted_and_counted(annotate: Annotate) -> None:
    run = annotate([RIGHT, WRONG], default=NOTHING, judge={"max_parse_failures": 1.0}, replace_when="score")
    assert [y.score for y in run.groups[0].sampled] == [None, None]
    assert [y.accepted for y in run.groups[0].sampled] == [True, True]
    assert run.sources == ["student", "student"]
    assert run.round.metrics.sums["score/parse_failures"] == 6
    assert run.round.metrics.means["score/mean"] == (0.0, 0)
    assert mean(run.round, "ovd/acceptance_rate") == 1


# ------------------------------------------------------------------ triggers and the cap

FOUR = [RIGHT, WRONG, "4\n\\boxed{2}", "5\n\\boxed{5}"]
"""right and well scored; wrong and badly; right and badly; wrong and well."""
BAD = {"1+1=3": 2, "4": 3}


@pytest.mark.parametrize(
    ("trigger", "replaced"),
    [
        ("score", [False, True, True, False]),
        ("incorrect", [False, True, False, True]),
        ("score_or_incorrect", [False, True, True, True]),
    ],
)
def test_triggers(annotate: Annotate, trigger: str, replaced: list[bool]) -> None:
    run = annotate(FOUR, scores=BAD, replace_when=trigger)
    assert [source == "teacher" for source in run.sources] == replaced
    # a(y) is the teacher's decision, whatever it leads to
    assert [y.accepted for y in run.groups[0].sampled] == [True, False, False, True]
    assert mean(run.round, "score/accepted_fraction") == 0.5
    assert mean(run.round, "ovd/acceptance_rate") == 1 - sum(replaced) / 4
    assert mean(run.round, "ovd/replaced_fraction") == sum(replaced) / 4
    assert mean(run.round, "score/mean_when_correct") == (9 + 3) / 2
    assert mean(run.round, "score/mean_when_wrong") == (2 + 9) / 2


@pytest.mark.parametrize(
    ("cap", "replaced"),
    [
        (0, []),
        (1, [1]),  # score 2
        (2, [1, 2]),  # and score 3
        (3, [1, 2, 3]),  # and the wrong one with 9
        (9, [1, 2, 3]),
    ],
)
def test_the_cap_takes_the_worst_first(annotate: Annotate, cap: int, replaced: list[int]) -> None:
    run = annotate(FOUR, scores=BAD, replacement=None if cap is None else Capped(cap))
    assert [i for i, source in enumerate(run.sources) if source == "teacher"] == replaced


def test_the_cap_takes_the_unscored_last_and_ties_in_order(annotate: Annotate) -> None:
    texts = ["0\n\\boxed{0}", "1\n\\boxed{0}", "2\n\\boxed{0}", "3\n\\boxed{0}"]
    scores = {"0": NOTHING, "1": 5, "2": 4, "3": 4, "\\boxed{0}": NOTHING}
    for cap, replaced in ((1, [2]), (2, [2, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3])):
        run = annotate(
            texts, scores=scores, replacement=None if cap is None else Capped(cap), judge={"max_parse_failures": 1.0}
        )
        assert [i for i, source in enumerate(run.sources) if source == "teacher"] == replaced


def test_the_cap_is_per_group(annotate: Annotate) -> None:
    run = annotate([WRONG, WRONG], [WRONG, RIGHT], [RIGHT, RIGHT], scores=BAD, replacement=Capped(1))
    assert [[y.source for y in g.mixture] for g in run.groups] == [
        ["teacher", "student"], ["teacher", "student"], ["student", "student"],
    ]  # fmt: skip


# ------------------------------------------------------------------ the mixture


def test_substitution_keeps_the_order_and_the_sampled_list(annotate: Annotate) -> None:
    run = annotate(FOUR, scores=BAD)
    group = run.groups[0]
    assert [y.sample for y in group.mixture] == [0, 1, 2, 3]
    assert group.mixture[0] is group.sampled[0], "an accepted trajectory is the same object"
    for before, after in zip(run.before[0], group.sampled, strict=True):
        assert (after.text, after.completion_ids, after.source, after.grade, after.sample) == (
            before.text, before.completion_ids, before.source, before.grade, before.sample,
        )  # fmt: skip
    new = group.mixture[1]
    assert (new.text, new.source, new.student_tokens, new.policy_version) == (TAUGHT, "teacher", 0, -1)
    assert new.prompt_ids == group.sampled[1].prompt_ids
    assert new.completion_ids == [*run.round.tokenizer.encode(TAUGHT), EOS]
    assert new.completion_mask == [True] * len(new.completion_ids)
    assert all(map(math.isnan, new.behaviour_logprobs))
    assert new.reward == 1
    assert [s.text for s in new.steps] == ["1+1=2", "\\boxed{2}"]
    assert mean(run.round, "ovd/teacher_reward") == 1


def test_adding_keeps_the_rejected(annotate: Annotate) -> None:
    run = annotate(FOUR, scores=BAD, replacement=Added())
    assert len(run.groups[0].sampled) == 4
    assert run.sources == ["student"] * 4 + ["teacher"] * 3
    assert [y.sample for y in run.mixture] == [0, 1, 2, 3, 1, 2, 3]
    assert run.mixture[:4] == run.groups[0].sampled
    assert run.advantages == [1, 0, 1, 0, 1, 1, 1]  # A = R
    # mu = 5/7; squared deviations 5 (2/7)^2 + 2 (5/7)^2 = 70/49; sigma = sqrt(70/49/6) = 0.487950
    normalised = annotate(FOUR, scores=BAD, replacement=Added(), credit=MixedGroup()).advantages
    assert normalised == pytest.approx([0.585540, -1.463850, 0.585540, -1.463850, *[0.585540] * 3], abs=1e-4)


def test_continuation_keeps_the_tokens_before_the_first_rejected_step(annotate: Annotate) -> None:
    # the threshold is 7: the first step has just enough, the second has not
    run = annotate(
        [LATE, RIGHT], scores={"1+1=2": 7, "2+0=3": 2, "\\boxed{3}": 1}, replacement=Suffix(),
        write=lambda prompt, request: "2+0=2\n\\boxed{2}",
    )  # fmt: skip
    old, new = run.groups[0].sampled[0], run.mixture[0]
    kept = len("1+1=2\n")
    assert (new.source, new.student_tokens) == ("mixed", kept)
    assert new.completion_ids[:kept] == old.completion_ids[:kept]
    assert new.completion_ids == [*run.round.tokenizer.encode(RIGHT), EOS]
    assert (new.text, new.reward) == (RIGHT, 1)
    (request,) = run.engine.written
    assert request.prompt == "1+1+0=?\n1+1=2\n"
    assert request.max_tokens == 64 - kept
    assert old.completion_ids == [*run.round.tokenizer.encode(LATE), EOS]
    # on tokens: 8 of the prompt, then position j predicts token j + 1
    ((batch,),) = collate(
        run.groups, mini_batches=1, accumulate=1, aggregation="token_mean", max_tokens=64, pad_id=PAD,
        temperature=1.0, round=0, policy_version=0,
    )  # fmt: skip
    row = next(b for b in range(2) if batch.teacher_mask[b].any())
    p, t = 8, len(RIGHT) + 1
    assert batch.completion_mask[row].nonzero()[:, 0].tolist() == list(range(p - 1, p - 1 + t))
    assert batch.teacher_mask[row].nonzero()[:, 0].tolist() == list(range(p - 1 + kept, p - 1 + t))


def test_without_a_rejected_step_or_with_the_first_the_whole_is_replaced(annotate: Annotate) -> None:
    # incorrect, though every step was accepted; and rejected at its first step
    run = annotate(["4\n\\boxed{4}", WRONG], scores={"1+1=3": 2}, replacement=Suffix())
    assert run.sources == ["teacher", "teacher"]
    assert [y.text for y in run.mixture] == [TAUGHT, TAUGHT]
    assert [request.prompt for request in run.engine.written] == ["1+1+0=?\n"] * 2


def test_a_failed_demonstration_leaves_the_students(annotate: Annotate) -> None:
    run = annotate([WRONG, WRONG], [WRONG, RIGHT], write=lambda prompt, request: None, scores=BAD)
    for group in run.groups:
        assert group.mixture == group.sampled
    assert run.round.metrics.sums["teacher/demonstration_failures"] == 3
    assert run.round.metrics.sums["teacher/demonstrations"] == 3
    assert mean(run.round, "ovd/replaced_fraction") == 0
    assert mean(run.round, "ovd/acceptance_rate") == 0.25
    assert run.advantages == [0, 0]


def test_another_vocabulary_is_tokenised_with_the_students(annotate: Annotate) -> None:
    run = annotate([WRONG], engine_tokenizer=None)
    assert run.mixture[0].completion_ids == [*run.round.tokenizer.encode(TAUGHT), EOS]
    assert not run.mixture[0].truncated


@pytest.mark.parametrize("hidden", [False, True])
def test_a_demonstration_that_is_too_long_is_cut_and_says_so(annotate: Annotate, hidden: bool) -> None:
    # TAUGHT has 15 tokens and an end; the teacher may write 30, the student's trajectories hold 10
    settings: dict[str, Any] = {"engine_tokenizer": None} if hidden else {}
    run = annotate([WRONG], max_tokens=10, teacher={"demonstration_tokens": 30}, **settings)
    (y,) = run.mixture
    assert len(y.completion_ids) == 10
    assert y.truncated
    assert EOS not in y.completion_ids
    assert y.text == TAUGHT[:10]


def test_the_teachers_end_of_turn_becomes_the_students(annotate: Annotate, tokenizer: Any) -> None:
    class Chatty(ScriptedEngine):
        def _complete(self, request: Request, sampling: Sampling) -> Completion:
            completion = super()._complete(request, sampling)
            assert completion.token_ids is not None
            completion.token_ids[-1] = PAD  # another special token ends its turn
            return completion

    run = annotate([WRONG])
    engine = Chatty(judge_of({}), lambda prompt, request: TAUGHT, tokenizer)
    group = make_group(run.round, [WRONG])
    method = OVD(VerbalTeacher(engine))
    method.consult([group], run.round)
    method.annotate([group], run.round)
    assert group.mixture[0].completion_ids == [*tokenizer.encode(TAUGHT), EOS]


def test_two_groups_of_one_problem_do_not_mix(annotate: Annotate) -> None:
    run = annotate([WRONG, RIGHT], [RIGHT, WRONG], [WRONG, WRONG], write=lambda p, request: f"{request.seed}")
    assert [[y.source for y in g.mixture] for g in run.groups] == [
        ["teacher", "student"], ["student", "teacher"], ["teacher", "teacher"],
    ]  # fmt: skip
    for g, group in enumerate(run.groups):
        assert [y.key for y in group.mixture] == [(g, 0), (g, 1)]
    written = [y.text for g in run.groups for y in g.mixture if y.source == "teacher"]
    assert len(set(written)) == 4, "each has a seed of its own"
    assert written == [str(run.round.seed("demonstrate", *key)) for key in [(0, 0), (1, 1), (2, 0), (2, 1)]]


# ------------------------------------------------------------------ advantages


def capped(annotate: Annotate, *texts: str, **settings: Any) -> Annotated:
    """One replacement a group: mixtures with some right and some wrong."""
    return annotate(list(texts), replacement=Capped(1), **settings)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # sampled rewards 1, 0, 0, 0; after one replacement 1, 1, 0, 0
        (Reward(), [1, 1, 0, 0]),
        # mu = 1/2, sigma = sqrt(4 (1/4) / 3) = 0.577350: 0.5 / 0.577350
        (MixedGroup(), [0.866024, 0.866024, -0.866024, -0.866024]),
        # before: mu = 1/4, sigma = 1/2: (1 - 1/4) / (1/2), (0 - 1/4) / (1/2)
        (StudentGroup(), [1.5, 1.5, -0.5, -0.5]),
    ],
)
def test_advantage_rules(annotate: Annotate, rule: Credit, expected: list[float]) -> None:
    run = capped(annotate, RIGHT, WRONG, WRONG, WRONG, credit=rule)
    assert run.sources == ["student", "teacher", "student", "student"]
    assert run.advantages == pytest.approx(expected, abs=1e-5)


def test_decoupled_keeps_the_students_own_advantages_beside_the_teachers(annotate: Annotate) -> None:
    def decoupled(*texts: str, weight: float = 1.0, **settings: Any) -> Annotated:
        return annotate(list(texts), credit=Decoupled(weight), **{"replacement": Added(), **settings})

    # sampled rewards 1, 0, 0: mu = 1/3, sigma = sqrt((4 + 1 + 1) / 9 / 2) = 1/sqrt(3); then two of the teacher's, R = 1
    own = [2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]
    assert decoupled(RIGHT, WRONG, WRONG).advantages == near([*own, 1, 1])
    assert decoupled(RIGHT, WRONG, WRONG, weight=0.25).advantages == near([*own, 0.25, 0.25])
    # a group of which nothing is right learns from the teacher alone, and a wrong teacher teaches nothing
    assert decoupled(WRONG, WRONG).advantages == [0, 0, 1, 1]
    assert decoupled(RIGHT, WRONG, write=lambda prompt, request: WRONG).advantages[2:] == [0]
    # at most one demonstration a group; and whole replacement, which takes the negative examples away
    assert decoupled(RIGHT, WRONG, WRONG, replacement=Capped(1, Added())).advantages == near([*own, 1])
    assert decoupled(RIGHT, WRONG, WRONG, replacement=Whole()).advantages == near([own[0], 1, 1])


def test_the_rejected_step_is_a_negative_example_beside_its_continuation(annotate: Annotate) -> None:
    run = annotate(
        [LATE, RIGHT, WRONG], scores={"1+1=2": 7, "2+0=3": 2, "1+1=3": 0}, replacement=Added(Suffix()),
        write=lambda prompt, request: "2+0=2\n\\boxed{2}" if prompt.endswith("1+1=2\n") else TAUGHT,
        credit=RejectedStep(0.25),
    )  # fmt: skip
    assert run.sources == ["student"] * 3 + ["mixed", "teacher"]
    late, right, wrong, mixed, taught = run.mixture
    first, second, third = late.steps
    # the accepted prefix and what came after the rejected step train nothing here; the continuation has R = 1
    assert late.advantages == [
        *[0.0] * (first.end - first.start), *[-0.25] * (second.end - second.start), *[0.0] * (third.end - third.start)
    ]  # fmt: skip
    assert mixed.student_tokens == second.start
    for y, value in ((right, 1.0), (mixed, 1.0), (taught, 1.0), (wrong, 0.0)):  # of the last, the first was rejected
        assert y.advantages == [value] * len(y.completion_ids)


def near(values: list[float]) -> Any:
    """Up to the epsilon beside sigma."""
    return pytest.approx(values, rel=1e-5)


def test_the_students_group_has_a_floor_under_sigma(annotate: Annotate) -> None:
    # sampled rewards 0, 0, 0: mu = 0, sigma = 0, floor 1/4: the teacher's 1 gives 4
    assert capped(annotate, WRONG, WRONG, WRONG, credit=StudentGroup()).advantages == near([4, 0, 0])
    run = capped(annotate, WRONG, WRONG, WRONG, credit=StudentGroup(0.5))
    assert run.advantages == near([2, 0, 0])


def test_algorithm_1_as_written_learns_nothing_where_the_teacher_intervened(annotate: Annotate) -> None:
    from ovd_lightning.round.metrics import log_mixture

    literal = {"credit": MixedGroup(), "replace_when": "score_or_incorrect", "replacement": Whole()}
    run = annotate([RIGHT, WRONG], [WRONG, WRONG], scores=BAD, **literal)
    for group in run.groups:
        assert [y.reward for y in group.mixture] == [1, 1]
        assert all(a == 0 for y in group.mixture for a in y.advantages)
    log_mixture(run.groups, run.round.metrics, credited=True)
    assert mean(run.round, "ovd/zero_advantage_groups") == 1
    assert mean(run.round, "reward/mixture") == 1
    default = annotate([RIGHT, WRONG], [WRONG, WRONG], scores=BAD)
    log_mixture(default.groups, default.round.metrics, credited=True)
    assert mean(default.round, "ovd/zero_advantage_groups") == 0


# ------------------------------------------------------------------ credit per step, eq. 3

A = "6\n\\boxed{2}"
B = "3\n\\boxed{0}"
STEPS = {"6": 6, "\\boxed{2}": 9, "3": 3, "\\boxed{0}": 0}
"""Two trajectories of two steps: 6, 9 and 3, 0, so R_k = 2/3, 1 and 1/3, 0."""


def by_step(y: Trajectory) -> list[float]:
    assert all(len(set(y.advantages[s.start : s.end])) == 1 for s in y.steps)
    assert sum(s.end - s.start for s in y.steps) == len(y.advantages) == len(y.completion_ids)
    return [y.advantages[s.start] for s in y.steps]


def stepwise(annotate: Annotate, **settings: Any) -> Annotated:
    kept: dict[str, Any] = {"threshold": 0, "replace_when": "score"}
    return annotate([A, B], scores=STEPS, **{"credit": StepScores(), **kept, **settings})


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Reward(), [2 / 3, 1, 1 / 3, 0]),
        # mu = 1/2; squares 1/36 + 1/4 + 1/36 + 1/4 = 5/9; sigma = sqrt(5/27) = 0.430331
        (MixedGroup(), [0.387298, 1.161893, -0.387298, -1.161893]),
        (StudentGroup(), [0.387298, 1.161893, -0.387298, -1.161893]),
    ],
)
def test_step_credit(annotate: Annotate, rule: Credit, expected: list[float]) -> None:
    run = stepwise(annotate, credit=StepScores(rule))
    assert [a for y in run.mixture for a in by_step(y)] == pytest.approx(expected, abs=1e-5)


def test_step_credit_scores_the_teachers_steps_too(annotate: Annotate) -> None:
    # B is rejected. The teacher's steps "1+1=2" and "\boxed{2}" score 5 and 9: R_k = 5/9 and 1
    scores = {**STEPS, "1+1=2": 5}
    run = annotate([A, B], scores=scores, credit=StepScores(StudentGroup()), threshold=4, replace_when="score")
    assert run.sources == ["student", "teacher"]
    assert [s.score for s in run.mixture[1].steps] == [5, 9]
    assert run.mixture[1].score == 5
    # baseline and scale of the student's steps before: mu = 1/2, sigma = 0.430331
    expected = [(r - 0.5) / 0.430331 for r in (2 / 3, 1, 5 / 9, 1)]
    assert [a for y in run.mixture for a in by_step(y)] == pytest.approx(expected, abs=1e-4)
    assert mean(run.round, "score/mean") == (6 + 9 + 3 + 0) / 4, "of what the student sampled"


def test_a_step_without_a_score_is_credited_with_the_outcome(annotate: Annotate) -> None:
    run = annotate([A, B], scores={**STEPS, "6": NOTHING, "3": NOTHING}, credit=StepScores(), threshold=0,
                   replace_when="score")  # fmt: skip
    assert [a for y in run.mixture for a in by_step(y)] == pytest.approx([1, 1, 0, 0])


def test_step_credit_on_the_other_scale(annotate: Annotate) -> None:
    run = stepwise(annotate, judge={"scale": "one_to_ten", "max_parse_failures": 1.0}, threshold=1)
    # 6, 9, 3 are (S - 1) / 9; 0 is no score on 1-10, and B's outcome is 0
    assert [a for y in run.mixture for a in by_step(y)] == pytest.approx([5 / 9, 8 / 9, 2 / 9, 0])


def test_no_steps_at_all(annotate: Annotate) -> None:
    run = annotate([RIGHT, RIGHT], credit=StepScores(StudentGroup()))
    y = run.groups[0].sampled[0]
    empty = replace(y, completion_ids=[], completion_mask=[], steps=[], advantages=[])
    group = Group(problem=y.problem, sampled=[empty], mixture=[empty])
    run.method.credit.assign(group, run.method.teacher.scale)
    assert empty.advantages == []
    assert run.method.scoring.aggregate([]) is None
    taught = replace(y, steps=[Step(start=0, end=len(y.completion_ids), text="", score=9.0)])
    run.method.credit.assign(Group(problem=y.problem, sampled=[empty], mixture=[taught]), run.method.teacher.scale)
    assert set(taught.advantages) == {0.0}, "alone, it is its own baseline"


# ------------------------------------------------------------------ randomness


def decisions(run: Annotated) -> list[Any]:
    return [
        [(y.accepted, y.score, [s.score for s in y.steps]) for y in g.sampled] + [y.text for y in g.mixture]
        for g in run.groups
    ]


@pytest.mark.parametrize("acceptance", [Threshold(), Soft()], ids=lambda rule: type(rule).__name__)
def test_randomness_is_a_function_of_seed_round_group_and_sample(annotate: Annotate, acceptance: Acceptance) -> None:
    def run(index: int = 0, seed: int = 0, groups: int = 3) -> list[Any]:
        spread = {str(i): 0.1 for i in range(10)}
        texts = [[RIGHT] * 6] * groups
        return decisions(
            annotate(*texts, default=spread, index=index, seed=seed, acceptance=acceptance,
                     write=lambda prompt, request: f"{request.seed}")
        )  # fmt: skip

    first = run()
    assert run() == first
    assert run(groups=2) == first[:2], "what else is in the round does not matter"
    assert run(index=1) != first
    assert run(seed=1) != first
    assert first[0][:6] != first[1][:6], "groups differ"
    assert len({tuple(steps) for _, _, steps in first[0][:6]}) == 6, "samples and steps differ"


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("threshold", {"threshold": -1}),
        ("threshold", {"threshold": 11}),
        ("threshold", {"threshold": float("nan")}),
        ("group_size", {"group_size": 1, "credit": MixedGroup()}),
        ("group_size", {"group_size": 1, "credit": StepScores(StudentGroup())}),
        ("replacement", {"replacement": Suffix(), "scoring": Scoring(level="trajectory")}),
        ("replacement", {"replacement": Capped(1, Suffix()), "scoring": Scoring(level="trajectory")}),
        ("credit", {"credit": StepScores(), "scoring": Scoring(level="trajectory")}),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(setting: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        OVD(VerbalTeacher(ScriptedEngine()), **settings)
    assert error.value.setting == f"method.init_args.{setting}"
    assert str(error.value).startswith(f"method.init_args.{setting}: is ")
    assert error.value.hint


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        OVD(VerbalTeacher(ScriptedEngine()), 12, scoring=Scoring(level="trajectory"), credit=StepScores())
    names = [error.setting.removeprefix("method.init_args.") for error in caught.value.errors]
    assert names == ["threshold", "credit"]


def test_the_threshold_is_checked_against_the_teachers_scale() -> None:
    ten = VerbalTeacher(ScriptedEngine(), VerbalJudge(scale="one_to_ten"))
    assert OVD(ten, threshold=11).threshold == 11
    with pytest.raises(ConfigError, match="outside the teacher's score scale 1-10") as error:
        OVD(ten, threshold=0)
    assert "Use 1 (accept all) to 11 (reject all)" in str(error.value)
    with pytest.raises(ConfigError, match="Use 0 \\(accept all\\) to 10 \\(reject all\\)"):
        OVD(VerbalTeacher(ScriptedEngine()), threshold=11)


def test_a_group_of_one_needs_no_baseline_for_eq_7() -> None:
    assert OVD(VerbalTeacher(ScriptedEngine()), group_size=1, credit=Reward()).group_size == 1


def test_the_student_samples_n_a_problem(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: f"{prompt}{request.seed}\n\\boxed{{2}}", tokenizer=tokenizer)
    round = make_round(tokenizer, engine=engine, first_group=4)
    method = OVD(VerbalTeacher(ScriptedEngine(tokenizer=tokenizer)), group_size=3)
    one = problem()
    groups = method.sample([one, one], round)
    assert [[y.key for y in g.sampled] for g in groups] == [[(4, 0), (4, 1), (4, 2)], [(5, 0), (5, 1), (5, 2)]]
    assert len({y.text for g in groups for y in g.sampled}) == 6, "two groups of one problem are different samples"
    y = groups[1].sampled[2]
    assert y.prompt_ids == tokenizer.encode("1+1+0=?\n")
    assert y.completion_ids == [*tokenizer.encode(y.text), EOS]
    assert (y.student_tokens, y.source, y.policy_version) == (len(y.completion_ids), "student", 0)
    assert y.behaviour_logprobs == [-1.0] * len(y.completion_ids)
    assert mean(round, "reward/student") == 1
    assert round.metrics.sums["throughput/generated_tokens"] == sum(
        len(y.completion_ids) for g in groups for y in g.sampled
    )
