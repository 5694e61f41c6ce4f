"""Every measurement of docs/speed.md.

python -m benchmarks.speed compare                               beside TRL
python -m benchmarks.speed quickstart --baseline REF             beside another commit
python -m benchmarks.speed growth                                or padding, head, simulator
python -m benchmarks.speed --write docs/speed.md growth          ... into the document
python -m benchmarks.speed --write docs/speed.md all --baseline REF
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser

from benchmarks.speed import compare, growth, head, padding, quickstart, simulator
from benchmarks.speed.report import Section, write

MEASUREMENTS: dict[str, Callable[..., Section]] = {
    "compare": compare.main,
    "quickstart": quickstart.main,
    "growth": growth.main,
    "padding": padding.main,
    "head": head.main,
    "simulator": simulator.main,
}


def every(baseline: str) -> None:
    """All of them, with their defaults, one after the other.

    Args:
        baseline: commit that the quickstart is compared with.
    """


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.speed", description="Speed, measured and simulated.")
    parser.add_argument("--write", type=Path | None, default=None, help="document whose section is replaced")
    commands = parser.add_subcommands(dest="what")
    functions: dict[str, Callable[..., Section | None]] = {**MEASUREMENTS, "all": every}
    for name, function in functions.items():
        command = ArgumentParser(description=(function.__doc__ or "").splitlines()[0])
        command.add_function_arguments(function)
        commands.add_subcommand(name, command)
    given = sys.argv[1:] if arguments is None else arguments
    settings = parser.instantiate(parser.parse_args(given))
    options = vars(settings[settings.what])
    if settings.what == "all":
        before = given[: given.index("all")]
        for name in MEASUREMENTS:
            main([*before, name, *([f"--baseline={options['baseline']}"] if name == "quickstart" else [])])
        return
    text = MEASUREMENTS[settings.what](**options).text(given)
    print(text, flush=True)
    if settings.write is not None:
        write(settings.write, settings.what, text)


if __name__ == "__main__":
    main()
