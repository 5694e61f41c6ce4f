"""Named sets of mathematics to train on, read as `MathBenchmark` reads them to test on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.grading import Mode
from ovd_lightning.settings.texts import QuestionPrompt
from ovd_lightning.tasks.base import Split, check_names, find_entry
from ovd_lightning.tasks.math import TRAINING_PROMPT, Graded
from ovd_lightning.tasks.math_benchmarks import ENTRIES, load_problems
from ovd_lightning.types import Problem


class MathSets(Graded):
    """Trains on all problems of some named sets; what is evaluated is named in data.benchmarks.

    A set that is trained on is no test set any more: report others.

    Args:
        names: sets that `MathBenchmark` names, e.g. asdiv and mawps.
        folder: a folder with local copies of the sets, see docs/benchmarks.md; null: from the hub.
        exclude: ids of problems to leave out.
        prompt: what the student is asked; {question} is replaced by the question.
        system: system message where rollout.chat is true; null: the chat template's own.
        grading: "strict" takes the last box of a response; "qwen" follows the reference evaluation.
        **shared: timeout_s, steps, step_separator, environment, reward: see `Graded`.

    Raises:
        ConfigError: a setting is wrong; when problems are first asked for, also that a set is not available.
    """

    name = "math"

    def __init__(
        self,
        names: list[str],
        folder: str | None = None,
        exclude: list[str] | None = None,
        prompt: QuestionPrompt = TRAINING_PROMPT,
        system: str | None = None,
        grading: Mode = "strict",
        **shared: Any,
    ) -> None:
        super().__init__(grading, **shared)
        check_names("MathSets.names", names)
        self.entries = [find_entry(ENTRIES, name, "MathSets.names") for name in names]
        self.folder, self.exclude = folder, frozenset(exclude or ())
        self.template, self.system = prompt, system
        self._problems: list[Problem] | None = None

    def problems(self, split: Split) -> Sequence[Problem]:
        if split != "train":
            raise ConfigError("data.benchmarks", "is null, and MathSets only trains.", "Name sets to evaluate on.")
        if self._problems is None:
            setting = "MathSets.names" if self.folder is None else "MathSets.folder"
            loaded = [p for entry in self.entries for p in load_problems(entry, self.folder, setting)]
            if unknown := sorted(self.exclude - {p.id for p in loaded}):
                hint = f"Its ids are like {loaded[0].id}."
                raise ConfigError("MathSets.exclude", f"names {', '.join(unknown[:5])}, which is no problem.", hint)
            self._problems = [p for p in loaded if p.id not in self.exclude]
        return self._problems

    def prompt(self, problem: Problem) -> str:
        return self.template.replace("{question}", problem.question)
