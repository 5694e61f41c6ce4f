"""What docs/benchmarks.md says of the paper's Table 4: which of its cells a set of a given size can give."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ovd_lightning.tasks.math_benchmarks import ENTRIES, TABLE_4

# As printed: method, steps, the ten sets in the table's order, the average.
PRINTED = """
zero-shot     0 15.6 26.7 24.8  8.8   9.9 21.6 90.6 50.0 30.8 16.7 29.6
rlvr-one    300 58.8 60.8 60.4 49.1  14.7 28.9 87.5 49.2 28.6 20.0 45.8
rlvr-one    500 68.2 66.4 69.3 57.7  16.5 29.6 87.5 49.5 35.7 16.7 49.7
rlvr-one    600 64.5 63.9 66.1 61.4  13.6 31.0 87.5 49.2 28.6 13.3 47.9
rlvr-one    800 75.3 74.2 79.1 71.5  16.2 31.1 84.4 49.5 35.7 10.0 52.7
ovd-one     300 55.1 59.9 58.2 47.9  14.3 29.0 87.5 49.7 42.9  6.7 45.1
ovd-one     500 63.1 63.9 65.0 61.0  14.3 29.0 87.5 49.7 28.6 13.3 47.5
ovd-one     600 73.8 70.2 73.7 68.9  16.5 29.6 81.2 50.5 35.7 10.0 51.0
ovd-one     800 75.8 73.0 79.7 73.2  18.8 31.6 90.6 50.2 42.9 16.7 55.3
rlvr-two    300 73.7 76.2 80.4 70.8  16.5 30.2 81.2 51.1 35.7  6.7 52.2
rlvr-two    500 77.1 80.0 86.0 75.17 16.5 27.7 81.2 51.3 42.9 13.3 55.1
rlvr-two    600 75.9 78.1 84.6 75.6  16.5 31.1 84.4 49.6 35.7 13.3 54.5
rlvr-two    800 81.1 80.0 87.6 73.7  15.8 29.6 81.2 49.0 35.7 13.3 54.7
ovd-two     300 78.6 81.8 87.1 72.3  15.1 29.5 81.2 50.2 50.0  6.7 55.2
ovd-two     500 79.8 81.1 87.7 74.9  17.3 29.3 75.0 50.3 35.7 10.0 54.1
ovd-two     600 76.3 77.7 82.6 74.0  17.3 30.4 87.5 50.6 28.6 10.0 53.5
ovd-two     800 83.1 83.3 90.6 77.6  18.0 31.6 84.4 49.4 35.7 13.3 56.7
"""
ROWS = {tuple(line.split()[:2]): line.split()[2:] for line in PRINTED.strip().splitlines()}
CELLS = {(*row, name): cell for row, cells in ROWS.items() for name, cell in zip(TABLE_4, cells, strict=False)}


def can_be(cell: str, size: int) -> bool:
    """Whether a whole number of right answers out of ``size`` rounds to the percentage printed."""
    printed, half = Fraction(cell), Fraction(1, 2 * 10 ** len(cell.partition(".")[2]))
    return any(abs(Fraction(100 * k, size) - printed) <= half for k in range(size + 1))


def column(name: str) -> list[str]:
    return [cell for (*_, of), cell in CELLS.items() if of == name]


def test_two_cells_do_not_fit_the_sizes() -> None:
    odd = {place: cell for place, cell in CELLS.items() if not can_be(cell, ENTRIES[place[-1]].size)}
    assert odd == {("zero-shot", "0", "gaokao"): "30.8", ("rlvr-two", "500", "tabmwp"): "75.17"}


@pytest.mark.parametrize("row", ROWS)
def test_the_average_is_that_of_the_ten_columns(row: tuple[str, str]) -> None:
    *cells, average = map(float, ROWS[row])
    assert abs(sum(cells) / 10 - average) <= 0.051


@pytest.mark.parametrize(
    ("name", "low", "high", "sizes"), [("minerva_math", 2, 400, [272]), ("olympiadbench", 400, 800, [668, 675])]
)
def test_columns_that_tell_their_size(name: str, low: int, high: int, sizes: list[int]) -> None:
    assert [size for size in range(low, high) if all(can_be(cell, size) for cell in column(name))] == sizes


def test_the_gaokao_column_is_a_set_of_fourteen_but_for_its_first_row() -> None:
    first, *others = column("gaokao")
    assert {round(float(cell) * 14 / 100, 1) for cell in others} == {4.0, 5.0, 6.0, 7.0}
    small = [size for size in range(2, 100) if all(can_be(cell, size) for cell in others)]
    assert small == [14, 28, 42, 56, 70, 84, 98], "fourteen or a multiple"
    for name in ("gaokao2024_mix", "gaokao2023en"):
        assert not all(can_be(cell, ENTRIES[name].size) for cell in others)
    assert can_be(first, ENTRIES["gaokao2024_mix"].size), "28 of 91"


def test_three_small_sets_make_most_of_the_difference_that_the_paper_reports() -> None:
    """One example, 800 steps: OVD against RLVR."""
    ours, theirs = (dict(zip(TABLE_4, map(float, ROWS[row, "800"]), strict=False)) for row in ("ovd-one", "rlvr-one"))
    small = ("sat_math", "gaokao", "aime24")
    gain = sum(ours[name] - theirs[name] for name in TABLE_4) / 10
    of_small = sum(ours[name] - theirs[name] for name in small) / 10
    questions = [round((ours[name] - theirs[name]) / 100 * ENTRIES[name].size) for name in small]
    assert (round(gain, 2), round(of_small, 2), questions) == (2.55, 2.01, [2, 1, 2])
