"""GKD, OPSD and SeqKD: the losses are the formulas over the whole vocabulary, and where their data comes from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.opsd import OPSD
from ovd_lightning.methods.seqkd import SeqKD
from ovd_lightning.student import Student
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.tools.local import LocalSandbox
from ovd_lightning.types import Problem
from tests.helpers import ScriptedEngine, make_group, make_round, problem
from tests.methods.slow import assert_same, batches, exact, moved, rows, several_turns
from tests.test_student import shapes

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


@pytest.fixture
def teacher(tiny_untied_model: str) -> TokenTeacher:
    return TokenTeacher(model=tiny_untied_model, chunk_size=3)


def writes(text: str, tokenizer: Any = None) -> Demonstrator:
    return Demonstrator(ScriptedEngine(write=lambda prompt, request: text, tokenizer=tokenizer))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Of log-probabilities [V], entry by entry."""
    return torch.stack([p[v].exp() * (p[v] - q[v]) for v in range(len(p))]).sum()


def slow_divergence(own: Tensor, taught: Tensor, beta: float) -> Tensor:
    taught = taught.detach()
    if beta == 0:
        return kl(taught, own)
    if beta == 1:
        return kl(own, taught)
    mixture = (beta * taught.exp() + (1 - beta) * own.exp()).log()
    return beta * kl(taught, mixture) + (1 - beta) * kl(own, mixture)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_gkd_is_the_formula(tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher, beta: float) -> None:
    student = moved(tiny_model, 1)
    now, taught = exact(student, tiny_model), exact(Student(tiny_untied_model), tiny_untied_model)
    method, trajectories = GKD(teacher, beta=beta), several_turns()
    values = []
    for y in trajectories:
        own, wanted = rows(now, y), rows(taught, y)
        values += [slow_divergence(own[t], wanted[t], beta) for t in own]
    expected = torch.stack(values).mean()
    outputs = assert_same(method, student, batches(method, trajectories, None, None), expected, now)
    logged = torch.cat([o.means["gkd/divergence"] for o in outputs])
    assert logged.mean().item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gkds_gradient_is_that_of_finite_differences(tiny_model: str, teacher: TokenTeacher, beta: float) -> None:
    student = moved(tiny_model, 1).double()
    method = GKD(teacher, beta=beta)
    parts = batches(method, several_turns(), None, None)

    def loss() -> Tensor:
        return torch.stack([method.loss(student, batch).loss for batch in parts]).sum()

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    parameters = list(student.parameters())
    along = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, along, strict=True) if p.grad is not None)
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, along, strict=True):
                p.add_(sign * 1e-4 * d)
            values.append(loss().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=2e-2)  # logits are float32


def test_no_logits_of_the_whole_batch_ever_exist(tiny_model: str, teacher: TokenTeacher) -> None:
    student = moved(tiny_model, 1)  # chunks of 5
    method = GKD(teacher)
    batch = batches(method, several_turns(), None, None)[0]
    teacher.model_on(torch.device("cpu"))
    assert int(batch.completion_mask.sum()) > 10
    with shapes() as seen:
        method.loss(student, batch).loss.backward()
    assert max(seen.rows) == 5
    student.chunk_size = 1000
    with shapes() as control:
        method.loss(student, batch).loss.backward()
    assert max(control.rows) > 10, "the check sees logits where there are some"


def test_the_teacher_gets_no_gradient_even_when_it_is_the_student(tiny_model: str) -> None:
    """OPSD with the student as it is now: the derivative is that of the student's own part alone."""
    student = moved(tiny_model, 1)
    now = exact(student, tiny_model)
    fixed = exact(student, tiny_model)
    trajectories = [replace(y, teacher_prompt_ids=[7, 8, 9, *y.prompt_ids]) for y in several_turns()]
    method = OPSD(beta=0.5)
    values = []
    for y in trajectories:
        own, wanted = rows(now, y), rows(fixed, y, y.teacher_prompt_ids)
        values += [slow_divergence(own[t], wanted[t], 0.5) for t in own]
    expected = torch.stack(values).mean()
    assert_same(method, student, batches(method, trajectories, None, None), expected, now)


def test_opsd_with_a_frozen_teacher(tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher) -> None:
    student = moved(tiny_model, 1)
    now, taught = exact(student, tiny_model), exact(Student(tiny_untied_model), tiny_untied_model)
    trajectories = [replace(y, teacher_prompt_ids=[7, 8, 9]) for y in several_turns()]
    values = []
    for y in trajectories:
        own, wanted = rows(now, y), rows(taught, y, [7, 8, 9])
        values += [slow_divergence(own[t], wanted[t], 0.0) for t in own]
    method = OPSD(teacher, beta=0.0)
    assert_same(method, student, batches(method, trajectories, None, None), torch.stack(values).mean(), now)


def test_opsds_teacher_reads_the_reference(tokenizer: Any) -> None:
    round = make_round(tokenizer)
    solved = Problem(id="p", question="1+1+0=?", answers=("2",), meta={"solution": "1+1=2"})
    for of, shown in ((problem(), "2"), (solved, "1+1=2")):
        group = make_group(round, [RIGHT, WRONG], of)
        OPSD(hint="{prompt}{reference}\n{prompt}").annotate([group], round)
        for y in group.mixture:
            assert tokenizer.decode(y.teacher_prompt_ids) == f"1+1+0=?\n{shown}\n1+1+0=?\n"
            assert tokenizer.decode(y.prompt_ids) == "1+1+0=?\n"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_gkd_mixes_groups_of_student_and_teacher(tokenizer: Any, teacher: TokenTeacher, share: float) -> None:
    teacher.demonstrator = writes(RIGHT)
    engine = ScriptedEngine(write=lambda prompt, request: WRONG, tokenizer=tokenizer)
    method = GKD(teacher, student_share=share, group_size=2)
    round = make_round(tokenizer, engine=engine)
    groups = method.sample([problem(str(i)) for i in range(64)], round)
    method.consult(groups, round)
    method.annotate(groups, round)
    again = method.sample([problem(str(i)) for i in range(64)], make_round(tokenizer, engine=engine))
    own = [bool(g.sampled) for g in groups]
    assert own == [bool(g.sampled) for g in again], "a function of seed, round and group"
    assert sum(own) / 64 == pytest.approx(share, abs=0.2 if share == 0.5 else 0)
    for slot, group in enumerate(groups):
        assert {(y.source, y.text) for y in group.mixture} == {("student", WRONG) if own[slot] else ("teacher", RIGHT)}
        assert [y.key for y in group.mixture] == [(slot, 0), (slot, 1)]


def test_gkd_imitates_the_solutions_of_the_data(tokenizer: Any, teacher: TokenTeacher) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: WRONG, tokenizer=tokenizer)
    method = GKD(teacher, student_share=0.5, outputs="dataset", group_size=2)
    problems = [
        Problem(id=str(i), question="1+1+0=?", answers=("2",), meta={"solution": f"1+{i}=2\n{RIGHT}"}) for i in range(9)
    ]
    round = make_round(tokenizer, engine=engine)
    groups = method.sample(problems, round)
    method.consult(groups, round)
    method.annotate(groups, round)
    solved = [g for g in groups if not g.sampled]
    assert 0 < len(solved) < 9
    for group in solved:
        for y in group.mixture:
            assert (y.source, y.student_tokens, y.truncated) == ("dataset", 0, False)
            assert y.text == group.problem.meta["solution"]
            assert y.completion_ids[-1] == tokenizer.eos_token_id
            assert y.reward == 1
            assert all(y.completion_mask)
            assert len(y.advantages) == len(y.completion_ids)
    assert {y.text for g in groups if g.sampled for y in g.mixture} == {WRONG}


def test_gkd_says_before_the_run_that_solutions_are_missing(teacher: TokenTeacher) -> None:
    task = ArithmeticTask(train_size=4)
    method = GKD(teacher, student_share=0.5, outputs="dataset")
    method.check_problems(task, task.problems("train"), 64)
    with pytest.raises(ConfigError, match=r"outputs.*1 problems have no `solution`.*'p'"):
        method.check_problems(task, [*task.problems("train"), problem()], 64)
    task.environment = ToolEnvironment(LocalSandbox())
    with pytest.raises(ConfigError, match="no replies of the environment"):
        method.check_problems(task, task.problems("train"), 64)
    GKD(teacher, outputs="dataset").check_problems(task, [problem()], 64)  # purely on-policy: nothing is imitated


def test_gkd_needs_distributions_and_a_writer(teacher: TokenTeacher) -> None:
    with pytest.raises(ConfigError, match="no demonstrator"):
        GKD(teacher, student_share=0.5)
    with pytest.raises(ConfigError, match="whole distributions"):
        GKD(TokenTeacher(engine=ScriptedEngine()))


# ------------------------------------------------------------------ SeqKD


@pytest.mark.parametrize("verified", [False, True])
def test_seqkd_imitates_what_the_teacher_wrote(tokenizer: Any, verified: bool) -> None:
    engine = ScriptedEngine(write=lambda p, r: None if "3" in p else WRONG if "5" in p else RIGHT)
    method = SeqKD(Demonstrator(engine), verified=verified, group_size=2)
    round = make_round(tokenizer)
    groups = method.sample([problem(), problem("q", "1+5+0=?"), problem("r", "3+0+0=?")], round)
    method.consult(groups, round)
    method.annotate(groups, round)
    assert not any(g.sampled for g in groups)
    assert [len(g.mixture) for g in groups] == [2, 0 if verified else 2, 0]
    assert all(y.source == "teacher" and y.imitation == 1 for g in groups for y in g.mixture)
    seeds = [request.seed for request in engine.written]
    assert len(set(seeds)) == 6, "every demonstration is drawn for itself"


@pytest.mark.parametrize("updates", [1, 2])
def test_seqkd_is_the_cross_entropy_whatever_the_ratio(tiny_model: str, updates: int) -> None:
    student = moved(tiny_model, 1)
    now = exact(student, tiny_model)
    method = SeqKD(writes(RIGHT))
    trajectories = [replace(y, imitation=1.0) for y in several_turns()]
    picked = [row[y.completion_ids[t]] for y in trajectories for t, row in rows(now, y).items()]
    old = moved(tiny_model, 2) if updates > 1 else None
    outputs = assert_same(method, student, batches(method, trajectories, old, None), -torch.stack(picked).mean(), now)
    assert all(math.isfinite(o.loss.item()) for o in outputs)
