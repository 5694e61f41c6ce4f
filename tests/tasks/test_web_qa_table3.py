"""What docs/web_qa.md says of the numbers printed in Table 3."""

from __future__ import annotations

import pytest

from benchmarks.paper.table3_arithmetic import LLAMA, QWEN, fit, odd_averages, odd_cells, rows


@pytest.mark.parametrize(
    ("cell", "n", "found"),
    [
        ("13.89", 72, "10/72"),
        ("13.89", 125, None),
        ("7.81", 128, "10/128"),
        ("11.51", 165, "19/165 cut"),  # 11.515...
        ("12.12", 165, "20/165"),
        ("2.40", 165, "4/165"),  # 2.42 printed with one decimal, and padded
        ("43.70", 500, None),
        ("0.20", 500, "1/500"),
    ],
)
def test_a_cell_is_some_whole_number_of_questions(cell: str, n: int, found: str | None) -> None:
    assert fit(cell, n) == found


def test_every_row_has_eight_cells_and_an_average() -> None:
    assert [sum(model == m for m, *_ in rows()) for model in (QWEN, LLAMA)] == [19, 16]
    assert all(len(cells) == 8 for _, _, cells, _ in rows())


def test_the_rl_baselines_have_smaller_denominators() -> None:
    """And they alone: of OVD's own cells all but three fit the whole sets."""
    odd = [(method, column, found) for _, method, column, _, found in odd_cells()]
    reduced = [(method, column) for method, column, found in odd if found.endswith(("/72", "/128"))]
    assert {method for method, _ in reduced} == {"R1", "Search-R1", "ZeroSearch"}
    assert sum(column == "Bamboogle" for _, column in reduced) == 6
    assert sum(column == "GAIA" for _, column in reduced) == 2
    impossible = [(method, column) for method, column, found in odd if found == "nothing"]
    assert impossible == [("OVD 10/5", "2Wiki"), ("OVD 10/5", "Musique"), ("OVD 10/10", "Bamboogle")]


def test_averages_that_are_not_the_mean_of_their_cells() -> None:
    odd = {(model, method): mean - float(average) for model, method, mean, average in odd_averages()}
    assert {model for model, _ in odd} == {LLAMA}
    assert [method for _, method in odd] == [
        "RAG",
        "ZeroSearch",
        "OVD 10/0",
        "OVD 10/10",
        "OVD 5/0",
        "OVD 5/5",
        "OVD+ 5/5",
    ]
    assert max(map(abs, odd.values())) == pytest.approx(0.25, abs=0.005)


def test_the_text_goes_by_seven_sets() -> None:
    """32.8 and 34.5 of section 4.2 are averages without GAIA; the 43.6 of OVD is none of its rows."""
    sevens = {method: sum(map(float, cells[:7])) / 7 for model, method, cells, _ in rows() if model == QWEN}
    assert round(sevens["Search-R1"], 1) == 32.8
    assert round(sevens["ZeroSearch"], 1) == 34.5
    assert round(sevens["OVD 10/10"] / 100, 3) == 0.486  # the best of section 4.3
    assert not [method for method, mean in sevens.items() if abs(mean - 43.6) < 0.05]
