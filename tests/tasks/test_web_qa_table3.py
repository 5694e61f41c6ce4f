"""What docs/web_qa.md says of the numbers printed in Table 3."""

from __future__ import annotations

import pytest

from benchmarks.paper.table3_arithmetic import (
    BATCH,
    LLAMA,
    QWEN,
    blocks,
    fit,
    gains,
    odd_averages,
    odd_cells,
    rows,
)


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


def test_impossible_cells_fit_a_batch_of_the_evaluation() -> None:
    """ "No k/n" is of the sizes of the sets."""
    cells = [cell for *_, cell, found in odd_cells() if found == "nothing"]
    assert {cell: fit(cell, BATCH) for cell in cells} == {
        "43.70": "224/512 cut", "27.90": "143/512", "21.00": "108/512 cut"
    }  # fmt: skip


def test_a_moderate_testing_threshold_is_rarely_the_best() -> None:
    """Section 4.2 says that 5 "consistently outperforms" 0 and 10."""
    best = [[max(tests, key=lambda t: tests[t][i]) for tests in blocks().values()] for i in (0, 1)]
    assert len(best[0]) == 5
    assert [of.count("5") for of in best] == [1, 2], "by the printed averages, and by the means of their cells"


def test_the_abstracts_gain_is_of_the_row_in_which_the_teacher_writes_every_step() -> None:
    found = {(model, method): round(gain, 1) for model, method, gain in gains()}
    assert max(found.values()) == found[QWEN, "OVD 10/10"] == 12.9
    assert max(g for (_, method), g in found.items() if method.endswith("/0")) == found[QWEN, "OVD 10/0"] == 9.9
