"""A run's folder as it was when a checkpoint was written, so that the run continues there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ovd_lightning.files import first_free
from ovd_lightning.metrics_file import NAME, split
from ovd_lightning.resume.damage import read


def rewind(folder: Path, updates: int, rounds: int, keep: Path | None = None) -> Path | None:
    """Move what came after the checkpoint to <folder>/superseded-1, the first free number.

    That is: transcripts and failures of later rounds, tables of later evaluations, later checkpoints, later rows of
    metrics.csv (and of files like metrics-1.csv). Answers stay: they are known by the weights that gave them.

    Args:
        updates: global_step of the checkpoint; -1: of a run that starts over, so that everything is moved.
        rounds: of the checkpoint.
        keep: the checkpoint itself.
    Returns: where it was moved to; None if nothing was.
    """
    later = [*_rounds(folder, rounds), *_evaluations(folder, updates), *_checkpoints(folder, updates, keep)]
    aside = first_free(lambda n: folder / f"superseded-{n}")
    for path in later:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for path in [*folder.glob("metrics-*.csv"), folder / NAME]:
        split(path, updates, aside / path.name)
    return aside if aside.exists() else None


def _numbered(folder: Path, pattern: str, above: int) -> Iterator[Path]:
    """Files whose name matches, with a number above ``above`` as the first group."""
    for path in sorted(folder.glob("*")):
        match = re.fullmatch(pattern, path.name)
        if match and int(match[1]) > above:
            yield path


def _rounds(folder: Path, rounds: int) -> Iterator[Path]:
    yield from _numbered(folder / "failures", r"round-(\d+)\.txt", rounds - 1)
    yield from _numbered(folder / "transcripts", r"round-(\d+)(?:-rank\d+)?\.jsonl\.gz", rounds - 1)


def _evaluations(folder: Path, updates: int) -> Iterator[Path]:
    return _numbered(folder / "evaluations", r"(?:validation|test)-(\d+)(?:-\d+)?\.(?:json|csv)", updates)


def _checkpoints(folder: Path, updates: int, keep: Path | None) -> Iterator[Path]:
    for path in sorted((folder / "checkpoints").glob("*.ckpt")):
        if keep is not None and path.name == keep.name:
            continue
        match = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
        if updates < 0 or (int(match[1]) if match else _updates(path)) > updates:
            yield path


def _updates(path: Path) -> float:
    """Of a checkpoint; infinite for one that cannot be read, from which no run continues."""
    try:
        return float(read(path)["global_step"])
    except Exception:  # whatever a damaged header leads to
        return float("inf")
