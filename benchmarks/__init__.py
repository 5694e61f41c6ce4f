"""The programs behind the numbers in README.md and docs/, for instance `python -m benchmarks.paper.table3 --help`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository."""
