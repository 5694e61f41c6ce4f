"""Time and disk of a run: disk is exact, time an estimate from what a GPU is assumed to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovd_lightning.callbacks.checkpoint import RoundCheckpoint
from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.memory import EngineMemory, Setup
from ovd_lightning.dry_run.shape import ModelShape

MOMENTS = 2


@dataclass(slots=True, kw_only=True, frozen=True)
class Disk:
    """Bytes in the run's folder at its fullest."""

    checkpoint: int
    """Parameters and AdamW's moments; of the method's own model, too."""
    files: int
    """Checkpoints that are kept, and the one that is being written."""
    student: int
    """The exported one."""

    @property
    def total(self) -> int:
        return self.checkpoint * self.files + self.student


def disk_of(
    shape: ModelShape,
    setup: Setup,
    rounds: int,
    checkpoint: RoundCheckpoint,
    trainer: Mapping[str, Any],
    beside: int = 0,
) -> Disk:
    """Transcripts, metrics and evaluations are left out: they are text.

    Args:
        beside: bytes of what the method saves in a checkpoint beside the student.
    """
    size = shape.parameters * setup.parameter_bytes
    written = -(-rounds // checkpoint.every_n_rounds)
    kept = written if checkpoint.save_top_k == -1 else min(written, max(1, checkpoint.save_top_k))
    files = 0 if trainer.get("enable_checkpointing") is False else kept + (1 if kept < written else 0)
    return Disk(checkpoint=(1 + MOMENTS) * size + beside, files=files, student=size)


@dataclass(slots=True, kw_only=True, frozen=True)
class Times:
    """Seconds of a round on one of equal ranks. Teacher, grading and evaluations are not in it."""

    generate: float
    train: float

    @property
    def round(self) -> float:
        return self.generate + self.train


def times_of(
    shape: ModelShape, setup: Setup, engine: EngineMemory | None, trajectories: int, updates: int, response: int,
    assumed: Assumptions,
) -> Times | None:  # fmt: skip
    """Of a round on GPUs; None where no engine of this process generates on one.

    Training: 6 operations a parameter and token, 2 more for each further forward pass (recomputed activations, the
    reference, old log-probabilities), at the speed assumed. Generation: as many sequences together as keys and values
    have room for, each step of which reads the weights and the sequences' keys and values once.
    """
    if engine is None or engine.cache is None or not engine.weights or not setup.context:
        return None
    rows = -(-trajectories // setup.ranks)
    length = assumed.prompt_tokens + response
    passes = 6 + 2 * (setup.gradient_checkpointing + setup.reference + (updates > 1))
    train = passes * shape.parameters * rows * length / (assumed.tflops * 1e12)
    together = max(1, min(rows, engine.cache // (engine.cache_per_token * length), 256))
    read = engine.weights + together * engine.cache_per_token * (assumed.prompt_tokens + response / 2)
    generate = rows / together * response * read / (assumed.bandwidth * 1e9)
    return Times(generate=generate, train=train)
