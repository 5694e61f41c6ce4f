"""What a method asks of its teacher depends on the groups alone, however a round is divided into calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import RunError
from ovd_lightning.judges.contrast import ContrastJudge
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.gad import GAD
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.methods.luffy import LUFFY
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.ropd import ROPD
from ovd_lightning.methods.rules import Added, Capped, MixedGroup, Soft, StepScores, Suffix
from ovd_lightning.methods.seqkd import SeqKD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.round.context import Round
from ovd_lightning.seeds import seed_of
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group
from tests.helpers import ScriptedEngine, make_group, make_round, problem

LINES = ("1+1=2", "2+0=2", "1+1=3", "3+0=3", "\\boxed{2}", "\\boxed{3}")


def some(*what: Any) -> str:
    """One to three lines, a function of ``what``."""
    return "\n".join(LINES[seed_of(*what, k) % 6] for k in range(1 + seed_of(*what) % 3))


def judge(prompt: str) -> dict[str, float]:
    """A distribution that is a function of the prompt; sometimes without any score."""
    mass = [seed_of(prompt, k) % 100 for k in range(10)]
    return {} if seed_of(prompt) % 11 == 0 else {str(k): m / (sum(mass) + 7.3) for k, m in enumerate(mass)}


def write(prompt: str, request: Request) -> str | None:
    if request.seed is not None and request.seed % 7 == 0:
        return None
    if prompt.startswith("You design a rubric"):
        return f'["is {request.seed}", {{"criterion": "is short", "weight": 2}}]'
    return some(prompt, request.seed)


def verbal(engine: ScriptedEngine, token: TokenTeacher) -> VerbalTeacher:
    return VerbalTeacher(engine, VerbalJudge(max_parse_failures=1.0))


def contrast(engine: ScriptedEngine, token: TokenTeacher) -> VerbalTeacher:
    hidden = ScriptedEngine(judge, write)  # the vocabulary of the other one has no brackets
    return VerbalTeacher(engine, ContrastJudge(engine=hidden, answer="scale", max_parse_failures=1.0))


def token(engine: ScriptedEngine, token: TokenTeacher) -> TokenTeacher:
    token.demonstrator = Demonstrator(engine)
    return token


def gad(teacher: Demonstrator, path: str) -> GAD:
    method = GAD(teacher, demonstrations=2, warmup=0.5)
    method.start(path, torch.device("cpu"))
    return method


METHODS: dict[str, Callable[[ScriptedEngine, TokenTeacher], Method]] = {
    "ovd": lambda e, t: OVD(verbal(e, t), threshold=4),
    "ovd, all judged": lambda e, t: OVD(verbal(e, t), threshold=4, judged="all"),
    "ovd, by step": lambda e, t: OVD(verbal(e, t), threshold=4, credit=StepScores(MixedGroup()), replacement=Suffix()),
    "ovd, capped": lambda e, t: OVD(verbal(e, t), threshold=4, replacement=Capped(1, Added()), acceptance=Soft(3, 5)),
    "judge reward": lambda e, t: JudgeReward(verbal(e, t)),
    "ropd": lambda e, t: ROPD(contrast(e, t), references=2),
    "luffy": lambda e, t: LUFFY(Demonstrator(e), demonstrations=2),
    "gad": lambda e, t: gad(Demonstrator(e), str(t.path)),
    "seqkd": lambda e, t: SeqKD(Demonstrator(e), group_size=3),
    "gkd": lambda e, t: GKD(token(e, t), student_share=0.5, group_size=3),
    "sg-opd": lambda e, t: SGOPD(token(e, t), imitation=0.7, demonstrations=2),
}
DIVISIONS: dict[str, Callable[[list[Group]], list[list[Group]]]] = {
    "one at a time": lambda groups: [[g] for g in groups],
    "backwards": lambda groups: [groups[::-1]],
    "odd ones first": lambda groups: [groups[1::2], groups[::2]],
}


@pytest.fixture
def token_teacher(tiny_model: str) -> TokenTeacher:
    return TokenTeacher(model=tiny_model)


def played(
    make: Callable[[ScriptedEngine, TokenTeacher], Method],
    teacher: TokenTeacher,
    tokenizer: Any,
    divide: Callable[[list[Group]], Sequence[list[Group]]] = lambda groups: [groups],
) -> list[Any]:
    """Mixtures, advantages and logs of a round."""
    method = make(ScriptedEngine(judge, write, tokenizer), teacher)
    round = make_round(tokenizer, first_group=8)
    problems = [problem(f"p{i}", f"1+{i}+0=?") for i in (0, 1, 2, 2, 3, 4)]  # one of them twice
    groups = sampled(method, round, problems)
    for part in divide(groups):
        method.consult(part, round)
    method.annotate(groups, round)
    mixtures = [
        [(y.text, y.key, y.source, y.advantages, y.imitation, y.score, y.accepted, [s.score for s in y.steps],
          y.grade) for y in g.mixture] for g in groups
    ]  # fmt: skip
    metrics = round.metrics
    return [mixtures, metrics.means, metrics.sums, metrics.maxima, metrics.histograms]


def sampled(method: Method, round: Round, problems: Sequence[Any]) -> list[Group]:
    if isinstance(method, SeqKD):
        return method.sample(problems, round)
    groups = [
        make_group(round, [some(g, j) for j in range(4)], p, round.first_group + g) for g, p in enumerate(problems)
    ]
    if isinstance(method, GKD):
        for group in groups[::2]:
            group.sampled = []
    return groups


@pytest.mark.parametrize("name", METHODS)
def test_any_division_into_calls_gives_the_same_round(name: str, token_teacher: TokenTeacher, tokenizer: Any) -> None:
    once = played(METHODS[name], token_teacher, tokenizer)
    assert any(once[0])
    for divide in DIVISIONS.values():
        assert played(METHODS[name], token_teacher, tokenizer, divide) == once


def test_a_judge_is_blamed_by_its_share_of_the_round(token_teacher: TokenTeacher, tokenizer: Any) -> None:
    def make(share: float) -> Callable[[ScriptedEngine, TokenTeacher], Method]:
        return lambda e, t: OVD(VerbalTeacher(e, VerbalJudge(max_parse_failures=share)), judged="all")

    sums = played(make(1), token_teacher, tokenizer)[2]
    share = sums["score/parse_failures"] / sums["teacher/scores"]  # some group has more
    for divide in DIVISIONS.values():
        assert played(make(share), token_teacher, tokenizer, divide)
        with pytest.raises(RunError, match=r"of \d+ scoring prompts got no score"):
            played(make(0.99 * share), token_teacher, tokenizer, divide)
