"""Which checkpoint ``--ckpt_path`` means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ovd_lightning.errors import ConfigError
from ovd_lightning.resume.whole import damage, is_sharded, read

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
    if given == "last":
        path = checkpoints(_run(runs, folder, fitting))[0]
    elif given == "best":
        path = _best(_run(runs, folder, fitting))
    elif given == "hpc":
        path = _hpc(folder or runs)
    else:
        path = Path(given).expanduser()
        _check_is_checkpoint(path)
    os.environ[RANKS] = str(path.absolute())
    return path.absolute()


def _run(runs: Path, folder: Path | None, fitting: bool) -> Path:
    """The folder that "last" and "best" speak of: the one whose newest checkpoint is the newest."""
    if folder is not None and (fitting or checkpoints(folder)):
        candidates, looked = [folder], f"{folder}/checkpoints"
    else:
        candidates, looked = [p for p in runs.glob("*") if p.is_dir()], f"{runs}/*/checkpoints"
    newest = {p: found[0].stat().st_mtime_ns for p in candidates if (found := checkpoints(p))}
    if not newest:
        raise ConfigError(
            "ckpt_path",
            f"there is no checkpoint in {looked}.",
            "Leave it out to begin a run, or give the run.name, the trainer.default_root_dir or the path of one.",
        )
    return max(newest, key=lambda p: (newest[p], p.name))


def _best(folder: Path) -> Path:
    newest = checkpoints(folder)[0]
    check_whole(newest)
    state = read(newest).get("callbacks", {}).get("RoundCheckpoint", {})
    best = folder / "checkpoints" / Path(state.get("best_model_path") or "none").name
    if state.get("monitor") is None or not best.exists():
        raise ConfigError(
            "ckpt_path",
            f"is best, but the run {folder} did not rank its checkpoints.",
            "Give a path, or last; checkpoint.monitor ranks them.",
        )
    return best


def _hpc(folder: Path) -> Path:
    numbered = {p: int(m[1]) for p in folder.glob("hpc_ckpt_*.ckpt") if (m := re.search(r"_(\d+)\.ckpt$", p.name))}
    if not numbered:
        raise ConfigError(
            "ckpt_path", f"is hpc, but SLURM has left no hpc_ckpt_*.ckpt in {folder}.", "Give a path, or last."
        )
    return max(numbered, key=lambda p: numbered[p])


def _check_is_checkpoint(path: Path) -> None:
    if path.is_file() or is_sharded(path):
        return
    if (path / "config.json").is_file():
        raise ConfigError(
            "ckpt_path", f"{path} is a student, not a checkpoint of a run.", "To begin from it: --model.student."
        )
    if path.is_dir():
        inside = [p for folder in (path, path.parent) for p in checkpoints(folder)]
        inside += [p for p in path.glob("*.ckpt") if p.is_file()]
        hint = f"Give a file, such as {inside[0]}." if inside else "Give a file: runs/.../checkpoints/last.ckpt."
        raise ConfigError("ckpt_path", f"{path} is a folder without a sharded checkpoint.", hint)
    others = [p for p in checkpoints(run_of(path)) if p.parent == path.absolute().parent]
    hint = (
        f"Beside it there is {others[0]}." if others else "Give a checkpoint (runs/.../checkpoints/last.ckpt) or last."
    )
    raise ConfigError("ckpt_path", f"{path} is not there.", hint)


def check_whole(path: Path) -> None:
    """Raises: ConfigError for a truncated or damaged checkpoint; it names the newest whole one beside it."""
    wrong = damage(path)
    if wrong is None:
        return
    whole = next((p for p in checkpoints(run_of(path)) if p.name != path.name and damage(p) is None), None)
    hint = f"The newest whole one is {whole}." if whole else "No other checkpoint of the run is whole."
    raise ConfigError("ckpt_path", f"{path} {wrong}.", hint)
