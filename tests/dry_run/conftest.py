"""Fixtures of the dry run's tests."""

from __future__ import annotations

import json

import pytest

from tests.dry_run.parts import MATH_1_5B
from tests.workflow import cli


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with nothing but the config.json of the paper's student."""
    folder = tmp_path_factory.mktemp("student")
    (folder / "config.json").write_text(json.dumps(MATH_1_5B))
    return str(folder)
