"""Runs the real command line in its own process, as a user would."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

from ovd_lightning.round.transcripts import read_transcripts
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--data.rounds=3", "--data.problems_per_round=4", "--data.validation_limit=8", "--data.test_limit=8",
    "--benchmark.every_n_rounds=2", "--checkpoint.every_n_rounds=1", "--checkpoint.keep=-1",
]  # fmt: skip
HF = ["--engine=configs/engine/hf.yaml"]
GRPO = ["--method=configs/method/grpo.yaml"]


Process = subprocess.Popen[str] | warm.Process


def environment(**extra: str) -> dict[str, str]:
    env = {k: v for k, v in warm.BEFORE.items() if not k.startswith(("WANDB_", "OVD_"))}
    return {**env, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **extra}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "ovd_lightning", *args]


def start(
    *args: str,
    module: str = "ovd_lightning",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **env: str,
) -> Process:
    """``python -m ovd_lightning ARGS``, or of another module, in the repository's root and in a session of its own.

    By a fork of a process that has the libraries (tests/warm.py) where the environment allows it, for time's sake.
    """
    if warm.possible() and warm.server().serves(environment(**env)):
        return warm.Process(module, args, ROOT, environment(**env), stdout=stdout, stderr=stderr)
    return subprocess.Popen(
        [sys.executable, "-m", module, *args], cwd=ROOT, env=environment(**env), stdin=subprocess.DEVNULL,
        stdout=stdout, stderr=stderr, text=True, start_new_session=True,
    )  # fmt: skip


def run(*args: str, module: str = "ovd_lightning", **env: str) -> subprocess.CompletedProcess[str]:
    """As :func:`start`, to its end; nothing is asserted. Its time is the test's."""
    process = start(*args, module=module, **env)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def fit(
    folder: Path, *args: str, config: str = "configs/quickstart.yaml", **env: str
) -> subprocess.CompletedProcess[str]:
    """A small ``fit`` into ``folder`` that must succeed."""
    done = run("fit", f"--config={config}", *SMALL, f"--trainer.default_root_dir={folder}", *args, **env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done


def metrics(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, a row a logging call, empty cells left out."""
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def rounds(folder: Path) -> list[dict[str, float]]:
    """The row of every training round."""
    return [row for row in metrics(folder) if "reward/student" in row]


def transcripts(folder: Path) -> list[dict[str, Any]]:
    return list(read_transcripts(folder / "transcripts"))


def timeless(row: dict[str, float]) -> dict[str, float]:
    """A row without what a clock measured."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))}
