"""The programs behind the numbers in README.md and docs/; `python -m benchmarks.FOLDER.NAME --help`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository."""
