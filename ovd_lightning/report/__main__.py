"""``python -m ovd_lightning.report RUN_DIR [RUN_DIR ...]``: (re)write the page of finished or running runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ovd_lightning.report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ovd_lightning.report",
        description="Write RUN_DIR/report.html, one self-contained page: curves and the rollout viewer.",
    )
    parser.add_argument("run_dir", nargs="+", type=Path, help="runs/<name>/<time>")
    failed = False
    for run_dir in parser.parse_args(argv).run_dir:
        try:
            print(write_report(run_dir))
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
