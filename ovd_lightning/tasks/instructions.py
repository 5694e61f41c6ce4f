"""Open-ended instructions: no reference answer, so that a judge (`ovd_lightning.judges`) gives the reward."""

from __future__ import annotations

from collections.abc import Sequence

from ovd_lightning.errors import ConfigError
from ovd_lightning.settings.ranges import NonNegativeInt
from ovd_lightning.settings.texts import InstructionTemplate, NonEmptyText
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.tasks.sources import Row, Source, field, load_rows, make_problems, meta_of, text
from ovd_lightning.types import Grade, Problem


class InstructionsTask(Task):
    """Rows with an instruction and, for a rubric judge, a ``rubric`` of their own.

    Args:
        data: file, folder or hub set, as for `MathTask`.
        split: of the hub set or folder.
        instruction_field: column of the instruction; nested ones with dots.
        prompt: what the student completes, with ``{instruction}`` in it.
        system: system message where prompts go through a chat template.
        validation_size: instructions at the end that are kept from training.
    """

    name = "instructions"
    graded = False

    def __init__(
        self,
        data: NonEmptyText,
        split: str = "train",
        instruction_field: str = "instruction",
        prompt: InstructionTemplate = "{instruction}\n",
        system: str | None = None,
        validation_size: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.system = system
        self._prompt = prompt
        self._field = instruction_field
        setting, hint = "task.init_args.data", "Name the column in instruction_field, or leave the row out."
        rows = enumerate(load_rows(Source(data=data, split=split), setting))
        self._all = make_problems(rows, self._problem, setting, hint, graded=False)
        self._training = len(self._all) - validation_size
        if self._training < 1:
            raise ConfigError(
                "task.init_args.validation_size",
                f"is {validation_size} of {len(self._all)}.",
                "Leave some to train on.",
            )

    def _problem(self, row: Row, number: int) -> Problem:
        meta = meta_of(row)
        if row.get("rubric") is not None:
            meta["rubric"] = row["rubric"]
        question = text(field(row, self._field), self._field)
        return Problem(id=str(row.get("id", number)), question=question, answers=(), meta=meta)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._all[: self._training] if split == "train" else self._all[self._training :]

    def prompt(self, problem: Problem) -> str:
        return self._prompt.replace("{instruction}", problem.question)

    def grade(self, response: str, problem: Problem) -> Grade:
        """Nothing is right or wrong here."""
        return Grade(reward=0.0, correct=False, answer=None)
