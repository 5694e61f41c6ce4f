"""What k samples a problem say of a student: the unbiased estimator of pass@k."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pass_at_k(correct: Tensor, samples: Tensor, k: int) -> Tensor:
    """Probability that at least one of ``k`` samples is correct, estimated from n >= k of them.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1), written as 1 - prod_{i<k} (n - c - i) / (n - i): every factor
    lies in [0, 1], so nothing overflows and nothing cancels. For k = 1 it is c / n, the mean accuracy.

    Args:
        correct: [P] c, correct samples of each problem.
        samples: [P] n, samples of each problem.
        k: 1 or more.
    Returns:
        [P] float64 (float32 where the device has no float64).
    Raises: ValueError for k below 1, more correct samples than samples, or fewer samples than k: no unbiased
        estimator of pass@k exists then.
    """
    if k < 1:
        raise ValueError(f"pass@{k}: k is 1 or more")
    dtype = torch.float32 if correct.device.type == "mps" else torch.float64
    c, n = correct.to(dtype), samples.to(dtype)
    if bool((n < k).any()):
        raise ValueError(f"pass@{k} takes at least {k} samples a problem, there are {int(n.min())}")
    if bool((c > n).any()) or bool((c < 0).any()):
        raise ValueError("correct samples of a problem lie between 0 and its samples")
    missed = torch.ones_like(n)
    for i in range(k):
        missed = missed * ((n - c - i).clamp(min=0) / (n - i))
    return 1 - missed


def pass_ks(samples: int) -> list[int]:
    """The k of pass@k that are reported for ``samples`` samples a problem: 1, 2, 4, ... and ``samples`` itself."""
    ks = [1 << i for i in range(samples.bit_length()) if 1 << i < samples]
    return [*ks, samples] if samples else []


def average(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Unweighted mean over benchmarks, as the paper's tables average, and its standard error: those of different
    benchmarks are independent."""
    n = len(values)
    return sum(values) / n, sum(e * e for e in errors) ** 0.5 / n
