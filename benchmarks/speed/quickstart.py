"""Rounds of a quickstart at this checkout beside those of another commit, A B A B.

    python -m benchmarks.speed quickstart --baseline main~10
    python -m benchmarks.speed quickstart --baseline v0.1 --config configs/quickstart_web.yaml --rounds 20

The other commit is unpacked into a temporary folder, and ``benchmarks/speed`` of this checkout measures both. Where
results are equal, both sides train on the same trajectories; sampled tokens show it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.report import Section
from benchmarks.speed.rounds.drive import HEADER, ROOT, Side, cost_rows, interleave, ratio

NOW = "this checkout"


def unpack(ref: str, folder: Path) -> None:
    """Write the files of a commit to ``folder``, with this checkout's ``benchmarks/speed`` in place of its own.

    Raises: subprocess.CalledProcessError for what is no commit.
    """
    archive = folder / "archive.tar"
    subprocess.run(["git", "archive", f"--output={archive}", ref], cwd=ROOT, check=True)
    shutil.unpack_archive(archive, folder)
    archive.unlink()
    shutil.rmtree(folder / "benchmarks" / "speed", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks" / "speed", folder / "benchmarks" / "speed")
    (folder / "benchmarks" / "__init__.py").touch()


def main(
    baseline: str,
    config: str = "configs/quickstart.yaml",
    rounds: int = 10,
    warmup: int = 1,
    threads: int = 1,
    arguments: list[str] | None = None,
) -> Section:
    """Rounds of a quickstart against another commit.

    Args:
        baseline: the other commit.
        config: of both.
        rounds: measured rounds of each side.
        warmup: rounds before them.
        threads: OpenMP threads of each process; only one works at a time.
        arguments: further settings of both, e.g. --engine=configs/engine/hf.yaml.
    """
    given = [f"--config={config}", f"--data.rounds={rounds + warmup}", *(arguments or [])]
    command = [sys.executable, "-m", "benchmarks.speed.rounds.project", *given]
    with tempfile.TemporaryDirectory() as name:
        unpack(baseline, Path(name))
        sides = [Side(name=baseline, command=command, checkout=Path(name)), Side(name=NOW, command=command)]
        costs = interleave(sides, rounds, warmup, threads)
    rows = [
        [*row, f"{sum(cost.teacher_tokens for cost in of) / rounds:,.0f}"]
        for row, of in zip(cost_rows(config.removeprefix("configs/"), costs), costs.values(), strict=True)
    ]
    teacher = [sum(cost.teacher_tokens for cost in costs[side]) for side in (baseline, NOW)]
    cpu, wall = (ratio(costs, baseline, NOW, what) for what in ("cpu", "wall"))
    notes = [
        f"Medians of {rounds} rounds after {warmup} to warm up; {threads} threads a process; teacher tokens are means.",
        f"{NOW} over {baseline}: {cpu:.2f} in CPU seconds, {wall:.2f} by the clock (medians of the rounds' pairs), "
        f"{teacher[1] / max(teacher[0], 1):.2f} of the teacher's tokens.",
    ]
    return Section([*HEADER, "teacher tokens"], rows, notes)
