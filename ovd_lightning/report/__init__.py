"""The HTML page of a run: curves and the rollout viewer, in one file that needs no network."""

from __future__ import annotations

from pathlib import Path

from ovd_lightning.files import write_text


def write_report(run_dir: Path | str) -> Path:
    """Write ``run_dir/report.html`` from the run's config, metrics and transcripts; returns its path.

    Whatever is missing or not yet written is named on the page. Raises FileNotFoundError when ``run_dir``
    is no folder. The page is replaced in one move, so a reader never sees half of it.
    """
    from ovd_lightning.report.page import render
    from ovd_lightning.report.read import read_run

    run = read_run(Path(run_dir))
    target = run.path / "report.html"
    write_text(target, render(run))
    return target
