"""SeqKD: sequence-level distillation, the student imitates what the teacher writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovd_lightning.methods.base import Aggregation, Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating
from ovd_lightning.methods.logging import log_demonstrations
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.types import Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class SeqKD(Method):
    """Sampled: N teacher trajectories a problem, none of the student. Credited: nothing. Minimised:
    -mean log pi_S(y_t), the cross-entropy.

    Args:
        teacher: writes; a `VerbalTeacher` is one, whose judge is not asked. Any vocabulary.
        verified: only trajectories that the task's checker finds correct are imitated.
        group_size: N, trajectories a problem.
        aggregation: how token losses are averaged, see `Method`.
    """

    credits_trajectories = False
    teacher: Demonstrator

    def __init__(
        self,
        teacher: Demonstrator,
        verified: bool = False,
        group_size: PositiveInt = 8,
        aggregation: Aggregation = "token_mean",
    ) -> None:
        super().__init__(group_size=group_size, kl_coefficient=0.0, aggregation=aggregation)
        self.teacher = teacher
        self.verified = verified

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.teacher.self_test(task, problems, max_tokens)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        return demonstrating(self.teacher, expected.problems * self.group_size, expected)

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        return round.empty_groups(problems)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        with self.teacher.awake(), round.phase("replace"):
            round.demonstrate_groups(self.teacher, groups, self.group_size)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            for y in group.demonstrations:
                y.advantages, y.imitation = [0.0] * len(y.completion_ids), 1.0
                if not self.verified or (y.grade is not None and y.grade.correct):
                    group.mixture.append(y)
        round.log_mean("seqkd/teacher_reward", [y.reward for g in groups for y in g.demonstrations])
        round.log_sum("seqkd/imitated", sum(len(g.mixture) for g in groups))
        log_demonstrations(self.teacher, round)
