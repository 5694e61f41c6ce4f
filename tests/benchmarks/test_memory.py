"""The paper's memory claims against numbers worked out by hand, and steps of the package against its naive forms."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.paper.claims import ORDER, PaperFigure, numbers, numbers_table, shapes, statements
from benchmarks.speed import memory
from benchmarks.speed.allocator import peak_bytes
from benchmarks.speed.footprint import draw, tables
from benchmarks.speed.footprint.batch import sample
from benchmarks.speed.footprint.measure import FORMS, Cell, Form, Measurement, copies, measure, models, scaled
from benchmarks.speed.footprint.naive import NaiveStudent
from benchmarks.speed.footprint.scale import signals, steps_at_scale
from ovd_lightning.dry_run.memory import Setup, account
from ovd_lightning.dry_run.shape import read_config, shape_of
from ovd_lightning.student import Student

GB, MIB = 10**9, 2**20

# -------------------------------------------------------------------- analytic


def test_every_number_of_the_paper_by_hand() -> None:
    """L = 8192, V = 152,064; 28 layers with 4 heads of 128 for keys and values."""
    logits, cache = 8192 * 152_064, 28 * 2 * 4 * 128 * 2 * 8192
    by_hand = {
        ("section 1", "around 160 GB"): 8 * 4 * logits * 4,
        ("eq. 1", "1.5"): Fraction(3, 2),
        ("Table 1", "5.0 GB"): 4 * logits,
        ("Table 1", "2.5 GB"): 2 * logits,
        ("Table 1", "16 MB"): 16 * 2**20,
        ("Table 1", "469 MB"): cache,
        ("section 2", "N V / v = 48000"): Fraction(32 * 152_000, 10),
        ("Figure 1", "~16x"): Fraction(6 * logits, cache),
        ("Figure 2", "~16x"): Fraction(6 * logits, cache),
        ("Figure 2", "240 GB"): 32 * 6 * logits,
    }
    found = {(f.where, f.printed): f for f in numbers()}
    assert found.keys() == by_hand.keys()
    for key, exact in by_hand.items():
        assert found[key].exact == pytest.approx(float(exact), rel=1e-12), key
    wrong = {key[1] for key, figure in found.items() if figure.verdict != "right"}
    assert wrong == {"16 MB", "N V / v = 48000"}
    assert found["Table 1", "16 MB"].verdict == "unit wrong: it is MiB"
    assert found["section 2", "N V / v = 48000"].verdict == "wrong: 10.1 times too small"
    assert [ORDER.index(f.where) for f in numbers()] == sorted(ORDER.index(f.where) for f in numbers())
    computed = {f.what: f.computed for f in numbers()}
    assert computed["keys and values, 28 layers"] == "469.8 MB = 448 MiB"
    assert computed["keys and values, 1 layer"] == "16 MiB = 16.8 MB"
    assert "486,400" in computed["verbal scores take less by"], "printed as 48000"


@pytest.mark.parametrize(
    ("printed", "value", "exact", "verdict"),
    [
        ("5.0 GB", 5 * GB, 4.98 * GB, "right"),
        ("5.0 GB", 5 * GB, 5 * 2**30, "unit wrong: it is GiB"),
        ("5.0 GB", 5 * GB, 20 * GB, "wrong: 4 times too small"),
        ("8x", 8, 4, "wrong: 2 times too large"),
        ("100x", 100, 98, "wrong: 1.02 times too large"),
    ],
)
def test_a_verdict_follows_the_numbers(printed: str, value: float, exact: float, verdict: str) -> None:
    figure = PaperFigure(where="", what="", printed=printed, computed="", value=value, exact=exact)
    assert figure.verdict == verdict
    assert ("**" in numbers_table([figure])) is (verdict != "right")


def test_statements_are_judged_by_numbers() -> None:
    found = {f.statement: f for f in statements()}
    assert [f.statement for f in found.values() if f.holds] == ["logits and keys and values are linear in L and in N"]
    assert "K = 2,594" in found["the reduction grows with N: “N · V/v”"].numbers  # 8192 152,000 / (10 48,000)
    assert "121.8 GB" in found["logits are “the primary memory bottleneck”"].numbers  # 16 x 7,615,616,512


def test_the_models_are_those_of_the_paper() -> None:
    assert {name: s.parameters for name, s in shapes().items()} == {
        "Qwen2.5-7B": 7_615_616_512, "Qwen2.5-Math-1.5B": 1_543_714_304, "QwQ-32B": 32_763_876_352,
    }  # fmt: skip


def test_the_signals_at_the_papers_size_by_hand() -> None:
    found = {s.name: s for s in signals()}
    assert found["OVD, digits"].kept == 10
    assert found["OVD, distributions"].kept == 10 * 10 * 4
    assert found["OPD, log-probabilities"].kept == 8192 * 4
    assert found["GKD in chunks, the teacher's hidden rows"].kept == 8192 * 5120 * 2
    assert found["whole logits, both copies: eq. 1"].kept == 8192 * 152_064 * 6
    # step k of 10 is shown with those before it: 8192 (1 + ... + 10) / 10 tokens of 4 bytes, and more for the words
    sent = found["OVD, digits"].sent
    assert sent is not None
    assert 4 * 8192 * 5.5 < sent < 1.1 * 4 * 8192 * 5.5
    assert sent > 5 * (found["OPD, log-probabilities"].sent or 0), "scoring steps sends more than log-probabilities do"


# -------------------------------------------------------------------- the batch


def test_the_batch_is_a_mixture_of_rows_of_the_same_length() -> None:
    made = sample(tokens=64, steps=5, rows=4, replaced=2)
    mask, teachers = made.batch.completion_mask, made.batch.teacher_mask
    assert mask.sum(dim=1).tolist() == [64] * 4
    assert sorted(teachers.sum(dim=1).tolist()) == [0, 0, 64, 64]
    assert [len(y.steps) for y in made.sampled] == [5] * 4
    assert all(step.score is not None for y in made.sampled for step in y.steps)
    assert made.answered == 5, "each step's prompt is another, so each is asked"
    assert len({tuple(y.completion_ids) for y in made.sampled}) == 4
    assert made.shown == 63 / 2


def test_rows_too_short_for_their_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="10 tokens do not make 5 lines"):
        sample(tokens=10, steps=5, rows=2, replaced=1)


# ----------------------------------------------------------------- measurements


@pytest.fixture(scope="module")
def found() -> list[Measurement]:
    cells = [Cell(vocabulary=8000, tokens=t, chunk=64) for t in (64, 256)]
    again = [Cell(vocabulary=8000, tokens=64, chunk=32)]
    return [*measure(cells), *measure(again, [f for f in FORMS if not f.naive])]


def one(found: list[Measurement], method: str, naive: bool = False, tokens: int = 256, chunk: int = 64) -> Measurement:
    (m,) = (
        m for m in found if m.form == Form(method, naive) and (m.cell.tokens, m.cell.chunk) == (tokens, chunk)
    )  # fmt: skip
    return m


def test_chunks_take_less_than_whole_logits_and_hardly_grow(found: list[Measurement]) -> None:
    for method in ("OVD", "OPD", "GKD"):
        assert one(found, method).peak < one(found, method, naive=True).peak / 3
        assert one(found, method).peak < 1.8 * one(found, method, tokens=64).peak
        assert one(found, method, naive=True).peak > 3.5 * one(found, method, naive=True, tokens=64).peak


def test_both_forms_have_the_same_loss(found: list[Measurement]) -> None:
    for method in ("OVD", "OPD", "GKD"):
        whole = one(found, method, naive=True).loss
        assert whole is not None
        assert one(found, method).loss == pytest.approx(whole, rel=1e-5)


def test_copies_of_the_logits(found: list[Measurement]) -> None:
    """The dry run has one of a chunk; GKD has the teacher's as well."""
    held = {form.name: count for form, count in copies(found).items()}
    assert held["OVD, chunks"] == held["OPD, chunks"] == pytest.approx(1, abs=0.1)
    assert held["GKD, chunks"] == pytest.approx(2, abs=0.1)
    for method in ("OVD", "OPD"):
        assert 4 <= held[f"{method}, whole logits"] < 4.6
    assert 10 <= held["GKD, whole logits"] < 10.6


def test_what_is_kept_of_the_teacher_and_where_it_is(found: list[Measurement]) -> None:
    assert one(found, "OVD").signal == 10
    assert one(found, "OPD").signal == 256 * 4
    assert one(found, "GKD").signal == 256 * 128 * 4, "hidden rows of the teacher, 128 wide"
    prompt = sample(256, 10, 1, 0).batch.input_ids.shape[1] - 256
    assert one(found, "GKD", naive=True).signal == (prompt + 256 - 1) * 8000 * 4
    assert (one(found, "OVD").teacher, one(found, "OPD").reference, one(found, "GKD").reference) == (0, 0, 0)
    assert one(found, "OPD").teacher == one(found, "GKD").teacher > one(found, "OVD").reference > 8000 * 64 * 4


def test_gkds_step_takes_what_the_account_says(found: list[Measurement]) -> None:
    """`Setup.loss_copies` is what the estimates at the paper's size rest on."""
    with models(8000, 512) as (path, _):
        shape = shape_of("student", read_config("model.student", path))
    for method, held in (("OVD", 1), ("GKD", 2)):
        m = one(found, method)
        how = Setup(
            parameter_bytes=4, autocast=False, gradient_checkpointing=False, chunk=64, rows=2, length=262,
            reference=False, sharding="none", ranks=1, loss_copies=held,
        )  # fmt: skip
        estimate = account(shape, how, [], []).step_peak
        assert estimate == pytest.approx(m.peak, rel=0.25), method


def test_a_naive_step_over_the_limit_is_computed_and_says_so() -> None:
    cells = [Cell(vocabulary=8000, tokens=t, chunk=64) for t in (64, 128)]
    small, large = measure(cells, [Form("GKD", naive=True)], limit=11 * 2 * 69 * 8000 * 4)
    assert small.tried
    assert not large.tried
    real = measure(cells[1:], [Form("GKD", naive=True)])[0]
    assert large.peak == pytest.approx(real.peak, rel=0.03)
    assert large.signal == pytest.approx(real.signal, rel=0.03)
    assert scaled(small, cells[0], small.positions).peak == small.peak


def test_the_naive_student_is_the_same_student() -> None:
    batch = sample(32, 5, 2, 1).batch
    with models(64, 64) as (path, teacher):
        inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
        pairs = [
            (kind(path)(*inputs), kind(path).divergence(*inputs, 0.3, kind(teacher).requires_grad_(False)))
            for kind in (Student, NaiveStudent)
        ]
    for package, naive in zip(*pairs, strict=True):
        for a, b in zip(package, naive, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_peak_counts_what_is_alive_at_once() -> None:
    def run() -> None:
        a = torch.ones(MIB // 4)
        b = a + 1
        del a
        _ = b * 2

    assert peak_bytes(run) == pytest.approx(2 * MIB, abs=4096)
    assert peak_bytes(lambda: [torch.ones(MIB // 4) for _ in range(3)]) == pytest.approx(3 * MIB, abs=4096)


# ---------------------------------------------------------------------- report


def test_statements_about_a_step_follow_the_measurements(found: list[Measurement]) -> None:
    lengths = [m for m in found if m.cell.chunk == 64]
    rollouts = measure(
        [Cell(vocabulary=8000, tokens=32, rows=n, chunk=64, steps=5) for n in (1, 8)], tables.ROLLOUT_FORMS
    )
    results = tables.Results(lengths, rollouts, copies(found))
    verdicts = [(f.where, f.holds) for f in tables.measured_statements(results)]
    assert verdicts == [
        ("section 2", False), ("eq. 1", False), ("Figure 1", False), ("Figure 2", False),
        ("corrected", True), ("corrected", True),
    ]  # fmt: skip
    # had the chunked forms been as the naive ones are, figures 1 and 2 would be right
    swapped = [replaced(m) for m in lengths], [replaced(m) for m in rollouts]
    linear = {f.where: f.holds for f in tables.measured_statements(tables.Results(*swapped, results.copies))}
    assert linear["Figure 1"]
    assert linear["Figure 2"]
    text = tables.measured_table(lengths)
    assert len(text.splitlines()) == 2 + 12
    assert "| 8,000 | 2 x 256 | GKD, chunks |" in text


def replaced(m: Measurement) -> Measurement:
    return replace(m, form=Form(m.form.method, not m.form.naive))


def test_the_papers_size() -> None:
    held = {Form("OVD"): 1.0, Form("GKD"): 2.0, Form("GKD", naive=True): 10.0}
    ovd, gkd, whole = steps_at_scale(held)
    student = 4 * 1_543_714_304
    assert ovd.state == gkd.state == pytest.approx(4 * student, rel=1e-3)
    assert (ovd.reference, gkd.reference) == (student, 0)
    assert (ovd.teacher, gkd.teacher) == (0, 2 * 32_763_876_352)
    assert gkd.step > ovd.step
    assert whole.step > 10 * 4 * 4096 * 151_936 * 4


def test_figures_are_svg_and_repeatable(found: list[Measurement], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the dev extra's matplotlib")
    lengths = [m for m in found if m.cell.chunk == 64]
    for name in ("a.svg", "b.svg"):
        draw.figure_1(lengths, copies(found), tmp_path / name)
    draw.figure_2(lengths, copies(found), tmp_path / "c.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    for path in tmp_path.iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "64"], "two lengths"),
        (["--tokens", "20", "64"], "10 steps need more than 20 tokens"),
        (["--vocabulary", "31"], "32 tokens"),
        (["--limit", "0.1"], "--limit: whole logits"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused_at_once(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["memory.py", "--quick", *arguments])
    with pytest.raises(SystemExit):
        memory.main()
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_every_table() -> None:
    command: list[Any] = [sys.executable, "-m", "benchmarks.speed.memory", "--quick"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    titles = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert len(titles) == 10
    for words in ("wrong: 10.1 times too small", "GKD, whole logits", "65.5 GB", "189.2 kB"):
        assert words in done.stdout
