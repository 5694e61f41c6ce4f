"""Rows of the Web Q&A sets, made up, as many as there must be; in their own fields and in the common shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovd_lightning.tasks.web_benchmarks import ENTRIES, Entry


def own_rows(name: str, size: int | None = None) -> list[dict[str, Any]]:
    """As the hub has them: FlashRAG's fields, or GAIA's."""
    entry = ENTRIES[name]
    numbers = range(entry.size if size is None else size)
    return [_gaia(i) for i in numbers] if name == "gaia" else [_flashrag(entry, i) for i in numbers]


def _flashrag(entry: Entry, i: int) -> dict[str, Any]:
    return {
        "id": f"{entry.source.split}_{i}",
        "question": f"which town has bridge {i}",
        "golden_answers": [f"Ostrava {i}", f"Town of Ostrava {i}", ""],
        "metadata": {"note": f"bridge {i}"},
    }


def _gaia(i: int) -> dict[str, Any]:
    file = f"{i}.xlsx" if i % 4 == 0 else ""
    return {
        "task_id": f"0000-{i:04d}",
        "Question": f"In table {i}, which town has the bridge?",
        "Level": str(1 + i % 3),
        "Final answer": str(1913 + i) if i % 2 else f"Ostrava {i}",
        "file_name": file,
        "file_path": f"2023/validation/{file}" if file else "",
        "Annotator Metadata": {"Steps": "1. Look.", "Number of steps": "1", "Tools": "none", "Number of tools": "0"},
    }


def common_rows(name: str, size: int | None = None) -> list[dict[str, Any]]:
    """As a local copy may have them."""
    entry = ENTRIES[name]
    return [
        {
            "id": f"{name}-{entry.source.split}_{i}",
            "question": f"which town has bridge {i}",
            "answers": [f"Ostrava {i}", f"Town of Ostrava {i}"],
            "meta": {"flashrag_id": f"{entry.source.split}_{i}", "split": entry.source.split},
        }
        for i in range(entry.size if size is None else size)
    ]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def write_copies(folder: Path, size: int = 500) -> str:
    """A folder with the eight sets of Table 3: the first ``size`` rows of seven, GAIA whole in its own fields."""
    for name, entry in ENTRIES.items():
        if name == "gaia":
            write_jsonl(folder / "gaia.jsonl", own_rows("gaia"))
        else:
            write_jsonl(folder / f"{name}.jsonl", common_rows(name, min(size, entry.size)))
    return str(folder)
