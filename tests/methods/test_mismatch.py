"""Where engine and trainer give a token different probabilities: logged always, corrected if asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ovd_lightning.methods.base import Method
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.opd import OPD
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch
from tests.methods.slow import assert_same, batches, exact, moved, rows, several_turns

BOUND = {"token_truncation": 1.5, "sequence_masking": 1.3}


def test_the_correction_is_the_formula(tiny_model: str, tiny_untied_model: str) -> None:
    for kind in ("none", "token_truncation", "sequence_masking"):
        student, old, initial = moved(tiny_model, 1), moved(tiny_model, 2), moved(tiny_model, 3)
        now, before, first = (exact(s, tiny_model) for s in (student, old, initial))
        method = GRPO(kl_coefficient=0.1, mismatch=kind, mismatch_bound=BOUND.get(kind, 2.0))  # type: ignore[arg-type]
        trajectories = several_turns()
        trajectories[4].behaviour_logprobs = None  # a teacher's
        trajectories[5].behaviour_logprobs = [  # nearly what the trainer says
            before_row[token].item() + 0.01 if before_row is not None else math.nan
            for before_row, token in (
                (rows(before, trajectories[5]).get(t), token) for t, token in enumerate(trajectories[5].completion_ids)
            )
        ]
        total, count, factors = torch.zeros((), dtype=torch.float64), 0, []
        for y in trajectories:
            own, start, begin = rows(now, y), rows(before, y), rows(first, y)
            engine = y.behaviour_logprobs
            raw = {
                t: 1.0 if engine is None else math.exp(start[t][y.completion_ids[t]].item() - engine[t]) for t in own
            }
            mean = math.exp(sum(map(math.log, raw.values())) / len(raw)) if raw else 1.0
            for t in own:
                token = y.completion_ids[t]
                factor = {
                    "none": 1.0,
                    "token_truncation": min(raw[t], 1.5),
                    "sequence_masking": float(1 / 1.3 <= mean <= 1.3),
                }[kind]
                factors.append(factor)
                rho = (own[t][token] - start[t][token].detach()).exp()
                cut = rho if 0.8 <= rho.item() <= 1.2 else torch.tensor(0.8 if rho.item() < 0.8 else 1.2)
                surrogate = -torch.minimum(rho * y.advantages[t], cut * y.advantages[t])
                d = begin[t][token].detach() - own[t][token]
                total, count = total + factor * (surrogate + 0.1 * (d.exp() - d - 1)), count + 1
        assert kind == "none" or len(set(factors)) > 1
        assert_same(method, student, batches(method, trajectories, old, initial), total / count, now)


@pytest.mark.parametrize("kind", ["none", "token_truncation", "sequence_masking"])
@pytest.mark.parametrize("of", ["grpo", "opd", "gkd"])
def test_every_on_policy_method_logs_raw_ratios(tiny_model: str, tiny_untied_model: str, kind: Any, of: str) -> None:
    teacher = TokenTeacher(model=tiny_untied_model)
    method: Method = {
        "grpo": lambda: GRPO(kl_coefficient=0.0, mismatch=kind, mismatch_bound=1.5),
        "opd": lambda: OPD(teacher, mismatch=kind, mismatch_bound=1.5),
        "gkd": lambda: GKD(teacher, mismatch=kind, mismatch_bound=1.5),
    }[of]()
    student = moved(tiny_model, 1)
    batch: Batch = batches(method, several_turns(), None, None)[0]
    with torch.no_grad():
        logprobs = student(batch.input_ids, batch.attention_mask, batch.completion_mask, batch.temperature)[0]
    at = batch.completion_mask & ~batch.behaviour_logprobs.isnan()
    raw = (logprobs - batch.behaviour_logprobs)[at].exp()
    output = method.loss(student, batch)
    torch.testing.assert_close(output.means["mismatch/ratio_mean"], raw)
    assert output.maxima["mismatch/ratio_max"].max() == pytest.approx(raw.max().item())
    exactly = replace(batch, behaviour_logprobs=torch.where(at, logprobs, torch.nan))
    same = method.loss(student, exactly)
    if kind == "token_truncation":
        assert output.means["mismatch/truncated_fraction"].mean() == pytest.approx((raw > 1.5).float().mean().item())
        assert not same.means["mismatch/truncated_fraction"].any()
    if kind == "sequence_masking":
        assert output.means["mismatch/masked_fraction"].any()
        assert not same.means["mismatch/masked_fraction"].any()
    if kind == "none":
        assert output.loss.item() == same.loss.item(), "behaviour log-probabilities are never trained on"
    else:
        assert output.loss.item() != same.loss.item()
