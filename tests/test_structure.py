"""The package's parts are layers, and docs/structure.md shows them as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from docs import structure

ROOT = Path(__file__).parents[1]


def test_the_layers_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    code = lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert code == 0, capsys.readouterr().out


def test_the_picture_is_of_these_imports() -> None:
    drawn = structure.svg(structure.layers(), structure.imports())
    assert structure.FIGURE.read_text() == drawn, "run python docs/structure.py"
    assert 'class="up"' not in drawn


def test_every_part_has_a_line() -> None:
    text = (ROOT / "docs/structure.md").read_text()
    described = re.findall(r"^\| `(\w+)", text, re.MULTILINE)
    assert described == [part for row in structure.layers() for part in row]
