"""The wheel is the whole product: it runs in another folder, from an environment that knows nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.workflow.cli import ROOT, environment, rounds

TASK = '''
from ovd_lightning.tasks.arithmetic import ArithmeticTask

class Mine(ArithmeticTask):
    """A task in the user's folder."""
'''
SIZE = ["--data.rounds=1", "--data.problems_per_round=2", "--data.validation_limit=4", "--data.test_limit=4",
        "--benchmark.samples=0", "--trainer.default_root_dir=run"]  # fmt: skip


class Installed:
    """A virtual environment with the wheel, in a folder of its own; the libraries are those of this environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        subprocess.run(
            [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, "."], cwd=ROOT, check=True, timeout=300
        )
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=300)
        self.bin = folder / "env/bin"
        site = next((folder / "env/lib").glob("python*/site-packages"))
        [wheel] = wheels.glob("*.whl")
        subprocess.run([*pip, "--python", self.bin / "python", "install", "--no-deps", wheel], check=True, timeout=300)
        # The .pth files of a folder that a .pth file names are not read, so the checkout stays unknown.
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))

    def run(self, command: str, *args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        env = {**environment(), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        del env["PYTHONPATH"]
        done = subprocess.run(
            [self.bin / command, *args], cwd=self.folder, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == expect, done.stdout[-1500:] + done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_it_is_the_wheel_that_runs(installed: Installed) -> None:
    code = "import ovd_lightning, pathlib; p = pathlib.Path(ovd_lightning.__file__).parent; print(p); " \
        "assert (p / 'py.typed').is_file()"  # fmt: skip
    assert installed.run("python", "-c", code).stdout.startswith(str(installed.bin.parent))


@pytest.mark.slow
def test_the_configs_are_listed_and_copied(installed: Installed) -> None:
    listed = installed.run("ovd-lightning", "configs").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert {"quickstart", "math", "method/grpo", "web/rag", "sweeps/threshold"} <= set(names)
    assert len(names) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert all(len(line.split()) > 3 for line in listed)
    installed.run("ovd-lightning", "configs", "copy", "math_small", "mine.yaml")
    assert (installed.folder / "mine.yaml").read_text() == (ROOT / "configs/math_small.yaml").read_text()
    assert "is there already" in installed.run("ovd-lightning", "configs", "copy", "math", "mine.yaml", expect=2).stderr
    assert "is no config" in installed.run("ovd-lightning", "configs", "copy", "mat", expect=2).stderr
    printed = installed.run("ovd-lightning", "fit", "--config", "mine.yaml", "--print_config").stdout
    assert "Qwen2.5-Math-1.5B-Instruct" in printed  # of its base's and its teacher's files
    error = installed.run("ovd-lightning", "fit", "--config", "quickstar", expect=2).stderr
    assert "Did you mean quickstart?" in error


@pytest.mark.slow
def test_a_run_with_a_task_of_the_folder(installed: Installed) -> None:
    """Everything by name: the config, its overlay, the models in it, a class in the current folder."""
    (installed.folder / "my_task.py").write_text(TASK)
    fit = ["fit", "--config", "quickstart", "--config", "overlays/no_vllm", "--task", "my_task.Mine", *SIZE]
    installed.run("ovd-lightning", *fit)
    run = installed.folder / "run"
    assert len(rounds(run)) == 1
    assert (run / "student/config.json").is_file()
    assert "class_path: my_task.Mine" in (run / "config.yaml").read_text()
    installed.run("python", "-m", "ovd_lightning.report", "run")
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_sweep_by_its_name_starts_in_the_current_folder(installed: Installed) -> None:
    sweep = installed.folder / "small.yaml"
    sweep.write_text(
        "command: ['${env}', '${interpreter}', '-m', ovd_lightning, fit, --config, configs/quickstart.yaml, "
        f"--engine, hf, --method, grpo, {', '.join(SIZE[:-1])}, '${{args}}']\n"
        "method: grid\nparameters: {model.learning_rate: {values: [0.001, 0.0001]}}\n"
    )
    installed.run("python", "-m", "ovd_lightning.sweep", "small.yaml", "--count", "1")
    assert len(list((installed.folder / "runs/sweeps/small").glob("*/*/metrics.csv"))) == 1
    shown = installed.run("python", "-m", "ovd_lightning.sweep", "threshold", "--dry_run").stdout
    assert len(shown.splitlines()) == 12
