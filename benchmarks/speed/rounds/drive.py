"""The driver's side of a measurement: starts the workers, lets them take turns, and gathers what rounds cost."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from benchmarks.speed.rounds.pace import PHASES, Cost

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A worker to start."""

    name: str
    command: Sequence[str]
    checkout: Path = ROOT
    """What is on the path: the package and the workers."""


class Worker:
    """A process that runs one round whenever it is asked.

    Raises: RuntimeError, with the end of the worker's log, where it ends too early.
    """

    def __init__(self, side: Side, log: Path, threads: int) -> None:
        self.side, self.log = side, log
        environment = {
            **os.environ,
            "PYTHONPATH": str(side.checkout),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                list(side.command), cwd=side.checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, text=True, start_new_session=True,
            )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, object] | str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"{self.side.name} ended with {code}:\n{self.log.read_text()[-4000:]}")
        answer: dict[str, object] | str = json.loads(line)
        return answer

    def round(self) -> Cost:
        """Run one, to its end."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write("\n")
        pipe.flush()
        answer = self._answer()
        assert isinstance(answer, dict)
        self._answer()  # ready for the next
        return Cost(**answer)  # type: ignore[arg-type]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def interleave(sides: Sequence[Side], rounds: int, warmup: int, threads: int) -> dict[str, list[Cost]]:
    """Side -> cost of its ``rounds`` rounds, after ``warmup`` that do not count. Rounds alternate: A B A B ..."""
    costs: dict[str, list[Cost]] = {side.name: [] for side in sides}
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for side in sides:
                workers.append(Worker(side, Path(folder) / f"{len(workers)}.log", threads))
            for index in range(warmup + rounds):
                for worker in workers:
                    cost = worker.round()
                    if index >= warmup:
                        costs[worker.side.name].append(cost)
        finally:
            for worker in workers:
                worker.stop()
    return costs


def middle(costs: Sequence[Cost], name: str) -> float:
    """The median over rounds of an attribute of Cost, or of a phase."""
    return median(cost.phases.get(name, 0.0) if name in PHASES else float(getattr(cost, name)) for cost in costs)


def cost_rows(label: str, costs: Mapping[str, Sequence[Cost]]) -> list[list[str]]:
    """A row of HEADER for every side: medians."""
    return [
        [
            label,
            side,
            f"{middle(of, 'wall'):.3g}",
            f"{middle(of, 'cpu'):.3g}",
            *(f"{middle(of, phase):.2g}" for phase in PHASES),
            f"{middle(of, 'tokens'):,.0f}",
            f"{of[-1].peak_mib / 1024:.2f}",
            f"{max(0.0, of[-1].peak_mib - of[-1].loaded_mib) / 1024:.2f}",
        ]
        for side, of in costs.items()
    ]


HEADER = ["round of", "side", "wall s", "CPU s", *PHASES, "sampled tokens", "peak GiB", "above loaded"]
"""Of cost_rows. Phases are seconds of wall-clock time."""


def ratio(costs: Mapping[str, Sequence[Cost]], first: str, second: str, name: str, by_token: bool = False) -> float:
    """``second`` over ``first``: the median over pairs of rounds of an attribute of Cost, or of it a sampled token."""

    def value(cost: Cost) -> float:
        return float(getattr(cost, name)) / (max(cost.tokens, 1) if by_token else 1)

    return median(value(b) / value(a) for a, b in zip(costs[first], costs[second], strict=True))
