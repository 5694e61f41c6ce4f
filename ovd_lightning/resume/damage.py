"""Whether a checkpoint is intact: torch reads back flipped bits without complaint."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ovd_lightning.errors import ConfigError

METADATA = "meta.pt"
"""Of a sharded checkpoint: everything but its tensors."""


def is_sharded(path: Path) -> bool:
    """Whether a folder is a checkpoint of torch's distributed format."""
    return path.is_dir() and ((path / ".metadata").is_file() or (path / METADATA).is_file())


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None for one whose bytes are those that were written.

    torch.save writes a zip archive with a CRC-32 of every record, which torch.load does not look at. Reading a
    gigabyte takes about a second where the disk allows.

    Args:
        path: a file, or the folder of a sharded checkpoint.
    """
    try:
        return _damage_of_shards(path) if path.is_dir() else _damage_of_archive(path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except Exception as error:  # a damaged header raises whatever the misread field leads to
        return f"is damaged ({error})"


def _damage_of_archive(file: Path) -> str | None:
    if not zipfile.is_zipfile(file):
        return "is truncated, or no checkpoint" if file.stat().st_size else "is empty"
    with zipfile.ZipFile(file) as archive:
        bad = archive.testzip()
    return None if bad is None else f"is damaged (the checksum of {bad} is not that of its bytes)"


def _damage_of_shards(folder: Path) -> str | None:
    for name in (METADATA, ".metadata"):
        if not (folder / name).is_file():
            return f"is incomplete: {name} is missing"
    if (found := _damage_of_archive(folder / METADATA)) is not None:
        return f"{found} ({METADATA})"
    for file, start, length in _slices(folder):
        path = folder / file
        if not path.is_file():
            return f"is incomplete: {file} is missing"
        if path.stat().st_size < start + length:
            return f"is truncated ({file})"
        with path.open("rb") as stream:
            stream.seek(start)
            part = io.BytesIO(stream.read(length))
        if not zipfile.is_zipfile(part):
            return f"is damaged ({file})"
        with zipfile.ZipFile(part) as archive:
            if archive.testzip() is not None:
                return f"is damaged ({file})"
    return None


def _slices(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(file, first byte, bytes) of every tensor of a sharded checkpoint; each is an archive of its own."""
    from torch.distributed.checkpoint import FileSystemReader

    for info in (FileSystemReader(folder).read_metadata().storage_data or {}).values():
        yield info.relative_path, info.offset, info.length


def read(path: Path, weights_only: bool | None = None) -> dict[str, Any]:
    """A checkpoint without reading its tensors from the disk: they are mapped.

    Args:
        weights_only: as for Trainer.fit; None is torch's default, which restores data and no code.
    Raises: ConfigError for a checkpoint that holds more than data.
    """
    file = path / METADATA if path.is_dir() else path
    try:
        loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            "ckpt_path",
            f"{path} holds objects that only their own code can restore.",
            "Trust it with --weights_only false, or not at all.",
        ) from error
    return loaded if isinstance(loaded, dict) else {}


def trained_updates(checkpoint: str | Path | None) -> int | None:
    """``global_step`` of a Lightning checkpoint file, without reading its tensors; None where there is no such file.

    Outside ``fit`` the trainer's own ``global_step`` stays 0.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    # As trusted as for Lightning, which has just loaded all of it.
    loaded = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
    step = loaded.get("global_step") if isinstance(loaded, dict) else None
    return None if step is None else int(step)
