"""A sweep of real runs over the threshold and the seed: its tables, its results, and what W&B is told."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow import cli
from tests.workflow.test_resume import OVD_HF
from tests.workflow.wandb_file import records

SMALL = [
    "--config=configs/quickstart.yaml", "--data.rounds=1", "--data.problems_per_round=2", "--data.validation_limit=16",
    "--data.test_limit=4", "--benchmark.before_training=false", "--benchmark.every_n_rounds=1",
    "--summary.report=false", "--model.learning_rate=0.003",
]  # fmt: skip
ACCURACY = "eval/arithmetic/accuracy"
RUNS = [(threshold, seed) for threshold in (0, 10) for seed in (0, 1)]


def told(run: Path) -> tuple[str, str, str]:
    """Name, group and id of a run as W&B has them."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    (found,) = (record.run for record in records(file) if record.HasField("run") and record.run.display_name)
    return found.display_name, found.run_group, found.run_id


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The sweep's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    tree = {
        "name": "small",
        "command": ["${env}", "${interpreter}", "-m", "ovd_lightning", "fit", *SMALL, *OVD_HF, "${args}"],
        "method": "grid",
        "metric": {"name": ACCURACY, "goal": "maximize"},
        "parameters": {"method.init_args.threshold": {"values": [0, 10]}, "seed_everything": {"values": [0, 1]}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    command = [sys.executable, "-m", "ovd_lightning.sweep", folder / "small.yaml", "--root", folder, "--jobs", "2"]
    done = subprocess.run(
        command,
        cwd=cli.ROOT,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (folder / "small").iterdir()
    return found, done.stdout


def test_the_tables_and_results_hold_every_runs_metrics(sweep: tuple[Path, str]) -> None:
    folder, printed = sweep
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [(int(r["method.init_args.threshold"]), int(r["seed_everything"])) for r in rows] == RUNS
    assert {row["status"] for row in rows} == {"finished"}
    table = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if line.startswith("│")]
    table = [cells[1:-1] for cells in table]
    for row in rows:
        last = [m[ACCURACY] for m in cli.metrics(folder / row["folder"]) if ACCURACY in m][-1]
        assert float(row[ACCURACY]) == last
        assert float(row["reward/student"]) >= 0
        line = [row["method.init_args.threshold"], row["seed_everything"], "finished"]
        (cells,) = (cells for cells in table if cells[:3] == line)
        assert f"{last:.4f}" in cells
    # What the threshold means: 0 accepts every score, 10 none; a wrong trajectory is replaced in any case.
    rates = [float(row["ovd/acceptance_rate"]) for row in rows]
    assert min(rates[:2]) > max(rates[2:]) == 0
    assert "Mean ± standard deviation over seeds" in printed
    for pair in (rows[:2], rows[2:]):
        values = [float(row[ACCURACY]) for row in pair]
        assert f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}" in printed


def test_seeds_are_different_runs(sweep: tuple[Path, str]) -> None:
    texts = {name: [line["text"] for line in cli.transcripts(run)] for name in RUNS for run in [folder_of(sweep, name)]}
    assert texts[0, 0] != texts[0, 1]
    assert texts[10, 0] != texts[10, 1]


def folder_of(sweep: tuple[Path, str], run: tuple[int, int]) -> Path:
    return sweep[0] / f"threshold={run[0]},seed={run[1]}"


@pytest.mark.parametrize("run", RUNS)
def test_wandb_is_told_the_threshold(sweep: tuple[Path, str], run: tuple[int, int]) -> None:
    """The name says both, the group what is averaged over."""
    name, group, _ = told(folder_of(sweep, run))
    assert name == f"quickstart/threshold={run[0]},seed={run[1]}"
    assert group == f"quickstart/threshold={run[0]}"


def test_a_finished_sweep_has_nothing_to_do(sweep: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "ovd_lightning.sweep", sweep[0].parents[1] / "small.yaml", "--resume", sweep[0]]
    done = subprocess.run(command, cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "0 of 4 runs to do" in done.stdout
    assert done.stdout.count("finished before") == 4


def test_under_wandbs_agent_the_names_say_the_same(tmp_path: Path) -> None:
    """Its command line and its environment, as wandb.wandb_agent makes them; the run itself stays offline."""
    from wandb.sdk.lib import config_util

    parameters = {"method.init_args.threshold": 5, "seed_everything": 1}
    file = tmp_path / "wandb/sweep-abc/config-xyz.yaml"
    config_util.save_config_file_from_dict(str(file), {name: {"value": value} for name, value in parameters.items()})
    flags = [f"--{name}={value}" for name, value in parameters.items()]
    done = cli.run(
        "fit", *SMALL, *OVD_HF, *flags, f"--run.root={tmp_path}/runs", WANDB_SWEEP_ID="abc", WANDB_RUN_ID="xyz",
        WANDB_SWEEP_PARAM_PATH=str(file), WANDB_DIR=str(tmp_path), WANDB_MODE="offline",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = (tmp_path / "runs/quickstart").iterdir()
    assert told(run) == (f"quickstart/threshold=5,seed=1/{run.name}", "quickstart/threshold=5", "xyz")
