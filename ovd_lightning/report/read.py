"""What a run's folder holds, read with tolerance: any file may be missing, or still be written to."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ovd_lightning.round.transcripts import SUFFIX, read_file
from ovd_lightning.round.transcripts import files as transcript_files

Series = list[tuple[float, float]]
"""(optimiser step, value), in the order they were logged."""
Record = dict[str, Any]
"""One trajectory of a transcript file."""
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Run:
    """A run's folder, opened."""

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    provenance: str = ""
    """Git commit, package versions and command line, as the run recorded them."""
    metrics: dict[str, Series] = field(default_factory=dict)
    """Only metrics with at least one finite value."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """What evaluations/*.json hold, by step."""
    transcripts: dict[int, list[Path]] = field(default_factory=dict)
    """Round -> its files, one a rank, in order."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, in words for the page."""

    @property
    def name(self) -> str:
        """``<name>/<time>``: the config's ``run.name`` and the folder's own name."""
        return "/".join(
            [*[str(run["name"]) for run in _sections(self.config, "run") if "name" in run][:1], self.path.name]
        )

    @property
    def method(self) -> Mapping[str, Any]:
        """The config's ``method`` section: ``class_path`` and ``init_args``; empty when there is none."""
        return next((m for m in _sections(self.config, "method") if "class_path" in m), {})

    @property
    def method_name(self) -> str:
        return str(self.method.get("class_path", "unknown")).rpartition(".")[2]

    @property
    def score_low(self) -> int:
        """The lowest of the ten scores: 1 on the scale of prompt A.4, else 0."""
        options = self.method.get("init_args") or {}
        return 1 if "one_to_ten" in json.dumps(options, default=str) else 0


def read_run(path: Path) -> Run:
    """Open a run's folder; raises FileNotFoundError when it is none."""
    path = path.resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder. Give a run's folder, runs/<name>/<time>.")
    run = Run(path=path)
    _read_config(run)
    run.metrics = read_metrics(path)
    if not run.metrics:
        run.problems.append("metrics.csv is missing, or holds no values yet")
    if (path / "provenance.yaml").is_file():
        run.provenance = (path / "provenance.yaml").read_text(encoding="utf-8", errors="replace")
    run.evaluations = _read_evaluations(path / "evaluations")
    for file in transcript_files(path / "transcripts"):
        if match := re.match(r"round-(\d+)", file.name):
            run.transcripts.setdefault(int(match[1]), []).append(file)
    if not run.transcripts:
        run.problems.append(f"transcripts/ holds no round-*{SUFFIX} file")
    return run


def _read_config(run: Run) -> None:
    import yaml

    file = run.path / "config.yaml"
    if not file.is_file():
        run.problems.append("config.yaml is missing")
        return
    run.config_text = file.read_text(encoding="utf-8", errors="replace")
    try:
        loaded = yaml.safe_load(run.config_text)
    except yaml.YAMLError:
        run.problems.append("config.yaml is not readable YAML")
        return
    run.config = loaded if isinstance(loaded, dict) else {}


def _read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Complete ones; tables that a later one of other settings set aside (test-000000-1.json) are left out."""
    found: list[dict[str, Any]] = []
    for file in folder.glob("*.json"):
        if not re.fullmatch(r"(validation|test)-\d+", file.stem):
            continue
        try:
            evaluation = json.loads(file.read_text(encoding="utf-8", errors="replace"))
        except ValueError:
            continue
        table = evaluation.get("table") if isinstance(evaluation, dict) else None
        if isinstance(table, dict) and table.get("columns") and table.get("rows"):
            found.append(evaluation)
    return sorted(found, key=lambda evaluation: int(evaluation["step"]))


def read_metrics(folder: Path) -> dict[str, Series]:
    """metrics.csv of a run, behind those that a resumed run set aside (metrics-1.csv, ...).

    Rows are sparse: each fills some of the columns. Non-finite and unreadable cells are left out. Where a resumed
    run trained a step again, its values stand.
    """
    aside = sorted(folder.glob("metrics-*.csv"), key=lambda p: int(re.sub(r"\D", "", p.stem) or 0))
    metrics: dict[str, Series] = {}
    for file in [*aside, folder / "metrics.csv"]:
        if not file.is_file():
            continue
        for name, series in _read_csv(file).items():
            metrics[name] = [point for point in metrics.get(name, []) if point[0] < series[0][0]] + series
    return metrics


def _read_csv(file: Path) -> dict[str, Series]:
    metrics: dict[str, Series] = {}
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row_number, row in enumerate(csv.DictReader(stream)):
            step = _number(row.get("step"))
            for name, cell in row.items():
                value = None if name in (None, "step", "epoch") else _number(cell)
                if value is not None:
                    metrics.setdefault(name, []).append((row_number if step is None else step, value))
    return metrics


def _number(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _sections(tree: object, key: str) -> Iterator[Mapping[str, Any]]:
    """Every mapping called ``key`` in a config, outermost first."""
    if isinstance(tree, dict):
        found = tree.get(key)
        if isinstance(found, dict):
            yield found
        for child in tree.values():
            yield from _sections(child, key)


def read_round(files: Sequence[Path]) -> list[list[Record]]:
    """A round's groups, in the order they were written; the files are those of the ranks.

    What is cut off (copied while it was written) is left out.
    """
    groups: dict[tuple[int, str, int], list[Record]] = {}
    for rank, file in enumerate(files):
        for record in read_file(file):
            groups.setdefault((rank, record["problem_id"], record["group"]), []).append(record)
    return list(groups.values())


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items: the first, the last, and evenly between."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
