"""Evaluations as W&B tables: the row, and answers to read through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.evaluation.answers import Row
from ovd_lightning.evaluation.results import Evaluation, columns, lines

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

FIELDS = ("benchmark", "id", "decoding", "sample", "question", "response", "answer", "reference", "correct", "reward",
          "truncated", "timed_out", "tokens")  # fmt: skip
OPTIONAL = ("teacher_step_share", "teacher_token_share", "turns")
"""Columns that are there if any line has them."""


class Shown:
    """The answers that W&B is to show: the first lines of each benchmark.

    Args:
        limit: lines a benchmark; 0: none.
        rank, world_size: of this process; ranks take turns in a benchmark's problems.
    """

    def __init__(self, limit: int, rank: int, world_size: int) -> None:
        self.limit, self.rank, self.world_size = limit, rank, world_size
        self._seen: dict[str, int] = {}
        self._lines: dict[str, list[tuple[int, Row]]] = {}

    def add(self, benchmark: str, answered: Sequence[Sequence[Row]]) -> None:
        """The lines of this rank's next problems."""
        kept = self._lines.setdefault(benchmark, [])
        for rows in answered:
            position = self._seen.get(benchmark, 0) * self.world_size + self.rank
            self._seen[benchmark] = self._seen.get(benchmark, 0) + 1
            if len(kept) < self.limit:
                kept += [(position, row) for row in rows]

    def gather(self, benchmarks: Sequence[str]) -> list[Row]:
        """Those of all ranks, in the order of benchmarks and problems. Collective."""
        ranks: list[dict[str, list[tuple[int, Row]]]] = [self._lines]
        if self.world_size > 1:
            from torch.distributed import all_gather_object

            ranks = [{} for _ in range(self.world_size)]
            all_gather_object(ranks, self._lines)
        rows: list[Row] = []
        for name in benchmarks:
            found = sorted((line for rank in ranks for line in rank.get(name, [])), key=lambda line: line[0])
            rows += [row for _, row in found[: self.limit]]
        return rows


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def log_tables(loggers: Sequence[Logger], evaluation: Evaluation, rows: Sequence[Row], prefix: str, limit: int) -> None:
    """To W&B: ``<prefix>/table``, the printed table, numbers as numbers; ``<prefix>/answers``, a line an answer, with
    response and verdict. Says how many answers ``limit``, lines a benchmark, left out."""
    for logger in wandb_loggers(loggers):
        _log(logger, evaluation, rows, prefix)
    answers = evaluation.reused + evaluation.generated
    if rows and len(rows) < answers:
        rank_zero_info(
            f"{prefix}/answers: W&B's table holds {len(rows)} of {answers} answers, at most {limit} a benchmark "
            "(benchmark.wandb_rows)"
        )


def _log(logger: WandbLogger, evaluation: Evaluation, rows: Sequence[Row], prefix: str) -> None:
    import wandb

    row = wandb.Table(columns=[*columns(evaluation)], allow_mixed_types=True)
    for line in lines(evaluation):
        row.add_data(line.label, *line.values())
    logged: dict[str, Any] = {f"{prefix}/table": row}
    if rows:
        names = [*FIELDS, *(name for name in OPTIONAL if any(name in row for row in rows))]
        answers = wandb.Table(columns=[*names], allow_mixed_types=True)
        for answer in rows:
            answers.add_data(*(_cell(answer.get(name)) for name in names))
        logged[f"{prefix}/answers"] = answers
    logger.experiment.log({**logged, "trainer/global_step": evaluation.step})


def _cell(value: Any) -> Any:
    return " | ".join(map(str, value)) if isinstance(value, list) else value
