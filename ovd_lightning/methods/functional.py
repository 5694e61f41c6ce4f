"""The pure mathematics of the methods. Shapes: ``N`` rewards of a group, ``*`` any shape of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-6
"""The epsilon of A = (R - mu) / (sigma + epsilon), section 3.4; its value is not in the paper (One-Shot-RLVR: 1e-6)."""


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation with Bessel's correction (n - 1); 0 for fewer than two values."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))


def group_advantages(
    rewards: Sequence[float],
    reference: Sequence[float] | None = None,
    sigma_floor: float = 0.0,
    scale_by_std: bool = True,
) -> list[float]:
    """Group-normalised advantages, section 3.4: A_j = (R_j - mu) / (sigma + epsilon).

    Args:
        rewards: [N] what is credited.
        reference: values that mu and sigma are taken from; the rewards themselves when None.
        sigma_floor: lower bound of sigma, so that a constant reference cannot blow A up.
        scale_by_std: False gives R - mu (Dr. GRPO).
    Returns:
        [N]; all zero when rewards equal a constant reference.
    """
    base = list(rewards if reference is None else reference)
    mean = sum(base) / len(base)
    if not scale_by_std:
        return [r - mean for r in rewards]
    sigma = max(sample_std(base), sigma_floor)
    return [(r - mean) / (sigma + EPSILON) for r in rewards]


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float = 0.2, clip_high: float = 0.2
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 4, negated: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), elementwise.

    Args:
        logprobs, old_logprobs, advantages: [*]; only ``logprobs`` carries a gradient.
    Returns:
        (loss [*], rho [*] detached, clipped [*] bool: where the clip removed the gradient).
    """
    ratio = torch.exp(logprobs - old_logprobs.detach())
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(unclipped, clipped), ratio.detach(), (clipped < unclipped).detach()


def trajectory_log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log of eq. 4's rho = pi(y|x) / pi_old(y|x), one value a row, spread over its tokens: [B, L] -> [B, L].

    Written as the literal paper has it: the product over a whole trajectory.
    """
    total = ((logprobs - old_logprobs.detach()) * mask).sum(dim=-1, keepdim=True)
    return total.expand_as(logprobs)


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Low-variance estimate of KL(pi || pi_ref) per sampled token (A.6.2): exp(d) - d - 1, d = l_ref - l. >= 0."""
    difference = reference_logprobs.detach() - logprobs
    return torch.exp(difference) - difference - 1


def token_entropy(logits: Tensor, log_z: Tensor | None = None) -> Tensor:
    """Entropy in nats of softmax(logits), which the entropy bonus adds to the objective: [*, V] -> [*].

    Args:
        log_z: [*] logsumexp of the logits, where it is known already.
    """
    log_z = torch.logsumexp(logits, dim=-1) if log_z is None else log_z
    return log_z - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)


def soft_acceptance(score: float, beta: float, bound: float) -> float:
    """Acceptance probability of appendix A.1.1: a(y) = min(1, exp(S / beta) / M)."""
    return min(1.0, math.exp(min(score / beta, 700.0)) / bound)


def temper(distribution: Sequence[float], temperature: float) -> list[float]:
    """p_i^(1/T) / sum_j p_j^(1/T): the score distribution at another temperature (A.6.2: 0.7), [v] -> [v]."""
    logs = [math.log(p) / temperature if p > 0 else -math.inf for p in distribution]
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    total = sum(weights)
    return [w / total for w in weights]


def entropy(distribution: Sequence[float]) -> float:
    """Shannon entropy in nats."""
    return -sum(p * math.log(p) for p in distribution if p > 0)
