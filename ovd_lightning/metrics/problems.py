"""Means over problems as torchmetrics, whose denominators are the true ones on any number of ranks; pass@k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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


class ProblemMean(Metric):
    """Mean over problems, with its standard error and its denominator. Sums and counts add up over ranks.

    Args:
        dtype: of the sums; float32 where the device has no float64.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """values: [P], one a problem; none at all is fine."""
        values = values.to(self.total)
        self.total += values.sum()
        self.squares += values.square().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """[3]: mean, standard error (sample standard deviation over problems / sqrt(n)), n. NaN where undefined: the
        mean of no problem, the error of fewer than two."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean.square()).clamp(min=0) / (self.count - 1)
        error = torch.where(self.count > 1, (variance / self.count).sqrt(), torch.nan)
        return torch.stack([mean, error, self.count])


class PassAtK(ProblemMean):
    """pass@k: the probability that one of k samples of a problem is correct, by the unbiased estimator.

    Args:
        k: 1 or more, at most the number of samples a problem.
        dtype: see :class:`ProblemMean`.
    """

    def __init__(self, k: int, dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(dtype, **kwargs)
        if k < 1:
            raise ValueError(f"pass@{k}: k is 1 or more")
        self.k = k

    def update(self, correct: Tensor, samples: Tensor) -> None:  # type: ignore[override]
        """correct, samples: [P] correct samples and all samples of each problem.

        Raises: ValueError for a problem with fewer than ``k`` samples.
        """
        super().update(pass_at_k(correct, samples, self.k))


class Count(Metric):
    """A number of events over all ranks.

    Args:
        dtype: of the sum; whole numbers are exact up to 2^53 in float64.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, events: float) -> None:
        self.total += events

    def compute(self) -> Tensor:
        """[]"""
        return self.total
