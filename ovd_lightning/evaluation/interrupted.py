"""An interrupted evaluation: how it goes on; and how far the student of a checkpoint was trained."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = ("__main__.py", "ovd-lightning")
"""Last parts of ``sys.argv[0]`` when the command line runs."""


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


def trained_updates(checkpoint: str | Path | None) -> int | None:
    """``global_step`` of a Lightning checkpoint file, without reading its tensors; None where there is no such file.

    Outside ``fit`` the trainer's own ``global_step`` stays 0.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    import torch

    # As trusted as for Lightning, which has just loaded the whole of it.
    loaded = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
    step = loaded.get("global_step") if isinstance(loaded, dict) else None
    return None if step is None else int(step)
