"""What a sweep came to: a table of its runs, one of means over seeds, and results.csv."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd_lightning.evaluation.names import accuracies
from ovd_lightning.files import replacing
from ovd_lightning.report.read import read_metrics
from ovd_lightning.sweep.file import SEED, Sweep, Values, short_names

RESULTS = "results.csv"


@dataclass(slots=True, kw_only=True)
class Job:
    """One run of the sweep, and what became of it."""

    values: Values
    command: list[str]
    folder: Path
    status: str = "waiting"
    """waiting, running, finished, finished before, interrupted, failed"""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0


def last_values(job: Job) -> dict[str, float]:
    """Every metric's last value; empty for a run that logged nothing, or was not started by this sweep yet."""
    if job.status == "waiting":
        return {}
    return {name: series[-1][1] for name, series in read_metrics(job.folder).items()}


def shown_metrics(metric: str | None, results: Sequence[dict[str, float]]) -> list[str]:
    """The sweep's own metric first, then every accuracy: greedy accuracy moves in jumps, sampled does not."""
    logged = accuracies(name for result in results for name in result)
    return list(dict.fromkeys([*([metric] if metric else []), *logged]))


def print_tables(sweep: Sweep, jobs: Sequence[Job], folder: Path) -> None:
    """Prints both tables, why runs failed, where every last value of every run is, and what draws them."""
    from rich.console import Console
    from rich.table import Table

    results = [last_values(job) for job in jobs]
    metrics = shown_metrics(sweep.metric, results)
    short = short_names([job.values for job in jobs])
    varied = {n: short[n] for n in short if len({str(job.values.get(n)) for job in jobs}) > 1} or short
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file has no edge

    table = Table(title=f"{sweep.name}: last values", title_justify="left")
    for name in varied.values():
        table.add_column(name)
    for name in ("status", "seconds"):
        table.add_column(name, justify="right")
    for name in metrics:
        table.add_column(name, justify="right", overflow="fold")
    for job, result in zip(jobs, results, strict=True):
        cells = [str(job.values.get(name, "")) for name in varied]
        values = [f"{result[m]:.4f}" if m in result else "-" for m in metrics]
        table.add_row(*cells, job.status, f"{job.seconds:.0f}", *values)
    console.print(table)

    cells_by_setting: dict[tuple[str, ...], list[dict[str, float]]] = {}
    names = [name for name in varied if name != SEED]
    for job, result in zip(jobs, results, strict=True):
        if job.status.startswith("finished"):
            cells_by_setting.setdefault(tuple(str(job.values.get(n, "")) for n in names), []).append(result)
    if any(len(found) > 1 for found in cells_by_setting.values()):
        means = Table(title="Mean ± standard deviation over seeds, finished runs", title_justify="left")
        for name in names:
            means.add_column(short[name])
        means.add_column("n", justify="right")
        for name in metrics:
            means.add_column(name, justify="right", overflow="fold")
        for setting, found in cells_by_setting.items():
            means.add_row(*setting, str(len(found)), *(_spread([r[m] for r in found if m in r]) for m in metrics))
        console.print(means)

    for job in jobs:
        if job.reason:
            console.print(f"  {job.folder.name} failed: {job.reason}", soft_wrap=True, highlight=False, markup=False)
    if sweep.metric and any(results) and not any(sweep.metric in result for result in results):
        console.print(f"  no run logged the sweep's metric {sweep.metric}", soft_wrap=True, highlight=False)
    write_results(jobs, folder)
    console.print(f"  every last value: {folder / RESULTS}", soft_wrap=True, highlight=False)
    console.print(f"  side by side: python -m ovd_lightning compare {folder}", soft_wrap=True, highlight=False)


def write_results(jobs: Sequence[Job], folder: Path) -> None:
    """results.csv: parameters, outcome and every last value of every run. The file is always complete."""
    results = [last_values(job) for job in jobs]
    columns = list(dict.fromkeys(name for result in results for name in sorted(result)))
    parameters = list(short_names([job.values for job in jobs]))
    with replacing(folder / RESULTS, newline="") as stream:
        writer = csv.DictWriter(stream, [*parameters, "status", "reason", "seconds", "folder", *columns], restval="")
        writer.writeheader()
        for job, result in zip(jobs, results, strict=True):
            own: dict[str, Any] = {
                "status": job.status, "reason": job.reason, "seconds": round(job.seconds, 1), "folder": job.folder.name,
            }  # fmt: skip
            writer.writerow({**job.values, **own, **result})


def _spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
