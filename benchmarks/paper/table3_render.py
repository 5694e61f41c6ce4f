"""Table 3 as text, its numbers as CSV, and Figure 4: what `table3.py` measured, beside what the paper prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.paper.grid import markdown, read_csv, write_csv
from benchmarks.paper.table3_arithmetic import COLUMNS, FULL, PAPER, REDUCED, fit
from ovd_lightning.tasks.web_benchmarks import TABLE_3

if TYPE_CHECKING:
    from benchmarks.paper.table3 import Row

STUDENTS = {"qwen": "Qwen2.5-3B", "llama": "Llama-3.2-3B", "small": "The small world's student"}
KINDS = ("em", "sub_em", "f1")
SHARES = ("teacher_step_share", "teacher_token_share")
WITHOUT = "gaia"
"""Figure 4 has the other seven sets."""

NOTES = {
    "a": "of fewer questions: the cell fits 72 of Bamboogle's 125, or 128 of GAIA's 165, as a loader leaves them that "
    "drops its last batch.",
    "b": "no number of the set's questions gives this cell.",
    "c": "not the mean of the row's eight cells.",
}
"""The paper's own inconsistencies, as `table3_arithmetic.py` finds them."""

Results = Mapping[str, Sequence[tuple["Row", Mapping[str, Any]]]]
"""Student -> its finished rows, each with the JSON of its evaluation."""


class Cell(NamedTuple):
    """A number of the paper, as printed."""

    text: str
    mark: str
    """A key of NOTES; "" where nothing is odd."""

    def __str__(self) -> str:
        return f"{self.text}{'^' + self.mark if self.mark else ''}"


def read_paper() -> dict[tuple[str, ...], dict[str, Cell]]:
    """(student, method, train, test, agent, sampled) -> set -> cell, with "average"."""
    titles = dict(zip(TABLE_3, COLUMNS, strict=True))
    found = {}
    for line in read_csv(PAPER):
        key = tuple(line[name] for name in ("student", "method", "train", "test", "agent", "sampled"))
        cells = {name: Cell(line[name], _odd(line[name], titles[name])) for name in TABLE_3}
        mean = math.fsum(float(cell.text) for cell in cells.values()) / len(cells)
        odd = abs(mean - float(line["average"])) > 0.0051
        found[key] = {**cells, "average": Cell(line["average"], "c" if odd else "")}
    return found


def _odd(cell: str, column: str) -> str:
    if fit(cell, FULL[column]) is not None:
        return ""
    return "a" if column in REDUCED and fit(cell, REDUCED[column]) is not None else "b"


def key_of(student: str, row: Row) -> tuple[str, ...]:
    """Of a row in `read_paper`."""
    thetas = ("" if theta is None else str(theta) for theta in (row.train, row.test))
    return (student, row.method, *thetas, row.agent, "yes" if row.sampled else "")


def score(result: Mapping[str, Any], benchmark: str, kind: str) -> float | None:
    """Percent; None where it was not measured."""
    found = result["benchmarks"][benchmark]["scores"].get(kind)
    return None if found is None or found["value"] is None else 100 * found["value"]


def average(values: Iterable[float | None]) -> float | None:
    """Unweighted, as in the paper; None where one is missing."""
    known = list(values)
    return None if not known or None in known else math.fsum(v for v in known if v is not None) / len(known)


def told(result: Mapping[str, Any]) -> bool:
    """The environment was told the answers."""
    return any(b["tells_answer"] for b in result["benchmarks"].values())


# ------------------------------------------------------------------ tables


def exact_matches(student: str, rows: Sequence[tuple[Row, Mapping[str, Any]]], beside: bool) -> str:
    """Table 3: EM of every set. ``beside``: each cell is "measured (paper's)"."""
    paper = read_paper()
    names = list(rows[0][1]["benchmarks"])
    titles = [rows[0][1]["benchmarks"][name]["title"] for name in names]
    lines = []
    for row, result in rows:
        theirs = paper.get(key_of(student, row), {}) if beside else {}
        values = {name: score(result, name, "em") for name in names}
        if len(names) > 1:
            values["average"] = average(values.values())
        cells = [_text(value) + (f" ({theirs[name]})" if name in theirs else "") for name, value in values.items()]
        lines.append([row.label + ("*" if told(result) else ""), *cells])
    return markdown(["Method", *titles, *(["Avg."] if len(names) > 1 else [])], lines)


def averages(rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> str:
    """What stands behind the EM: the other metrics, the teacher's part, the denominator. Means over the sets."""
    sampled = any(score(result, name, "sampled_em") is not None for _, result in rows for name in result["benchmarks"])
    kinds = [*KINDS, *(["sampled_em", "sampled_f1"] if sampled else []), *SHARES]
    heads = ["EM", "sub-EM", "F1", *(["samples, EM", "samples, F1"] if sampled else [])]
    lines = []
    for row, result in rows:
        benchmarks = result["benchmarks"]
        values = [average(score(result, name, kind) for name in benchmarks) for kind in kinds]
        answered = sum(b["answered"] for b in benchmarks.values())
        told_answers = "yes" if told(result) else "no"
        lines.append([row.label, *map(_text, values), told_answers, str(answered)])
    shares = ["teacher's steps", "teacher's tokens"]
    return markdown(["Means over sets, %", *heads, *shares, "told the answers", "answers"], lines)


def papers_table() -> str:
    """All of the paper's rows, for whoever has other sets."""
    lines = [[*key, *map(str, cells.values())] for key, cells in read_paper().items()]
    return markdown(
        ["student", "method", "train", "test", "agent", "sampled", *(c for c in COLUMNS), "Avg."],
        lines,
    )


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def footnotes(text: str) -> list[str]:
    """Those that a text needs."""
    found = [f"^{mark}: {note}" for mark, note in NOTES.items() if f"^{mark}" in text]
    if "* |" in text:
        found.append("*: the search engine was told the true answers; the row measures more than the student.")
    if "(" in text and "†" in text:
        found.append("†: scores are drawn from the teacher's distribution while testing.")
    return found


# ------------------------------------------------------------------ numbers


def numbers(results: Results) -> tuple[list[str], list[list[Any]]]:
    """A line a row and test set: every score in percent with its standard error, and the paper's EM."""
    paper = read_paper()
    kinds = (*KINDS, *SHARES, "truncated_fraction")
    heads = ["student", "row", "train", "test", "agent", "sampled", "benchmark", "answered", "tells_answer"]
    heads += [name for kind in kinds for name in (kind, f"{kind}_standard_error")] + ["paper_em", "paper_mark"]
    lines = []
    for student, rows in results.items():
        for row, result in rows:
            key = key_of(student, row)
            for name, b in result["benchmarks"].items():
                cells = [s for kind in kinds for s in _with_error(b["scores"].get(kind))]
                theirs = paper.get(key, {}).get(name, Cell("", ""))
                lines.append([
                    student, row.name, *key[2:], name, b["answered"], "yes" if b["tells_answer"] else "no", *cells,
                    *theirs,
                ])  # fmt: skip
    return heads, lines


def _with_error(found: Mapping[str, float | None] | None) -> list[str]:
    values = [None, None] if found is None else [found["value"], found["standard_error"]]
    return ["" if v is None else f"{100 * v:.4f}" for v in values]


# ------------------------------------------------------------------ Figure 4


class Curve(NamedTuple):
    """EM of one configuration over the sets of Figure 4."""

    panel: str
    """ "prompted" (4a) or "tuned" (4b)"""
    student: str
    train: int
    test: int
    values: dict[str, float]
    """Set -> percent"""
    paper: dict[str, float]
    tells_answer: bool


def curves(results: Results) -> list[Curve]:
    """The 7B agent's deterministic rows: what Figure 4 is made of. The paper prints 4b's numbers in Table 3, and of 4a
    the best average alone (24.1)."""
    paper, found = read_paper(), []
    for student, rows in results.items():
        for row, result in rows:
            if row.train is None or row.test is None or row.sampled or row.agent == "14b":
                continue
            theirs = paper.get(key_of(student, row), {})
            values = {n: v for n in result["benchmarks"] if n != WITHOUT and (v := score(result, n, "em")) is not None}
            found.append(
                Curve(
                    panel="prompted" if row.agent == "prompted" else "tuned",
                    student=student,
                    train=row.train,
                    test=row.test,
                    values=values,
                    paper={name: float(theirs[name].text) for name in values if name in theirs},
                    tells_answer=told(result),
                )
            )
    return found


def figure_numbers(found: Sequence[Curve]) -> tuple[list[str], list[list[Any]]]:
    heads = ["panel", "student", "train", "test", "benchmark", "em", "paper_em", "tells_answer"]
    lines: list[list[Any]] = []
    for curve in found:
        values = {**curve.values, "average": average(curve.values.values())}
        theirs = {**curve.paper, **({"average": average(curve.paper.values())} if curve.paper else {})}
        for name, value in values.items():
            printed = theirs.get(name)
            lines.append([
                curve.panel, curve.student, curve.train, curve.test, name, "" if value is None else f"{value:.4f}",
                "" if printed is None else f"{printed:.4f}", "yes" if curve.tells_answer else "no",
            ])  # fmt: skip
    return heads, lines


def draw(found: Sequence[Curve], path: Path) -> bool:
    """Figure 4 as an SVG: EM over the sets, a panel an agent and student, or over theta_test where there is one set.
    False where matplotlib is not installed."""
    if not found or find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    places = list(dict.fromkeys((c.panel, c.student) for c in found))
    figure, axes = plt.subplots(1, len(places), figsize=(5.5 * len(places), 4), squeeze=False, sharey=True)
    colours = {5: "#0072B2", 10: "#D55E00"}
    lines = {0: ":", 5: "-", 10: "--"}
    for axis, (panel, student) in zip(axes[0], places, strict=True):
        here = [c for c in found if (c.panel, c.student) == (panel, student)]
        names = list(here[0].values)
        if len(names) > 1:
            for c in here:
                style = {"color": colours.get(c.train), "linestyle": lines.get(c.test, "-")}
                label = f"θ_train {c.train}, θ_test {c.test}"
                axis.plot(names, [c.values.get(n, math.nan) for n in names], marker="o", label=label, **style)
                if c.paper:
                    theirs = [c.paper.get(n, math.nan) for n in names]
                    axis.plot(names, theirs, marker="x", alpha=0.35, linewidth=0.8, **style)
            axis.tick_params(axis="x", rotation=35)
        else:
            for theta in sorted({c.train for c in here}):
                points = sorted((c.test, c.values[names[0]]) for c in here if c.train == theta)
                axis.plot(*zip(*points, strict=True), marker="o", color=colours.get(theta), label=f"θ_train {theta}")
            axis.set_xlabel("θ_test")
        agent = "prompt-based" if panel == "prompted" else "fine-tuned"
        axis.set_title(f"{STUDENTS[student]}, {agent} environment agent" if student != "small" else STUDENTS[student])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("EM, %" + (" (x, faint: the paper)" if any(c.paper for c in found) else ""))
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return True


# ------------------------------------------------------------------ files


def write_results(results: Results, out: Path, beside: bool, notes: Sequence[str] = ()) -> str:
    """Everything that is finished, as files of ``out``; the text of table3.md.

    Args:
        beside: the paper's numbers stand in the cells; otherwise its table follows.
        notes: further lines, e.g. why rows were not run.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for student, rows in results.items():
        if rows:
            table = exact_matches(student, rows, beside)
            parts += [f"## {STUDENTS[student]}: EM, %{' (the paper)' if beside else ''}\n", table, averages(rows)]
    if not parts:
        parts.append("Nothing is finished yet.\n")
    if not beside:
        parts += ["## The paper's Table 3\n", papers_table()]
    text = "\n".join(parts)
    remarks = [*footnotes(text), *(f"Not run: {note}." for note in notes)]
    text += "".join(f"\n- {remark}" for remark in remarks) + "\n"
    (out / "table3.md").write_text(text)
    write_csv(out / "table3.csv", *numbers(results))
    found = curves(results)
    write_csv(out / "figure4.csv", *figure_numbers(found))
    if found and not draw(found, out / "figure4.svg"):
        print("figure4.svg was not drawn: matplotlib is not installed (figure4.csv has its numbers)")
    return text
