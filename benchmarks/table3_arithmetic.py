"""Which denominators fit the cells of the paper's Table 3, and which averages fit their cells?

    python benchmarks/table3_arithmetic.py

An accuracy over n questions is k / n. A cell fits n when some whole k gives it, rounded or cut to as many decimals as
it is printed with; a last 0 may be padding, so 2.40 may be 2.4. Printed: every cell that does not fit the size of its
set, or fits it only when cut, with what else it fits; and every average that is not the mean of its row.
Nothing is measured here: the numbers are those of the paper (arXiv 2601.21968, Table 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

COLUMNS = ("NQ", "TriviaQA", "PopQA", "HotpotQA", "2Wiki", "Musique", "Bamboogle", "GAIA")
FULL = {**dict.fromkeys(COLUMNS[:6], 500), "Bamboogle": 125, "GAIA": 165}
"""The denominators that the sets have."""
REDUCED = {"Bamboogle": 72, "GAIA": 128}
"""What is left of them where a loader drops its last, smaller batch. Six sets of 500 and Bamboogle behind them are 3125
rows, six batches of 512 (A.6.2) are 3072: 53 of Bamboogle's 125 are dropped. Of 165 rows two batches of 64 are 128."""

QWEN, LLAMA = "Qwen-2.5-3B-Base", "LLaMA-3.2-3B-Base"
TABLE = {
    QWEN: """
Direct Answer | 12.40 30.60 5.60 16.00 19.20 4.40 16.80 2.40 13.43
CoT | 15.00 33.60 3.60 16.20 18.00 3.60 12.80 2.40 13.15
RAG | 31.60 58.00 15.20 24.20 23.20 8.20 15.20 5.40 22.63
RA-Agent | 15.20 28.40 6.60 12.60 16.60 2.60 13.60 3.00 12.33
Search-o1 | 16.60 31.00 8.20 14.80 22.40 5.20 22.40 2.40 15.38
R1 | 14.20 34.80 20.80 19.60 28.40 6.40 5.56 1.80 16.45
Search-R1 | 40.60 60.00 44.20 29.20 32.00 11.20 12.50 7.81 29.69
ZeroSearch | 43.00 61.60 41.40 33.80 34.60 13.00 13.89 7.27 31.07
OVD 10/0 | 51.00 68.80 69.00 39.40 42.00 21.00 23.20 13.33 40.97
OVD 10/5 | 50.00 67.80 69.80 39.00 43.70 27.90 32.00 12.12 42.79
OVD 10/10 | 50.00 69.20 65.20 42.00 45.00 26.40 42.40 11.51 43.96
OVD 5/0 | 49.20 67.20 63.20 39.20 35.20 21.80 15.20 9.09 37.51
OVD 5/5 | 47.00 67.40 66.40 38.00 37.60 23.20 24.80 7.88 39.04
OVD 5/10 | 46.00 66.80 64.80 38.80 43.80 25.00 40.00 10.30 41.94
OVD 10/10 14B | 48.00 66.60 65.40 39.00 41.80 24.00 33.60 10.30 41.09
OVD 10/5 14B | 47.40 65.80 66.40 37.00 43.60 23.20 24.80 8.50 39.59
OVD 10/0 14B | 48.60 66.40 64.80 38.40 38.60 22.80 16.80 10.90 38.41
OVD+ 5/5 | 48.80 68.00 66.60 39.40 41.40 24.20 28.80 11.50 41.09
OVD+ 10/5 | 25.60 39.40 43.20 22.20 15.80 10.80 12.80 12.72 22.82
""",
    LLAMA: """
Direct Answer | 16.20 29.60 7.40 12.60 9.20 2.00 8.00 1.20 10.78
CoT | 26.20 44.40 2.80 16.00 10.20 5.80 21.60 1.20 16.03
RAG | 30.00 57.60 26.40 23.40 17.60 9.60 11.20 1.20 22.00
RA-Agent | 22.40 36.20 11.40 16.60 21.00 5.60 26.40 0.60 17.53
Search-o1 | 24.20 48.40 8.80 19.40 17.40 6.00 32.00 1.20 19.68
R1 | 28.40 44.20 30.00 22.80 28.40 7.00 11.11 3.00 21.86
Search-R1 | 41.20 60.00 44.00 29.60 31.60 13.60 19.44 4.69 30.52
ZeroSearch | 23.80 41.00 18.00 22.00 26.80 4.80 11.10 3.03 18.69
OVD 10/0 | 39.40 57.40 48.20 31.40 31.00 14.00 15.20 7.27 30.58
OVD 10/5 | 43.40 62.20 54.80 31.00 29.20 18.40 25.60 7.88 34.06
OVD 10/10 | 41.60 57.80 33.00 34.00 21.00 34.40 21.00 7.27 31.01
OVD 5/0 | 44.80 64.80 54.60 33.60 33.60 18.80 22.40 9.09 35.19
OVD 5/5 | 46.80 64.20 54.80 37.00 36.20 22.20 27.20 8.48 37.01
OVD 5/10 | 45.60 64.00 57.20 35.20 35.60 18.00 32.80 7.88 37.04
OVD+ 5/5 | 45.80 64.40 54.80 34.20 36.20 22.20 28.00 7.27 36.51
OVD+ 10/5 | 42.00 57.80 54.40 31.00 34.40 17.20 28.00 8.48 34.16
""",
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
    for model, table in TABLE.items():
        for line in table.strip().splitlines():
            method, numbers = line.split("|")
            *cells, average = numbers.split()
            yield model, method.strip(), cells, average


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


def main() -> None:
    print("OVD a/b: theta_train a, theta_test b; OVD+: scores sampled at test time\n")
    print("Cells that are no k/n, rounded, of their set (500, Bamboogle 125, GAIA 165), and what they fit:")
    for model, method, column, cell, found in odd_cells():
        print(f"  {model:<18} {method:<14} {column:<10} {cell:>6}  {found}")
    print("\nAverages that are not the mean of their eight cells:")
    for model, method, mean, average in odd_averages():
        print(f"  {model:<18} {method:<14} printed {average}, mean {mean:.2f}")
    print("\nAverages of the seven sets without GAIA, which the text of section 4.2 goes by:")
    for model, method, cells, _ in rows():
        if model == QWEN and (method in ("Search-R1", "ZeroSearch") or "OVD" in method):
            print(f"  {method:<14} {sum(map(float, cells[:7])) / 7:.2f}")


if __name__ == "__main__":
    main()
