"""The sweep file as W&B takes it, and the local runner on real subprocesses."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ovd_lightning.errors import ConfigError
from ovd_lightning.sweep import file as files
from ovd_lightning.sweep import run as sweeps

ROOT = Path(__file__).parents[2]
THRESHOLD = ROOT / "configs" / "sweeps" / "threshold.yaml"

PROGRAM = '''
"""Stands in for a training run: logs an accuracy that depends on its two parameters."""
import os, pathlib, signal, sys, time

flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:])
x, seed = int(flags["a.x"]), int(flags["seed_everything"])
run = pathlib.Path(flags["trainer.default_root_dir"])
if os.environ.get("SLEEP") and (x, seed) != (1, 0):
    if "STUBBORN" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (run / "metrics.csv").write_text("epoch,step,eval/task/accuracy\\n0,0,0.7\\n")
    pathlib.Path(__file__).with_name("calls.txt").open("a").write(f"{x} {seed}\\n")
    time.sleep(float(os.environ["SLEEP"]))
else:
    pathlib.Path(__file__).with_name("calls.txt").open("a").write(f"{x} {seed}\\n")
if not os.environ.get("SILENT"):
    (run / "metrics.csv").write_text(f"epoch,step,eval/task/accuracy\\n0,0,0.1\\n0,9,{x / 10 + seed / 100}\\n")
print("trained with", x, seed)
if x == 3 and not os.environ.get("MENDED"):
    sys.exit("x = 3 is not to its taste")
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep over a small real program; x = 3 fails."""
    (tmp_path / "program.py").write_text(PROGRAM)
    tree = {
        "name": "tiny",
        "program": "program.py",
        "method": "grid",
        "metric": {"name": "eval/task/accuracy", "goal": "maximize"},
        "parameters": {"a.x": {"values": [1, 2, 3]}, "seed_everything": {"value": 0}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny.yaml"


# --- the shipped file -------------------------------------------------------------------------------------------


def test_shipped_sweep_is_what_wandb_takes() -> None:
    """Against W&B's client-side check, and the keys of its published schema of sweep files."""
    check = pytest.importorskip("wandb.apis.public.sweeps")._validate_config_and_fill_distribution
    tree = yaml.safe_load(THRESHOLD.read_text())
    assert check(tree) == tree
    assert set(tree) <= set(files.SHAPE)
    assert tree["metric"] == {"name": "eval/arithmetic/accuracy", "goal": "maximize"}
    assert tree["parameters"]["method.init_args.threshold"]["values"] == [0, 5, 7, 10]
    assert (ROOT / tree["command"][6]).is_file()
    assert (ROOT / tree["program"]).is_file()


def wandb_agents_line(tree: dict[str, Any], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that W&B's own agent starts for a run with these values; nothing is started."""
    from wandb import wandb_agent

    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
    agent.__dict__ |= {
        "_sweep_command": list(tree.get("command") or []) or None,
        "_in_jupyter": False,
        "_function": None,
        "_forward_signals": False,
        "_run_processes": {},
    }
    args = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "abc", "program": tree.get("program"), "args": args})
    return started[0]


@pytest.mark.parametrize(
    "command", [None, "shipped", ["${env}", "x", "${args_no_boolean_flags}", "${args_no_hyphens}"]]
)
def test_command_lines_are_the_wandb_agents(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them; monkeypatch puts them back
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tree = yaml.safe_load(THRESHOLD.read_text())
    if command != "shipped":
        tree["command"] = command
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    sweep = files.read_sweep(tmp_path / "sweep.yaml")
    runs = [*files.expand(sweep), {"a": True, "b": False, "c": None, "d": [1, "x"], "e": 1e-6}]
    assert len(runs) == 13
    for values in runs:
        assert files.command_line(sweep, values) == wandb_agents_line(tree, values, monkeypatch)


def test_shipped_command_line() -> None:
    sweep = files.read_sweep(THRESHOLD)
    first = files.command_line(sweep, files.expand(sweep)[0])
    assert first[:7] == ["/usr/bin/env", "python", "-m", "ovd_lightning", "fit", "--config", "configs/quickstart.yaml"]
    assert first[7:] == ["--method.init_args.threshold=0", "--seed_everything=0"]


def test_shipped_command_line_is_accepted_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real command line, up to the point where models would be loaded."""
    monkeypatch.chdir(ROOT)
    sweep = files.read_sweep(THRESHOLD)
    line = files.command_line(sweep, {**files.expand(sweep)[-1], "seed_everything": 41})
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*line, "--print_config"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["method"]["init_args"]["threshold"] == 10
    assert config["seed_everything"] == 41


# --- expansion ----------------------------------------------------------------------------------------------------


def parsed(path: Path, **changes: Any) -> files.Sweep:
    path.write_text(
        yaml.safe_dump({"method": "grid", "parameters": {"x": {"values": [1, 2]}}} | changes, sort_keys=False)
    )
    return files.read_sweep(path)


def test_grid_and_seeds(tmp_path: Path) -> None:
    sweep = parsed(tmp_path / "s.yaml", parameters={"x": {"values": [1, 2]}, "seed_everything": {"values": [7, 8]}})
    assert files.expand(sweep) == [{"x": x, "seed_everything": s} for x in (1, 2) for s in (7, 8)]
    assert files.expand(sweep, seeds=[3]) == [{"x": x, "seed_everything": 3} for x in (1, 2)]
    assert files.expand(sweep, count=1) == [{"x": 1, "seed_everything": 7}]
    written_out = {"x": {"values": [1], "distribution": "categorical"}, "y": {"value": 2, "distribution": "constant"}}
    assert files.expand(parsed(tmp_path / "s.yaml", parameters=written_out, run_cap=5)) == [{"x": 1, "y": 2}]


def test_folder_names_are_short_safe_and_different() -> None:
    runs: list[files.Values] = [
        {"a.x": 1, "b.lr": 0.000123456},
        {"a.x": "../e vil", "b.lr": 1.0},
        {"a.x": 1, "b.lr": 0.000123456},
    ]
    names = files.folder_names(runs)
    assert names == ["x=1,lr=0.000123456", "x=.._e_vil,lr=1", "x=1,lr=0.000123456-2"]
    assert files.folder_names([{"a.x": 1, "b.x": 2}]) == ["a.x=1,b.x=2"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "bayes"}, "method: is 'bayes'.*wandb agent"),
        ({"method": "random"}, "method: is 'random'.*wandb agent"),
        ({"method": None}, "method: is None"),
        ({"paramters": {}}, "paramters is not supported here"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate is not supported here.*wandb agent"),
        ({"parameters": {}}, "parameters: is {}"),
        ({"parameters": {"x": 3}}, "parameters.x: is 3"),
        ({"parameters": {"x": {"min": 0, "max": 1}}}, "parameters.x: .*values.*wandb agent"),
        ({"parameters": {"x": {"values": [1], "probabilities": [1]}}}, "probabilities.*wandb agent"),
        ({"parameters": {"x": {"values": [1], "value": 2}}}, "parameters.x: is"),
        ({"parameters": {"x": {"values": 5}}}, "'values': 5"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x: is"),
        ({"parameters": {"x": {"parameters": {"y": {"value": 1}}}}}, "parameters.x: is"),
        ({"parameters": {"trainer.default_root_dir": {"value": "here"}}}, "which the sweep sets"),
        ({"command": ["fit"]}, "no parameter would reach a run"),
        ({"command": "python ${args}"}, "command: is .*Write a list"),
        ({"command": ["${args}", "--trainer.default_root_dir=x"]}, "which the sweep sets"),
        ({"metric": "eval/x"}, "metric: is 'eval/x'"),
        ({"run_cap": 0}, "run_cap: is 0"),
        ({"program": "no_such.py", "command": ["${program}", "${args}"]}, "program: no_such.py is neither"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        parsed(tmp_path / "s.yaml", **changes)
    assert "\n" not in str(refused.value)


def test_bad_options_end_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text("method: random\nparameters: {x: {min: 0, max: 1}}\n")
    assert sweeps.main([str(tmp_path / "s.yaml"), "--dry_run"]) == 2
    (tmp_path / "s.yaml").write_text("method: grid\nparameters: {x: {value: 1}}\ncommand: ['${args_json_file}']\n")
    assert sweeps.main([str(tmp_path / "s.yaml"), "--dry_run"]) == 2
    parsed(tmp_path / "s.yaml")
    assert sweeps.main([str(tmp_path / "absent.yaml")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    for option in ("--jobs", "--count"):
        with pytest.raises(SystemExit):
            sweeps.main([str(tmp_path / "s.yaml"), option, "0"])
        assert f"argument {option}: 0 is not 1 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sweeps.main([str(tmp_path / "s.yaml"), "--resume", str(tmp_path / "no")])
    assert "no is not a folder" in capsys.readouterr().err


# --- running ------------------------------------------------------------------------------------------------------


def calls(file: Path) -> list[str]:
    return sorted((file.parent / "calls.txt").read_text().splitlines())


def test_dry_run_starts_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweeps.main([str(tiny), "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "/usr/bin/env python program.py --a.x=1 --seed_everything=0"
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_failed_run_stops_no_other_and_resume_runs_only_it(
    tiny: Path, jobs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(tiny), "--seeds", "0", "1", "--jobs", jobs]
    assert sweeps.main(options) == 1
    printed = capsys.readouterr().out
    everything = [f"{x} {seed}" for x in (1, 2, 3) for seed in (0, 1)]
    assert calls(tiny) == everything
    assert printed.count("failed after") == 2
    assert "exit 1: x = 3 is not to its taste\n    all its output: " in printed
    assert "x=3,seed=1 failed: exit 1: x = 3 is not to its taste" in printed.split("last values")[1]
    assert "0.2050 ± 0.0071" in printed  # x = 2: 0.20 and 0.21

    (folder,) = (tiny.parent / "runs" / "sweeps" / "tiny").iterdir()
    assert "not to its taste" in (folder / "x=3,seed=0" / "output.log").read_text()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    why = "exit 1: x = 3 is not to its taste"
    assert [(r["a.x"], r["seed_everything"], r["status"], r["reason"]) for r in rows[-2:]] == [
        ("3", "0", "failed", why),
        ("3", "1", "failed", why),
    ]
    assert float(rows[3]["eval/task/accuracy"]) == pytest.approx(0.21)

    monkeypatch.setenv("MENDED", "1")
    assert sweeps.main([*options, "--resume", str(folder)]) == 0
    assert calls(tiny) == sorted([*everything, "3 0", "3 1"])
    assert (folder / "x=3,seed=0.attempt-1" / "output.log").is_file()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [r["status"] for r in rows] == ["finished before"] * 4 + ["finished"] * 2
    assert sweeps.main([*options, "--resume", str(folder)]) == 0
    assert calls(tiny) == sorted([*everything, "3 0", "3 1"])


def test_a_program_that_cannot_start_is_a_failed_run(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = yaml.safe_load(tiny.read_text()) | {"command": ["./no-such-program", "${args}"]}
    tiny.write_text(yaml.safe_dump(tree))
    assert sweeps.main([str(tiny)]) == 1
    assert capsys.readouterr().out.count("failed: could not start: ") == 3


def test_a_run_that_ends_well_without_a_metric_is_a_failed_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SILENT", "1")
    assert sweeps.main([str(tiny), "--count", "1"]) == 1
    assert "x=1,seed=0 failed: it exited 0 but left no metric in " in capsys.readouterr().out


def test_runs_start_where_the_program_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder; what they leave is under the folder that the sweep was started from."""
    (tiny.parent / "elsewhere").mkdir()
    monkeypatch.chdir(tiny.parent / "elsewhere")
    assert sweeps.main([str(tiny), "--count", "1"]) == 0
    assert calls(tiny) == ["1 0"]
    assert len(list(Path("runs/sweeps/tiny").glob("*/x=1,seed=0/metrics.csv"))) == 1
    tiny.write_text(tiny.read_text().replace("program.py", "nowhere.py"))
    with pytest.raises(ConfigError, match=r"nowhere\.py is neither in"):
        files.read_sweep(tiny)


def test_a_folder_of_an_environment_variable_is_no_runs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier launch left in the environment moves no results."""
    monkeypatch.setenv("OVD_RUN_DIR", str(tiny.parent / "stale"))
    assert sweeps.main([str(tiny), "--count", "2"]) == 0
    assert not (tiny.parent / "stale").exists()
    assert len(list((tiny.parent / "runs").glob("sweeps/tiny/*/*/metrics.csv"))) == 2


def started(tiny: Path, count: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, of which ``count`` runs have begun."""
    before = len(calls(tiny)) if (tiny.parent / "calls.txt").exists() else 0
    command = [sys.executable, "-m", "ovd_lightning.sweep", str(tiny), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    sweep = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tiny.parent / "calls.txt").exists() or len(calls(tiny)) < before + count:
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)
    return sweep


def records(tiny: Path) -> dict[str, dict[str, Any]]:
    """Run -> its record."""
    found = (tiny.parent / "runs").glob("sweeps/tiny/*/*/sweep_run.json")
    return {file.parent.name: json.loads(file.read_text()) for file in found}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_sweep_keeps_its_results_and_goes_on(tiny: Path, how: signal.Signals) -> None:
    """The first run has finished, two are at work, and the last never began."""
    options = ["--jobs", "2", "--seeds", "0", "1"]
    sweep = started(tiny, 3, *options, SLEEP="600")
    sweep.send_signal(how)
    out, err = sweep.communicate()
    assert sweep.returncode == 130
    ended = {name: (record["status"], record["returncode"]) for name, record in records(tiny).items()}
    stopped = ("interrupted", -signal.SIGTERM)
    assert ended == {"x=1,seed=0": ("finished", 0), "x=1,seed=1": stopped, "x=2,seed=0": stopped}
    (folder,) = (tiny.parent / "runs" / "sweeps" / "tiny").iterdir()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["status"] for row in rows] == ["finished", "interrupted", "interrupted"] + ["waiting"] * 3
    assert [row["eval/task/accuracy"] for row in rows] == ["0.1", "0.7", "0.7", "", "", ""]
    assert "last values" in out
    command = err.splitlines()[-1].partition("interrupted; to go on: ")[2]
    assert sweeps.main([*shlex.split(command)[3:]]) == 1  # x = 3 fails as ever
    everything = [f"{x} {seed}" for x in (1, 2, 3) for seed in (0, 1)]
    assert calls(tiny) == sorted([*everything, "1 1", "2 0"])
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["status"] for row in rows] == ["finished before", *["finished"] * 3, *["failed"] * 2]


def test_a_run_that_does_not_end_when_told_is_killed(tiny: Path) -> None:
    """By a second interrupt, as by the end of the grace that it has."""
    sweep = started(tiny, 2, "--seeds", "0", "1", SLEEP="600", STUBBORN="1")
    sweep.send_signal(signal.SIGTERM)
    while sweep.poll() is None:
        time.sleep(0.5)
        sweep.send_signal(signal.SIGTERM)
    sweep.communicate()
    assert records(tiny)["x=1,seed=1"]["returncode"] == -signal.SIGKILL


def test_runs_that_a_killed_sweep_left_behind_keep_their_folders(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = started(tiny, 2, "--seeds", "0", "1", SLEEP="600")
    (run,) = psutil.Process(sweep.pid).children()
    try:
        sweep.kill()
        sweep.communicate()
        (folder,) = (tiny.parent / "runs" / "sweeps" / "tiny").iterdir()
        assert sweeps.main([str(tiny), "--resume", str(folder)]) == 2
        assert "or a run that it left behind, is at work" in capsys.readouterr().err
        rows = list(csv.DictReader((folder / "results.csv").open()))
        assert [row["status"] for row in rows] == ["finished"] + ["waiting"] * 5
    finally:
        run.kill()
    run.wait()
    assert sweeps.main([str(tiny), "--resume", str(folder), "--count", "2"]) == 0


def test_options_have_help() -> None:
    actions = [action for action in sweeps.parser()._actions if not isinstance(action, argparse._HelpAction)]
    assert all(action.help for action in actions)
