"""Disks that are full, folders that cannot be written to, damaged files: one line that names the path."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.workflow import cli

WRITER = """
import sys, torch
from ovd_lightning.callbacks.finished import AtomicCheckpointIO
io, step = AtomicCheckpointIO(), 0
while True:
    step += 1
    io.save_checkpoint({"step": step, "ballast": torch.full((1 << 22,), step)}, sys.argv[1])
    print(step, flush=True)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_a_killed_writer_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    """Eight of eight, with TMPDIR on another file system."""
    path, whole = tmp_path / "last.ckpt", 0
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=cli.ROOT, env=cli.environment(TMPDIR="/dev/shm"),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(2):
            said = int(process.stdout.readline())
        time.sleep(random.Random(attempt).random() / 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = torch.load(path)
        assert found["step"] >= said
        whole += bool((found["ballast"] == found["step"]).all())
    assert whole == 8


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds two checkpoints and not a third."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=11m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def small_fit(*args: str) -> subprocess.CompletedProcess[str]:
    return cli.run(
        "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO, "--data.problems_per_round=2",
        "--benchmark.every_n_rounds=0", "--benchmark.before_training=false", "--benchmark.after_training=false",
        "--run.wandb=disabled", *args,
    )  # fmt: skip


@pytest.mark.slow
def test_a_disk_that_gets_full_is_one_line_and_the_last_checkpoint_is_whole(small: Path) -> None:
    done = small_fit("--data.rounds=5", f"--trainer.default_root_dir={small}")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: {small}/checkpoints/step-000006.ckpt could not be written: No space left on device")
    assert "The last finished round could not be saved" in done.stderr
    found = {path.name for path in (small / "checkpoints").iterdir()}
    assert found == {"step-000002.ckpt", "step-000004.ckpt", "last.ckpt"}
    assert torch.load(small / "checkpoints/last.ckpt", weights_only=False)["global_step"] == 4
    assert "checkpoints will take about" in done.stderr  # said at the start


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        ("--trainer.default_root_dir", "file/run"),
        ("--run.root", "file"),
        ("--benchmark.folder", "file/evaluations"),
        ("--method.init_args.teacher.init_args.cache", "file"),
        ("--method.init_args.teacher.init_args.cache", "damaged.sqlite"),
    ],
)
def test_what_cannot_be_written_is_refused_before_models_load(setting: str, bad: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder, and no database " * 100)
    damaged(tmp_path / "damaged.sqlite")
    method = [] if "teacher" in setting else cli.GRPO
    root = [] if setting == "--run.root" else [f"--trainer.default_root_dir={tmp_path}/run"]
    done = cli.run(
        "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *method, *root, f"{setting}={tmp_path}/{bad}"
    )
    assert done.returncode == 2, done.stderr[-3000:]
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: {setting.removeprefix('--')}: ")
    assert str(tmp_path / bad) in line
    assert "Traceback" not in done.stderr


def damaged(path: Path) -> None:
    """A cache with pages overwritten."""
    from ovd_lightning.engines.cache import AnswerCache

    cache = AnswerCache(path)
    cache.put({AnswerCache.key(i): "x" * 100 for i in range(2000)})
    cache.close()
    data = bytearray(path.read_bytes())
    data[40000:60000] = os.urandom(20000)
    path.write_bytes(bytes(data))
