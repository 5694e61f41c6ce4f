"""An interrupted evaluation: how it goes on; and how far the student of a checkpoint was trained."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovd_lightning.evaluation.names import AVERAGE

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


def finished(folders: Sequence[Path], stem: str, settings: Mapping[str, Any], prefix: str) -> dict[str, float] | None:
    """What an evaluation measured (see ``Evaluation.values``) that is whole on the disk, done with these settings and
    hence these weights; None where there is none, e.g. because it was interrupted.

    Args:
        folders: of evaluations, the first one that has it counts.
        stem: e.g. validation-000800.
        prefix: of the metrics' names.
    """
    wanted = json.loads(json.dumps(settings))
    for folder in folders:
        try:
            found = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(found, dict) or found.get("settings") != wanted:
            continue
        scores = {name: entry["scores"] for name, entry in found["benchmarks"].items()} | {AVERAGE: found[AVERAGE]}
        return {
            f"{prefix}/{name}/{kind}": score["value"]
            for name, kinds in scores.items()
            for kind, score in kinds.items()
            if score["value"] is not None
        }
    return None


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
