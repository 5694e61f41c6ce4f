"""What `benchmarks.speed.memory` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper.finding import Finding
from benchmarks.speed.footprint.batch import sample
from benchmarks.speed.footprint.measure import FORMS, Cell, Form, Measurement
from benchmarks.speed.footprint.scale import signals, steps_at_scale
from ovd_lightning.dry_run.shape import SINGLE

MIB = 2**20
ROLLOUT_FORMS = (Form("OVD"), Form("GKD"), Form("OVD", naive=True), Form("GKD", naive=True))
"""What is measured by number of trajectories; OPD's peaks are OVD's."""


@dataclass(frozen=True, slots=True)
class Results:
    lengths: list[Measurement]
    rollouts: list[Measurement]
    copies: dict[Form, float]


def measured_table(found: Sequence[Measurement]) -> str:
    """Grouped by cell; ratios are to OVD in chunks in the same cell."""
    lines = [
        "| V | N x T | step | peak MiB | / OVD | seconds | / OVD | loss | reference MiB | teacher MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in dict.fromkeys(m.cell for m in found):
        own = [m for m in found if m.cell == cell]
        base = next(m for m in own if m.form == Form("OVD"))
        for m in own:
            spent = "–" if m.seconds is None else f"{m.seconds:.2f}"
            share = "–" if m.seconds is None or not base.seconds else f"{m.seconds / base.seconds:.1f}"
            loss = "not tried" if m.loss is None else f"{m.loss:.5f}"
            size = f"{m.peak / MIB:,.0f}" if m.tried else f"(computed: {m.peak / MIB:,.0f})"
            frozen = " | ".join(f"{w / MIB:,.1f}" if w else "0" for w in (m.reference, m.teacher))
            lines.append(
                f"| {cell.vocabulary:,} | {cell.rows} x {cell.tokens} | {m.form.name} | {size} | "
                f"{m.peak / base.peak:.1f} | {spent} | {share} | {loss} | {frozen} |"
            )
    return "\n".join(lines)


def copies_table(found: Mapping[Form, float]) -> str:
    lines = ["| step | float32 tensors [positions, V] at its peak | positions |", "| --- | --- | --- |"]
    for form, count in found.items():
        where = "the whole micro-batch, prompts included" if form.naive else "a chunk"
        lines.append(f"| {form.name} | {count:.2f} | {where} |")
    return "\n".join(lines)


def measured_signals(cell: Cell, found: Sequence[Measurement]) -> str:
    """Bytes a trajectory that were really there; what OVD sends is counted by its engine."""
    data = sample(cell.tokens, cell.steps, cell.rows, cell.rows // 2)
    ids = 4 * data.batch.input_ids.shape[1]
    kept = {m.form: m.signal for m in found if m.cell == cell}
    whole = kept[Form("GKD", naive=True)]
    lines = [
        f"| V = {cell.vocabulary:,}, T = {cell.tokens}, K = {cell.steps} | kept until the loss | sent to a teacher "
        "elsewhere | comes back |",
        "| --- | --- | --- | --- |",
        f"| OVD | {kept[Form('OVD')]:,} B | {data.sent:,.0f} B of scoring prompts | {data.answered:.0f} B, and a "
        f"demonstration of {cell.tokens - 1:,} B where a trajectory is replaced |",
        f"| OPD | {kept[Form('OPD')]:,} B | {ids:,} B of token ids | {kept[Form('OPD')]:,} B |",
        f"| GKD, chunks | {kept[Form('GKD')]:,} B of hidden rows | – | the teacher is on the device |",
        f"| GKD, whole logits | {whole:,} B | {ids:,} B | {whole:,} B |",
    ]
    return "\n".join(lines)


def signals_table() -> str:
    every = signals()
    least = every[0].kept
    lines = [
        "| teacher's signal | size | kept until the loss | / OVD's digits | sent to a teacher elsewhere | comes back |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for s in every:
        sent, back = ("–" if b is None else size(b) for b in (s.sent, s.back))
        lines.append(f"| {s.name} | {s.how} | {size(s.kept)} | {s.kept / least:,.0f} | {sent} | {back} |")
    return "\n".join(lines)


def scale_table(found: Mapping[Form, float]) -> str:
    lines = [
        "| step | student, gradients, AdamW | reference | teacher on the device | activations and loss | together |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for s in steps_at_scale(found):
        parts = (s.state, s.reference, s.teacher, s.step, s.total)
        lines.append(f"| {s.form.name} | {' | '.join(f'{p / 1e9:.1f} GB' if p else '0' for p in parts)} |")
    return "\n".join(lines)


def size(count: float) -> str:
    """In powers of ten, as the paper counts."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count:.0f} B"


def measured_statements(results: Results) -> list[Finding]:
    """The paper's claims about a step, checked on the steps with the largest vocabulary."""
    top = max(m.cell.vocabulary for m in results.lengths)
    long = {f: _ends(results.lengths, f, lambda c: c.tokens, top) for f in FORMS}
    many = {f: _ends(results.rollouts, f, lambda c: c.rows) for f in ROLLOUT_FORMS}
    ovd, opd = (long[Form(name)][1] for name in ("OVD", "OPD"))
    chunks, whole = Form("GKD"), Form("GKD", naive=True)
    verbal = ovd.cell.rows * ovd.cell.steps * 10 * SINGLE
    held = results.copies

    def times(ends: Mapping[Form, tuple[Measurement, Measurement]], form: Form) -> tuple[float, float]:
        """(growth of the peak, growth of the tokens)"""
        few, more = ends[form]
        return more.peak / few.peak, more.cell.rows * more.cell.tokens / (few.cell.rows * few.cell.tokens)

    def grows(ends: Mapping[Form, tuple[Measurement, Measurement]]) -> str:
        (w, tokens_w), (c, tokens_c) = times(ends, whole), times(ends, chunks)
        return (
            f"whole logits: {w:.1f} times for {tokens_w:.0f} times the tokens; chunks: {c:.2f} times for {tokens_c:.0f}"
        )

    return [
        Finding(
            "section 2",
            "with OVD memory is O(N K v)",
            ovd.peak <= 10 * verbal,
            f"its signal is, {verbal:,} B as distributions; its step takes {ovd.peak / MIB:,.0f} MiB, since every "
            "method's loss makes the student's own logits",
        ),
        Finding(
            "eq. 1",
            "a step keeps 1.5 float32 copies of the logits",
            abs(held[whole] - 1.5) < 0.1,
            f"whole logits: {held[whole]:.1f} with GKD, {held[Form('OVD', naive=True)]:.1f} with OVD or GRPO; chunks: "
            f"{held[chunks]:.1f} and {held[Form('OVD')]:.1f} of a chunk",
        ),
        Finding(
            "Figure 1",
            "token-level distillation's memory is linear in L",
            times(long, chunks)[0] > 0.8 * times(long, chunks)[1],
            grows(long),
        ),
        Finding("Figure 2", "... and in N", times(many, chunks)[0] > 0.8 * times(many, chunks)[1], grows(many)),
        Finding(
            "corrected",
            "OPD's step takes no more than OVD's, beside its teacher's weights",
            opd.peak <= 1.01 * ovd.peak,
            f"{opd.peak / MIB:,.0f} and {ovd.peak / MIB:,.0f} MiB",
        ),
        Finding(
            "corrected",
            "GKD's step takes more than OVD's, at most 2.5 times, however long the trajectories are",
            all(1 < g.peak / o.peak < 2.5 for g, o in zip(long[chunks], long[Form("OVD")], strict=True)),
            f"{' and '.join(f'{g.peak / o.peak:.1f}' for g, o in zip(long[chunks], long[Form('OVD')], strict=True))} "
            "times, shortest and longest",
        ),
    ]


def _ends(
    found: Sequence[Measurement], form: Form, of: Callable[[Cell], int], vocabulary: int | None = None
) -> tuple[Measurement, Measurement]:
    """The smallest and the largest step that was tried."""
    own = [m for m in found if m.form == form and m.tried and vocabulary in (None, m.cell.vocabulary)]
    return min(own, key=lambda m: of(m.cell)), max(own, key=lambda m: of(m.cell))
