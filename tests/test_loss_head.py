"""The loss head's gradient by hand against automatic differentiation's, whatever a model does with its logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.speed.before import CheckpointedHead
from ovd_lightning.errors import ConfigError
from ovd_lightning.loss_head import TokenLogprobs, quantities
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.opd import OPD
from ovd_lightning.methods.sod import SOD
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch
from tests.architectures import save_architecture
from tests.test_student import batch_of, ragged

HEADS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},  # tied
    "phi": {},  # a bias
    "gemma2": {"final_logit_softcapping": 2.0},
    "granite": {},  # divided by a constant
    "cohere": {},  # multiplied by one
    "nanochat": {},
}


@pytest.fixture(scope="module", params=sorted(HEADS))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_architecture(request.param, tmp_path_factory.mktemp(request.param), **HEADS[request.param])


def filled(path: str) -> Batch:
    """A batch with everything that a loss may look at."""
    y = ragged()
    y[4] = replace(y[4], imitation=0.5)
    batch = batch_of(y)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logprobs, _ = Student(path)(batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
    noise = [torch.randn(logprobs.shape, generator=generator) * 0.3 * batch.completion_mask for _ in range(4)]
    return replace(
        batch, temperature=0.7, old_logprobs=logprobs + noise[0], reference_logprobs=logprobs + noise[1],
        behaviour_logprobs=logprobs + noise[2], teacher_logprobs=logprobs + noise[3],
    )  # fmt: skip


def trained(method: Method, student: Student, batch: Batch, autocast: bool = False) -> tuple[float, Tensor]:
    """(loss, gradient)"""
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        loss = method.loss(student, batch).loss
    (loss * 0.25).backward()  # as Lightning divides
    return loss.item(), torch.cat([p.grad.float().flatten() for p in student.parameters() if p.grad is not None])


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.norm())


METHOD = {"kl_coefficient": 0.1, "entropy_coefficient": 0.05, "dual_clip": 3.0}


@pytest.mark.parametrize("mismatch", ["none", "token_truncation", "sequence_masking"])
@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_loss_and_gradient_are_checkpointings(path: str, chunk_size: int, mismatch: Any) -> None:
    """One that is formed in the forward pass (by_token), and one that waits for the backward pass."""
    method = GRPO(mismatch=mismatch, mismatch_bound=1.2, **METHOD)  # type: ignore[arg-type]
    assert method.by_token is (mismatch != "sequence_masking")
    for batch in (filled(path), replace(filled(path), old_logprobs=None)):
        expected, gradient = trained(method, CheckpointedHead(path, chunk_size=chunk_size), batch)
        loss, found = trained(method, Student(path, chunk_size=chunk_size), batch)
        assert loss == pytest.approx(expected, abs=1e-6)
        assert gap(found, gradient) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "autocast", "within"), [("float32", True, 2e-2), ("bfloat16", False, 3e-2)], ids=["mixed", "bf16"]
)
def test_half_precision(path: str, dtype: str, autocast: bool, within: float) -> None:
    """As near to single precision as checkpointing is."""
    method, batch = GRPO(**METHOD), filled(path)  # type: ignore[arg-type]
    _, exact = trained(method, Student(path), batch)
    _, before = trained(method, CheckpointedHead(path, dtype, chunk_size=5), batch, autocast)
    _, found = trained(method, Student(path, dtype, chunk_size=5), batch, autocast)
    assert gap(found, exact) < max(1.5 * gap(before, exact), 1e-3)
    assert gap(found, before) < within


@pytest.mark.parametrize(("dtype", "autocast"), [("float32", True), ("bfloat16", False)], ids=["mixed", "bf16"])
def test_logits_that_are_not_rounded(path: str, dtype: str, autocast: bool) -> None:
    """Sums of products of bfloat16 numbers in float32: what is left is the rounding of their factors."""
    student = Student(path, dtype, chunk_size=5)
    if not student._head.linear:
        with pytest.raises(ConfigError, match=r"model\.head_dtype.*scaled or capped"):
            student.unround_logits()
        return
    student.unround_logits()
    method, batch = GRPO(**METHOD), filled(path)  # type: ignore[arg-type]
    weight, *bias = student._head.parameters()
    rows = torch.randn(7, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = student._head.logits(rows)
    half = rows.bfloat16().double() @ weight.bfloat16().double().t() + (bias[0].double() if bias else 0.0)
    assert found.dtype == torch.float32
    assert float((found - half).detach().abs().max() / half.detach().abs().max()) < 1e-6
    _, exact = trained(method, Student(path), batch)
    _, rounded = trained(method, Student(path, dtype, chunk_size=5), batch, autocast)
    _, gradient = trained(method, student, batch, autocast)
    assert gap(gradient, exact) < max(1.5 * gap(rounded, exact), 1e-3)


def counted(student: Student, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every look at the logits."""
    rows, logits = [], student._head.logits

    def count(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(student._head, "logits", count)
    return rows


@pytest.mark.parametrize(
    ("kind", "old", "looks"), [("grpo", True, 1), ("grpo", False, 1), ("opd", False, 1), ("sod", False, 2)]
)
def test_logits_are_looked_at_once_where_tokens_stand_alone(
    kind: str, old: bool, looks: int, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = TokenTeacher(model=tiny_model)
    methods: dict[str, Callable[[], Method]] = {"grpo": GRPO, "opd": lambda: OPD(teacher), "sod": lambda: SOD(teacher)}
    batch = filled(tiny_model)
    batch = batch if old else replace(batch, old_logprobs=None)
    student = Student(tiny_model)
    rows = counted(student, monkeypatch)
    _, found = trained(methods[kind](), student, batch)
    assert rows == [int(batch.completion_mask.sum())] * looks
    _, gradient = trained(methods[kind](), CheckpointedHead(tiny_model), batch)
    assert gap(found, gradient) < 1e-6


def test_float16_waits_for_the_scale(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is formed ahead of the backward pass would be too small for float16."""
    student, batch = Student(tiny_model), filled(tiny_model)
    rows = counted(student, monkeypatch)
    with torch.autocast("cpu", torch.float16):
        loss = GRPO().loss(student, batch).loss
    (loss * 1024).backward()
    assert len(rows) == 2


class Hopeful(SOD):
    """Says that its tokens stand alone, which they do not."""

    @property
    def by_token(self) -> bool:
        return True


def test_a_gradient_that_was_expected_wrongly_is_not_used(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, batch = TokenTeacher(model=tiny_model), replace(filled(tiny_model), old_logprobs=None)
    student = Student(tiny_model, chunk_size=10)
    rows = counted(student, monkeypatch)
    _, found = trained(Hopeful(teacher), student, batch)
    assert sum(rows) == 2 * int(batch.completion_mask.sum())
    _, gradient = trained(SOD(teacher), CheckpointedHead(tiny_model), batch)
    assert gap(found, gradient) < 1e-6


@pytest.mark.parametrize("ahead", [False, True])
def test_a_second_backward_pass_adds_the_same_again(tiny_model: str, ahead: bool) -> None:
    student = Student(tiny_model)
    rows, targets = torch.randn(7, 64, requires_grad=True), torch.arange(7)
    weights = torch.linspace(-1, 1, 7)
    wanted = TokenLogprobs(targets, 1.0)
    expected = (lambda span, values: (weights[span], None)) if ahead else None
    logprobs, _ = quantities(wanted, rows, student._head, 3, expected)
    loss = (logprobs * weights).sum()
    loss.backward(retain_graph=True)
    assert rows.grad is not None
    first = rows.grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(rows.grad, 3 * first)
    assert not logprobs.isnan().any()


def test_frozen_parts_get_no_gradient(tiny_untied_model: str) -> None:
    batch, method = filled(tiny_untied_model), GRPO()
    student = Student(tiny_untied_model)
    head = student.hf.get_output_embeddings().weight
    head.requires_grad_(False)
    trained(method, student, batch)
    assert head.grad is None
    other = Student(tiny_untied_model)
    other.hf.model.requires_grad_(False)  # type: ignore[union-attr]
    trained(method, other, batch)
    expected = CheckpointedHead(tiny_untied_model)
    trained(method, expected, batch)
    own, theirs = (s.hf.get_output_embeddings().weight.grad for s in (other, expected))
    assert isinstance(own, Tensor)
    assert isinstance(theirs, Tensor)
    assert gap(own, theirs) < 1e-6


def test_no_entropy_where_nothing_needs_it(tiny_model: str) -> None:
    student, batch = Student(tiny_model), filled(tiny_model)
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
    logprobs, entropies = student(*inputs, entropy=False)
    assert torch.equal(logprobs, student(*inputs)[0])
    assert entropies[batch.completion_mask].isnan().all()
    on, off = GRPO(), GRPO(log_entropy=False)
    assert "policy/entropy" in on.loss(student, batch).means
    assert "policy/entropy" not in off.loss(student, batch).means
    assert off.loss(student, batch).loss.item() == on.loss(student, batch).loss.item()
    assert math.isfinite(GRPO(log_entropy=False, entropy_coefficient=0.1).loss(student, batch).loss.item())


def test_the_head_is_known(tmp_path: Path) -> None:
    """One that scales or caps is not taken for a plain product."""
    linear = {name: Student(save_architecture(name, tmp_path / name, **HEADS[name]))._head.linear for name in HEADS}
    assert [name for name, plain in linear.items() if plain] == ["qwen2", "qwen3", "phi"]
