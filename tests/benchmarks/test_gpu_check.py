"""The check of a machine's GPU, on the CPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_bench import Row, number, skip
from tests.workflow import cli


def test_a_verdict_is_of_the_value_and_its_range() -> None:
    assert Row("a", 1.0, "s", 0, 2).verdict == "PASS"
    assert Row("a", 3.0, "s", 0, 2).verdict == "FAIL"
    assert Row("a", math.inf, "", 0, 0, "RuntimeError: no").verdict == "FAIL"
    assert skip("a", "no GPU").cells() == ["a", "–", "–", "SKIP", "no GPU"]
    assert number("a", 3.0, "s").cells() == ["a", "3 s", "–", "–", ""]


def test_a_check_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(bench: Any) -> Iterator[Row]:
        yield Row("before", 1.0, "", 0, 2)
        raise ValueError("of no use\nat all")

    def works(bench: Any) -> Iterator[Row]:
        yield Row("after", 1.0, "", 0, 2)

    monkeypatch.setattr(gpu_check, "CHECKS", {"breaks": breaks, "works": works})
    bench: Any = type("Bench", (), {"cuda": False})
    rows = gpu_check.check(bench, ["breaks", "works"])
    assert [(row.check, row.verdict) for row in rows] == [("before", "PASS"), ("breaks", "FAIL"), ("after", "PASS")]
    assert rows[1].reason == "ValueError: of no use"


@pytest.mark.slow
@pytest.mark.vllm
def test_all_checks_on_the_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--tiny", "--device=cpu", f"--json={tmp_path}/found.json"],
        cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["check"]: row for row in found["rows"]}
    assert found["machine"]["device"] == "CPU"
    assert {row["verdict"] for row in rows.values()} == {"PASS", "SKIP", "–"}
    assert all(row["reason"] for row in rows.values() if row["verdict"] == "SKIP")
    for name in (
        "peak by length against even", "log-probabilities, float32 head",
        "dry_run's step against measured, all activations",
        "resumed against whole", "bf16 parity, vllm: mean",
    ):  # fmt: skip
        assert rows[name]["verdict"] == "PASS", name
        assert f"| {name} |" in done.stdout
    assert rows["resumed against whole"]["value"] == 0
