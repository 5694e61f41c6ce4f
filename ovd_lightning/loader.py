"""Loaders: rounds -> micro-batches for training, problems -> batches for evaluation. Plain sized iterables.

They are not DataLoaders: Lightning prefetches an unsized loader by one batch, which would train one step stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ovd_lightning.types import Batch, Problem


class RoundLoader:
    """Yields every micro-batch of every round; ``collect`` makes a round when its first one is asked for.

    Args:
        collect: round index -> its micro-batches, always ``batches_per_round`` of them.
        rounds: rounds of the whole run.
        first_round: where to begin, asked at iteration time (a resumed run begins later).
    """

    def __init__(
        self, collect: Callable[[int], list[Batch]], rounds: int, batches_per_round: int, first_round: Callable[[], int]
    ) -> None:
        self.collect = collect
        self.rounds = rounds
        self.batches_per_round = batches_per_round
        self.first_round = first_round

    def __len__(self) -> int:
        return self.rounds * self.batches_per_round

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.first_round(), self.rounds):
            batches = self.collect(index)
            assert len(batches) == self.batches_per_round
            yield from batches


@dataclass(slots=True)
class ProblemBatch:
    """Problems of one benchmark to answer together."""

    benchmark: str
    problems: list[Problem]

    def to(self, *args: Any, **kwargs: Any) -> ProblemBatch:
        """Nothing to move."""
        return self

    def __len__(self) -> int:
        return len(self.problems)


class ProblemLoader:
    """Every rank's stride of a benchmark, each problem exactly once over all ranks: none dropped, none repeated.

    A rank without any problem gets one empty batch: what follows is collective.
    """

    def __init__(
        self, benchmark: str, problems: Sequence[Problem], batch_size: int, rank: int, world_size: int
    ) -> None:
        self.benchmark = benchmark
        self.problems = list(problems)[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, -(-len(self.problems) // self.batch_size))

    def __iter__(self) -> Iterator[ProblemBatch]:
        for start in range(0, max(1, len(self.problems)), self.batch_size):
            yield ProblemBatch(self.benchmark, self.problems[start : start + self.batch_size])
