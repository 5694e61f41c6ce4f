"""Files that appear complete or not at all, however the process ends; and what cannot be written, in one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.stop import shielded

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OUTSIDE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ESTALE, errno.ENAMETOOLONG)
"""Errors whose cause is the machine, not the program."""


def unwritable(path: Path | str, error: OSError) -> RunError:
    """The one line for a file that could not be written."""
    hint = "Free space there" if error.errno in FULL else "Make it writable"
    reason = error.strerror or str(error)
    return RunError(f"{path} could not be written: {reason}. {hint}, or choose another folder; then continue the run.")


def partial(path: Path) -> Path:
    """Where a file or folder is written before it gets its name: beside it, hence in the same file system."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replacing(path: Path | str, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A file to write to, which replaces ``path`` in one move when the block ends and is removed when it raises.

    It is on the disk, with its name, before the old one is gone. Folders above it are made.

    Args:
        mode: "w" (UTF-8) or "wb".
        options: of ``open``, e.g. newline.

    Raises: RunError that names the path: no space, no permission.
    """
    path = Path(path)
    target, raw = partial(path), None
    with shielded():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = _Written(target, "w")
            buffered = io.BufferedWriter(raw, 1 << 20)
            stream: IO[Any] = buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8", **options)
            yield stream
            stream.flush()
            os.fsync(raw.fileno())
            stream.close()
            os.replace(target, path)
            sync_folder(path.parent)
        except BaseException as error:
            # a writer in between may raise an error of its own for ours
            cause = raw.error if raw is not None and raw.error is not None else error
            if raw is not None:
                with contextlib.suppress(OSError):
                    os.close(raw.fileno())
            with contextlib.suppress(OSError):
                target.unlink()
            if isinstance(cause, OSError) and cause.errno in (*OUTSIDE, errno.EEXIST, errno.EISDIR):
                raise unwritable(path, cause) from error
            raise


class _Written(io.FileIO):
    """Remembers why a write failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:  # a file of the disk takes it
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def first_free(name: Callable[[int], Path], start: int = 1) -> Path:
    """The first of name(start), name(start + 1), ... that is not there."""
    return next(path for n in itertools.count(start) if not os.path.lexists(path := name(n)))


def new_folder(parent: Path) -> Path:
    """<parent>/<time>, or <time>-2, <time>-3, ... where it is taken; made here, so no other process has it.

    Raises: OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in itertools.count(1):
        folder = parent / (name if n == 1 else f"{name}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def write_text(path: Path | str, text: str) -> None:
    """Raises: RunError."""
    with replacing(path) as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """A file's name is on the disk. Not every file system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """A file or folder that is complete takes the place of another, which is there until then.

    Its contents are brought to the disk first.
    """
    with shielded():
        for path in [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.is_dir() or (source.is_dir() and target.exists()):
            old = target.with_name(f".{target.name}.old")
            remove(old)
            if _exchange(source, target):
                source.rename(old)
            else:
                target.rename(old)
                source.rename(target)
            remove(old)
        else:
            os.replace(source, target)
        sync_folder(target.parent)


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Two names change places in one step, where the system can do that."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def same_file(source: Path, target: Path) -> None:
    """``target`` becomes a second name of ``source``, in one move; a copy where a file can have only one name."""
    with shielded():
        name = partial(target)
        try:
            remove(name)
            os.link(source, name)
        except OSError:
            with source.open("rb") as file, replacing(target, "wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 24)
            return
        move(name, target)


def check_writable(setting: str, folder: Path | str) -> None:
    """Make a folder and see that a file can be written there.

    Raises: ConfigError.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(setting, f"{folder} cannot be written to ({reason}).", "Choose another folder.") from error
