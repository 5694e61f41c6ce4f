"""The notebooks of examples/ run as they are written, at a small size."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.workflow.cli import ROOT, environment

SMALL = {
    "data.rounds": 2, "data.problems_per_round": 2, "data.validation_limit": 4, "data.test_limit": 4,
    "benchmark.samples": 0, "run.wandb": "disabled",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    [first] = [cell for cell in notebook.cells if cell.cell_type == "code" and "SIZE = " in cell.source]
    first.source += f"\nSIZE = {{**SIZE, **{SMALL!r}}}\n"
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 1, "a picture of curves"
    assert 'install "ipywidgets"' not in "".join(output.get("text", "") for output in shown), (
        "lines of progress, not a display"
    )
    assert list(tmp_path.glob("runs/*/*/student/config.json"))
