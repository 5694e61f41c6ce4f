"""Shared by methods that minimise a divergence of distributions over the vocabulary: no advantage, no ratio."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ovd_lightning.methods.base import LossOutput, Method, expected
from ovd_lightning.settings.ranges import ClosedUnitInterval
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch


class DistributionMatching(Method):
    """Minimises the generalised JSD of teacher and student at every trained token; no gradient through sampling.

    Args:
        teacher: a model, not an engine, which gives log-probabilities of single tokens only; None where a subclass
            takes the student itself.
        beta: of the divergence: 0 is KL(p_T || p_S), 1 is KL(p_S || p_T).
        objective: group_size, aggregation and the mismatch correction.
    """

    credits_trajectories = False
    loss_copies = 2
    prefix = "divergence"
    """Of the metrics."""

    teacher: TokenTeacher | None

    def __init__(self, teacher: TokenTeacher | None, beta: ClosedUnitInterval, **objective: Any) -> None:
        super().__init__(clip=None, kl_coefficient=0.0, **objective)
        if teacher is not None:
            teacher.check_distributions(type(self).__name__)
        self.teacher = teacher
        self.beta = beta

    @abstractmethod
    def teacher_model(self, student: Student, batch: Batch) -> Student:
        """Whose distributions are matched, on the batch's device."""

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        """D_beta(p_T, p_S) a token, weighted by ``batch.weights``, corrected for the sampler-trainer mismatch."""
        read = batch.teacher_inputs
        if self.teacher is not None:
            self.teacher.count_read((read or batch).attention_mask)
        divergence, logprobs, entropies = student.divergence(
            batch.input_ids,
            batch.attention_mask,
            batch.completion_mask,
            batch.temperature,
            self.beta,
            self.teacher_model(student, batch),
            None if read is None else (read.input_ids, read.attention_mask, read.completion_mask),
            expected=expected(self.matched, batch) if self.by_token else None,
        )  # [B, L-1]
        return self.matched(batch, divergence, logprobs, entropies)

    def matched(self, batch: Batch, divergence: Tensor, logprobs: Tensor, entropies: Tensor) -> LossOutput:
        """The loss from what `Student.divergence` returns, [B, L-1] each."""
        mask = batch.completion_mask
        own = mask & ~batch.teacher_mask
        means = {
            f"{self.prefix}/divergence": divergence[mask].detach(),
            f"{self.prefix}/divergence_student_tokens": divergence[own].detach(),
            "policy/entropy": entropies[mask].detach(),
            "policy/teacher_token_logprob": logprobs[batch.teacher_mask].detach(),
        }
        maxima: dict[str, Tensor] = {}
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        loss = divergence * self.correction(batch, old, means, maxima)
        return LossOutput((torch.where(mask, loss, 0.0) * batch.weights).sum(), means, maxima, logprobs.detach())
