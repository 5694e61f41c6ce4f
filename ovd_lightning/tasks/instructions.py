"""Open-ended instructions: no reference answer, so that a judge (`ovd_lightning.judges`) gives the reward."""

from __future__ import annotations

from collections.abc import Sequence

from ovd_lightning.errors import ConfigError
from ovd_lightning.settings.texts import InstructionTemplate, NonEmptyText
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.tasks.sources import Row, Source, field, load_rows, meta_of, text
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
        validation_size: int = 0,
    ) -> None:
        super().__init__()
        setting = "task.init_args.data"
        self.system = system
        self._prompt = prompt
        problems: dict[str, Problem] = {}
        for number, row in enumerate(load_rows(Source(data=data, split=split), setting)):
            problem = self._problem(row, number, instruction_field, setting)
            if problem.id in problems:
                raise ConfigError(setting, f"two rows have the id {problem.id!r}.", "Make ids unique.")
            problems[problem.id] = problem
        self._all = list(problems.values())
        if not 0 <= validation_size < max(len(self._all), 1):
            raise ConfigError(
                "task.init_args.validation_size",
                f"is {validation_size} of {len(self._all)}.",
                "Leave some to train on.",
            )
        self._training = len(self._all) - validation_size

    @staticmethod
    def _problem(row: Row, number: int, instruction_field: str, setting: str) -> Problem:
        try:
            instruction = text(field(row, instruction_field), instruction_field)
            meta = meta_of(row)
        except LookupError as error:
            raise ConfigError(setting, f"row {number} {error}.", "Name the column in instruction_field.") from error
        if not instruction:
            raise ConfigError(setting, f"row {number} has an empty instruction.", "Leave it out of the data.")
        if row.get("rubric") is not None:
            meta["rubric"] = row["rubric"]
        return Problem(id=str(row.get("id", number)), question=instruction, answers=(), meta=meta)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._all[: self._training] if split == "train" else self._all[self._training :]

    def prompt(self, problem: Problem) -> str:
        return self._prompt.replace("{instruction}", problem.question)

    def grade(self, response: str, problem: Problem) -> Grade:
        """Nothing is right or wrong here."""
        return Grade(reward=0.0, correct=False, answer=None)
