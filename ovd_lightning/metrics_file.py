"""metrics.csv: one file a run, also when the run is resumed in its folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ovd_lightning.files import replacing

NAME = "metrics.csv"


class MetricsWriter(ExperimentWriter):
    """Lightning's writer, which goes on in a file that is there instead of deleting it."""

    def __init__(self, log_dir: str, name: str = NAME) -> None:
        super().__init__(log_dir=log_dir)
        self.metrics_file_path = os.path.join(log_dir, name)
        self.metrics_keys, rows = read_rows(Path(self.metrics_file_path))
        if self.metrics_keys:
            write_rows(Path(self.metrics_file_path), self.metrics_keys, rows)  # without a line that a kill cut off

    def _check_log_dir_exists(self) -> None:
        """Lightning deletes an existing file here."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        _, rows = read_rows(Path(self.metrics_file_path))
        write_rows(Path(self.metrics_file_path), fieldnames, rows)


class MetricsLogger(CSVLogger):
    """Lightning's CSVLogger on <folder>/metrics.csv, flushed every step so that a killed run keeps its numbers.

    Args:
        folder: of the run.
        file: in it.
    """

    def __init__(self, folder: Path, file: str = NAME) -> None:
        super().__init__(str(folder), name="", version="", flush_logs_every_n_steps=1)
        self.file = file

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = MetricsWriter(self.log_dir, self.file)
        return self._experiment


def read_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; without a last line that was cut off when the process was killed. Empty for no file."""
    if not file.is_file():
        return [], []
    text = file.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    reader = csv.DictReader(whole)
    rows = [row for row in reader if None not in row and None not in row.values()]
    return list(reader.fieldnames or []), rows


def write_rows(file: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Replace a file as a whole: at no moment are there fewer rows in it."""
    with replacing(file, newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _step(row: dict[str, str]) -> float:
    try:
        return float(row.get("step") or "nan")
    except ValueError:
        return float("nan")


def split(file: Path, step: int, aside: Path) -> None:
    """Move the rows after ``step`` to another file; all of them, and the file itself, if none remains."""
    columns, rows = read_rows(file)
    later = [row for row in rows if not _step(row) <= step]
    if not later:
        return
    aside.parent.mkdir(parents=True, exist_ok=True)
    write_rows(aside, columns, later)
    if kept := [row for row in rows if _step(row) <= step]:
        write_rows(file, columns, kept)
    else:
        file.unlink()


def history(file: Path, step: int) -> list[tuple[int, dict[str, float]]]:
    """(global_step, metric -> value) of every row up to a step, in the order they were logged."""
    found: list[tuple[int, dict[str, float]]] = []
    for row in read_rows(file)[1]:
        if _step(row) <= step:
            found.append((int(_step(row)), {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")}))
    return found
