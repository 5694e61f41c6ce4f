"""What the losses of the token-level methods are held against: one token at a time, in float64, from all logits."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ovd_lightning.methods.base import LossOutput, Method
from ovd_lightning.round.collate import collate
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Group, Trajectory
from tests.helpers import PAD, V, problem, trajectory

T = 0.8
"""Temperature."""


def several_turns(seed: int = 0) -> list[Trajectory]:
    """No token, one token, all of them observed, and random ones of several steps."""
    rng = random.Random(seed)
    masks = [[], [True], [False] * 3, [True, True, False, True, False, False, True, True, True]]
    masks += [[rng.random() < 0.7 for _ in range(rng.randint(2, 14))] for _ in range(4)]
    return [
        trajectory(
            rng.randint(1, 6), len(mask), 0, j,
            completion_ids=[rng.randrange(3, V) for _ in mask], completion_mask=mask,
            advantages=[rng.choice([-1.5, 0.0, 0.7])] * len(mask),
            behaviour_logprobs=[-4 - rng.random() for _ in mask],
        )
        for j, mask in enumerate(masks)
    ]  # fmt: skip


def moved(path: str, seed: int, scale: float = 0.01) -> Student:
    student = Student(path, chunk_size=5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return student


def exact(student: Student, path: str) -> Any:
    """The same model, plain and in float64."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    model.load_state_dict(student.hf.state_dict())
    return model


def rows(model: Any, y: Trajectory, prompt: list[int] | None = None) -> dict[int, Tensor]:
    """Trained token -> [V] log-probabilities there, at temperature T."""
    prompt = y.prompt_ids if prompt is None else prompt
    logits = model(torch.tensor([[*prompt, *y.completion_ids]])).logits[0] / T
    return {
        t: torch.log_softmax(logits[len(prompt) - 1 + t], dim=-1) for t in range(len(y.completion_ids))
        if y.completion_mask[t]
    }  # fmt: skip


def batches(
    method: Method, trajectories: list[Trajectory], old: Student | None, initial: Student | None
) -> list[Batch]:
    """Two micro-batches, with what the module and the method add."""
    (step,) = collate(
        [Group(problem=problem(), sampled=[], mixture=trajectories)], mini_batches=1, accumulate=2,
        aggregation=method.aggregation, max_tokens=32, pad_id=PAD, temperature=T, round=0, policy_version=0,
    )  # fmt: skip
    done = []
    for batch in step:
        inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask, T)
        with torch.no_grad():
            batch = replace(
                batch,
                old_logprobs=None if old is None else old(*inputs)[0],
                reference_logprobs=None if initial is None else initial(*inputs)[0],
            )
            method.annotate_batch(batch)
        done.append(batch)
    return done


def in_float64(method: Method, trajectories: list[Trajectory], now: Any, before: Any = None) -> float:
    """The method's objective of log-probabilities that a plain model computes in float64, over one batch."""

    def logprobs(model: Any, batch: Batch) -> Tensor:
        logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1] / T
        found = torch.log_softmax(logits, dim=-1).gather(2, batch.input_ids[:, 1:, None])[..., 0]
        return torch.where(batch.completion_mask, found, 0.0)

    ((batch,),) = collate(
        [Group(problem=problem(), sampled=[], mixture=trajectories)], mini_batches=1, accumulate=1,
        aggregation=method.aggregation, max_tokens=32, pad_id=PAD, temperature=T, round=0, policy_version=0,
    )  # fmt: skip
    doubles = {"advantages": batch.advantages.double(), "weights": batch.weights.double()}
    with torch.no_grad():
        batch = replace(batch, old_logprobs=None if before is None else logprobs(before, batch), **doubles)
        own = logprobs(now, batch)
        return method.objective(batch, own, torch.zeros_like(own)).loss.item()


def assert_same(method: Method, student: Student, parts: list[Batch], expected: Tensor, model: Any) -> list[LossOutput]:
    """The method's loss over the micro-batches, and its gradient, are those of ``expected`` by ``model``."""
    outputs = [method.loss(student, batch) for batch in parts]
    loss = torch.stack([o.loss for o in outputs]).sum() / len(parts)  # as Lightning accumulates
    loss.backward()
    expected.backward()
    assert loss.item() != 0
    assert math.isclose(loss.item(), expected.item(), rel_tol=2e-5, abs_tol=2e-6), (loss.item(), expected.item())
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    assert norm > 1e-3
    other = dict(model.named_parameters())
    for name, p in student.hf.named_parameters():
        gap = float((p.grad.double() - other[name].grad).abs().max())  # type: ignore[union-attr]
        assert gap < 5e-5 * norm, (name, gap, norm)
    return outputs
