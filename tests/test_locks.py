"""One process a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.locks import FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from ovd_lightning.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]), "a.setting")
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_it_until_that_one_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"a\.setting: {tmp_path} is in use by process {holder.pid} on .* since"):
            FolderLock(tmp_path, "a.setting")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    FolderLock(tmp_path, "a.setting").release()
    FolderLock(tmp_path, "a.setting").release()


def test_the_lock_of_a_run_covers_its_evaluations(tmp_path: Path) -> None:
    run = FolderLock(tmp_path, "a.setting")
    assert FolderLock.beside(tmp_path, tmp_path / "evaluations", "b") is None
    assert FolderLock.beside(tmp_path, tmp_path, "b") is None
    other = FolderLock.beside(tmp_path, tmp_path / "shared", "b")
    assert other is not None
    with pytest.raises(ConfigError, match=rf"b: .*/shared is in use by process {os.getpid()} "):
        FolderLock.beside(tmp_path / "another", tmp_path / "shared", "b")
    other.release()
    run.release()
