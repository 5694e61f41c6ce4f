"""The evaluations of a run as tables: a row each with the accuracy on every benchmark, and the last one in full."""

from __future__ import annotations

from typing import Any

from ovd_lightning.report.read import Run
from ovd_lightning.report.rounds import rounds_before


def evaluation_tables(run: Run) -> list[dict[str, Any]]:
    """One a split, "validation" first: ``split``, ``columns``, ``what`` (the accuracy that ``steps`` shows: [round that
    its weights begin, cells]), ``last`` (every row of the last evaluation) and ``caption``, how that was done.

    Only evaluations of the same benchmarks as the last one are in ``steps``.
    """
    tables = []
    for split in ("validation", "test"):
        found = [e for e in run.evaluations if e["split"] == split]
        if not found:
            continue
        last = found[-1]
        alike = [e for e in found if e["table"]["columns"] == last["table"]["columns"]]
        tables.append(
            {
                "split": split,
                "columns": [str(column) for column in last["table"]["columns"][1:]],
                "what": str(last["table"]["rows"][0][0]),
                "steps": [(_when(run, e["step"]), [_cell(c) for c in e["table"]["rows"][0][1:]]) for e in alike],
                "last": [(str(row[0]), [_cell(c) for c in row[1:]]) for row in last["table"]["rows"]],
                "caption": str(last.get("caption", "")),
            }
        )
    return tables


def _when(run: Run, step: int) -> int:
    rounds = rounds_before(run.metrics, step)
    return step if rounds is None else int(rounds)


def _cell(value: Any) -> str:
    """A count as it is, a percentage with one digit; "" where there is none."""
    return f"{value:.1f}" if isinstance(value, float) else "" if value is None else str(value)
