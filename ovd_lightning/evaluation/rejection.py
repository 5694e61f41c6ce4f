"""Testing rejection (theta_test): the student drafts step by step, the teacher rewrites the steps it scores too low.

Section 4.3, "Speculative Decoding": "a smaller draft model generates candidate steps verified by a larger target
model"; Table 3 has theta_test of 0, 5 and 10. Its dagger, "sampling trajectories based on token probabilities over the
score vocabulary during testing", is ``score_reading: sample``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Engine, Sampling
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.evaluation.verification import Record, Verification, VerifiedCompletion, VerifiedStep
from ovd_lightning.judges.scale import ScoreReading
from ovd_lightning.methods.rules import threshold_errors
from ovd_lightning.round.turns import respond
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import PositiveFloat, PositiveInt
from ovd_lightning.tasks.base import Task
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tokens import decode
from ovd_lightning.types import Problem, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TestingRejection", "VerifiedCompletion", "VerifiedStep"]


class TestingRejection:
    """The teacher intervenes at test time: a step whose score is under theta_test is rewritten by it, and the student
    continues from there.

    Args:
        threshold: theta_test, on the teacher's score scale. The smallest score accepts every step, which is plain
            decoding without a teacher; one above the largest (10 on 0-9) has every scored step rewritten.
        score_reading: the score is the likeliest of the teacher's distribution ("argmax") or its mean, or is drawn
            from it ("sample": the dagger of Table 3).
        score_temperature: of a drawn score (A.6.2: 0.7).
        max_steps: drafts of an answer that are checked, a step each; the rest is drafted at once and accepted.
    """

    __test__ = False

    def __init__(
        self,
        threshold: float,
        score_reading: ScoreReading = "argmax",
        score_temperature: PositiveFloat = 0.7,
        max_steps: PositiveInt = 64,
    ) -> None:
        self.threshold = threshold
        self.score_reading = score_reading
        self.score_temperature = score_temperature
        self.max_steps = max_steps

    def settings(self, teacher: Teacher | None = None) -> dict[str, Any]:
        """What answers depend on, as JSON can hold it; with those of the teacher where it is given and asked."""
        settings: dict[str, Any] = {
            "threshold": self.threshold,
            "score_reading": self.score_reading,
            "score_temperature": self.score_temperature if self.score_reading == "sample" else None,
            "max_steps": self.max_steps,
        }
        if isinstance(teacher, VerbalTeacher) and self.needs_teacher(teacher):
            settings["teacher"] = teacher.settings()
        return settings

    def check(self, teacher: Teacher | None) -> None:
        """Raises: ConfigError without one verbal teacher, or for a threshold that is not on its scale."""
        raise_errors(self._errors(teacher))

    def _errors(self, teacher: Teacher | None) -> Iterator[ConfigError]:
        if not isinstance(teacher, VerbalTeacher):
            yield ConfigError(
                "benchmark.rejection",
                "needs a verbal teacher, which scores and rewrites steps, and the method has none.",
                "Use a method with a VerbalTeacher (configs/method/ovd.yaml), or leave benchmark.rejection out.",
            )
        elif len(teacher.members) > 1:
            yield ConfigError(
                "benchmark.rejection",
                "asks one teacher, and the method has several, by task.",
                "Leave it out, or evaluate with `test` and the teacher of the benchmark.",
            )
        else:
            yield from threshold_errors("benchmark.rejection.threshold", self.threshold, teacher.scale)

    def needs_teacher(self, teacher: Teacher | None) -> bool:
        """False where theta_test accepts every score: decoding is then plain, and no teacher has to be loaded."""
        return not isinstance(teacher, VerbalTeacher) or self.threshold > teacher.scale.low

    def generate(
        self,
        engine: Engine,
        teacher: VerbalTeacher,
        task: Task,
        problems: Sequence[Problem],
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int | None],
    ) -> list[VerifiedCompletion]:
        """One answer a problem, all advancing together: a step of each takes one call of the student's engine, one
        for the scores and one for the steps to be rewritten. Both engines are awake meanwhile.

        The teacher's ledger is left as it was: a round's metrics hold none of this.

        Args:
            prompts: the problems' prompts in the student's tokens.
            seeds: one a prompt, from which every draft, drawn score and rewritten step has its own; None: the
                problem's id takes its place, which is enough where the student is greedy.
        Raises: RuntimeError when the teacher gives no score to more than its ``max_parse_failures`` of the steps.
        """
        tokenizer = engine.tokenizer
        assert tokenizer is not None, "a student's engine has a tokenizer"
        known = [seed_of("test", p.id) if s is None else s for p, s in zip(problems, seeds, strict=True)]
        if not self.needs_teacher(teacher):
            with engine.awake():
                trajectories = respond(engine, tokenizer, task, problems, prompts, known, sampling)
            return [self._unverified(y, task, tokenizer) for y in trajectories]
        trajectories = [
            Trajectory(problem=problem, prompt_ids=prompt, seed=seed)
            for problem, prompt, seed in zip(problems, prompts, known, strict=True)
        ]
        verified = Verification(
            threshold=self.threshold,
            max_steps=self.max_steps,
            read=lambda judgement, rng: judgement.read(teacher.scale, self.score_reading, self.score_temperature, rng),
            engine=engine,
            teacher=teacher,
            task=task,
            tokenizer=tokenizer,
            sampling=sampling,
        )
        with engine.awake(), teacher.awake(), teacher.unrecorded():
            verified.answer(trajectories)
        return [VerifiedCompletion.of(y, verified.records[id(y)]) for y in trajectories]

    @staticmethod
    def _unverified(y: Trajectory, task: Task, tokenizer: PreTrainedTokenizerBase) -> VerifiedCompletion:
        record = Record()
        for a, b in task.split_steps(y.completion_ids, tokenizer, y.completion_mask):
            own = list(compress(y.completion_ids[a:b], y.completion_mask[a:b]))
            record.steps.append(VerifiedStep(decode(tokenizer, own).strip(), None, "student", len(own)))
        return VerifiedCompletion.of(y, record)
