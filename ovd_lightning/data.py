"""OVDDataModule: problems, loaders, and the slot that the rollout callback fills with fresh groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L

from ovd_lightning.errors import ConfigError
from ovd_lightning.loader import ProblemLoader, RoundLoader
from ovd_lightning.resume.record import Progress, class_path
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import NonNegativeInt, PositiveInt
from ovd_lightning.tasks.base import Split, Suite, Task
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.types import Batch, Problem


class OVDDataModule(L.LightningDataModule):
    """Yields freshly generated on-policy groups each round.

    A round asks for ``problems_per_round`` problems over all ranks, and trains on its mixture for
    ``epochs_per_round`` passes of ``mini_batches`` optimiser steps; Trainer.accumulate_grad_batches cuts a step
    into micro-batches without changing its loss.

    Args:
        task: what is trained on.
        benchmarks: what is evaluated: name -> task, or a Suite such as the ten of mathematics; null: the training
            task alone, under its own name.
        problems_per_round: B, groups of a round over all ranks (A.6.2: 128).
        rounds: length of the run.
        epochs_per_round: passes over a round's mixture. 1 is strictly on-policy: rho = 1.
        mini_batches: optimiser steps a pass (the paper's "mini-batch" is B / mini_batches problems).
        validation_limit, test_limit: at most this many problems of each benchmark; null: all.
        eval_batch_size: problems answered in one call of the engine.
        seed: of problem order and of every sample; on the command line, it is seed_everything.
    """

    def __init__(
        self,
        task: Task,
        benchmarks: dict[str, Task] | Suite | None = None,
        problems_per_round: PositiveInt = 128,
        rounds: PositiveInt = 100,
        epochs_per_round: PositiveInt = 1,
        mini_batches: PositiveInt = 1,
        validation_limit: NonNegativeInt | None = None,
        test_limit: NonNegativeInt | None = None,
        eval_batch_size: PositiveInt = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mini_batches > problems_per_round:
            raise ConfigError(
                "data.mini_batches",
                f"is {mini_batches}, more than the {problems_per_round} groups of a round, which are not split.",
                "Use at most data.problems_per_round.",
            )
        self.task = task
        self.suite = benchmarks if isinstance(benchmarks, Suite) else None
        parts = task.parts or {task.name: task}
        own = {name: part for name, part in parts.items() if part.graded}  # nothing to measure without references
        self._benchmarks = own if self.suite or not benchmarks else dict(benchmarks)  # type: ignore[arg-type]
        self.problems_per_round = problems_per_round
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.mini_batches = mini_batches
        self.limits: dict[str, int | None] = {"validation": validation_limit, "test": test_limit}
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.collect: Callable[[int], list[Batch]] | None = None
        """Round index -> micro-batches; filled by RolloutCallback in its ``setup``."""
        self.resumed = Progress(updates=0, rounds=0)
        """Of the checkpoint that the trainer was restored from."""

    @property
    def updates_per_round(self) -> int:
        return self.epochs_per_round * self.mini_batches

    def resume_settings(self) -> dict[str, Any]:
        """What a checkpoint records of it: plain data."""
        return {
            "data.epochs_per_round": self.epochs_per_round,
            "data.mini_batches": self.mini_batches,
            "data.problems_per_round": self.problems_per_round,
            "seed_everything": self.seed,
            "data.rounds": self.rounds,
            "task": class_path(self.task),
        }

    def train_problems(self) -> Sequence[Problem]:
        return self.task.problems("train")

    def benchmarks(self, split: Split) -> dict[str, Task]:
        """Name -> task of what is evaluated on a split."""
        return self._benchmarks if self.suite is None else self.suite.tasks(split)

    def eval_problems(self, split: Split) -> dict[str, list[Problem]]:
        """Benchmark -> problems of a split, in order, cut to its limit."""
        return {name: list(task.problems(split))[: self.limits[split]] for name, task in self.benchmarks(split).items()}

    def environments(self) -> list[Environment]:
        """Every environment of the tasks, each once."""
        tasks = [self.task, *self.benchmarks("validation").values(), *self.benchmarks("test").values()]
        return list({id(t.environment): t.environment for t in tasks if t.environment is not None}.values())

    def tasks_of(self, stage: str | None) -> list[tuple[Task, Sequence[Problem]]]:
        """Whose prompts a stage of the trainer (fit, validate, test, predict) begins with."""
        if stage == "fit":
            return [(self.task, self.train_problems())]
        split: Split = "validation" if stage == "validate" else "test"
        problems = self.eval_problems(split)
        return [(task, problems[name]) for name, task in self.benchmarks(split).items()]

    def problems_of_round(
        self, index: int, rank: int = 0, world_size: int = 1, attempt: int = 0
    ) -> tuple[list[Problem], int]:
        """This rank's problems of a round, and the round-wide index of the first.

        Args:
            attempt: above 0: as many further problems, for groups that take the place of others.
        """
        count, share = self.problems_per_round, self.problems_per_round // world_size
        # Further ones from an order of their own for each attempt, so that no later round loses its problems.
        seed = seed_of(self.seed, "further", attempt) if attempt else self.seed
        problems = self.task.ordered(index * count, count, seed)
        return problems[rank * share : (rank + 1) * share], rank * share

    # --------------------------------------------------------------- loaders

    def train_dataloader(self) -> RoundLoader:
        assert self.trainer is not None
        if self.collect is None:
            raise ConfigError(
                "trainer.callbacks", "holds no RolloutCallback, which generates the training data.", "Add one."
            )
        batches = self.updates_per_round * self.trainer.accumulate_grad_batches
        return RoundLoader(self.collect, self.rounds, batches, self.first_round)

    def first_round(self) -> int:
        """The round that is next: those of the checkpoint that was resumed from, and those since, are finished."""
        assert self.trainer is not None
        return self.resumed.rounds + (self.trainer.global_step - self.resumed.updates) // self.updates_per_round

    def _eval_loaders(self, split: Split) -> list[ProblemLoader]:
        assert self.trainer is not None
        return [
            ProblemLoader(name, problems, self.eval_batch_size, self.trainer.global_rank, self.trainer.world_size)
            for name, problems in self.eval_problems(split).items()
        ]

    def val_dataloader(self) -> list[ProblemLoader]:
        return self._eval_loaders("validation")

    def test_dataloader(self) -> list[ProblemLoader]:
        return self._eval_loaders("test")

    def predict_dataloader(self) -> list[ProblemLoader]:
        return self._eval_loaders("test")
