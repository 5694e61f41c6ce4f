"""Tables in Markdown, the machine they come from, and their place in a document."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MEASUREMENT = re.compile(r"^(?=`python -m )", re.MULTILINE)
"""Where one begins in a document: see `Section.text`."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The processor's name, the cores this process may use, and how busy the machine is."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = found.group(1) if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, load {os.getloadavg()[0]:.1f}"


@dataclass(frozen=True, slots=True)
class Section:
    """What a measurement found."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self, arguments: Sequence[str]) -> str:
        """The table with the command that printed it and the processor it ran on."""
        lines = [f"`{command(arguments)}` on {machine()}:", "", table(self.header, self.rows)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def command(arguments: Sequence[str]) -> str:
    """As a reader would repeat it: without what only says where files are."""
    words = iter(arguments)
    kept = [word for word in words if word not in ("--write", "--environment") or not next(words, None)]
    return shlex.join(["python", "-m", "benchmarks.speed", *kept])


def write(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the document's markers ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Of the measurements that are there, those stay in which something stands (a row's first cell) that this one has not
    measured: a table may be measured in parts.

    Raises: ValueError where the document has no such markers.
    """
    content = document.read_text()
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if first not in content or last not in content:
        raise ValueError(f"{document} has no markers {first.strip()} and {last}")
    before, rest = content.split(first, 1)
    there, after = rest.split(last, 1)
    parts = [part.strip() for part in _MEASUREMENT.split(there)]
    kept = [part for part in parts if _measured(part) - _measured(text)]
    document.write_text("\n\n".join([f"{before}{first.strip()}", *kept, text, f"{last}{after}"]))


def _measured(text: str) -> set[str]:
    """The first cells of a table's rows."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0] for line in lines[2:]}
