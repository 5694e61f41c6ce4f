"""W&B tables to read through: of an evaluation its row and answers, of a round its trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.evaluation.answers import Row
from ovd_lightning.evaluation.names import ROLLOUTS
from ovd_lightning.evaluation.results import Evaluation, columns, lines
from ovd_lightning.types import Group, Trajectory

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

Rollout = dict[str, Any]
"""A line of W&B's table of trajectories: column -> cell."""
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


def rollouts(groups: Sequence[Group], round: int) -> list[Rollout]:
    """A line for each trajectory that the student sampled, with what the teacher wrote in its place or beside it; of
    one that only the teacher wrote (sequence-level distillation) the student's cells are empty."""
    found: list[Rollout] = []
    for group in groups:
        trains = {id(y) for y in group.mixture}
        of_student = {y.key: y for y in group.sampled}
        of_teacher = {y.key: y for y in group.mixture if id(y) not in {id(s) for s in group.sampled}}
        for key in dict.fromkeys([*of_student, *of_teacher]):
            own, other = of_student.get(key), of_teacher.get(key)
            replaced = other is not None and (own is None or id(own) not in trains)
            trained = other if replaced else own
            found.append(
                {
                    "round": round,
                    "question": group.problem.question,
                    "reference": " | ".join(group.problem.answers),
                    "sample": key[1],
                    "steps": "" if own is None else "\n".join(_scored(own)),
                    "answer": own.grade.answer if own and own.grade else None,
                    "correct": own.grade.correct if own and own.grade else None,
                    "reward": own.grade.reward if own and own.grade else None,
                    "score": own.score if own else None,
                    "accepted": own.accepted if own else None,
                    "replaced": replaced,
                    "advantage": _mean(trained.advantages) if trained else None,
                    "teacher's text": other.text if other else None,
                    "teacher's reward": other.reward if other else None,
                }
            )
    return found


def _scored(y: Trajectory) -> list[str]:
    """``[score] text`` of every step; the whole text where there are none."""
    steps = [(step.score, step.text) for step in y.steps] or [(y.score, y.text)]
    return [text.rstrip("\n") if score is None else f"[{score:g}] {text}".rstrip("\n") for score, text in steps]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def log_rollouts(loggers: Sequence[Logger], rows: Sequence[Rollout], step: int) -> None:
    """To W&B: ``rollouts``."""
    import wandb

    for logger in wandb_loggers(loggers):
        table = wandb.Table(columns=[*rows[0]], allow_mixed_types=True)
        for row in rows:
            table.add_data(*row.values())
        logger.experiment.log({ROLLOUTS: table, "trainer/global_step": step})
