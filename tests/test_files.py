"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.files import check_writable, move, replacing, same_file, write_text


def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old")
    with pytest.raises(AttributeError), replacing(path) as file:
        file.writelines(text.lower() for text in ("half", None))  # type: ignore[union-attr]
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    code = f"""
import os, signal
from ovd_lightning.files import replacing
with replacing({str(path)!r}, "wb") as file:
    file.write(b"x" * (1 << 22))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    with replacing(path, "wb") as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_full_disk_is_one_line_that_names_the_file(limit: int, tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk's; torch's writer has an error of its own for it."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    code = f"""
import resource, signal, sys, torch
from ovd_lightning.errors import RunError
from ovd_lightning.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with replacing({str(path)!r}, "wb") as file:
        torch.save({{"a": torch.zeros(1 << 20)}}, file)
except RunError as error:
    print(error)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"{path} could not be written: File too large. Free space there" in done.stdout
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(text)
    move(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/deep/file").read_text() == "2"
    move(tmp_path / "old", tmp_path / "fresh")
    assert [p.name for p in tmp_path.iterdir()] == ["fresh"]


def test_a_second_name_outlives_the_first(tmp_path: Path) -> None:
    for text in ("1", "2"):
        (tmp_path / text).write_text(text)
        same_file(tmp_path / text, tmp_path / "last")
        (tmp_path / text).unlink()
        assert (tmp_path / "last").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_what_cannot_be_a_folder_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below", tmp_path / "\0", tmp_path / ("x" * 300), Path("/proc")):
        with pytest.raises(ConfigError, match=r"run\.root: .*cannot be written to"):
            check_writable("run.root", folder)
    with pytest.raises(RunError, match="could not be written: File exists"):
        write_text(tmp_path / "file/below", "")
    check_writable("run.root", tmp_path / "a/b")
    assert not os.listdir(tmp_path / "a/b")
