"""LUFFY (arXiv 2504.14945): mixed-policy GRPO, the teacher's trajectories are members of the student's group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating
from ovd_lightning.methods.logging import log_demonstrations
from ovd_lightning.settings.ranges import OpenUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class LUFFY(Method):
    """Sampled: N student trajectories, and M of the teacher. Credited: outcome reward within the group of N + M.
    Minimised: on the student's tokens the surrogate of eq. 4; on the teacher's -A f(pi), f(pi) = pi / (pi + gamma).

    f takes the place of rho: the teacher's probabilities are taken as 1, as in the paper, and the shape keeps a
    gradient on tokens that the student finds unlikely. It is not clipped. From the authors' code: one demonstration in
    a group of 8, gamma = 0.1, R - mu without a standard deviation, a constant denominator, no clip of the student's
    tokens, no KL, an entropy bonus of 0.001. Ours: demonstrations are the teacher's own of this round, graded like any
    other (theirs come from a data set of right ones).

    Args:
        teacher: writes; a `VerbalTeacher` is one, whose judge is not asked. Any vocabulary.
        demonstrations: M, a group.
        gamma: of the shape; smaller: more like log pi, larger: more like pi.
        scale_by_std: divide by the group's standard deviation.
        clip: of the student's tokens; null, as the authors' code: none.
        objective: see `Method`; ``group_size`` is N.
    """

    teacher: Demonstrator

    def __init__(
        self,
        teacher: Demonstrator,
        demonstrations: PositiveInt = 1,
        gamma: PositiveFloat = 0.1,
        scale_by_std: bool = False,
        clip: OpenUnitInterval | None = None,
        **objective: Any,
    ) -> None:
        super().__init__(clip=clip, **objective)
        self.teacher = teacher
        self.scale_by_std = scale_by_std
        self.demonstrations = demonstrations
        self.gamma = gamma

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.teacher.self_test(task, problems, max_tokens)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        count = expected.problems * self.demonstrations
        return replace(demonstrating(self.teacher, count, expected), added=count)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        with self.teacher.awake(), round.phase("replace"):
            round.demonstrate_groups(self.teacher, groups, self.demonstrations)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = [*group.sampled, *group.demonstrations]
            values = F.group_advantages([y.reward for y in group.mixture], scale_by_std=self.scale_by_std)
            for y, value in zip(group.mixture, values, strict=True):
                y.advantages = [value] * len(y.completion_ids)
        round.log_mean("luffy/teacher_reward", [y.reward for group in groups for y in group.demonstrations])
        log_demonstrations(self.teacher, round)

    def surrogate(
        self, batch: Batch, logprobs: Tensor, old: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, rho, clipped = super().surrogate(batch, logprobs, old, advantages)
        taught = batch.teacher_mask
        shaped = F.shaped_probability(logprobs, self.gamma)
        return torch.where(taught, -advantages * shaped, loss), rho.where(~taught, 1.0), clipped & ~taught
