"""What an evaluation comes to: numbers of each benchmark, their average, and the files that hold them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ovd_lightning.evaluation.estimators import average
from ovd_lightning.evaluation.names import AVERAGE
from ovd_lightning.files import first_free, replacing, write_text


class Score(NamedTuple):
    """A mean over problems."""

    value: float
    """NaN where no problem was answered."""
    error: float
    """Its standard error; NaN where there are fewer than two problems."""


@dataclass(slots=True, kw_only=True)
class BenchmarkResult:
    """The numbers of one benchmark."""

    name: str
    title: str
    problems: int
    """Of the set."""
    answered: int
    """The denominator: equal to ``problems`` unless the trainer was told to leave batches out."""
    reused: int
    """Answers that an earlier, interrupted evaluation had given."""
    generated: int
    timeouts: int
    """Answers whose checker was stopped: counted as wrong."""
    grading: str | None
    tells_answer: bool
    """The environment was told the answers: the numbers are no measurement of the student alone."""
    rejection: dict[str, int]
    """Sums over answers of what testing rejection counts; empty without it."""
    scores: dict[str, Score]


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """One pass over the benchmarks of a split."""

    split: str
    step: int
    """global_step of the trainer."""
    settings: dict[str, Any]
    """How it was done: decoding, student, rejection."""
    benchmarks: list[BenchmarkResult]
    seconds: float
    environment: dict[str, float] = field(default_factory=dict)
    """What the tasks' environments counted in this process; an interrupted evaluation's counts are lost."""
    reused: int = field(init=False)
    generated: int = field(init=False)

    def __post_init__(self) -> None:
        self.reused = sum(b.reused for b in self.benchmarks)
        self.generated = sum(b.generated for b in self.benchmarks)

    @property
    def stem(self) -> str:
        return f"{self.split}-{self.step:06d}"

    def averages(self) -> dict[str, Score]:
        """Unweighted means over benchmarks, of what every benchmark has; none for a single benchmark."""
        if len(self.benchmarks) < 2:
            return {}
        first, *rest = self.benchmarks
        shared = [kind for kind in first.scores if all(kind in b.scores for b in rest)]
        scores = {kind: [b.scores[kind] for b in self.benchmarks] for kind in shared}
        return {kind: Score(*average([s.value for s in v], [s.error for s in v])) for kind, v in scores.items()}

    def values(self, prefix: str) -> dict[str, float]:
        """Metric name -> value, for loggers: ``<prefix>/<benchmark>/<kind>`` and ``<prefix>/average/<kind>``."""
        values: dict[str, float] = {}
        for b in self.benchmarks:
            values |= {f"{prefix}/{b.name}/{kind}": score.value for kind, score in b.scores.items()}
            values[f"{prefix}/{b.name}/timeouts"] = float(b.timeouts)
        return values | {f"{prefix}/{AVERAGE}/{kind}": score.value for kind, score in self.averages().items()}

    # ------------------------------------------------------------------ files

    def as_dict(self) -> dict[str, Any]:
        """JSON: settings, every number with its standard error, and the rows of the printed table."""
        from ovd_lightning.evaluation.table import caption, columns, lines

        return {
            "split": self.split,
            "step": self.step,
            "settings": self.settings,
            "caption": caption(self),
            "seconds": round(self.seconds, 3),
            "environment": self.environment,
            "table": {
                "columns": columns(self),
                "rows": [[line.label, *line.values()] for line in lines(self)],
            },
            "benchmarks": {
                b.name: {
                    "title": b.title,
                    "problems": b.problems,
                    "answered": b.answered,
                    "reused": b.reused,
                    "generated": b.generated,
                    "timeouts": b.timeouts,
                    "grading": b.grading,
                    "tells_answer": b.tells_answer,
                    "rejection": b.rejection,
                    "scores": _scores(b.scores),
                }
                for b in self.benchmarks
            },
            AVERAGE: _scores(self.averages()),
        }

    def save(self, folder: Path) -> Path:
        """Write ``<split>-<step>.json`` and ``.csv``; the JSON file's path is returned.

        A table of another student or of other settings is not overwritten but renamed, e.g. test-000000-1.json.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.stem}.json"
        if path.exists() and _settings_in(path) != json.loads(json.dumps(self.settings)):
            aside = first_free(lambda n: path.with_stem(f"{self.stem}-{n}"))
            for file in (path, path.with_suffix(".csv")):
                if file.exists():
                    file.rename(file.with_stem(aside.stem))
        write_text(path, json.dumps(self.as_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        with replacing(path.with_suffix(".csv"), newline="") as stream:
            rows = self._csv_rows()
            writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), restval="")
            writer.writeheader()
            writer.writerows(rows)
        return path

    def _csv_rows(self) -> list[dict[str, Any]]:
        """A row a benchmark, then the average's."""
        rows = [
            {
                "benchmark": b.name,
                "title": b.title,
                "problems": b.problems,
                "answered": b.answered,
                **_csv_scores(b.scores),
                "timeouts": b.timeouts,
                "grading": b.grading or "",
            }
            for b in self.benchmarks
        ]
        if averages := self.averages():
            rows.append({"benchmark": AVERAGE, "title": "Avg.", **_csv_scores(averages)})
        return rows


def _scores(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {k: {"value": _number(s.value), "standard_error": _number(s.error)} for k, s in scores.items()}


def _csv_scores(scores: Mapping[str, Score]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for kind, score in scores.items():
        cells[kind], cells[f"{kind}_standard_error"] = (_text(score.value), _text(score.error))
    return cells


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _settings_in(path: Path) -> Any:
    """None for a file that is no evaluation's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found.get("settings") if isinstance(found, dict) else None
