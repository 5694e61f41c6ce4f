"""One evaluation under way: batches of problems in, numbers out. Knows no Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from ovd_lightning.evaluation.answering import Answering
from ovd_lightning.evaluation.names import EvalSplit
from ovd_lightning.evaluation.results import BenchmarkResult
from ovd_lightning.evaluation.tally import Tally, add_up
from ovd_lightning.evaluation.wandb_tables import Shown
from ovd_lightning.progress import phase
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task


@dataclass(slots=True, kw_only=True)
class Pass:
    """The benchmarks of a split are being answered by the weights of one step."""

    name: str
    """In the names of files: the split, or "predict"."""
    split: EvalSplit
    """Whose problems are answered."""
    tasks: Mapping[str, Task]
    sizes: Mapping[str, int]
    """Problems of each benchmark, over all ranks."""
    answering: Answering
    tally: Tally | None
    """None: answers are written and not counted (``predict``, whose problems may have no reference)."""
    shown: Shown
    awake: ExitStack
    """Engines that stay awake until it is over."""
    start: float = field(default_factory=perf_counter)
    _answered: dict[str, int] = field(default_factory=dict)

    def answer(self, benchmark: str, problems: Sequence[Problem]) -> None:
        """Answer some problems of this rank, and count the verdicts."""
        reused, generated = self.answering.reused, self.answering.generated
        done = self._answered.get(benchmark, 0)
        with phase(f"{benchmark} answered", self._share(benchmark), done):
            lines = self.answering.answer(benchmark, self.tasks[benchmark], problems)
        self._answered[benchmark] = done + sum(map(len, lines))
        if self.tally is not None:
            reused, generated = self.answering.reused - reused, self.answering.generated - generated
            self.tally.add(benchmark, lines, reused, generated)
            self.shown.add(benchmark, lines)

    def _share(self, benchmark: str) -> int:
        """Answers that are this rank's, for whoever watches."""
        decoding = self.answering.decoding
        problems = len(range(self.shown.rank, self.sizes[benchmark], self.shown.world_size))
        return problems * (decoding.greedy + decoding.samples)

    def results(self, whole: bool) -> list[BenchmarkResult]:
        """Collective: every rank enters.

        Args:
            whole: every problem must have been answered.
        Raises: RuntimeError where one is missing.
        """
        assert self.tally is not None
        results = self.tally.compute(self.sizes)
        for result in results:
            if whole and result.answered != result.problems:
                raise RuntimeError(
                    f"{result.answered} of the {result.problems} problems of {result.name} were answered"
                )
        return results

    def environment_counts(self, device: torch.device) -> dict[str, float]:
        """What the environments counted meanwhile, over all ranks; taken from them, so that a round's metrics hold
        none of it. Collective."""
        counts: dict[str, float] = {}
        environments = {id(t.environment): t.environment for t in self.tasks.values() if t.environment is not None}
        for environment in environments.values():
            taken = environment.take_counts()
            for name in environment.counted:
                counts[name] = counts.get(name, 0.0) + taken.get(name, 0.0)
        return add_up(counts, device)

    def totals(self, device: torch.device) -> tuple[int, int]:
        """(answers that were found, answers that were generated) over all ranks. Collective."""
        total = add_up({"reused": self.answering.reused, "generated": self.answering.generated}, device)
        return int(total["reused"]), int(total["generated"])
