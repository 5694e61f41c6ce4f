"""GAD (arXiv 2511.10643): a discriminator's value is the reward; it learns to tell the teacher from the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating
from ovd_lightning.methods.discriminator import SETTING, Contest, Discriminator
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.logging import log_demonstrations
from ovd_lightning.pretrained import check_checkpoint, load_tokenizer
from ovd_lightning.settings.ranges import ClosedUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.tokens import same_vocabulary
from ovd_lightning.types import Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class GAD(GRPO):
    """Sampled: N student trajectories. Credited: R(y) = D(x, y), group-normalised; no judge, no reference answer.
    Minimised: eq. 4; in the warm-up, the cross-entropy on the teacher's trajectories.

        min over D of E[-log sigma(D(x, y_T) - D(x, y_S))],      y_T the teacher's, y_S the student's

    D is a language model with a linear head on the last token's hidden state. Its values are a round's rewards first;
    then it learns from the round's pairs, with an optimiser of its own.

    From the paper: the objective, and a warm-up in which the student imitates the teacher while D learns from pairs.
    From the authors' scripts (microsoft/LMOps): D starts from the student's checkpoint; equal learning rates of both,
    N = 8, one answer of the teacher a problem, k3 KL of 0.001. Ours: the head begins at 0; the warm-up is a share of
    the rounds, theirs is one epoch of three; gradients of D are not clipped, theirs are, at 0.2; D computes in float32.

    A group without a trajectory of the teacher's is rewarded, and D does not learn from it.

    Args:
        teacher: writes; a `VerbalTeacher` is one, whose judge is not asked. Any vocabulary.
        demonstrations: M, trajectories of the teacher's a group; each makes a pair with each of the student's.
        warmup: share of the rounds.
        discriminator: checkpoint folder or hub id that D starts from, of the student's vocabulary; null: the student's
            own start.
        discriminator_learning_rate: AdamW, constant.
        discriminator_updates: steps of D a round, each on all of the round's pairs.
        discriminator_checkpointing: recompute D's activations in its backward pass.
        objective: see `GRPO` and `Method`.
    """

    teacher: Demonstrator

    def __init__(
        self,
        teacher: Demonstrator,
        demonstrations: PositiveInt = 1,
        warmup: ClosedUnitInterval = 0.2,
        discriminator: str | None = None,
        discriminator_learning_rate: PositiveFloat = 1e-6,
        discriminator_updates: PositiveInt = 1,
        discriminator_checkpointing: bool = False,
        **objective: Any,
    ) -> None:
        super().__init__(**objective)
        self.teacher = teacher
        self.demonstrations = demonstrations
        self.warmup = warmup
        self.path = discriminator
        self.rate, self.updates = discriminator_learning_rate, discriminator_updates
        self.checkpointing = discriminator_checkpointing
        self.discriminator: Discriminator | None = None
        self._contests: list[Contest] = []
        """Of the round that trains."""

    @property
    def needs_references(self) -> bool:
        return False

    def check(self, engine: Engine, sampling: Sampling) -> None:
        if self.path is not None:
            check_checkpoint(SETTING, self.path)
            raise_errors(self._errors(self.path, engine))

    @staticmethod
    def _errors(path: str, engine: Engine) -> Iterator[ConfigError]:
        if engine.tokenizer is None or not same_vocabulary(engine.tokenizer, load_tokenizer(SETTING, path)):
            yield ConfigError(
                SETTING,
                f"{path} has another vocabulary than the student {engine.name}, whose tokens it is to read.",
                "Use a model of the student's family, or null.",
            )

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.teacher.self_test(task, problems, max_tokens)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        calls = demonstrating(self.teacher, expected.problems * self.demonstrations, expected)
        more = max(self.demonstrations - self.group_size, 0)  # than the student's, in the warm-up
        return replace(calls, added=expected.problems * more)

    def start(self, student: str, device: torch.device) -> None:
        if self.discriminator is None:
            self.discriminator = Discriminator(self.path or student, device, self.rate, self.checkpointing)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        with self.teacher.awake(), round.phase("replace"):
            round.demonstrate_groups(self.teacher, groups, self.demonstrations)

    def annotate(self, groups: list[Group], round: Round) -> None:
        with round.phase("score"):
            self.judge(groups, round)
        if round.progress < self.warmup:
            for group in groups:
                group.mixture = list(group.demonstrations)
                for y in group.mixture:
                    y.advantages, y.imitation = [0.0] * len(y.completion_ids), 1.0
        else:
            super().annotate(groups, round)
        log_demonstrations(self.teacher, round)

    def judge(self, groups: Sequence[Group], round: Round) -> None:
        """R(y) := D(x, y) of the student's trajectories; how well D tells them from the teacher's."""
        assert self.discriminator is not None, "the method has started"
        self._contests = []
        for group in groups:
            written = [[*y.prompt_ids, *y.completion_ids] for y in group.demonstrations]
            own = [[*y.prompt_ids, *y.completion_ids] for y in group.sampled]
            self._contests.append((written, own))
            taught, values = self.discriminator.judge((written, own))
            for y, value in zip(group.sampled, values.tolist(), strict=True):
                assert y.grade is not None, "sampled trajectories are graded"
                y.grade = replace(y.grade, reward=value)  # what is correct stays the checker's verdict
            round.log_mean("gad/student_value", values.tolist())
            round.log_mean("gad/teacher_value", taught.tolist())
            round.log_mean("gad/discriminator_loss", F.bradley_terry(taught, values).flatten().tolist())
            right = ((taught[:, None] - values).sign() + 1) / 2  # of equal answers, a half
            round.log_mean("gad/pairwise_accuracy", right.flatten().tolist())
        round.log_sum("gad/groups_without_teacher", sum(not group.demonstrations for group in groups))
        round.log_mean("gad/teacher_reward", [y.reward for group in groups for y in group.demonstrations])

    def end_round(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        assert self.discriminator is not None, "the method has started"
        for _ in range(self.updates):
            self.discriminator.update(self._contests, sum_over_ranks)
        self._contests = []

    def state_dict(self) -> dict[str, Any]:
        return {} if self.discriminator is None else self.discriminator.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.discriminator is not None, "the method has started"
        self.discriminator.load_state_dict(state)
