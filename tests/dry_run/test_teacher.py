"""What a round asks of its teacher, and what that costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.calls import calls_of_round, token_level
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.contrast import ContrastJudge
from ovd_lightning.judges.rubric import RubricJudge
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating, scoring
from ovd_lightning.methods.gad import GAD
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.methods.luffy import LUFFY
from ovd_lightning.methods.opd import OPD
from ovd_lightning.methods.opsd import OPSD
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.ropd import ROPD
from ovd_lightning.methods.rules import Added, Capped, Soft, StepScores, Suffix
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.methods.seqkd import SeqKD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.methods.sod import SOD
from ovd_lightning.round.context import Round
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group
from tests.dry_run.parts import plan
from tests.helpers import ScriptedEngine, make_group, make_round, plain


def verbal(**settings: Any) -> VerbalTeacher:
    return VerbalTeacher(ScriptedEngine(), **settings)


@pytest.mark.parametrize(
    ("settings", "scores"),
    [({"judged": "all"}, 18), ({"replace_when": "score", "judged": "all"}, 18), ({}, 12), ({"threshold": 0}, 0)],
)
def test_calls_are_those_that_a_round_makes(tokenizer: Any, settings: dict[str, Any], scores: int) -> None:
    """Two groups of three; what says 3 is wrong, and the scripted judge rejects it, so that acceptance is known."""
    judge = ScriptedEngine(
        judge=lambda prompt: 1 if "=3" in prompt else 9, write=lambda prompt, request: "2\n", tokenizer=tokenizer
    )
    method = OVD(VerbalTeacher(judge), group_size=3, **settings)
    round = make_round(tokenizer)
    texts = ["1+1=2\n2+0=2\n\\boxed{2}", "1+1=3\n3+0=3\n\\boxed{3}", "1+1=2\n2+0=2\n\\boxed{2}"]
    groups = [make_group(round, [f"{g}{t}" for t in texts], group=g) for g in range(2)]
    method.consult(groups, round)
    method.annotate(groups, round)
    assumed = Assumptions(steps=3, acceptance=2 / 3)
    calls = calls_of_round(method, problems=2, max_tokens=64, assumed=assumed, bound=False)
    asked = {name: round.metrics.sums[name] for name in ("teacher/scores", "teacher/demonstrations")}
    assert asked == {"teacher/scores": calls.scores, "teacher/demonstrations": calls.demonstrations}
    assert (calls.scores, calls.demonstrations, calls.requests) == (scores, 2, 0)
    bound = calls_of_round(method, problems=2, max_tokens=64, assumed=assumed, bound=True)
    assert (bound.scores, bound.demonstrations) == (18 if scores else 0, 6)
    assert bound.tokens_in > calls.tokens_in
    assert bound.tokens_out == bound.scores + 6 * 64


def test_tokens_of_scoring_grow_with_the_steps_before() -> None:
    """K = 4 steps of 25 tokens: the k-th prompt shows the problem, k steps, and the words of A.4."""
    method = OVD(verbal(), group_size=2, judged="all")
    assumed = Assumptions(steps=4, acceptance=1, prompt_tokens=40, response_tokens=100)
    words = len(step_prompt("", [], "", method.teacher.scale)) // 4
    calls = calls_of_round(method, problems=3, max_tokens=300, assumed=assumed, bound=False)
    assert calls.tokens_in == 3 * 2 * sum(words + 40 + 25 * k for k in (1, 2, 3, 4))
    assert calls.tokens_out == calls.scores == 24


def test_tokens_of_a_round_by_setting(tmp_path: Path) -> None:
    assumed = Assumptions(steps=4, acceptance=0.5, prompt_tokens=40, response_tokens=100)

    def calls(assumed: Assumptions = assumed, bound: bool = False, **settings: Any) -> Any:
        judge = VerbalJudge(**{k: settings.pop(k) for k in list(settings) if k in ("read", "score_tokens", "scale")})
        teacher = verbal(judge=judge, **{k: settings.pop(k) for k in list(settings) if k.startswith("demonstration")})
        settings = {"judged": "all", **settings}
        return calls_of_round(OVD(teacher, group_size=2, **settings), 3, 300, assumed, bound)

    plain = calls()
    assert (plain.scores, plain.demonstrations, plain.tokens_out) == (24, 3, 24 + 3 * 100)
    assert calls(read="text", score_tokens=8).tokens_out == 24 * 8 + 3 * 100
    assert calls(scoring=Scoring(level="trajectory")).scores == 6
    assert calls(credit=StepScores()).scores == 24 + 3 * 4, "the teacher's own steps are scored as well"
    assert calls(replacement=Capped(0)).demonstrations == 0
    assert (calls(replacement=Added()).added, calls(replacement=Capped(2, Added())).added, plain.added) == (3, 3, 0)
    assert calls(replacement=Suffix()).tokens_in == plain.tokens_in + 3 * 50, "half of a trajectory stays"
    rewarded = JudgeReward(verbal(), group_size=2)
    assert calls_of_round(rewarded, 3, 300, assumed, False).scores == 6
    (tmp_path / "rubric.json").write_text('["is short", "is right"]')
    rubric = VerbalTeacher(ScriptedEngine(), RubricJudge(str(tmp_path / "rubric.json")))
    assert calls_of_round(JudgeReward(rubric, group_size=2), 3, 300, assumed, False).tokens_out == 6 * 2
    mixed = calls_of_round(LUFFY(Demonstrator(ScriptedEngine()), 2, group_size=2), 3, 300, assumed, False)
    assert (mixed.demonstrations, mixed.added, mixed.tokens_out) == (6, 6, 6 * 100)
    gad = calls_of_round(GAD(Demonstrator(ScriptedEngine()), 3, group_size=2), 3, 300, assumed, False)
    assert (gad.demonstrations, gad.added, gad.tokens_out) == (9, 3, 9 * 100), "three a group of two in the warm-up"
    contrast = VerbalTeacher(ScriptedEngine(), ContrastJudge(rubric_tokens=512))
    ropd = calls_of_round(ROPD(contrast, group_size=2), 3, 300, assumed, False)
    assert (ropd.scores, ropd.demonstrations, ropd.added) == (6, 3, 0)
    assert ropd.tokens_out == 6 * 6 + 3 * 100 + 3 * 512, "six criteria an answer, a demonstration and a rubric a group"
    thinking = calls(demonstration_thinking="strip", demonstration_tokens=16000)
    assert thinking.tokens_out == 24 + 3 * 8000
    assert calls(demonstration_thinking="strip", demonstration_tokens=16000, bound=True).tokens_out == 24 + 6 * 16000
    assert calls(Assumptions(steps=4, demonstration_tokens=500)).tokens_out == 24 + 3 * 300, "no more than the limit"
    two = calls(scale="one_to_ten", threshold=8)
    assert two.tokens_out - 3 * 100 == 2 * 24, "10 is two tokens: two questions a score"
    assert calls_of_round(GRPO(group_size=2), 3, 300, assumed, False).tokens_in == 0


@pytest.mark.parametrize(
    ("settings", "scores", "at_most"),
    [
        ({}, 12, 24),  # the accepted half; the other half is taken to be wrong
        ({"replace_when": "score"}, 12 + 6, 24),  # the rejected ones up to their middle
        ({"replace_when": "score", "scoring": Scoring(aggregation="mean")}, 24, 24),
        ({"replace_when": "incorrect"}, 0, 0),
        ({"threshold": 0}, 0, 0),
        ({"threshold": 10}, 0, 0),
        ({"threshold": 10, "acceptance": Soft()}, 12, 24),
        ({"replacement": Suffix()}, 12 + 6, 24),
        ({"replacement": Suffix(), "replace_when": "incorrect"}, 6, 24),
        ({"replacement": Capped(1)}, 24, 24),
        ({"credit": StepScores()}, 24 + 12, 24 + 24),
    ],
    ids=plain,
)
def test_scores_of_what_is_needed(settings: dict[str, Any], scores: int, at_most: int) -> None:
    assumed = Assumptions(steps=4, acceptance=0.5)
    method = OVD(verbal(), group_size=2, **settings)
    assert calls_of_round(method, 3, 300, assumed, False).scores == scores
    assert calls_of_round(method, 3, 300, assumed, True).scores == at_most


def test_what_a_token_level_teacher_reads_and_its_demonstrator_writes() -> None:
    assumed = Assumptions(prompt_tokens=40, response_tokens=100)
    reader = TokenTeacher("m", demonstrator=verbal())
    for method, read, demonstrations in (
        (OPD(reader, group_size=2), 6, 0), (SOD(reader, group_size=2), 6, 0), (SeqKD(verbal(), group_size=2), 0, 6),
        (GKD(reader, student_share=0.5, group_size=2), 6, 3), (SGOPD(reader, group_size=2), 6, 0),
        (GKD(reader, student_share=0.5, outputs="dataset", group_size=2), 6, 0), (OPSD(group_size=2), 0, 0),
    ):  # fmt: skip
        calls = calls_of_round(method, 3, 300, assumed, False)
        assert (calls.scores, calls.read, calls.demonstrations) == (0, read, demonstrations), type(method)
        assert (calls.tokens_in, calls.tokens_out) == (read * 140 + demonstrations * 40, demonstrations * 100)
    assert calls_of_round(SGOPD(reader, group_size=2), 3, 300, assumed, True).demonstrations == 3, "at the start"
    served = OPD(TokenTeacher(engine=OpenAIEngine(base_url="http://localhost:1/v1", model="m")), group_size=2)
    assert calls_of_round(served, 3, 300, assumed, False).requests == 1


class Ranking(Method):
    """A method of somebody else's: the teacher scores each trajectory as a whole and demonstrates each problem once."""

    def __init__(self, teacher: VerbalTeacher, **objective: Any) -> None:
        super().__init__(**objective)
        self.teacher = teacher

    def annotate(self, groups: list[Group], round: Round) -> None:
        raise NotImplementedError

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        teacher, problems = self.teacher, expected.problems
        calls = scoring(teacher, problems * self.group_size, expected, by_step=False)
        return replace(calls + demonstrating(teacher, problems, expected), added=problems, notes=("Ranks.",))


class Silent(Ranking):
    """Does not tell."""

    teacher_calls = Method.teacher_calls


def test_a_method_from_outside_tells_what_it_asks() -> None:
    teacher = VerbalTeacher(OpenAIEngine(base_url="http://localhost:1/v1", model="m", api="chat"))
    assumed = Assumptions(prompt_tokens=40, response_tokens=100)
    calls = calls_of_round(Ranking(teacher, group_size=2), 3, 300, assumed, False)
    assert (calls.scores, calls.read, calls.demonstrations, calls.requests) == (6, 0, 3, 6 + 3)
    words = len(response_prompt("", "", teacher.scale)) // 4
    assert calls.tokens_in == 6 * (words + 40 + 100) + 3 * 40
    assert calls.tokens_out == 6 + 3 * 100
    assert calls_of_round(Ranking(teacher, group_size=2), 3, 300, assumed, True).tokens_out == 6 + 3 * 300
    with pytest.raises(ConfigError, match="Silent has a teacher and no teacher_calls"):
        calls_of_round(Silent(teacher, group_size=2), 3, 300, assumed, False)


def test_the_command_counts_a_method_from_outside(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    own = json.dumps({"class_path": f"{__name__}.Ranking", "init_args": {"teacher": "configs/teacher/quickstart.yaml"}})
    counted = plan(*quickstart, f"--method={own}")
    problems, group = counted["calls"]["demonstrations"], 8
    assert counted["calls"]["scores"] == counted["trajectories"] == problems * group
    assert counted["calls_of_run"]["scores"] == counted["rounds"] * problems * group
    assert "Ranks." in counted["notes"]
    assert counted["setup"]["rows"] == problems * (group + 1), "what trains beside the sampled ones counts"


def test_requests_and_cost() -> None:
    server = {"base_url": "http://localhost:1/v1", "model": "m"}
    teacher = VerbalTeacher(OpenAIEngine(**server), demonstrator=OpenAIEngine(**server, api="chat"))
    assumed = Assumptions(steps=10, acceptance=0.5, input_price=2.0, output_price=10.0)
    calls = calls_of_round(OVD(teacher, group_size=8, judged="all"), 16, 300, assumed, False)
    assert calls.requests == 1280 / 64 + 64, "64 prompts a request of completions, one of chat"
    assert calls.cost(assumed) == pytest.approx((2 * calls.tokens_in + 10 * calls.tokens_out) / 1e6)
    assert calls.times(3).cost(assumed) == pytest.approx(3 * calls.cost(assumed))  # type: ignore[operator]
    assert calls.cost(Assumptions()) is None


# ------------------------------------------------------------------ a teacher of tokens


def test_eq_1() -> None:
    """Section 2: one sequence of 8192 tokens over 152,064 words, and 8 x 4 of them."""
    one, batch = token_level(1, 8192, 152_064, 10), token_level(32, 8192, 152_064, 10)
    assert one.single == 4_982_833_152  # "5.0 GB"
    assert one.half == 2_491_416_576  # "2.5 GB"
    assert batch.single / 1e9 == pytest.approx(159.5, abs=0.05)  # "around 160 GB": float32 alone
    assert batch.total / 1e9 == pytest.approx(239.2, abs=0.05)  # figure 2's "240 GB": eq. 1
    assert batch.total == 1.5 * batch.single
    assert batch.verbal == 32 * 10 * 10 * 4
    assert batch.ratio == one.ratio == pytest.approx(8192 * 152_064 * 6 / (10 * 10 * 4))
