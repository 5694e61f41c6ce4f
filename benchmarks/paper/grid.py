"""Shared by the runners of the paper's tables: a training and an evaluation for each row, each of them run once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT


def command(subcommand: str, *flags: str) -> None:
    """``python -m ovd_lightning``, its output shown. Raises: SystemExit with its exit code, when it fails."""
    line = [sys.executable, "-m", "ovd_lightning", subcommand, *flags]
    done = subprocess.run(line, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False)
    if done.returncode:
        print(f"{Path(sys.argv[0]).stem}: failed: {' '.join(line)}", file=sys.stderr)
        raise SystemExit(done.returncode)


def claim(folder: Path, settings: Sequence[str]) -> None:
    """Reserve the folder for these settings.

    Raises: SystemExit if it holds a run with other settings, whose results would be taken for this one's.
    """
    path = folder / "flags.json"
    if path.exists() and (before := json.loads(path.read_text())) != list(settings):
        print(f"{folder} was made with other flags; give another --out, or delete it.", file=sys.stderr)
        print(f"  then {' '.join(before)}\n  now  {' '.join(settings)}", file=sys.stderr)
        raise SystemExit(2)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(settings)))


def fit(folder: Path, settings: Sequence[str], *more: str) -> None:
    """Train into ``folder``, without evaluations; an interrupted training continues from its last checkpoint.

    Args:
        settings: the settings that identify the run.
        more: flags that may change in a later call, such as the number of rounds.
    """
    claim(folder, settings)
    last = folder / "checkpoints" / "last.ckpt"
    command(
        "fit",
        *settings,
        f"--trainer.default_root_dir={folder}",
        "--benchmark.every_n_rounds=0",
        "--benchmark.before_training=false",
        "--benchmark.after_training=false",
        *more,
        *([f"--ckpt_path={last}"] if last.exists() else []),
    )


def result_of(folder: Path) -> Path:
    """The result file of an evaluation in ``folder``; `test` makes no update, so its step is 0."""
    return folder / "evaluations" / "test-000000.json"


def evaluate(folder: Path, settings: Sequence[str], *more: str) -> dict[str, Any]:
    """The JSON of a ``test`` in ``folder``; an interrupted one continues, a finished one is read. See :func:`fit`."""
    claim(folder, settings)
    if not result_of(folder).exists():
        command("test", *settings, f"--trainer.default_root_dir={folder}", *more)
    return json.loads(result_of(folder).read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *lines])


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines]) + "\n"
