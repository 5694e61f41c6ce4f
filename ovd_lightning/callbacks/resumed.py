"""Evaluations that a run still owes, or has had, at the step that it is resumed at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from ovd_lightning.evaluation.names import PREFIX, EvalSplit
from ovd_lightning.evaluation.results import saved_values
from ovd_lightning.run_folder import continuation


def had(trainer: L.Trainer, folder: Path, split: EvalSplit, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """What a finished evaluation of this step measured; None: it was never begun, or interrupted. Collective.

    Args:
        folder: of evaluations. That of the run that was resumed from may be another.
    """
    folders = [folder]
    if trainer.ckpt_path is not None:
        folders.append(Path(str(trainer.ckpt_path)).absolute().parents[1] / "evaluations")
    stem = f"{split}-{trainer.global_step:06d}"
    values = saved_values(folders, stem, settings, PREFIX[split]) if trainer.is_global_zero else None
    return trainer.strategy.broadcast(values)


def how_it_goes_on(trainer: L.Trainer) -> str:
    """After an evaluation was interrupted, in a sentence."""
    if trainer.state.fn == "fit":
        return "It goes on with the run."
    checkpoint = str(trainer.ckpt_path) if trainer.ckpt_path else None  # the one that "last" was
    command = continuation(Path(trainer.default_root_dir), checkpoint)
    return f"It goes on with\n  {command}" if command else "It goes on when it is repeated with the same folder."


def validate_first(trainer: L.Trainer) -> None:
    """Lightning's own validation, as in training, at the step that a run is resumed at: Lightning leaves it out."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    first = connector._first_loop_iter
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first
