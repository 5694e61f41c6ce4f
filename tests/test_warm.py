"""A command of tests/warm.py is like one of ``python -m``: its own arguments, environment, streams and end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from tests import warm
from tests.workflow import cli

pytestmark = pytest.mark.skipif(not warm.possible(), reason="no server of commands on this system")
ENVIRONMENT = cli.environment(OVD_ANY="1")
IMPORTS_SET = ("TORCH", "PYTORCH", "TRITON", "TILELANG", "VLLM", "AITER")
Start = Callable[..., cli.Process]


def forked(module: str, *args: str, **streams: int) -> cli.Process:
    return warm.Process(module, args, cli.ROOT, ENVIRONMENT, **streams)


def cold(module: str, *args: str, **streams: int) -> cli.Process:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(
        [sys.executable, "-m", module, *args], cwd=cli.ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, text=True,
        start_new_session=True, **streams,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["0", "3", "raise"])
def test_it_finds_and_tells_what_a_cold_one_does(how: str) -> None:
    told = []
    for start in (forked, cold):
        process = start("tests.tells", how)
        out, err = process.communicate()
        line, *rest = out.splitlines()
        found = json.loads(line)
        added = found["environment"].keys() - ENVIRONMENT.keys()
        assert not [name for name in added if not name.startswith(IMPORTS_SET)]
        found["environment"] = {k: v for k, v in found["environment"].items() if k not in added}
        told.append((found, rest, err.splitlines()[0], err.splitlines()[-1], process.returncode))
    assert told[0] == told[1]
    assert told[0][0]["environment"]["OVD_ANY"] == "1"
    assert told[0][1:] == (["at exit"], "beside", "ValueError: told to" if how == "raise" else "beside", told[0][-1])
    assert told[0][-1] == {"0": 0, "3": 3, "raise": 1}[how]


@pytest.mark.parametrize("start", [forked, cold])
def test_signals_end_it_and_nothing_is_left(start: Start) -> None:
    for number, code in ((signal.SIGTERM, -15), (signal.SIGKILL, -9), (signal.SIGINT, -2)):
        process = start("tests.tells", "wait", stderr=subprocess.STDOUT)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["leader"]
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == process.poll() == process.wait() == code
        assert ("KeyboardInterrupt" in out) == (number == signal.SIGINT)
        assert not psutil.pid_exists(process.pid)


def test_several_run_at_once_and_none_holds_another_ones_streams() -> None:
    waiting = forked("tests.tells", "wait")
    assert waiting.stdout is not None
    waiting.stdout.readline()
    processes = [forked("tests.tells", str(i)) for i in range(3)]
    for i, process in enumerate(processes):
        process.communicate(timeout=60)
        assert process.returncode == i
    waiting.send_signal(signal.SIGKILL)
    waiting.communicate(timeout=60)


def test_each_draws_numbers_and_has_a_folder_of_its_own() -> None:
    first, second = (json.loads(forked("tests.tells", "draw").communicate()[0].splitlines()[0]) for _ in range(2))
    assert first["there"] is second["there"] is True
    assert first["random"] != second["random"]
    assert first["folder"] != second["folder"]


def test_the_command_line_is_warm_but_for_another_environment() -> None:
    server = warm.server()
    assert server.serves(cli.environment())
    assert server.serves(cli.environment(WANDB_MODE="disabled", STAND="x", TMPDIR="/tmp"))
    assert not server.serves(cli.environment(PYTHONPATH="/elsewhere"))
    assert not server.serves(cli.environment(HF_HUB_OFFLINE="0"))
