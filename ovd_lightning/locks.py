"""One process a folder: two that write the same files would interleave them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import warnings
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ovd_lightning.errors import ConfigError
from ovd_lightning.files import check_writable, write_text


class FolderLock:
    """Held by rank 0 from construction until :meth:`release` or the end of the process, however it ends.

    Args:
        folder: exists.
        setting: that names it.

    Raises: ConfigError, with the process that holds it.
    """

    def __init__(self, folder: Path, setting: str) -> None:
        self._lock = FileLock(folder / ".lock", timeout=0)
        holder = folder / ".lock-holder"
        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(
                setting, f"{folder} is in use by {_who(holder)}.", "Wait for its end, end it, or use another folder."
            ) from None
        except OSError as error:  # a network file system without locks
            warnings.warn(f"{folder} could not be locked ({error}): start no second run there", stacklevel=2)
            return
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        write_text(holder, json.dumps(mine) + "\n")

    @classmethod
    def beside(cls, run: Path, folder: Path, setting: str) -> FolderLock | None:
        """Of a folder that another run may write to as well; None where the lock of the run's own folder covers it.

        Raises: ConfigError, also where it cannot be written to.
        """
        if folder.resolve() in (run.resolve(), run.resolve() / "evaluations"):
            return None
        check_writable(setting, folder)
        return cls(folder, setting)

    def release(self) -> None:
        self._lock.release()


def _who(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    return "another process"
