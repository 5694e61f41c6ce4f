"""What the commands that make the embedded models share: their options, and the README that they write."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch


def parse(description: str | None, stages: Sequence[str]) -> argparse.Namespace:
    """The options of the command line. Creates ``out`` and sets PyTorch's number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=stages, default=list(stages))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in OUT, at the next phase")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def write_readme(out: Path, head: Path, report: str) -> None:
    """``out``/README.md: the written ``head``, then the measured ``report``, which is printed too."""
    print(report)
    (out / "README.md").write_text(f"{head.read_text()}\n{report}")
