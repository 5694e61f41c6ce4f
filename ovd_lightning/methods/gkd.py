"""GKD: generalised knowledge distillation (arXiv 2306.13649) over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.methods.base import Aggregation, Mismatch
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating, reading
from ovd_lightning.methods.distribution import DistributionMatching
from ovd_lightning.methods.logging import log_demonstrations
from ovd_lightning.settings.ranges import AboveOne, ClosedUnitInterval, PositiveInt
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task

Outputs = Literal["teacher", "dataset"]


class GKD(DistributionMatching):
    """Sampled: with probability lambda N student trajectories of a problem, else N of the teacher, or the problem's own
    solution. Credited: nothing. Minimised: D_beta = beta KL(p_T || M) + (1 - beta) KL(p_S || M), where M = beta p_T +
    (1 - beta) p_S, at every token of the completions.

    The paper's: the divergence, lambda, no gradient through sampling; beta = 0 and 1 stand for KL(p_T || p_S) and
    KL(p_S || p_T), which the formula itself only tends to. Ours: lambda is drawn for each group, not for the batch, so
    a round's share of student data is near lambda.

    Args:
        teacher: a model of the student's vocabulary; its `demonstrator` writes the trajectories that are not the
            student's.
        beta: of the divergence, in [0, 1].
        student_share: lambda, in [0, 1]. 1 is purely on-policy and needs no demonstrator.
        outputs: what the other groups hold: "teacher": trajectories of the demonstrator; "dataset": the `solution` of
            the problem's meta data, N times over, so that lambda stays the student's share.
        group_size: N, trajectories a problem.
        aggregation: how token losses are averaged, see `Method`.
        mismatch, mismatch_bound: correction where engine and trainer disagree, see `Method`.
    """

    teacher: TokenTeacher
    prefix = "gkd"

    def __init__(
        self,
        teacher: TokenTeacher,
        beta: ClosedUnitInterval = 0.5,
        student_share: ClosedUnitInterval = 1.0,
        outputs: Outputs = "teacher",
        group_size: PositiveInt = 8,
        aggregation: Aggregation = "token_mean",
        mismatch: Mismatch = "none",
        mismatch_bound: AboveOne = 2.0,
    ) -> None:
        super().__init__(
            teacher=teacher,
            beta=beta,
            group_size=group_size,
            aggregation=aggregation,
            mismatch=mismatch,
            mismatch_bound=mismatch_bound,
        )
        if student_share < 1 and outputs == "teacher" and teacher.demonstrator is None:
            raise ConfigError(
                "method.init_args.student_share",
                f"is {student_share}, but the teacher has no demonstrator to write the other trajectories.",
                "Set teacher.init_args.demonstrator, outputs: dataset, or student_share: 1.",
            )
        self.student_share = student_share
        self.outputs = outputs

    def check(self, engine: Engine, sampling: Sampling) -> None:
        self.teacher.check_student(engine, sampling.temperature)

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Raises: ConfigError also for problems without the solution that is to be imitated."""
        super().check_problems(task, problems, max_tokens)
        if self.outputs == "dataset" and self.student_share < 1:
            raise_errors(self._dataset_errors(task, problems))

    @staticmethod
    def _dataset_errors(task: Task, problems: Sequence[Problem]) -> Iterator[ConfigError]:
        setting = "method.init_args.outputs"
        if task.environment is not None:
            problem = 'is "dataset", but a solution holds no replies of the environment.'
            yield ConfigError(setting, problem, 'Use "teacher".')
        without = [p.id for p in problems if not p.meta.get("solution")]
        if without:
            yield ConfigError(
                setting,
                f'is "dataset", but {len(without)} problems have no `solution` in their meta data, the first is '
                f"{without[0]!r}.",
                'Name the field of the solutions (task.init_args.solution_field), or use "teacher".',
            )

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        if self.teacher.demonstrator is not None:
            self.teacher.demonstrator.self_test(task, problems, max_tokens)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        trajectories = expected.problems * self.group_size
        calls = reading(self.teacher, trajectories, expected)
        if self.outputs == "dataset" or self.teacher.demonstrator is None:
            return calls
        return calls + demonstrating(
            self.teacher.demonstrator, round(trajectories * (1 - self.student_share)), expected
        )

    def teacher_model(self, student: Student, batch: Batch) -> Student:
        return self.teacher.model_on(batch.input_ids.device)

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        groups = round.empty_groups(problems)
        slots = [
            slot
            for slot in range(len(groups))
            if round.random("student_share", round.first_group + slot).random() < self.student_share
        ]
        drawn = round.sample_student([problems[slot] for slot in slots], self.group_size, slots)
        for slot, group in zip(slots, drawn, strict=True):
            groups[slot] = group
        return groups

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        others = [group for group in groups if not group.sampled]
        if self.outputs == "dataset":
            for group in others:
                group.demonstrations = [round.reference(group, j) for j in range(self.group_size)]
            round.finish([y for group in others for y in group.demonstrations])
        elif self.teacher.demonstrator is not None:
            with self.teacher.demonstrator.awake(), round.phase("replace"):
                round.demonstrate_groups(self.teacher.demonstrator, others, self.group_size)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = [*group.sampled, *group.demonstrations]
            for y in group.mixture:
                y.advantages = [0.0] * len(y.completion_ids)
        if self.outputs == "teacher" and self.teacher.demonstrator is not None:
            log_demonstrations(self.teacher.demonstrator, round)
        round.log_mean("gkd/student_share", [float(bool(g.sampled)) for g in groups])
