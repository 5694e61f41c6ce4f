"""What a method trains beside the student: GAD's discriminator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ovd_lightning.dry_run.memory import Part, Setup, activations
from ovd_lightning.dry_run.shape import SINGLE, ModelShape, read_config, shape_of
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.discriminator import SETTING
from ovd_lightning.methods.gad import GAD
from ovd_lightning.pretrained import check_path


@dataclass(slots=True, kw_only=True, frozen=True)
class Beside:
    """A model with a gradient and an optimiser of its own."""

    setting: str
    shape: ModelShape
    held: Part
    """On the device from the first round to the end."""
    update: Part
    """A phase of a round, and what it adds."""
    saved: int
    """Bytes in a checkpoint."""


def beside_student(method: Method, student: ModelShape, setup: Setup, length: int) -> Beside | None:
    """In float32 on every rank, a group at a time.

    Raises: ConfigError where its config.json cannot be read.
    """
    if not isinstance(method, GAD):
        return None
    shape = student
    if method.path is not None:
        check_path(SETTING, method.path)
        shape = shape_of(method.path, read_config(SETTING, method.path))
    words = 0 if shape.tied else shape.vocabulary * shape.hidden  # the head of an untied model computes nothing
    trained = shape.parameters - words + shape.hidden + 1
    frozen = f", {words:,} x 4 B" if words else ""
    rows = method.group_size + method.demonstrations
    read = replace(
        setup,
        parameter_bytes=SINGLE,
        autocast=False,
        gradient_checkpointing=method.checkpointing,
        rows=rows,
        length=length,
        sharding="none",
        adapter=None,
    )
    kept, transient, _ = activations(shape, read)
    return Beside(
        setting=SETTING,
        shape=shape,
        held=Part(
            name="discriminator",
            bytes=4 * SINGLE * trained + SINGLE * words,
            how=f"{trained:,} x 16 B{frozen}: weights, gradients, two moments, whole on every rank",
        ),
        update=Part(
            name="discriminator's update",
            bytes=kept + transient,
            how=f"estimate: activations of {rows} rows of {length} tokens",
        ),
        saved=3 * SINGLE * trained,
    )
