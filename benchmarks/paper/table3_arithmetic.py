"""Which denominators fit the cells of the paper's Table 3, and which averages fit their cells?

    python -m benchmarks.paper.table3_arithmetic

An accuracy over n questions is k / n. A cell fits n when some whole k gives it, rounded or cut to as many decimals as
it is printed with; a final 0 may be padding, so 2.40 may be 2.4. Printed: every cell that does not fit the size of its
set, or only when cut, with what else it fits; every average that is not the mean of its row; the testing threshold with
the best average in each block of rows that differ in it alone; and OVD's gains over the best baseline. Nothing is
measured: the numbers are the paper's (arXiv 2601.21968v1, Table 3).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from benchmarks import ROOT
from benchmarks.paper.grid import read_csv

COLUMNS = ("NQ", "TriviaQA", "PopQA", "HotpotQA", "2Wiki", "Musique", "Bamboogle", "GAIA")
FULL = {**dict.fromkeys(COLUMNS[:6], 500), "Bamboogle": 125, "GAIA": 165}
"""The denominators that the sets have."""
REDUCED = {"Bamboogle": 72, "GAIA": 128}
"""What is left of them where a loader drops its last, smaller batch. Six sets of 500 and Bamboogle behind them are 3125
rows, six batches of 512 (A.6.2) are 3072: 53 of Bamboogle's 125 are dropped. Of 165 rows two batches of 64 are 128."""

BATCH = 512
"""Of the evaluation (A.6.2). A set of 500 has none, but cells that fit no set fit it."""

PAPER = ROOT / "benchmarks" / "paper" / "table3.csv"
"""Table 3 as printed."""
QWEN, LLAMA = "Qwen-2.5-3B-Base", "LLaMA-3.2-3B-Base"
METHODS = {
    "direct": "Direct Answer",
    "cot": "CoT",
    "rag": "RAG",
    "ra_agent": "RA-Agent",
    "search_o1": "Search-o1",
    "r1": "R1",
    "search_r1": "Search-R1",
    "zerosearch": "ZeroSearch",
}


def fit(cell: str, n: int) -> str | None:
    """How some k / n gives the cell: "7/128", "19/165 cut" when its decimals were cut off; None: no k does."""
    value = float(cell)
    decimals = [2, 1] if cell.endswith("0") else [2]
    for cut in (False, True):
        for places in decimals:
            for k in range(n + 1):
                exact = 100 * k / n
                shown = math.floor(exact * 10**places + 1e-9) / 10**places if cut else round(exact, places)
                if math.isclose(shown, value, abs_tol=1e-9):
                    return f"{k}/{n}{' cut' if cut else ''}"
    return None


def rows() -> Iterator[tuple[str, str, list[str], str]]:
    """(model, method, eight cells, the printed average)"""
    for line in read_csv(PAPER):
        *_, average = values = list(line.values())
        agent, dagger = " 14B" if line["agent"] else "", "+" if line["sampled"] else ""
        method = METHODS.get(line["method"], f"OVD{dagger} {line['train']}/{line['test']}{agent}")
        yield {"qwen": QWEN, "llama": LLAMA}[line["student"]], method, values[-9:-1], average


def odd_cells() -> Iterator[tuple[str, str, str, str, str]]:
    """(model, method, set, cell, what it fits)"""
    for model, method, cells, _ in rows():
        for column, cell in zip(COLUMNS, cells, strict=True):
            whole = fit(cell, FULL[column])
            if whole is not None and "cut" not in whole:
                continue
            other = fit(cell, REDUCED[column]) if column in REDUCED else None
            yield model, method, column, cell, " or ".join(found for found in (whole, other) if found) or "nothing"


def odd_averages() -> Iterator[tuple[str, str, float, str]]:
    """(model, method, mean of the eight cells, the printed average), where they differ by more than rounding"""
    for model, method, cells, average in rows():
        mean = sum(map(float, cells)) / len(cells)
        if abs(mean - float(average)) > 0.0051:
            yield model, method, mean, average


def blocks() -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """(model, training threshold) -> testing threshold -> (printed average, mean of its eight cells); without the rows
    whose scores were sampled."""
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for model, method, cells, average in rows():
        if method.startswith("OVD "):
            train, _, test = method.removeprefix("OVD ").partition("/")
            test, _, agent = test.partition(" ")
            mean = sum(map(float, cells)) / len(cells)
            found.setdefault((model, f"{train} {agent}".strip()), {})[test] = float(average), mean
    return found


def gains() -> Iterator[tuple[str, str, float]]:
    """(model, method, its printed average less the best of the methods without OVD)"""
    printed = [(model, method, float(average)) for model, method, _, average in rows()]
    for model, method, average in printed:
        if method.startswith("OVD"):
            others = [value for m, name, value in printed if m == model and not name.startswith("OVD")]
            yield model, method, average - max(others)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("OVD a/b: theta_train a, theta_test b; OVD+: scores sampled at test time\n")
    print("Cells that are no k/n, rounded, of their set (500, Bamboogle 125, GAIA 165), and what they fit:")
    for model, method, column, cell, found in odd_cells():
        batch = f"; one evaluation batch: {fit(cell, BATCH)}" if found == "nothing" else ""
        print(f"  {model:<18} {method:<14} {column:<10} {cell:>6}  {found}{batch}")
    print("\nAverages that are not the mean of their eight cells:")
    for model, method, mean, average in odd_averages():
        print(f"  {model:<18} {method:<14} printed {average}, mean {mean:.2f}")
    print("\nBest testing threshold of each block, by the printed average (by the mean of the eight cells):")
    for (model, train), tests in blocks().items():
        best = [max(tests, key=lambda t, i=i: tests[t][i]) for i in (0, 1)]  # type: ignore[misc]
        print(f"  {model:<18} theta_train {train:<7} {best[0]} ({best[1]})")
    print("\nPrinted average of OVD less that of the best other method:")
    for model, method, gain in gains():
        print(f"  {model:<18} {method:<14} {gain:+.2f}")
    print("\nAverages of the seven sets without GAIA, which the text of section 4.2 goes by:")
    for model, method, cells, _ in rows():
        if model == QWEN and (method in ("Search-R1", "ZeroSearch") or "OVD" in method):
            print(f"  {method:<14} {sum(map(float, cells[:7])) / 7:.2f}")


if __name__ == "__main__":
    main()
