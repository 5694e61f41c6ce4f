"""What a command imports before it has anything to do: seconds of every start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.workflow.cli import ROOT, environment

SHOW = """
import contextlib, gc, io, json, sys
from ovd_lightning.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
modules = sorted(sys.modules)
print(json.dumps({"modules": modules, "frozen": gc.get_freeze_count(), "collected": gc.isenabled()}))
"""


def after(*args: str) -> dict[str, Any]:
    """The modules of a process that has run a command, and its garbage collector."""
    command = [sys.executable, "-c", SHOW, *args]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("args", [("fit", "--help"), ("dry_run", "--config", "configs/quickstart.yaml")])
def test_nothing_heavy_is_imported_for_help_and_estimates(args: tuple[str, ...]) -> None:
    """An engine, a logger, a plot or a data set imports these when it starts."""
    found = after(*args)
    heavy = {
        "vllm", "wandb", "datasets", "pandas", "pyarrow", "openai", "plotly", "bm25s", "math_verify",
        "torch.distributed.optim",
    }  # fmt: skip
    assert sorted(heavy & set(found["modules"])) == []
    assert "torch" in found["modules"], "the command has really run"
    assert found["frozen"] > 100_000, "no garbage collection passes over what was imported ..."
    assert found["collected"], "... and there is one of what comes after"


def test_help_of_the_program_and_of_the_dry_run_imports_nothing() -> None:
    for args in (("--help",), ("dry_run", "--help")):
        assert not {"torch", "lightning", "transformers", "jsonargparse"} & set(after(*args)["modules"])


def test_only_the_given_command_gets_arguments() -> None:
    from ovd_lightning.cli import OVDCLI

    class Parsed(OVDCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise InterruptedError(list(self._subcommand_parsers))

    for given, prepared in (("test", ["test"]), ("tset", ["fit", "validate", "test", "predict"])):
        with pytest.raises(InterruptedError) as error:
            Parsed([given])
        assert error.value.args[0] == prepared
