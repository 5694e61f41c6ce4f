"""OPSD: on-policy self-distillation. The teacher is the same model, which also sees the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovd_lightning.errors import RunError
from ovd_lightning.methods.base import Aggregation, Mismatch
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, reading
from ovd_lightning.methods.distribution import DistributionMatching
from ovd_lightning.settings.ranges import AboveOne, ClosedUnitInterval, PositiveInt
from ovd_lightning.settings.texts import HintFormat
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.round.context import Round

HINT = "{prompt}\n\nHere is a reference solution:\n{reference}\n\nSolve the problem in your own words.\n"


class OPSD(DistributionMatching):
    """Sampled: N student trajectories. Credited: nothing. Minimised: D_beta between the model that sees the reference
    solution and the model that does not, at every token of the student's; no gradient through the teacher.

    The source's (siyan-zhao/OPSD): the same model twice, a JSD a token. Ours: the wording of the teacher's prompt, and
    that the reference is `solution` of the problem's meta data, or its first answer where there is none.

    Args:
        teacher: null: the student as it is now. A frozen checkpoint, e.g. the initial student, otherwise.
        hint: the teacher's prompt: {prompt} is the task's prompt, {reference} the solution.
        beta: of the divergence, in [0, 1]; 0.5 is the symmetric JSD.
        group_size: N, trajectories a problem.
        aggregation: how token losses are averaged, see `Method`.
        mismatch, mismatch_bound: correction where engine and trainer disagree, see `Method`.
    """

    teacher: TokenTeacher | None
    prefix = "opsd"

    def __init__(
        self,
        teacher: TokenTeacher | None = None,
        hint: HintFormat = HINT,
        beta: ClosedUnitInterval = 0.5,
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
        self.hint = hint

    def check(self, engine: Engine, sampling: Sampling) -> None:
        if self.teacher is not None:
            self.teacher.check_student(engine, sampling.temperature)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        if self.teacher is None:
            return TeacherCalls(notes=("The student is its own teacher, and reads every trajectory once more.",))
        return reading(self.teacher, expected.problems * self.group_size, expected)

    def teacher_model(self, student: Student, batch: Batch) -> Student:
        return student if self.teacher is None else self.teacher.model_on(batch.input_ids.device)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            prompt = self.teacher_prompt(group.problem, round)
            group.mixture = list(group.sampled)
            for y in group.mixture:
                y.teacher_prompt_ids, y.advantages = prompt, [0.0] * len(y.completion_ids)

    def teacher_prompt(self, problem: Problem, round: Round) -> list[int]:
        """The problem with its solution, in the student's tokens. Raises: RuntimeError where a completion may not fit
        behind it into the model's context."""
        reference = problem.meta.get("solution") or problem.answers[0]
        text = self.hint.format(prompt=round.task.prompt(problem), reference=reference)
        ids = encode_prompt(text, round.tokenizer, round.chat, round.task.system)
        context = round.engine.max_context
        if context is not None and len(ids) + round.sampling.max_tokens > context:
            raise RunError(
                f"the teacher's prompt of problem {problem.id!r} has {len(ids)} tokens; with "
                f"{round.sampling.max_tokens} of a completion that is more than the {context} of the model. Shorten "
                "method.init_args.hint or lower rollout.max_tokens."
            )
        return ids
