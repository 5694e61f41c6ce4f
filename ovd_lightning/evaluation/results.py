"""What an evaluation comes to: numbers of each benchmark, their average, the row of the paper's Table 4 with what has
to stand beside it, and the files that hold them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovd_lightning.evaluation.names import AVERAGE, text_of
from ovd_lightning.files import first_free, replacing, write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HIDDEN = ("sampled_accuracy", "pass@1")
"""The same number as avg@k."""


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
    """The denominator: equal to ``problems`` unless the trainer was to leave batches out."""
    reused: int
    """Answers that an earlier, interrupted evaluation had given."""
    generated: int
    timeouts: int
    """Answers whose checker was stopped: counted as wrong."""
    grading: str | None
    tells_answer: bool
    """The environment sees the answers: the numbers do not measure the student alone."""
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


def saved_values(
    folders: Sequence[Path], stem: str, settings: Mapping[str, Any], prefix: str
) -> dict[str, float] | None:
    """What a complete evaluation on the disk measured (see ``Evaluation.values``), done with these settings and hence
    these weights; None where there is none, e.g. because it was interrupted.

    Args:
        folders: of evaluations, the first one that has it counts.
        stem: e.g. validation-000800.
        prefix: of the metrics' names.
    """
    wanted = json.loads(json.dumps(settings))
    for folder in folders:
        try:
            found = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(found, dict) or found.get("settings") != wanted:
            continue
        scores = {name: entry["scores"] for name, entry in found["benchmarks"].items()} | {AVERAGE: found[AVERAGE]}
        return {
            f"{prefix}/{name}/{kind}": score["value"]
            for name, kinds in scores.items()
            for kind, score in kinds.items()
            if score["value"] is not None
        }
    return None


def average(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Unweighted mean over benchmarks, as the paper's tables average, and its standard error: those of different
    benchmarks are independent."""
    n = len(values)
    return sum(values) / n, sum(e * e for e in errors) ** 0.5 / n


# ------------------------------------------------------------------ table


class Line(NamedTuple):
    """One row of the table."""

    label: str
    cells: list[float]
    """One a benchmark; percent, or a count."""
    average: float | None
    """Unweighted mean over benchmarks; None where that means nothing."""
    counts: bool = False
    """Cells are counts, not percentages."""

    def values(self) -> list[float | int | None]:
        """Cells and average, as `columns` heads them."""
        cells: list[float | int | None] = [
            None if math.isnan(cell) else int(cell) if self.counts else cell for cell in self.cells
        ]
        return [*cells, self.average] if len(cells) > 1 else cells


def columns(evaluation: Evaluation) -> list[str]:
    """Heads: "", the benchmarks in order, and "Avg." where there are several."""
    heads = [b.title + ("*" if b.tells_answer else "") for b in evaluation.benchmarks]
    return ["", *heads, "Avg."] if len(heads) > 1 else ["", *heads]


def lines(evaluation: Evaluation) -> list[Line]:
    """The table's rows: accuracies in percent with the standard error of the first, shares in percent, counts."""
    benchmarks, averages = evaluation.benchmarks, evaluation.averages()
    kinds = list(dict.fromkeys(kind for b in benchmarks for kind in b.scores if kind not in HIDDEN))
    shares = [kind for kind in kinds if "truncated" in kind or "share" in kind]
    found = []
    for kind in [*(kind for kind in kinds if kind not in shares), *shares]:
        scores = [b.scores.get(kind) for b in benchmarks]
        mean = averages.get(kind)
        cells = [100 * s.value if s else math.nan for s in scores]
        found.append(Line(text_of(kind), cells, 100 * mean.value if mean else None))
        if len(found) == 1:
            errors = [100 * s.error if s else math.nan for s in scores]
            found.append(Line("± standard error", errors, 100 * mean.error if mean else None))
    found.append(Line("checker timed out", [float(b.timeouts) for b in benchmarks], None, counts=True))
    found.append(Line("problems", [float(b.answered) for b in benchmarks], None, counts=True))
    return found


def render(evaluation: Evaluation, console: Console) -> Table:
    """Benchmarks as columns as in the paper, or as rows where the console is too narrow for that."""
    wide = _table(evaluation, turned=False)
    needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
    return wide if needed <= console.width else _table(evaluation, turned=True)


def _table(evaluation: Evaluation, turned: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = lines(evaluation)
    cells = [columns(evaluation), *([row.label, *(_cell(v) for v in row.values())] for row in rows)]
    if turned:
        cells = [list(column) for column in zip(*cells, strict=True)]
    table = Table(title=f"Benchmarks, {evaluation.split}, %", title_justify="left")
    for i, head in enumerate(cells[0]):
        table.add_column(Text(head), justify="right" if i else "left", no_wrap=True)
    for row_cells in cells[1:]:
        table.add_row(*map(Text, row_cells))
    return table


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def caption(evaluation: Evaluation) -> str:
    """How the numbers came about, in words."""
    s = evaluation.settings
    how = []
    if s["greedy"]:
        how.append("greedy")
    if s["samples"]:
        samples = f"{s['samples']} samples" if s["samples"] > 1 else "one sample"
        how.append(f"{samples} a problem at temperature {s['temperature']:g}, top-p {s['top_p']:g}")
    how.append(f"at most {s['max_tokens']} tokens")
    how.append("chat template" if s["chat"] else "no chat template")
    gradings = {b.grading for b in evaluation.benchmarks if b.grading}
    if gradings:
        how.append(f"grading {', '.join(sorted(gradings))}")
    if s["rejection"] is not None:
        how.append(_rejection(s["rejection"]))
    sentences = [", ".join(how) + "."]
    student = s["checkpoint"] or s["model"]
    sentences.append(f"Student: {student} after {s['updates']} updates." if s["updates"] else f"Student: {student}.")
    if len(evaluation.benchmarks) > 1:
        sentences.append("Avg.: unweighted mean over benchmarks.")
    if any(b.tells_answer for b in evaluation.benchmarks):
        sentences.append("*: the environment was told the answers.")
    if short := [b for b in evaluation.benchmarks if b.answered != b.problems]:
        sentences.append(
            "Not all problems: " + ", ".join(f"{b.answered} of {b.problems} {b.title}" for b in short) + "."
        )
    text = " ".join(sentences)
    return text[0].upper() + text[1:]


def _rejection(settings: dict[str, Any]) -> str:
    """ "testing rejection under 7 (argmax) by vllm:Qwen/QwQ-32B"."""
    by = settings.get("teacher")
    description = f"testing rejection under {settings['threshold']:g} ({settings['score_reading']})"
    return f"{description} by {by['judge']['engine']}" if by else f"{description}, which accepts everything"
