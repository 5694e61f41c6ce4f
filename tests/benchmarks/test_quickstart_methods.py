"""The comparison of methods: what it reads out of a run, and one real run of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import picture
from benchmarks.compare import quickstart_methods as Q
from benchmarks.compare.settings import METHODS, SETTINGS

ROOT = Path(__file__).resolve().parents[2]

SAMPLING = {"throughput/generated_tokens_per_s": 160.0, "completion/length_mean": 10.0}
ROWS = [
    {"eval/t/accuracy": 0.2, "eval/t/sampled_accuracy": 0.1},
    {"test/t/accuracy": 0.25, "test/t/sampled_accuracy": 0.15},
    {"loss": 0.0, "time/generate": 0.5, **SAMPLING, "teacher/prompt_tokens": 60, "teacher/completion_tokens": 40},
    {"loss": 0.0, "time/generate": 0.5, "teacher/prompt_tokens": 90, "teacher/completion_tokens": 10},
    {"eval/t/accuracy": 0.6, "eval/t/sampled_accuracy": 0.3},
    {"test/t/accuracy": 0.65, "test/t/sampled_accuracy": 0.35},
]


def measured(path: Path, rows: list[dict[str, float]]) -> dict[str, Any]:
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return Q.read(path, "t")


def test_a_run_is_read(tmp_path: Path) -> None:
    run = measured(tmp_path / "metrics.csv", ROWS)
    assert (run["greedy_before"], run["greedy"], run["sampled"]) == (0.25, 0.65, 0.35)
    assert (run["read"], run["written"], run["student_samples"]) == (150, 50, 8)
    assert (run["zero_advantage"], run["accepted_first"]) == (None, None)
    assert [point["spent"] for point in run["curve"]] == [0, 200]


def test_accuracy_at_equal_teacher_tokens_lies_between_two_evaluations(tmp_path: Path) -> None:
    curve = measured(tmp_path / "metrics.csv", ROWS)["curve"]
    assert Q.at(curve, 50, "greedy") == pytest.approx(0.3)
    assert Q.at(curve, 200, "sampled") == pytest.approx(0.3)
    assert Q.at(curve, 201, "greedy") is None, "it was never spent"
    assert Q.at([{"spent": 0, "greedy": 0.1}, {"spent": 0, "greedy": 0.2}], 0, "greedy") is None, "there is no teacher"


def test_the_table_says_what_was_not_logged(tmp_path: Path) -> None:
    run = measured(tmp_path / "metrics.csv", ROWS) | {"cpu_seconds": 12.3}
    other = run | {"greedy": 0.75, "accepted_first": 0.5, "accepted_last": 0.25, "zero_advantage": 0.1}
    lines = Q.table(["opd", "ovd"], {"opd": [run], "ovd": [run, other]}, budget=100)
    assert lines[2] == "| OPD | 65.0 | 35.0 | 40.0 | 20.0 | 8 | 0 k | 0 k | – | – | 12 |"
    assert lines[3].startswith("| OVD, default (eq. 7, θ 7) | 70.0 ± 7.1 | 35.0 ± 0.0 | 40.0 ± 0.0 | 20.0 ± 0.0 | 8 |")
    assert lines[3].endswith("| 10% | 50% → 25% | 12 |")


def test_a_learning_rate_is_chosen_by_validation_and_all_are_shown(tmp_path: Path) -> None:
    run = measured(tmp_path / "metrics.csv", ROWS) | {"cpu_seconds": 12.3}
    better = run | {"greedy": 0.1, "curve": [*run["curve"][:-1], run["curve"][-1] | {"greedy": 0.8}]}
    by_rate: dict[str | None, list[dict[str, Any]]] = {"1e-4": [run, run], "3e-4": [run, better]}
    assert Q.best_rate(by_rate) == "3e-4", "whatever the test says"
    lines = Q.rates_table({"grpo": by_rate})
    assert lines[2] == "| GRPO (RLVR) | 1e-4 | 60.0 ± 0.0 | 65.0 ± 0.0 | 35.0 ± 0.0 |"
    assert lines[3] == "| GRPO (RLVR) | **3e-4** | 70.0 ± 14.1 | 37.5 ± 38.9 | 35.0 ± 0.0 |"


def test_the_picture_has_the_mean_and_the_spread_at_every_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the dev extra's matplotlib")
    run = measured(tmp_path / "metrics.csv", ROWS)
    other = run | {
        "curve": [{"spent": 0, "greedy": 0.4, "sampled": 0.1}, {"spent": 400, "greedy": 0.6, "sampled": 0.3}]
    }
    assert picture.points([run, other], "greedy") == [(0, pytest.approx(0.3), pytest.approx(0.141421, rel=1e-4)),
                                                      (300, 0.6, 0.0)]  # fmt: skip
    free = run | {"curve": [{**point, "spent": 0} for point in run["curve"]]}
    for name in ("a.svg", "b.svg"):
        picture.draw({"OVD": [run, other], "GRPO": [free]}, {"greedy": "greedy %", "sampled": "%"}, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "GRPO" in (tmp_path / "a.svg").read_text()


def test_every_method_and_overlay_is_there() -> None:
    for setting in SETTINGS.values():
        assert set(setting.methods) <= METHODS.keys()
        assert set(setting.flags) <= METHODS.keys()
        assert (ROOT / setting.config).is_file()
    for _, flags in METHODS.values():
        for flag in flags:
            if flag.startswith("--method="):
                assert (ROOT / flag.removeprefix("--method=")).is_file()


@pytest.mark.slow
@pytest.mark.vllm
def test_a_real_run_is_compared_and_not_repeated(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.compare.quickstart_methods", "--only", "opd", "--seeds", "0",
        "--students", "second", "--rounds", "1", "--jobs", "1", "--out", str(tmp_path), "--rates", "1e-4", "1e-3",
        "--plot", str(tmp_path / "plot.svg"),
    ]  # fmt: skip
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    table = [line for line in first.stdout.splitlines() if line.startswith("| OPD")]
    assert len(table) == 3, "its row, and one for each learning rate"
    assert (tmp_path / "plot-second.svg").is_file()
    assert "before training greedy 44.9%" in first.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert table[0] in again.stdout.splitlines()
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([*command, "--students", "third"], cwd=ROOT, capture_output=True, check=True)
