"""Runs from Python: one process, several runs, each with its folder and its own W&B run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ovd_lightning.api import written
from ovd_lightning.errors import ConfigError
from tests.workflow.cli import environment

SCRIPT = """
from ovd_lightning import Run
from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.arithmetic import ArithmeticTask

class Mine(ArithmeticTask):
    pass

def half(response, problem):
    return 0.5

SMALL = {"data.rounds": 2, "data.problems_per_round": 2, "data.validation_limit": 4, "data.test_limit": 4,
         "benchmark.samples": 0, "engine": "hf", "method": "grpo"}
rewarded = Run("quickstart", SMALL, {"task.init_args.reward": half}).fit()
assert rewarded.metrics["reward/student"].dropna().tolist() == [0.5, 0.5]
run = Run("quickstart", SMALL, {"task": Mine}).fit()
assert run.folder != rewarded.folder
assert run.config["task"]["class_path"] == "__main__.Mine"
assert all(len(list((r.folder / "wandb").glob("offline-run-*"))) == 1 for r in (run, rewarded))
assert (run.metrics.index == sorted(set(run.metrics.index))).all() and run.metrics.index.name == "step"
assert run.page().is_file()
accuracy = run.metrics["test/arithmetic/accuracy"].dropna().iloc[-1]
assert run.evaluate("test").metrics["test/arithmetic/accuracy"].dropna().iloc[-1] == accuracy
more = Run("quickstart", SMALL, {"task": Mine, "data.rounds": 3}, folder=run.folder).fit(resume=True)
assert len(more.metrics["reward/student"].dropna()) == 3
for wrong, setting in (({"data.rounds": -1}, "data.rounds"), ({"data.round": 1}, "data.round"),
                       ({"method.init_args.group_size": 1}, "method.init_args.group_size")):
    try:
        Run("quickstart", SMALL, wrong).fit()
    except ConfigError as error:
        assert str(error).startswith(setting), error
    else:
        raise AssertionError(wrong)
print("done")
"""


@pytest.mark.slow
def test_runs_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("done\n")


def test_a_folder_is_needed_to_look_at_a_run() -> None:
    from ovd_lightning import Run

    with pytest.raises(ConfigError, match="nothing has run"):
        _ = Run("quickstart").metrics


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (3, "3"), (True, "true"), (None, "null"), ([1, "b"], '[1, "b"]'), (Path("x"), "x"),
     (ConfigError, "ovd_lightning.errors.ConfigError"), (written, "ovd_lightning.api.written")],
)  # fmt: skip
def test_a_value_on_the_command_line(value: object, text: str) -> None:
    assert written(value) == text
