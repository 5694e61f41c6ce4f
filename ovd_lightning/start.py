"""How a run of the command line starts: its checkpoint, its folder, and what the folder holds then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import raise_errors
from ovd_lightning.metrics_file import NAME, history
from ovd_lightning.module import OVDModule
from ovd_lightning.resume.damage import read
from ovd_lightning.resume.find import WORDS, check_intact, find, run_of
from ovd_lightning.resume.record import Progress, check, student_errors
from ovd_lightning.resume.rewind import rewind
from ovd_lightning.run_folder import checked_name, job_folder, read_state, write_state


def is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def resolve(config: Any, verb: str) -> Path | None:
    """The checkpoint of a command line, looked at byte by byte; None where none is given or Lightning fetches it.

    ``ckpt_path`` of the configuration becomes its path; and ``trainer.default_root_dir`` the run's own folder where
    ``fit`` is to continue the ``last``.

    Args:
        config: the parsed configuration of a subcommand, changed in place.
        verb: fit, validate, test or predict.
    Raises: ConfigError.
    """
    given = config.get("ckpt_path")
    fitting = verb == "fit"
    runs = Path(config["run.root"]) / checked_name(config["run.name"])
    folder = config.get("trainer.default_root_dir")
    folder = None if folder is None else Path(folder)
    if given is None and fitting and SLURMEnvironment.detect():
        job = folder or job_folder(runs)
        if job is not None and any(job.glob("hpc_ckpt_*.ckpt")):  # a requeued job: Lightning would take it, too
            given, folder = "hpc", job
    if given is None or "://" in str(given) or str(given).startswith("registry"):
        return None
    path = find(str(given), runs=runs, folder=folder, fitting=fitting)
    if is_rank_zero():
        check_intact(path)
        if str(given) in WORDS:
            rank_zero_info(f"ckpt_path: {given} is {path}")
    config["ckpt_path"] = str(path)
    if fitting and given in ("last", "hpc"):
        config["trainer.default_root_dir"] = str(run_of(path))
    return path


def check_start(
    checkpoint: Path, module: OVDModule, data: OVDDataModule, trainer: Mapping[str, Any], weights_only: bool | None
) -> Progress:
    """What ``fit`` resumes from, before anything is loaded or written; prints what differs from the checkpoint.

    Args:
        trainer: the configured arguments of Trainer.
    Raises: ConfigError.
    """
    run, over = run_of(checkpoint), None
    if not continues(checkpoint, trainer.get("default_root_dir")):
        over = f"Raise it, or finish the run in its folder: --ckpt_path last --trainer.default_root_dir {run}."
    elif read_state(run).get("finished", -1) >= data.rounds:
        over = "Raise it to go on."
    max_steps = trainer.get("max_steps")
    progress, notes = check(
        checkpoint,
        {**data.resume_settings(), **module.resume_settings()},
        lora=module.lora,
        max_steps=-1 if max_steps is None else max_steps,
        over=over,
        weights_only=weights_only,
    )
    rank_zero_info(f"resumes {checkpoint} after {progress.rounds} of {data.rounds} rounds")
    for note in notes:
        rank_zero_info(f"  {note}")
    if progress.rounds == data.rounds:
        rank_zero_info("  nothing is left to train: the evaluation, the student and the page are what is left")
    return progress


def check_evaluated(checkpoint: Path, module: OVDModule, weights_only: bool | None) -> None:
    """What an evaluation's checkpoint must be. Raises: ConfigError."""
    raise_errors(student_errors(read(checkpoint, weights_only), module.student_path, module.lora))


def continues(checkpoint: Path | None, folder: str | Path | None) -> bool:
    """Whether a run goes on in the folder of its checkpoint."""
    return checkpoint is not None and folder is not None and run_of(checkpoint).resolve() == Path(folder).resolve()


def begin(trainer: L.Trainer, checkpoint: Path | None, progress: Progress, wandb_id: str, command: str) -> None:
    """The folder as it was when the checkpoint was written, and the callbacks' memory of the rounds before.

    A run that begins anew in a folder with another's files moves them aside in the same way.

    Args:
        checkpoint: where the run continues in this folder; None: it begins here.
    """
    folder = Path(trainer.default_root_dir)
    earlier = history(folder / NAME, progress.updates) if checkpoint is not None else []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RolloutCallback):
            callback.history = [values for _, values in earlier if "round" in values]
        elif isinstance(callback, BenchmarkCallback):
            callback.remember(earlier)
    if not is_rank_zero():
        return
    state = read_state(folder) if checkpoint is not None else {}
    moved = rewind(folder, *((progress.updates, progress.rounds) if checkpoint else (-1, 0)), keep=checkpoint)
    if moved is not None:
        rank_zero_info(f"what {folder} held of later rounds is in {moved}")
    start = {"time": datetime.now().isoformat(timespec="seconds"), "rounds": progress.rounds, "command": command}
    write_state(folder, {"wandb_id": wandb_id, "finished": -1, "starts": [*state.get("starts", []), start]})


def end(trainer: L.Trainer, rounds: int) -> None:
    """Records that ``fit`` came to its end after so many rounds."""
    folder = Path(trainer.default_root_dir)
    if trainer.is_global_zero:
        write_state(folder, {**read_state(folder), "finished": rounds})
