"""One evaluation under way: batches of problems in, numbers out, with the true denominators on any number of ranks.
Knows no Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ovd_lightning.evaluation.answering import COUNTS, Answering, Decoding, grading_of
from ovd_lightning.evaluation.answers import Row
from ovd_lightning.evaluation.names import SHARES, EvalSplit
from ovd_lightning.evaluation.results import BenchmarkResult, Score
from ovd_lightning.evaluation.wandb_tables import Shown
from ovd_lightning.metrics import Count, PassAtK, ProblemMean, pass_ks
from ovd_lightning.progress import phase
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

EVENTS = ("timeouts", "reused", "generated")


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
        """This rank's answers, for the progress display."""
        decoding = self.answering.decoding
        problems = len(range(self.shown.rank, self.sizes[benchmark], self.shown.world_size))
        return problems * (decoding.greedy + decoding.samples)

    def results(self, complete: bool) -> list[BenchmarkResult]:
        """Collective: every rank enters.

        Args:
            complete: every problem must have been answered.
        Raises: RuntimeError where one is missing.
        """
        assert self.tally is not None
        results = self.tally.compute(self.sizes)
        for result in results:
            if complete and result.answered != result.problems:
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


def sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def add_up(counts: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Sums over ranks. Collective: every rank has the same names, in the same order."""
    totals = {}
    for name, value in counts.items():
        count = Count(sum_dtype(device)).to(device)
        count.update(value)
        totals[name] = float(count.compute())
    return totals


class Tally:
    """Sums of an evaluation while it runs. Collective at its end, when every rank holds the same metrics.

    Args:
        device: where sums over ranks are taken.
        benchmarks: name -> task, in the order of the table.
        rejection: answers are given under testing rejection.
    """

    def __init__(
        self, device: torch.device, decoding: Decoding, benchmarks: Mapping[str, Task], rejection: bool
    ) -> None:
        self.device = device
        self.decoding = decoding
        self.benchmarks = dict(benchmarks)
        self.shares = SHARES if rejection else ()
        self._rejection = COUNTS if rejection else ()
        dtype = sum_dtype(device)
        self.means: dict[str, dict[str, ProblemMean]] = {}
        self.passes: dict[str, dict[int, PassAtK]] = {}
        self.counts: dict[str, dict[str, Count]] = {}
        for name, task in benchmarks.items():
            measured = ["truncated_fraction", *task.metrics, *self.shares]
            kinds = ["accuracy", *measured] if decoding.greedy else []
            self.passes[name] = {j: PassAtK(j, dtype).to(device) for j in pass_ks(decoding.samples)}
            means = {kind: ProblemMean(dtype) for kind in kinds}
            if k := decoding.samples:
                means |= {kind: ProblemMean(dtype) for kind in ("sampled_accuracy", f"avg@{k}")}
                means |= {f"pass@{j}": metric for j, metric in self.passes[name].items()}
                means |= {f"sampled_{kind}": ProblemMean(dtype) for kind in measured}
            self.means[name] = {kind: mean.to(device) for kind, mean in means.items()}
            self.counts[name] = {kind: Count(dtype).to(device) for kind in (*EVENTS, *self._rejection)}
            self.add(name, [], 0, 0)  # so that nothing is undefined on a rank that answers nothing

    def add(self, benchmark: str, answered: Sequence[Sequence[Row]], reused: int, generated: int) -> None:
        """The lines of some problems, as `Answering.answer` gives them."""
        means, counts = self.means[benchmark], self.counts[benchmark]
        rows = [row for lines in answered for row in lines]
        events = {"timeouts": sum(row["timed_out"] for row in rows), "reused": reused, "generated": generated}
        # Where the threshold accepts everything, nothing is asked of the teacher and lines have no such fields.
        events |= {kind: sum(row.get(kind, 0) for row in rows) for kind in self._rejection}
        for kind, count in events.items():
            counts[kind].update(count)
        metrics = self.benchmarks[benchmark].metrics
        if self.decoding.greedy:
            for kind, values in self._measure([lines[:1] for lines in answered], metrics).items():
                means[kind].update(self._tensor(values))
        if k := self.decoding.samples:
            sampled = [lines[-k:] for lines in answered]
            for kind, values in self._measure(sampled, metrics).items():
                means[f"sampled_{kind}"].update(self._tensor(values))
            correct = self._tensor([float(sum(row["correct"] for row in lines)) for lines in sampled])
            samples = torch.full_like(correct, k)
            means[f"avg@{k}"].update(correct / samples)
            for metric in self.passes[benchmark].values():
                metric.update(correct, samples)

    def _measure(self, answered: Sequence[Sequence[Row]], metrics: Sequence[str]) -> dict[str, list[float]]:
        """Kind -> one value a problem: the mean over its lines."""

        def of(field: Any) -> list[float]:
            return [sum(float(field(row)) for row in lines) / len(lines) for lines in answered]

        measured = {"accuracy": of(lambda row: row["correct"]), "truncated_fraction": of(lambda row: row["truncated"])}
        measured |= {name: of(lambda row, name=name: row["metrics"][name]) for name in metrics}
        return measured | {name: of(lambda row, name=name: row.get(name, 0.0)) for name in self.shares}

    def _tensor(self, values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=sum_dtype(self.device), device=self.device)

    def compute(self, sizes: Mapping[str, int]) -> list[BenchmarkResult]:
        """Collective: every rank enters.

        Args:
            sizes: problems of each benchmark, over all ranks.
        """
        results = []
        for name, task in self.benchmarks.items():
            found = {kind: mean.compute().tolist() for kind, mean in self.means[name].items()}
            counts = {kind: int(count.compute()) for kind, count in self.counts[name].items()}
            results.append(
                BenchmarkResult(
                    name=name,
                    title=str(getattr(task, "title", None) or name),
                    problems=sizes[name],
                    answered=int(next(iter(found.values()))[2]),
                    grading=grading_of(task),
                    tells_answer=task.tells_answer,
                    scores={kind: Score(value, error) for kind, (value, error, _) in found.items()},
                    rejection={kind: counts[kind] for kind in self._rejection},
                    **{kind: counts[kind] for kind in EVENTS},
                )
            )
        return results
