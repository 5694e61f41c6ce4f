"""Which checkpoint ``--ckpt_path`` means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ovd_lightning.errors import ConfigError
from ovd_lightning.resume.damage import damage, is_sharded, read

WORDS = ("last", "best", "hpc")
RANKS = "OVD_CKPT_PATH"
"""Environment variable by which the ranks that Lightning starts mean the checkpoint that their parent found."""


def checkpoints(folder: Path) -> list[Path]:
    """Of a run's folder, newest first. Of two of the same moment, last.ckpt: it is written after its step's own."""
    found = [path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file() or is_sharded(path)]
    return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name == "last.ckpt", p.name), reverse=True)


def run_of(checkpoint: Path) -> Path:
    """The run's folder of <run>/checkpoints/<name>.ckpt, or of <run>/hpc_ckpt_1.ckpt."""
    parent = checkpoint.absolute().parent
    return parent.parent if parent.name == "checkpoints" else parent


def find(given: str, *, runs: Path, folder: Path | None, fitting: bool) -> Path:
    """The checkpoint that ``ckpt_path`` means, by its own path.

    Args:
        given: a path; "last", the newest checkpoint of ``folder``, or of the newest run under ``runs``; "best", the
            best one by that run's ``checkpoint.monitor``; "hpc", what Lightning saved when SLURM ended the job.
        runs: <run.root>/<run.name>.
        folder: trainer.default_root_dir where it is set. An evaluation's own folder need not hold a checkpoint.
        fitting: not an evaluation.
    Raises: ConfigError when there is none.
    """
    if "LOCAL_RANK" in os.environ and os.environ.get(RANKS):
        return Path(os.environ[RANKS])
    if given in ("last", "best"):
        newest = _last(runs, folder, fitting)
        found = _best(newest) if given == "best" and isinstance(newest, Path) else newest
    elif given == "hpc":
        found = _hpc(folder or runs)
    else:
        path = Path(given).expanduser()
        found = path if path.is_file() or is_sharded(path) else _no_checkpoint(path, fitting)
    if isinstance(found, ConfigError):
        raise found
    os.environ[RANKS] = str(found.absolute())
    return found.absolute()


def _last(runs: Path, folder: Path | None, fitting: bool) -> Path | ConfigError:
    """The newest checkpoint of the folder whose newest one is the newest."""
    if folder is not None and (fitting or checkpoints(folder)):
        candidates, looked = [folder], f"{folder}/checkpoints"
    else:
        candidates, looked = [p for p in runs.glob("*") if p.is_dir()], f"{runs}/*/checkpoints"
    newest = [found[0] for p in candidates if (found := checkpoints(p))]
    return max(newest, key=lambda p: (p.stat().st_mtime_ns, run_of(p).name), default=None) or ConfigError(
        "ckpt_path",
        f"there is no checkpoint in {looked}.",
        "Leave it out to begin a run, or give the run.name, the trainer.default_root_dir or the path of one.",
    )


def _best(newest: Path) -> Path | ConfigError:
    """The best checkpoint of a run, as its newest one records it."""
    check_intact(newest)
    state = read(newest).get("callbacks", {}).get("RoundCheckpoint", {})
    best = newest.with_name(Path(state.get("best_model_path") or "none").name)
    if state.get("monitor") is not None and best.exists():
        return best
    return ConfigError(
        "ckpt_path",
        f"is best, but the run {run_of(newest)} did not rank its checkpoints.",
        "Give a path, or last; checkpoint.monitor ranks them.",
    )


def _hpc(folder: Path) -> Path | ConfigError:
    numbered = {p: int(m[1]) for p in folder.glob("hpc_ckpt_*.ckpt") if (m := re.search(r"_(\d+)\.ckpt$", p.name))}
    return max(numbered, key=lambda p: numbered[p], default=None) or ConfigError(
        "ckpt_path", f"is hpc, but SLURM has left no hpc_ckpt_*.ckpt in {folder}.", "Give a path, or last."
    )


def _no_checkpoint(path: Path, fitting: bool) -> ConfigError:
    """What a path is that is no checkpoint, with the checkpoint that was probably meant."""
    if (path / "config.json").is_file():
        return ConfigError(
            "ckpt_path", f"{path} is a student, not a checkpoint of a run.", "To begin from it: --model.student."
        )
    if path.is_dir():
        near = [p for folder in (path, path.parent) for p in checkpoints(folder)]
        near += [p for p in path.glob("*.ckpt") if p.is_file()]
        problem = f"{path} is a folder without a sharded checkpoint."
    else:
        near = [p for p in checkpoints(run_of(path)) if p.parent == path.absolute().parent]
        problem = f"{path} is not there."
    student = "" if fitting else ", or a student: a folder (runs/.../student) or a hub id"
    example = near[0] if near else "runs/.../checkpoints/last.ckpt"
    return ConfigError("ckpt_path", problem, f"Give a checkpoint, such as {example}{student}.")


def check_intact(path: Path) -> None:
    """Raises: ConfigError for a truncated or damaged checkpoint; it names the newest intact one beside it."""
    if (wrong := damage(path)) is not None:
        intact = next((p for p in checkpoints(run_of(path)) if p.name != path.name and damage(p) is None), None)
        hint = f"The newest intact one is {intact}." if intact else "No other checkpoint of the run is intact."
        raise ConfigError("ckpt_path", f"{path} {wrong}.", hint)
