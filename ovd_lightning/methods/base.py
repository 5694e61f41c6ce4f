"""The contract of a method: what is sampled, what is credited, what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods import functional as F
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.rollout import Round
    from ovd_lightning.student import Student
    from ovd_lightning.teachers.base import Teacher

Aggregation = Literal["token_mean", "trajectory_mean", "constant"]
Ratio = Literal["token", "trajectory"]


def check_choice(setting: str, value: str, choices: Any) -> None:
    """Raises: ConfigError for a value that is not one of a Literal's (the command line checks it too)."""
    if value not in get_args(choices):
        raise ConfigError(setting, f"is {value!r}.", f"Use one of {', '.join(get_args(choices))}.")


@dataclass(slots=True)
class LossOutput:
    """Result of :meth:`Method.loss` for one micro-batch."""

    loss: Tensor
    """Scalar, with gradient."""
    means: dict[str, Tensor]
    """Metric name -> per-token values [M] (any M); the round's mean over all tokens is logged."""
    maxima: dict[str, Tensor]
    """Metric name -> values; the round's maximum is logged."""


class Method(ABC):
    """Three hooks, one file a method: :meth:`sample`, :meth:`annotate`, :meth:`loss`.

    The base class holds what every policy-gradient method shares, the clipped objective of eq. 4 with a
    k3 KL term to the initial student; a method that minimises something else overrides :meth:`loss`.

    Args:
        group_size: N, trajectories sampled per problem (A.6.2: 8).
        clip: epsilon_c of eq. 4 (0.2), below and, without ``clip_high``, above.
        clip_high: upper clip where it differs (DAPO: 0.28).
        kl_coefficient: weight of the k3 KL to the initial student (A.6.2: 0.001). 0 loads no reference model.
        entropy_coefficient: weight of an entropy bonus. 0: the paper lists none; the recipe it builds on has 0.001.
        ratio: "token" (what the paper's code base computes) or "trajectory" (eq. 4 as printed: the ratio of whole
            trajectories, which overflows or vanishes for long ones; use it with aggregation: trajectory_mean, since
            token_mean would count a trajectory's one ratio once a token).
        aggregation: how token losses are averaged over an update: over all tokens; first within each trajectory
            (the original GRPO); or divided by trajectories x the token limit (Dr. GRPO). The paper does not say.
    """

    teacher: Teacher | None = None

    def __init__(
        self,
        group_size: int = 8,
        clip: float = 0.2,
        clip_high: float | None = None,
        kl_coefficient: float = 0.001,
        entropy_coefficient: float = 0.0,
        ratio: Ratio = "token",
        aggregation: Aggregation = "token_mean",
    ) -> None:
        name = "method.init_args"
        if group_size < 1:
            raise ConfigError(f"{name}.group_size", f"is {group_size}.", "Use at least 1.")
        if not 0 < clip < 1:
            raise ConfigError(f"{name}.clip", f"is {clip}.", "Use a value between 0 and 1; the paper has 0.2.")
        if clip_high is not None and clip_high <= 0:
            raise ConfigError(f"{name}.clip_high", f"is {clip_high}.", "Use a positive value, or null for `clip`.")
        if kl_coefficient < 0:
            raise ConfigError(f"{name}.kl_coefficient", f"is {kl_coefficient}.", "Use 0 or more.")
        check_choice(f"{name}.ratio", ratio, Ratio)
        check_choice(f"{name}.aggregation", aggregation, Aggregation)
        self.group_size = group_size
        self.clip = clip
        self.clip_high = clip if clip_high is None else clip_high
        self.kl_coefficient = kl_coefficient
        self.entropy_coefficient = entropy_coefficient
        self.ratio = ratio
        self.aggregation: Aggregation = aggregation

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry ``reference_logprobs``."""
        return self.kl_coefficient > 0

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        """Fresh on-policy groups, graded; by default N student trajectories a problem."""
        return round.sample_student(problems, self.group_size)

    @abstractmethod
    def annotate(self, groups: list[Group], round: Round) -> None:
        """Fill ``group.mixture`` and every trajectory's ``advantages``; log through ``round.log``."""

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        """-min(rho A, clip(rho) A) + kl_coefficient k3 - entropy_coefficient H, weighted by ``batch.weights``."""
        mask = batch.completion_mask
        logprobs, entropies = student(batch.input_ids, batch.attention_mask, mask, batch.temperature)  # [B, L-1]
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        if self.ratio == "trajectory":
            log_ratio = F.trajectory_log_ratio(logprobs, old, mask)
            surrogate, rho, clipped = F.clipped_surrogate(
                log_ratio, torch.zeros_like(log_ratio), batch.advantages, self.clip, self.clip_high
            )
        else:
            surrogate, rho, clipped = F.clipped_surrogate(logprobs, old, batch.advantages, self.clip, self.clip_high)
        loss = surrogate
        engine = mask & ~batch.behaviour_logprobs.isnan()  # tokens the student's engine sampled
        mismatch = (old - batch.behaviour_logprobs)[engine].abs().detach()
        means = {
            "policy/entropy": entropies[mask].detach(),
            "policy/clip_fraction": clipped[mask].float(),
            "policy/advantage_abs": batch.advantages[mask].abs(),
            "policy/teacher_token_logprob": logprobs[batch.teacher_mask].detach(),
            "mismatch/logprob_abs_mean": mismatch,
        }
        if batch.reference_logprobs is not None:
            kl = F.k3_kl(logprobs, batch.reference_logprobs)
            loss = loss + self.kl_coefficient * kl
            means["policy/kl"] = kl[mask].detach()  # as in the loss; an estimate of KL on the student's samples only:
            means["policy/kl_student_tokens"] = kl[mask & ~batch.teacher_mask].detach()
        if self.entropy_coefficient:
            loss = loss - self.entropy_coefficient * entropies
        loss = torch.where(mask, loss, 0.0)
        maxima = {"policy/ratio_max": rho[mask], "mismatch/logprob_abs_max": mismatch}
        return LossOutput((loss * batch.weights).sum(), means, maxima)
