"""The package's parts are layers, and docs/structure.md shows them as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from docs import structure

ROOT = Path(__file__).parents[1]


def test_the_layers_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # in this process it disables all loggers
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_is_of_these_imports() -> None:
    drawn = structure.svg(structure.layers(), structure.imports())
    assert structure.FIGURE.read_text() == drawn, "run python docs/structure.py"
    assert 'class="up"' not in drawn


def test_no_file_is_long() -> None:
    files = [*(ROOT / "ovd_lightning").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert len(files) > 200
    long = {str(file.relative_to(ROOT)): n for file in files if (n := len(file.read_text().splitlines())) > 400}
    assert not long


def test_every_part_has_a_line() -> None:
    text = (ROOT / "docs/structure.md").read_text()
    described = re.findall(r"^\| `(\w+)", text, re.MULTILINE)
    assert described == [part for row in structure.layers() for part in row]
