"""What the methods with a token-level teacher share: its log-probabilities of the student's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, reading
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling


class TokenLevel(Method):
    """A method whose advantages come, wholly or in part, from l_T - l_S of the sampled tokens.

    Args:
        teacher: reads the student's tokens; must share its vocabulary.
    """

    teacher: TokenTeacher

    def __init__(self, teacher: TokenTeacher, **objective: Any) -> None:
        super().__init__(**objective)
        self.teacher = teacher

    def check(self, engine: Engine, sampling: Sampling) -> None:
        self.teacher.check_student(engine, sampling.temperature)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        return reading(self.teacher, expected.problems * self.group_size, expected)

    def annotate_batch(self, batch: Batch) -> None:
        batch.teacher_logprobs = self.teacher.logprobs(batch)

    @staticmethod
    def teacher_advantage(batch: Batch, old: Tensor) -> Tensor:
        """sg[l_T - l_S_old], [B, L-1]; 0 outside the mask, > 0 where the teacher wants the token likelier."""
        assert batch.teacher_logprobs is not None, "annotate_batch has filled it"
        return (batch.teacher_logprobs - old).detach()
