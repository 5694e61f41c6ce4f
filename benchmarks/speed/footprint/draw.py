"""Figures 1 and 2 of the paper, its lines beside the corrected ones and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.paper.claims import PAPER_LENGTH, numbers
from benchmarks.paper.finding import BLUE, GREEN, GREY, ORANGE, RED, panels, save
from benchmarks.speed.footprint.measure import FORMS, Cell, Form, Measurement
from benchmarks.speed.footprint.scale import lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"OVD": BLUE, "OPD": GREEN, "GKD": ORANGE}
LENGTHS = [2**i for i in range(7, 16)]
ROLLOUTS = [2**i for i in range(8)]
UNITS = [(1, "1 B"), (1e3, "1 kB"), (1e6, "1 MB"), (1e9, "1 GB"), (1e12, "1 TB")]
OVD_CHUNKS, GKD_CHUNKS, OVD_WHOLE, GKD_WHOLE = (
    Form("OVD"), Form("GKD"), Form("OVD", naive=True), Form("GKD", naive=True)
)  # fmt: skip


def figure_1(found: Sequence[Measurement], copies: Mapping[Form, float], path: Path) -> None:
    """Memory by length. Left: one trajectory of Qwen2.5-7B. Right: measured, all cells of the largest vocabulary."""
    figure, (left, right) = panels(2, width=5.2, height=4.3)
    _computed(left, copies, LENGTHS, lambda L: (1, L), "L, tokens of one trajectory")
    for printed in numbers():
        if printed.where == "Table 1" and "1 layer" not in printed.what:
            left.plot([PAPER_LENGTH], [printed.value], "o", ms=5, color=RED if "logits" in printed.what else GREY)
    left.plot([], [], "o", ms=5, color=RED, label="printed in Table 1: 5.0 and 2.5 GB, 469 MB")
    left.set_title("one trajectory of Qwen2.5-7B, computed", fontsize=9)
    vocabulary = max(m.cell.vocabulary for m in found)
    shown = [m for m in found if m.cell.vocabulary == vocabulary]
    rows = shown[0].cell.rows
    _measured(right, shown, lambda c: c.tokens, f"T, tokens of each of {rows} trajectories")
    right.set_title(f"a step, measured: V = {vocabulary:,}, chunks of {shown[0].cell.chunk}", fontsize=9)
    _legends(left, right)
    save(figure, path)


def figure_2(found: Sequence[Measurement], copies: Mapping[Form, float], path: Path) -> None:
    """Memory by number of rollouts. Left: Qwen2.5-7B at L = 8192. Right: measured."""
    figure, (left, right) = panels(2, width=5.2, height=4.3)
    _computed(left, copies, ROLLOUTS, lambda n: (n, PAPER_LENGTH), "N, rollouts of a problem")
    (printed,) = (f for f in numbers() if f.where == "Figure 2" and f.printed.endswith("GB"))
    left.plot([32], [printed.value], "o", ms=5, color=RED, label=f"printed: {printed.printed} at N = 32")
    left.set_title(f"Qwen2.5-7B at L = {PAPER_LENGTH:,}, computed", fontsize=9)
    cell = found[0].cell
    _measured(right, found, lambda c: c.rows, f"N, trajectories of {cell.tokens} tokens in one micro-batch")
    right.set_title(f"a step, measured: V = {cell.vocabulary:,}, chunks of {cell.chunk}", fontsize=9)
    _legends(left, right)
    save(figure, path)


def _computed(
    axis: Axes, copies: Mapping[Form, float], values: list[int], at: Callable[[int], tuple[int, int]], label: str
) -> None:
    every = lines(copies)
    drawn: list[tuple[str, str, str, str]] = [
        ("GKD, whole logits", ORANGE, ":", f"GKD's step, whole logits ({copies[GKD_WHOLE]:.0f} copies)"),
        ("OVD, whole logits", BLUE, ":", f"OVD's step, whole logits ({copies[OVD_WHOLE]:.0f} copies)"),
        ("eq. 1", RED, "--", "paper: logits, eq. 1 (1.5 copies)"),
        ("keys and values", GREY, "--", "paper: keys and values"),
        ("GKD, chunks", ORANGE, "-", "GKD's step, chunks of 1,024"),
        ("OVD, chunks", BLUE, "-", "OVD's step, chunks of 1,024"),
        ("OPD's signal", GREEN, "-.", "teacher's signal, OPD"),
        ("OVD's signal", BLUE, "-.", "teacher's signal, OVD (10 digits)"),
    ]
    for name, colour, style, text in drawn:
        axis.plot(values, [every[name](*at(v)) for v in values], style, color=colour, lw=1.6, label=text)
    _axes(axis, values, label)
    axis.set_ylim(3, 3e13)
    axis.set_yticks([size for size, _ in UNITS], [text for _, text in UNITS])


def _measured(axis: Axes, found: Sequence[Measurement], of: Callable[[Cell], int], label: str) -> None:
    for form in (f for f in FORMS if any(m.form == f for m in found)):
        own = sorted((m for m in found if m.form == form), key=lambda m: of(m.cell))
        xs, ys = [of(m.cell) for m in own], [m.peak for m in own]
        # OPD's peaks are OVD's: the wider line shows below the other.
        width, size = (4.0, 7) if form.method == "OPD" else (1.6, 4)
        alpha = 0.45 if form.method == "OPD" else 1.0
        axis.plot(
            xs, ys, ":" if form.naive else "-", color=COLOURS[form.method], lw=width, alpha=alpha, label=form.name
        )
        for m in own:
            face = COLOURS[form.method] if m.tried else "white"
            axis.plot([of(m.cell)], [m.peak], "o", ms=size, color=COLOURS[form.method], mfc=face, alpha=alpha)
    cells = sorted({m.cell for m in found}, key=of)
    paper = [1.5 * 4 * c.rows * c.tokens * c.vocabulary for c in cells]
    axis.plot([of(c) for c in cells], paper, "--", color=RED, lw=1.6, label="paper: eq. 1")
    if not all(m.tried for m in found):
        axis.plot([], [], "o", ms=4, color=GREY, mfc="white", label="not tried, computed")
    _axes(axis, [of(c) for c in cells], label)
    low, high = min(m.peak for m in found), max(m.peak for m in found)
    axis.set_ylim(low / 2.5, high * 2.5)
    ticks = [s * 10**e for e in range(6, 12) for s in (1, 3) if low / 2.5 < s * 10**e < high * 2.5]
    axis.set_yticks(ticks, [f"{t / 1e9:g} GB" if t >= 1e9 else f"{t / 1e6:g} MB" for t in ticks])


def _axes(axis: Axes, values: Sequence[int], label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.set_xticks(values, [f"{v // 1024}k" if v >= 1024 and v % 1024 == 0 else str(v) for v in values])
    axis.set_xlabel(label)


def _legends(*axes: Axes) -> None:
    for axis in axes:
        axis.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2)
