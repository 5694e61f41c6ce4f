"""What a checkpoint records of the settings it was trained with, and what of them a resumed run may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.lora import Adapter, LoRA, base_name, empty_model
from ovd_lightning.resume.damage import read

KEY = "ovd_lightning"
"""Under which the record stands in a Lightning checkpoint."""
VERSION = 1

FIXED = {
    "data.epochs_per_round": "the updates of a round are counted by it",
    "data.mini_batches": "the updates of a round are counted by it",
    "data.problems_per_round": "it says which problems are next",
    "model.optimizer": "the checkpoint holds its state",
    "model.lora": "the checkpoint holds what was trained, an adapter or all weights",
    "seed_everything": "it says which problems are next, and what is sampled",
}
"""Settings that a resumed run shares with its checkpoint, and why."""


@dataclass(slots=True, frozen=True)
class Progress:
    """How far a checkpoint was trained."""

    updates: int
    """global_step."""
    rounds: int
    """Finished rounds."""


def class_path(instance: object) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def make(
    settings: Mapping[str, Any], updates: int, resumed: Progress, base_digest: str | None = None
) -> dict[str, Any]:
    """The record of a checkpoint that is written now.

    Args:
        settings: setting -> value, plain data: those of ``FIXED``, and those whose change is worth a line.
        updates: global_step.
        resumed: of the checkpoint that the run itself was resumed from.
        base_digest: of the frozen weights that an adapter was trained over.
    """
    rounds, inside = divmod(updates - resumed.updates, _updates_per_round(settings))
    return {
        "version": VERSION,
        "rounds": resumed.rounds + rounds,
        "updates_in_round": inside,
        "settings": dict(settings),
        "base_digest": base_digest,
    }


def _updates_per_round(settings: Mapping[str, Any]) -> int:
    return int(settings["data.epochs_per_round"] * settings["data.mini_batches"])


def compare(checkpoint: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Progress, list[str]]:
    """How far a checkpoint was trained, and what differs from it, in words. What may differ is this run's.

    Args:
        now: the settings of this run, see :func:`make`.

    Raises: ConfigError for what must not differ, and for a checkpoint from which training cannot continue.
    """
    raise_errors(_unusable(checkpoint))
    updates, record = int(checkpoint["global_step"]), checkpoint.get(KEY)
    if record is None:  # of version 0.1
        rounds, inside = divmod(updates, _updates_per_round(now))
        then: Mapping[str, Any] = {}
        notes = ["the checkpoint holds no record of its settings (an earlier version wrote it): they are not compared"]
    else:
        rounds, inside, then = record["rounds"], record["updates_in_round"], record["settings"]
        notes = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    raise_errors(_conflicts(Progress(updates, rounds), inside, then, now))
    return Progress(updates, rounds), notes


def _unusable(checkpoint: Mapping[str, Any]) -> Iterator[ConfigError]:
    if "global_step" not in checkpoint or "loops" not in checkpoint:
        yield ConfigError(
            "ckpt_path", "is no checkpoint of a training run.", "Give one that `fit` wrote; a student is model.student."
        )
    elif checkpoint.get(KEY, {}).get("version", VERSION) > VERSION:
        yield ConfigError("ckpt_path", "was written by a later version of ovd_lightning.", "Upgrade it.")


def _conflicts(
    progress: Progress, inside: int, then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[ConfigError]:
    """Settings that must be the checkpoint's and are not; progress from which this run cannot continue.

    Args:
        inside: updates of the round that the checkpoint was written in.
    """
    for name, why in FIXED.items():
        if name in then and then[name] != now[name]:
            yield ConfigError(
                name,
                f"is {now[name]}, and the checkpoint was trained with {then[name]}: {why}.",
                f"Resume with {then[name]}, or begin a new run from the trained student "
                "(model.student: runs/.../student).",
            )
    if inside:
        yield ConfigError(
            "ckpt_path",
            f"is a checkpoint after {progress.updates} updates, in the middle of a round of {_updates_per_round(now)}.",
            "Give one from the end of a round: RoundCheckpoint writes no other.",
        )
    elif progress.rounds > now["data.rounds"]:
        yield ConfigError(
            "data.rounds",
            f"is {now['data.rounds']}, and the checkpoint has {progress.rounds} rounds behind it.",
            "Raise it.",
        )


def base_errors(checkpoint: Mapping[str, Any], student: str, base_digest: str | None) -> Iterator[ConfigError]:
    """That an adapter was trained over other weights than ``student``'s, whose digest is given."""
    then = checkpoint.get(KEY, {}).get("base_digest")
    if then is not None and base_digest is not None and then != base_digest:
        yield ConfigError(
            "model.student",
            f"is {student}, and the checkpoint's adapter was trained over other weights (digest {then}, here "
            f"{base_digest}).",
            "Give the student that the run began with.",
        )


def student_errors(checkpoint: Mapping[str, Any], student: str, lora: LoRA | None = None) -> Iterator[ConfigError]:
    """That the checkpoint's weights are not those of the student's architecture, or of its adapter.

    Of a sharded checkpoint, whose tensors are in other files, nothing is compared.
    """
    prefix = "student.hf."
    saved = {n.removeprefix(prefix): tuple(t.shape) for n, t in checkpoint.get("state_dict", {}).items()}
    adapted = bool(saved) and all(base_name(name) is None for name in saved)
    if adapted and lora is None:
        yield ConfigError("model.lora", "is null, and the checkpoint holds an adapter.", "Set it as the run had it.")
        return
    if saved and not adapted and lora is not None:
        yield ConfigError(
            "model.lora",
            "is set, and the checkpoint holds a whole student.",
            "Set it to null, or begin a new run from the trained student (model.student: runs/.../student).",
        )
        return
    expected = (_shapes(student, lora) if saved else None) or {}
    wrong = [n for n, shape in saved.items() if n in expected and expected[n] != shape]
    wrong += [n for n in expected if n not in saved]
    if wrong:
        was, needed = saved.get(wrong[0]), list(expected[wrong[0]])
        yield ConfigError(
            "model.student",
            f"is {student}, of another architecture than the checkpoint's student: {wrong[0]} is {needed} there and "
            f"{'missing' if was is None else list(was)} in the checkpoint.",
            "Give the student that the run began with.",
        )


def _shapes(student: str, lora: LoRA | None) -> dict[str, tuple[int, ...]] | None:
    """What is trained -> shape, without loading a parameter; None where the configuration alone does not say."""
    model = empty_model(student)
    if model is None:
        return None
    if lora is not None:
        try:
            Adapter(model, lora)
        except (ImportError, ValueError):  # no peft, or no such targets: the preflight says so
            return None
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def check(
    path: Path,
    now: Mapping[str, Any],
    *,
    lora: LoRA | None = None,
    max_steps: int = -1,
    over: str | None = None,
    weights_only: bool | None = None,
) -> tuple[Progress, list[str]]:
    """Everything about a resumed run that can be known before a model is loaded; see :func:`compare`.

    Args:
        now: the settings of this run, see :func:`make`.
        lora: of this run's student.
        max_steps: of the trainer; below 0: no limit.
        over: what to do where all rounds are trained; None: the run has not come to its end, so that its evaluation
            and its student are left to do.
    Raises: ConfigError.
    """
    checkpoint = read(path, weights_only)
    progress, notes = compare(checkpoint, now)
    wrong = student_errors(checkpoint, now["model.student"], lora)
    raise_errors([*wrong, *_nothing_left(progress, now, max_steps, over)])
    return progress, notes


def _nothing_left(
    progress: Progress, now: Mapping[str, Any], max_steps: int, over: str | None
) -> Iterator[ConfigError]:
    if progress.rounds == now["data.rounds"] and over is not None:
        yield ConfigError("data.rounds", f"is {progress.rounds}, and all of them are trained.", over)
    if 0 <= max_steps <= progress.updates:
        yield ConfigError(
            "trainer.max_steps",
            f"is {max_steps}, and the checkpoint has {progress.updates} updates behind it: nothing is left to train.",
            "Raise it, or use data.rounds alone.",
        )
