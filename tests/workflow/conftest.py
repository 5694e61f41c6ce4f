"""The command line's parser, in-process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ovd_lightning.cli import OVDCLI
from ovd_lightning.errors import ConfigError
from tests.workflow import cli


@pytest.fixture(scope="module")
def parse() -> Any:
    """The parsed configuration of a ``fit``; one parser for all tests, nothing is instantiated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cli.ROOT)
        patch.setattr("sys.argv", ["ovd_lightning"])
        patch.setattr(OVDCLI, "instantiate_classes", lambda self: None)
        patch.setattr(OVDCLI, "_run_subcommand", lambda self, name: None)
        parser = OVDCLI(["fit", "--config=configs/quickstart.yaml"]).parser
        yield lambda *args, verb="fit": parser.parse_args([verb, *args])[verb]


@pytest.fixture
def error(parse: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The message of a wrong command: one line on stderr and exit code 2, or a ConfigError."""

    def message(*args: str, verb: str = "fit") -> str:
        code: Any = None
        try:
            parse(*args, verb=verb)
        except ConfigError as found:
            return str(found)
        except SystemExit as ended:
            code = ended.code
        if code is not None:
            assert code == 2
            printed = capsys.readouterr().err
            assert printed.startswith("error: ")
            assert printed.count("\n") == 1, printed
            return printed[len("error: ") : -1]
        raise AssertionError(f"{args} was accepted")

    return message
