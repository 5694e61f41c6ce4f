"""GKD: generalised knowledge distillation (arXiv 2306.13649) over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.base import Aggregation, Mismatch
from ovd_lightning.methods.distribution import DistributionMatching
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.rollout import Round


class GKD(DistributionMatching):
    """Sampled: with probability lambda N student trajectories of a problem, else N of the teacher. Credited: nothing.
    Minimised: D_beta = beta KL(p_T || M) + (1 - beta) KL(p_S || M), M = beta p_T + (1 - beta) p_S, at every token of
    the completions.

    The paper's: the divergence, lambda, no gradient through sampling; beta = 0 and 1 stand for KL(p_T || p_S) and
    KL(p_S || p_T), which the formula itself only tends to. Ours: lambda is drawn for each group, not for the batch, so
    a round's share of student data is near lambda.

    Args:
        teacher: a model of the student's vocabulary; its `demonstrator` writes the trajectories that are not the
            student's.
        beta: of the divergence, in [0, 1].
        student_share: lambda, in [0, 1]. 1 is purely on-policy and needs no demonstrator.
        group_size: N, trajectories a problem.
        aggregation: how token losses are averaged, see `Method`.
        mismatch, mismatch_bound: correction where engine and trainer disagree, see `Method`.
    """

    teacher: TokenTeacher
    prefix = "gkd"

    def __init__(
        self,
        teacher: TokenTeacher,
        beta: float = 0.5,
        student_share: float = 1.0,
        group_size: int = 8,
        aggregation: Aggregation = "token_mean",
        mismatch: Mismatch = "none",
        mismatch_bound: float = 2.0,
    ) -> None:
        super().__init__(
            beta=beta,
            group_size=group_size,
            aggregation=aggregation,
            mismatch=mismatch,
            mismatch_bound=mismatch_bound,
        )
        name = "method.init_args"
        if not 0 <= student_share <= 1:
            raise ConfigError(f"{name}.student_share", f"is {student_share}.", "It is a probability: 0 to 1.")
        if teacher.path is None:
            raise ConfigError(
                f"{name}.teacher.init_args.engine",
                "gives log-probabilities of single tokens; GKD needs whole distributions.",
                "Give the teacher as a model, or use OPD.",
            )
        if student_share < 1 and teacher.demonstrator is None:
            raise ConfigError(
                f"{name}.student_share",
                f"is {student_share}, but the teacher has no demonstrator to write the other trajectories.",
                "Set teacher.init_args.demonstrator, or student_share: 1.",
            )
        self.teacher = teacher
        self.student_share = student_share

    def check(self, engine: Engine, sampling: Sampling) -> None:
        self.teacher.check_student(engine, sampling.temperature)

    def teacher_model(self, student: Student, batch: Batch) -> Student:
        return self.teacher.model_on(batch.input_ids.device)

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        groups = [Group(problem=p, sampled=[]) for p in problems]
        slots = [
            slot
            for slot in range(len(groups))
            if round.random("student_share", round.first_group + slot).random() < self.student_share
        ]
        drawn = round.sample_student([problems[slot] for slot in slots], self.group_size, slots)
        for slot, group in zip(slots, drawn, strict=True):
            groups[slot] = group
        return groups

    def annotate(self, groups: list[Group], round: Round) -> None:
        blank = [
            round.unwritten(g.problem, slot, j)
            for slot, g in enumerate(groups)
            if not g.sampled
            for j in range(self.group_size)
        ]
        for group in groups:
            group.mixture = list(group.sampled)
        if self.teacher.demonstrator is not None:
            with self.teacher.demonstrator.awake(), round.phase("replace"):
                written = round.demonstrate(self.teacher.demonstrator, blank, [0] * len(blank))
            for y in written:
                if y is not None:
                    groups[y.group - round.first_group].mixture.append(y)
            ledger = self.teacher.demonstrator.take_ledger()
            round.log_sum("teacher/demonstrations", ledger.demonstrations)
            round.log_sum("teacher/completion_tokens", ledger.completion_tokens)
        for y in (y for group in groups for y in group.mixture):
            y.advantages = [0.0] * len(y.completion_ids)
        round.log_mean("gkd/student_share", [float(bool(g.sampled)) for g in groups])
