"""Every measurement of docs/speed.md.

    python -m benchmarks.speed compare                               beside TRL
    python -m benchmarks.speed quickstart --baseline REF             beside another commit
    python -m benchmarks.speed growth | padding | head | simulator
    python -m benchmarks.speed --write docs/speed.md compare         ... into the document
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from benchmarks.speed import compare, growth, head, padding, quickstart, report, simulator

MEASUREMENTS = {
    "compare": compare.main,
    "quickstart": quickstart.main,
    "growth": growth.main,
    "padding": padding.main,
    "head": head.main,
    "simulator": simulator.main,
}


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.speed", description="Speed, measured and simulated.")
    parser.add_argument("--write", type=Path | None, default=None, help="document whose section is replaced")
    commands = parser.add_subcommands(dest="what")
    for name, function in MEASUREMENTS.items():
        command = ArgumentParser(description=function.__doc__)
        command.add_function_arguments(function)
        commands.add_subcommand(name, command)
    given = sys.argv[1:] if arguments is None else arguments
    settings = parser.parse_args(given)
    chosen = parser.instantiate_classes(settings)[settings.what]
    text = MEASUREMENTS[settings.what](**vars(chosen))
    print(text)
    if settings.write is not None:
        report.write(settings.write, settings.what, text)


if __name__ == "__main__":
    main()
