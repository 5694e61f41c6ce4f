"""The optimiser's side of a step: weight decay, schedule, clipping and the guard against stale data, by hand-made
rounds through Lightning's own loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from transformers import get_scheduler

from ovd_lightning.data import OVDDataModule
from ovd_lightning.methods.base import LossOutput, Method
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.module import OVDModule, Schedule
from ovd_lightning.round.collate import to_batch
from ovd_lightning.round.loop import in_order
from ovd_lightning.student import Student
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.types import Batch
from tests.helpers import PAD, trajectory

LEARNING_RATE = 3e-3


class Watcher(L.Callback):
    """What every update began with: weights, gradients before clipping, learning rate."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        named = dict(module.student.named_parameters())
        self.weights.append({name: p.detach().double().clone() for name, p in named.items()})
        self.gradients.append({name: p.grad.double().clone() for name, p in named.items()})
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.norms.append(math.sqrt(sum(float((g**2).sum()) for g in self.gradients[-1].values())))


def batch(version: int, round: int = 0, update: int = 0, advantage: float = 1.0) -> Batch:
    rows = [trajectory(3, 6, 0, j, advantages=[advantage * (1 - 2 * (j % 2))] * 6) for j in range(2)]
    made = to_batch(rows, [1 / 12] * 2, PAD, temperature=1.0, round=round, version=version)
    return replace(made, update=update)


def fit(
    student: str,
    rounds: int = 3,
    epochs_per_round: int = 1,
    mini_batches: int = 1,
    accumulate: int = 1,
    clip: float | None = None,
    advantage: float = 1.0,
    change: Callable[[Batch], Batch] = lambda batch: batch,
    method: Method | None = None,
    round: list[Batch] | None = None,
    **settings: Any,
) -> tuple[OVDModule, Watcher]:
    """Train on rounds of which each is what the rollout callback would hand out, but for ``change``; or ``round``."""
    method = method or GRPO(kl_coefficient=0.0)
    module = OVDModule(student, method, **{"learning_rate": LEARNING_RATE, **settings})
    data = OVDDataModule(
        ArithmeticTask(train_size=4, validation_size=1, test_size=1), problems_per_round=4, rounds=rounds,
        epochs_per_round=epochs_per_round, mini_batches=mini_batches,
    )  # fmt: skip
    updates = epochs_per_round * mini_batches

    def collect(index: int) -> list[Batch]:
        micro = [batch(index * updates, index, u, advantage) for u in range(updates) for _ in range(accumulate)]
        return [change(each) for each in round or micro]

    data.collect = collect
    watcher = Watcher()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=accumulate, gradient_clip_val=clip,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0, callbacks=[watcher],
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.global_step == len(watcher.rates) == rounds * updates
    return module, watcher


# ------------------------------------------------------------------ AdamW


def adamw(
    watcher: Watcher, betas: tuple[float, float], decay: float, clip: float | None, eps: float = 1e-8
) -> dict[str, Tensor]:
    """Weights after all updates, from the first weights and the gradients, by algorithm 2 of arXiv 1711.05101."""
    weights = dict(watcher.weights[0])
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for t, (gradients, rate, norm) in enumerate(zip(watcher.gradients, watcher.rates, watcher.norms, strict=True), 1):
        scale = 1.0 if clip is None else min(1.0, clip / norm)
        for name, gradient in gradients.items():
            g = scale * gradient
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            step = (m[name] / (1 - betas[0] ** t)) / ((v[name] / (1 - betas[1] ** t)).sqrt() + eps)
            weights[name] = weights[name] - rate * decay * weights[name] - rate * step
    return weights


def largest_gap(module: OVDModule, expected: dict[str, Tensor]) -> float:
    return max(float((p.detach().double() - expected[n]).abs().max()) for n, p in module.student.named_parameters())


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [None, 1e-3, 1e6])
def test_updates_are_adamws(decay: float, clip: float | None, tiny_model: str) -> None:
    """Betas, decoupled decay and clipping by the norm of all gradients, over updates with different gradients."""
    betas = (0.8, 0.95)
    module, watcher = fit(tiny_model, weight_decay=decay, betas=betas, clip=clip, lr_scheduler="linear")
    assert min(watcher.norms) > 0.01
    assert largest_gap(module, adamw(watcher, betas, decay, clip)) < 2e-6
    # The settings matter at this precision: others would be noticed.
    assert largest_gap(module, adamw(watcher, betas, 0.1 - decay, clip)) > 1e-4
    assert largest_gap(module, adamw(watcher, (0.9, 0.999), decay, clip)) > 1e-4


def test_clipping_bounds_the_first_moment(tiny_model: str) -> None:
    """Adam's step hardly depends on a gradient's scale, so the clipped norm is read off its state."""
    module, watcher = fit(tiny_model, rounds=1, clip=1e-3, betas=(0.0, 0.999))
    (optimizer,) = module.trainer.optimizers
    moments = [state["exp_avg"].double() for state in optimizer.state.values()]
    assert watcher.norms[0] > 0.01
    assert math.sqrt(sum(float((m**2).sum()) for m in moments)) == pytest.approx(1e-3, rel=1e-3)
    assert module.train_metrics.maxima["policy/grad_norm"] == pytest.approx(watcher.norms[0], rel=1e-4), "before it"


def test_without_a_gradient_weights_shrink_by_rate_times_decay(tiny_model: str) -> None:
    module, watcher = fit(tiny_model, rounds=2, advantage=0.0, weight_decay=0.5)
    assert watcher.norms == [0.0, 0.0]
    factor = (1 - LEARNING_RATE * 0.5) ** 2
    assert largest_gap(module, {name: w * factor for name, w in watcher.weights[0].items()}) < 1e-6
    still, watcher = fit(tiny_model, rounds=2, advantage=0.0, weight_decay=0.0)
    assert largest_gap(still, watcher.weights[0]) == 0


# ------------------------------------------------------------------ schedule

FORMULAS: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda t, warm, total: 1.0,
    "constant_with_warmup": lambda t, warm, total: min(1.0, t / warm) if warm else 1.0,
    "linear": lambda t, warm, total: t / warm if t < warm else (total - t) / (total - warm),
    "cosine": lambda t, warm, total: (
        t / warm if t < warm else 0.5 * (1 + math.cos(math.pi * (t - warm) / (total - warm)))
    ),
}
"""(updates before, updates of warm-up, updates) -> share of the learning rate."""


@pytest.mark.parametrize(
    ("schedule", "warm", "epochs", "mini_batches", "accumulate"),
    [
        ("constant", 0.0, 2, 2, 2),
        ("constant_with_warmup", 0.95, 2, 2, 2),
        ("constant_with_warmup", 0.0, 2, 2, 2),
        ("linear", 0.0, 2, 2, 2),
        ("cosine", 0.5, 2, 2, 2),
        *(("linear", 0.25, *shape) for shape in [(1, 1, 1), (2, 1, 1), (1, 2, 3), (2, 2, 2)]),
    ],
)
def test_every_update_has_the_rate_of_its_schedule(
    schedule: str, warm: float, epochs: int, mini_batches: int, accumulate: int, tiny_model: str
) -> None:
    """Counted in updates: not in rounds, not in micro-batches."""
    shape = {"epochs_per_round": epochs, "mini_batches": mini_batches, "accumulate": accumulate}
    _, watcher = fit(tiny_model, rounds=5, lr_scheduler=schedule, warmup_fraction=warm, **shape)
    total = 5 * epochs * mini_batches
    expected = [LEARNING_RATE * FORMULAS[schedule](t, round(total * warm), total) for t in range(total)]
    assert watcher.rates == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_schedules_of_the_configs_are_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workflow.test_configs import CONFIGS, parse

    used = {parse(monkeypatch, f"--config={path}").model.lr_scheduler for path in CONFIGS}
    assert used <= set(FORMULAS)
    assert "constant_with_warmup" in used


def test_every_schedule_can_be_made_from_warmup_and_length() -> None:
    for name in get_args(Schedule):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
        schedule = get_scheduler(name, optimizer, 2, 10)
        first = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        warms_up = name != "constant"
        assert (first, schedule.get_last_lr()[0]) == ((0, 5e-4) if warms_up else (1e-3, 1e-3)), name


# ------------------------------------------------------------------ stale data


@pytest.mark.parametrize("off", [-1, 1])
def test_data_of_other_weights_is_refused(off: int, tiny_model: str) -> None:
    def other(batch: Batch) -> Batch:
        return replace(batch, policy_version=batch.policy_version + off) if batch.round == 1 else batch

    with pytest.raises(RuntimeError, match=rf"stale data: .*round 1 .*weights of step {2 + off}, but step 2 is"):
        fit(tiny_model, epochs_per_round=2, change=other)


def test_data_of_another_update_of_the_round_is_refused(tiny_model: str) -> None:
    """The second update's micro-batches come as the first's; with two to an update, both of the first are right."""
    with pytest.raises(RuntimeError, match=r"stale data: update 0 of round 0 .*but step 1 is being trained"):
        fit(tiny_model, epochs_per_round=2, accumulate=2, change=lambda batch: replace(batch, update=0))


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_the_first_updates_log_probabilities_are_the_old_ones_of_later_passes(
    mini_batches: int, tiny_model: str
) -> None:
    """Bit for bit what a pass of their own would give."""
    own = Student(tiny_model)
    steps = [[batch(0, update=i, advantage=1.0 + i) for _ in range(2)] for i in range(mini_batches)]
    expected = []
    for made in (made for step in steps for made in step):
        with torch.no_grad():
            inputs = (made.input_ids, made.attention_mask, made.completion_mask, made.temperature)
            expected.append(own(*inputs, entropy=False)[0])
    for made, old in zip(steps[-1], expected[-2:], strict=True):
        made.old_logprobs = old if mini_batches > 1 else None
    seen: list[Batch] = []

    class Seen(GRPO):
        def loss(self, student: Student, batch: Batch) -> LossOutput:
            seen.append(batch)
            return super().loss(student, batch)

    module, _ = fit(
        tiny_model, rounds=1, epochs_per_round=2, mini_batches=mini_batches, accumulate=2,
        method=Seen(kl_coefficient=0.0), round=in_order(steps, epochs=2),
    )  # fmt: skip
    assert not torch.equal(next(module.student.parameters()), next(own.parameters()))
    for made, old in zip(seen[-2 * mini_batches :], expected, strict=True):
        assert made.old_logprobs is not None
        assert torch.equal(made.old_logprobs, old)


@pytest.mark.parametrize(("budget", "packing"), [(1, False), (24, False), (24, True)])
def test_a_budget_of_tokens_changes_neither_gradients_nor_metrics(budget: int, packing: bool, tiny_model: str) -> None:
    """Two micro-batches an update, of ragged rows, in two passes. Of packed rows, real tokens count."""
    rows = [trajectory(2 + j, 9 - 2 * (j % 3), 0, j, advantages=[1.0 - j / 3] * (9 - 2 * (j % 3))) for j in range(6)]
    longest = max(len(y.prompt_ids) + len(y.completion_ids) for y in rows)

    def train(budget: int | None) -> tuple[OVDModule, list[dict[str, Tensor]], list[int]]:
        step = [to_batch(part, [1 / 12] * 3, PAD, temperature=0.8, round=0, version=0) for part in (rows[:3], rows[3:])]
        sizes: list[int] = []

        class Counted(GRPO):
            def loss(self, student: Student, batch: Batch) -> LossOutput:
                sizes.append(student.computed(batch.attention_mask))
                return super().loss(student, batch)

        module, watcher = fit(
            tiny_model, rounds=1, epochs_per_round=2, accumulate=2, method=Counted(kl_coefficient=0.0),
            round=in_order([step], epochs=2), micro_batch_tokens=budget, packing=packing and budget is not None,
        )  # fmt: skip
        return module, watcher.gradients, sizes

    (whole, expected, one), (cut, found, several) = train(None), train(budget)
    assert len(one) == 4
    assert len(several) > 4
    assert max(several) <= max(budget, longest)
    for update, (a, b) in enumerate(zip(expected, found, strict=True)):
        largest = max(float(gradient.abs().max()) for gradient in a.values())
        for name, gradient in a.items():
            assert float((b[name] - gradient).abs().max()) < 1e-5 * largest, (update, name)
    before, after = whole.train_metrics, cut.train_metrics
    total, real = after.means["throughput/padding"]
    assert total == real if packing or budget == 1 else total > real
    assert after.sums == pytest.approx(before.sums, abs=1e-6)
    assert after.maxima == pytest.approx(before.maxima, rel=1e-4)
    for name, (total, count) in before.means.items():
        if name != "throughput/padding":  # there is less
            assert after.means[name] == (pytest.approx(total, rel=1e-4, abs=1e-4), count), name


def test_log_probabilities_of_frozen_weights_are_those_of_whole_micro_batches(tiny_model: str) -> None:
    rows = [trajectory(2 + j, 9 - j, 0, j, advantages=[1.0] * (9 - j)) for j in range(4)]
    made = to_batch(rows, [1 / 12] * 4, PAD, temperature=0.8, round=0, version=0)
    found = []
    for budget in (None, 12):
        module = OVDModule(tiny_model, GRPO(), micro_batch_tokens=budget)
        module.configure_model()
        module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        assert len(module.pieces(made)) == (4 if budget else 1)
        found.append(module.annotate_logprobs(made, old=True))
    whole, cut = found
    for name in ("old_logprobs", "reference_logprobs"):
        assert torch.allclose(getattr(whole, name), getattr(cut, name), atol=1e-5)
        assert getattr(whole, name).any()


def test_a_budget_that_the_trainer_does_not_allow_is_an_error(tiny_model: str) -> None:
    module = OVDModule(tiny_model, GRPO(), dtype="float16", micro_batch_tokens=100)
    sharded = L.Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)
    assert [error.setting for error in module.errors(sharded)] == ["model.micro_batch_tokens"] * 2
    module.micro_batch_tokens = None
    assert not list(module.errors(sharded))


# ------------------------------------------------------------- the method's own


class Learning(GRPO):
    """Notes when it is called."""

    def __init__(self) -> None:
        super().__init__(kl_coefficient=0.0)
        self.events: list[str] = []

    def start(self, student: str, device: torch.device) -> None:
        self.events.append(f"start {device.type}")

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        self.events.append("loss")
        return super().loss(student, batch)

    def end_round(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        self.events.append(f"end {sum_over_ranks(torch.tensor(2.0)).item():g}")


def test_a_method_learns_once_a_round_after_its_last_gradient(tiny_model: str) -> None:
    method = Learning()
    fit(
        tiny_model, rounds=2, epochs_per_round=2, accumulate=2, method=method,
        change=lambda batch: replace(batch, last_in_round=batch.update == 1),
    )  # fmt: skip
    assert method.events == ["start cpu", *[*["loss"] * 4, "end 2"] * 2]
