"""The command ``dry_run``: a configuration is parsed as ``fit`` would, and nothing is loaded."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.dry_run.assumptions import Assumptions

if TYPE_CHECKING:
    from ovd_lightning.dry_run.plan import Plan

WIDTH = 120
"""Columns of what is printed to a file or a pipe."""
DESCRIPTION = """\
Whether a run fits, before anything is loaded: memory of student, optimiser, engine and loss, disk and time, calls and
tokens of the teacher. Reads config.json of the models and no weight. Takes whatever
`fit` takes (--config, --method, --data.rounds ...), and:"""


def arguments() -> argparse.ArgumentParser:
    default = Assumptions()
    parser = argparse.ArgumentParser(
        prog="python -m ovd_lightning dry_run",
        usage="%(prog)s --config CONFIG [--config OVERLAY ...] [--KEY VALUE ...] [options below]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--gpu_memory", type=positive, metavar="GIB", help="memory of one GPU; default: of the one that is visible here"
    )
    add("--steps", type=positive, default=default.steps, help="assumed steps of a trajectory (%(default)s)")
    add("--acceptance", type=share, default=default.acceptance, help="assumed share that is not replaced (%(default)s)")
    add("--prompt_tokens", type=count, default=default.prompt_tokens, help="assumed of a problem (%(default)s)")
    add("--longest_prompt", type=count, default=default.longest_prompt, help="assumed longest problem (%(default)s)")
    add("--response_tokens", type=count, help="assumed of a trajectory; default: a third of rollout.max_tokens")
    add("--demonstration_tokens", type=count, help="assumed of a demonstration, with its thought")
    add("--tflops", type=positive, default=default.tflops, help="assumed that a GPU trains with (%(default)s)")
    add(
        "--bandwidth",
        type=positive,
        default=default.bandwidth,
        help="assumed GB/s that it generates with (%(default)s)",
    )
    add("--input_price", type=positive, help="of a million tokens that the teacher reads")
    add("--output_price", type=positive, help="of a million tokens that the teacher writes")
    add(
        "--token_level",
        action="store_true",
        help="also what a teacher of tokens would need: the paper's eq. 1, Table 1",
    )
    add("--json", action="store_true", help="print everything as JSON")
    return parser


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share: 0 to 1")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def plan_of(argv: Sequence[str], assumed: Assumptions, gpu_memory: float | None) -> Plan:
    """Raises: ConfigError."""
    from ovd_lightning.cli import OVDCLI
    from ovd_lightning.dry_run.plan import make_plan

    class Unstarted(OVDCLI):
        """``fit`` up to where the Trainer would be made: its devices need not be here, and nothing is written."""

        def before_instantiate_classes(self) -> None:
            super().before_instantiate_classes()
            if self.config["fit"].get("method.init_args.teacher.init_args.cache") is not None:
                self.config["fit"]["method.init_args.teacher.init_args.cache"] = None  # the constructor makes its file

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            return None

        def _run_subcommand(self, subcommand: str) -> None:
            return

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
        cli = Unstarted(["fit", *argv])
    configured = cli.config_init["fit"]
    return make_plan(
        module=cli.model,
        data=cli.datamodule,
        rollout=configured["rollout"],
        checkpoint=configured["checkpoint"],
        trainer=configured["trainer"],
        assumed=assumed,
        gpu_memory=gpu_memory,
    )


def main(argv: Sequence[str]) -> None:
    """Prints the plan."""
    options, rest = arguments().parse_known_args(argv)
    values = vars(options)
    gpu_memory, wants_json, token_level = (values.pop(name) for name in ("gpu_memory", "json", "token_level"))
    from rich.console import Console

    from ovd_lightning.cli import plain_errors, quiet
    from ovd_lightning.dry_run.render import as_json, show

    quiet()
    with plain_errors():
        plan = plan_of(rest, Assumptions(**values), gpu_memory)
    if wants_json:
        json.dump(as_json(plan), sys.stdout, indent=2)
        print()
    else:
        console = Console()
        show(plan, console if console.is_terminal else Console(width=WIDTH), token_level)
