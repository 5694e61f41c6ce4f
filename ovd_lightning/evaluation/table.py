"""The row of the paper's Table 4, and what has to stand beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ovd_lightning.evaluation.names import text_of
from ovd_lightning.evaluation.results import Evaluation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HIDDEN = ("sampled_accuracy", "pass@1")
"""The same number as avg@k."""


class Line(NamedTuple):
    """One row of the table."""

    label: str
    cells: list[float]
    """One a benchmark; percent, or a count."""
    average: float | None
    """Unweighted mean over benchmarks; None where that means nothing."""
    counts: bool = False
    """Cells are counts, not percentages."""

    def values(self) -> list[float | int | None]:
        """Cells and average, as `columns` heads them."""
        cells: list[float | int | None] = [
            None if math.isnan(cell) else int(cell) if self.counts else cell for cell in self.cells
        ]
        return [*cells, self.average] if len(cells) > 1 else cells


def columns(evaluation: Evaluation) -> list[str]:
    """Heads: "", the benchmarks in order, and "Avg." where there are several."""
    heads = [b.title + ("*" if b.tells_answer else "") for b in evaluation.benchmarks]
    return ["", *heads, "Avg."] if len(heads) > 1 else ["", *heads]


def lines(evaluation: Evaluation) -> list[Line]:
    """The table's rows: accuracies in percent with the standard error of the first, shares in percent, counts."""
    benchmarks, averages = evaluation.benchmarks, evaluation.averages()
    kinds = list(dict.fromkeys(kind for b in benchmarks for kind in b.scores if kind not in HIDDEN))
    shares = [kind for kind in kinds if "truncated" in kind or "share" in kind]
    found = []
    for kind in [*(kind for kind in kinds if kind not in shares), *shares]:
        scores = [b.scores.get(kind) for b in benchmarks]
        mean = averages.get(kind)
        cells = [100 * s.value if s else math.nan for s in scores]
        found.append(Line(text_of(kind), cells, 100 * mean.value if mean else None))
        if len(found) == 1:
            errors = [100 * s.error if s else math.nan for s in scores]
            found.append(Line("± standard error", errors, 100 * mean.error if mean else None))
    found.append(Line("checker timed out", [float(b.timeouts) for b in benchmarks], None, counts=True))
    found.append(Line("problems", [float(b.answered) for b in benchmarks], None, counts=True))
    return found


def render(evaluation: Evaluation, console: Console) -> Table:
    """Benchmarks as columns as in the paper, or as rows where the console is too narrow for that."""
    wide = _table(evaluation, turned=False)
    needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
    return wide if needed <= console.width else _table(evaluation, turned=True)


def _table(evaluation: Evaluation, turned: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = lines(evaluation)
    cells = [columns(evaluation), *([row.label, *(_cell(v) for v in row.values())] for row in rows)]
    if turned:
        cells = [list(column) for column in zip(*cells, strict=True)]
    table = Table(title=f"Benchmarks, {evaluation.split}, %", title_justify="left")
    for i, head in enumerate(cells[0]):
        table.add_column(Text(head), justify="right" if i else "left", no_wrap=True)
    for row_cells in cells[1:]:
        table.add_row(*map(Text, row_cells))
    return table


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def caption(evaluation: Evaluation) -> str:
    """How the numbers came about, in words."""
    s = evaluation.settings
    how = []
    if s["greedy"]:
        how.append("greedy")
    if s["samples"]:
        samples = f"{s['samples']} samples" if s["samples"] > 1 else "one sample"
        how.append(f"{samples} a problem at temperature {s['temperature']:g}, top-p {s['top_p']:g}")
    how.append(f"at most {s['max_tokens']} tokens")
    how.append("chat template" if s["chat"] else "no chat template")
    gradings = {b.grading for b in evaluation.benchmarks if b.grading}
    if gradings:
        how.append(f"grading {', '.join(sorted(gradings))}")
    if s["rejection"] is not None:
        how.append(_rejection(s["rejection"]))
    sentences = [", ".join(how) + "."]
    student = s["checkpoint"] or s["model"]
    sentences.append(f"Student: {student} after {s['updates']} updates." if s["updates"] else f"Student: {student}.")
    if len(evaluation.benchmarks) > 1:
        sentences.append("Avg.: unweighted mean over benchmarks.")
    if any(b.tells_answer for b in evaluation.benchmarks):
        sentences.append("*: the environment was told the answers.")
    if short := [b for b in evaluation.benchmarks if b.answered != b.problems]:
        sentences.append(
            "Not all problems: " + ", ".join(f"{b.answered} of {b.problems} {b.title}" for b in short) + "."
        )
    text = " ".join(sentences)
    return text[0].upper() + text[1:]


def _rejection(settings: dict[str, Any]) -> str:
    """ "testing rejection under 7 (argmax) by vllm:Qwen/QwQ-32B"."""
    by = settings.get("teacher")
    told = f"testing rejection under {settings['threshold']:g} ({settings['score_reading']})"
    return f"{told} by {by['engine']}" if by else f"{told}, which accepts everything"
