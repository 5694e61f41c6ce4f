"""The judge as reward: GRPO whose reward is a judge's score instead of a checker's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ovd_lightning import functional as F
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, scoring
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.logging import log_judgements
from ovd_lightning.methods.scoring import MEAN_OF_RESPONSE, Scoring
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class JudgeReward(GRPO):
    """Sampled: N student trajectories. Credited: R = (E[S] - low) / (high - low), group-normalised; no replacement, no
    reference needed. Minimised: eq. 4.

    Trajectories to which the judge gave no score neither train nor count in their group.

    Args:
        teacher: its judge scores; nothing is demonstrated.
        scoring: what is judged, and how a score is read; by default the whole response, by its mean score.
        objective: see `GRPO` and `Method`.
    """

    teacher: VerbalTeacher

    def __init__(self, teacher: VerbalTeacher, scoring: Scoring = MEAN_OF_RESPONSE, **objective: Any) -> None:
        super().__init__(**objective)
        self.teacher = teacher
        self.scoring = scoring

    @property
    def needs_references(self) -> bool:
        return False

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.teacher.self_test(task, problems, max_tokens)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        with self.teacher.awake(), round.phase("score"):
            self.scoring.judge(self.teacher, [y for group in groups for y in group.sampled], round)

    def annotate(self, groups: list[Group], round: Round) -> None:
        scale = self.teacher.scale
        for group in groups:
            group.mixture = [y for y in group.sampled if y.score is not None]
            rewards = [scale.normalise(y.score) for y in group.mixture if y.score is not None]
            for y, reward in zip(group.mixture, rewards, strict=True):
                assert y.grade is not None, "sampled trajectories are graded"
                y.grade = replace(y.grade, reward=reward)  # what is correct stays the checker's verdict
            round.log_mean("reward/judge", rewards)
            values = F.group_advantages(rewards, scale_by_std=self.scale_by_std) if rewards else []
            for y, value in zip(group.mixture, values, strict=True):
                y.advantages = [value] * len(y.completion_ids)
        log_judgements(groups, self.teacher, self.scoring.level, round)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        return scoring(self.teacher, expected.problems * self.group_size, expected, self.scoring.level == "step")
