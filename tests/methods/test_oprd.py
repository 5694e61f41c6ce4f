"""OPRD: the loss is the formula, with and without its bridge, and the bridge is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.engines.base import Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.methods.oprd import OPRD
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Trajectory
from tests.helpers import ScriptedEngine, make_group, make_round
from tests.methods.slow import assert_same, batches, exact, moved, several_turns


@pytest.fixture
def teacher(tiny_untied_model: str) -> TokenTeacher:
    return TokenTeacher(model=tiny_untied_model, chunk_size=3)


def states(model: Any, y: Trajectory) -> dict[int, Tensor]:
    """Trained token -> [d] last hidden state that predicts it."""
    ids = torch.tensor([[*y.prompt_ids, *y.completion_ids]])
    hidden = model(ids, output_hidden_states=True).hidden_states[-1][0]
    return {t: hidden[len(y.prompt_ids) - 1 + t] for t, m in enumerate(y.completion_mask) if m}


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("normalise", [False, True])
def test_oprd_is_the_formula(
    tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher, rank: Any, normalise: bool
) -> None:
    student, trajectories = moved(tiny_model, 1), several_turns()
    now, taught = exact(student, tiny_model), exact(Student(tiny_untied_model), tiny_untied_model)
    pairs = [(own, states(taught, y)[t].detach()) for y in trajectories for t, own in states(now, y).items()]
    method = OPRD(teacher, rank=rank, normalise=normalise)
    if rank is not None:
        other = exact(
            moved(tiny_model, 3, scale=0.05), tiny_model
        )  # with fewer rows than dimensions its own fit is exact
        fitted = torch.stack([own for y in trajectories for own in states(other, y).values()]).detach().float()
        method._bridge = F.fit_bridge(fitted, torch.stack([wanted for _, wanted in pairs]).float(), rank)
    values = []
    for own, wanted in pairs:
        z_s, z_t = own, wanted
        if method._bridge is not None:
            b = {name: tensor.double() for name, tensor in method._bridge.tensors.items()}
            z_s = torch.stack([(own * b["student"][:, k]).sum() + b["student_bias"][k] for k in range(3)])
            z_t = torch.stack([((wanted - b["teacher_mean"]) * b["teacher"][:, k]).sum() for k in range(3)])
        if normalise:
            z_s, z_t = z_s / z_s.square().sum().sqrt(), z_t / z_t.square().sum().sqrt()
        values.append(((z_s - z_t) ** 2).sum() / len(z_t))
    outputs = assert_same(method, student, batches(method, trajectories, None, None), torch.stack(values).mean(), now)
    logged = torch.cat([o.means["oprd/distance"] for o in outputs])
    assert logged.mean().item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-4)


def test_the_bridge_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    mapping, noise = torch.randn(5, 2, generator=generator, dtype=torch.float64), 1e-3
    directions = torch.linalg.qr(torch.randn(7, 2, generator=generator, dtype=torch.float64))[0]
    teacher = (student @ mapping + 1) @ directions.T + noise * torch.randn(
        200, 7, generator=generator, dtype=torch.float64
    )
    bridge = F.fit_bridge(student, teacher, 2)
    # two directions carry all but the noise, and the student's states determine them
    assert torch.allclose(bridge.teacher.T @ bridge.teacher, torch.eye(2, dtype=torch.float64), atol=1e-9)
    covariance = (teacher - teacher.mean(0)).T @ (teacher - teacher.mean(0))
    vectors = torch.linalg.eigh(covariance).eigenvectors
    top = vectors[:, -2:] @ vectors[:, -2:].T
    assert torch.allclose(bridge.teacher @ bridge.teacher.T, top, atol=1e-9)
    z_s, z_t = bridge.project(student, teacher)
    assert F.hidden_distance(z_s, z_t, False).max() < 30 * noise**2
    # no other map of the student's states is nearer
    worse = replace(bridge, student=bridge.student + 1e-2)
    assert (
        F.hidden_distance(z_s, z_t, False).mean()
        < F.hidden_distance(worse.project(student, teacher)[0], z_t, False).mean()
    )
    assert F.fit_bridge(student[:1], teacher[:1], 4).teacher.shape == (7, 1), "a rank that the rows do not have"


def test_the_bridge_is_fitted_once_kept_and_missed(tiny_model: str, teacher: TokenTeacher, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "bridge.pt"
    student, trajectories = moved(tiny_model, 1), [y for seed in range(10) for y in several_turns(seed)]

    def play(method: OPRD, of: Student, **changes: Any) -> float:
        parts = [replace(batch, **changes) for batch in batches(method, trajectories, None, None)]
        return sum(method.loss(of, batch).loss.item() for batch in parts)

    first = OPRD(teacher, rank=2, bridge=str(file))
    before = play(first, student)
    assert file.is_file()
    other = moved(tiny_model, 2, scale=0.05)
    assert play(OPRD(teacher, rank=2, bridge=str(file)), student, round=3) == before, "it is read, not fitted again"
    assert play(first, other) == play(OPRD(teacher, rank=2, bridge=str(file)), other)
    few = batches(OPRD(teacher), several_turns(), None, None)[0]
    with pytest.raises(RunError, match=r"first micro-batch has \d+ tokens"):
        OPRD(teacher, rank=2).loss(student, few)
    with pytest.raises(RunError, match=r"not kept.*method\.init_args\.bridge"):
        play(OPRD(teacher, rank=2), student, round=3)


def test_other_widths_need_a_bridge(teacher: TokenTeacher, tiny_model: str, tokenizer: Any) -> None:
    OPRD(teacher, rank=None).check(ScriptedEngine(tokenizer=tokenizer), Sampling())
    embedded = TokenTeacher(model="ovd_lightning/assets/teacher")
    engine = HFEngine("ovd_lightning/assets/student")
    OPRD(embedded).check(engine, Sampling())
    with pytest.raises(ConfigError, match=r"rank: is null, but hidden states have 128 .*teacher.* and 96"):
        OPRD(embedded, rank=None).check(engine, Sampling())


def test_it_trains_on_what_the_student_sampled(teacher: TokenTeacher, tokenizer: Any) -> None:
    round = make_round(tokenizer)
    group = make_group(round, ["\\boxed{2}", "\\boxed{3}"])
    OPRD(teacher, group_size=2).annotate([group], round)
    assert group.mixture == group.sampled
