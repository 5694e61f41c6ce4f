"""SandboxFusion's ``/run_code`` over servers that are healthy, slow, broken and gone."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.tools.base import Execution
from ovd_lightning.tools.remote import RemoteSandbox, read_answer
from tests.limits import patient
from tests.search.parts import Answer, Server, closes, hangs, refused, says, send, status, trickles
from tests.tools.parts import calls, outputs
from tests.tools.test_environment import turn

Serve = Callable[..., Server]


def runs(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """As the server does it: the program in an interpreter of its own, the statuses of its protocol."""
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", body["code"]], input=body["stdin"], capture_output=True, text=True,
            timeout=body["run_timeout"],
        )  # fmt: skip
        result = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode()
        result = {"status": "TimeLimitExceeded", "return_code": None, "stdout": printed, "stderr": ""}
    result["execution_time"] = time.monotonic() - begun
    whole = "Success" if result["return_code"] == 0 else "Failed"
    send(handler, 200, {"status": whole, "message": "", "compile_result": None, "run_result": result, "files": {}})


def client(server: Server, **settings: Any) -> RemoteSandbox:
    quick = {"time_s": 5.0, "latency_s": 1.0, "max_retries": 2, "backoff_s": 0.01, "breaker_failures": 100}
    return RemoteSandbox(f"{server.url}/run_code", **{**quick, **settings})


def test_the_protocol(serve: Serve) -> None:
    server = serve(runs)
    sandbox = client(server, print_value=False, time_s=7.0, memory_mb=512)
    (result,) = sandbox.run(["print(6 * 7)"])
    assert result.seconds > 0
    assert (result.stdout, result.stderr, result.exit_code, result.failed) == ("42\n", "", 0, None)
    assert server.bodies == [
        {
            "code": "print(6 * 7)", "language": "python", "stdin": "", "compile_timeout": 7.0, "run_timeout": 7.0,
            "memory_limit_MB": 512, "files": {}, "fetch_files": [],
        }
    ]  # fmt: skip
    assert sandbox.take_counts()["requests"] == 1
    assert sandbox.run([]) == []


def test_what_becomes_of_a_program(serve: Serve) -> None:
    sandbox = client(serve(runs), time_s=3.0)
    programs = ["print(1)\n2", "1 / 0", "print('before', flush=True)\nwhile True: pass", "import os; os.abort()",
                "exit(3)", "input()", "def f(:", "'é漢'"]  # fmt: skip
    fine, raises, slow, aborts, ends, asks, wrong, text = sandbox.run(programs)
    assert (fine.stdout, fine.exit_code) == ("1\n2\n", 0)
    assert raises.exit_code == 1
    assert raises.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert 'File "main.py", line 1, in <module>\n    1 / 0' in raises.stderr
    assert (slow.timed_out, slow.killed, slow.exit_code, slow.stdout) == (True, "3 s are over", None, "before\n")
    assert (aborts.killed, aborts.timed_out, aborts.exit_code) == ("signal SIGABRT", False, None)
    assert ends.exit_code == 3
    assert asks.stderr.splitlines()[-1].startswith("EOFError")
    assert wrong.stderr.splitlines()[-1] == "SyntaxError: invalid syntax"
    assert text.stdout == "é漢\n"
    assert not any(r.failed for r in (fine, raises, slow, aborts, ends, asks, wrong, text))


def test_it_is_the_same_interpreter_as_the_local_one(serve: Serve) -> None:
    """What a reply shows does not depend on where the program ran."""
    from ovd_lightning.tools.local import LocalSandbox
    from tests.tools.parts import SMALL

    programs = ["x = 3\nx + 1", "print(1)", "[].append(1)", "def f(x): return 1 / x\nf(0)", "f(", "print(__name__)",
                "import sys; sys.exit('so')", "from __future__ import annotations\n5"]  # fmt: skip
    local = LocalSandbox(**{**SMALL, "time_s": 10.0, "print_value": True})
    try:
        shown = [
            [r.body for r in ToolEnvironment(sandbox).reply([turn(calls(p)) for p in programs])]
            for sandbox in (local, client(serve(runs)))
        ]
    finally:
        local.close()
    assert shown[0] == shown[1]


def test_programs_are_sent_beside_one_another_within_the_limit_and_come_back_in_order(serve: Serve) -> None:
    server = serve(runs)
    sandbox = client(server, max_concurrency=3)
    assert outputs(sandbox.run([f"print({i})" for i in range(12)])) == [f"{i}\n" for i in range(12)]
    assert 1 < server.busiest <= 3


@pytest.mark.parametrize(
    "trouble", [status(500), status(503), status(504), status(429), closes, says("garbage"), says({})]
)
def test_trouble_that_passes_is_retried(serve: Serve, trouble: Answer) -> None:
    sandbox = client(serve(trouble, trouble, runs))
    (result,) = sandbox.run(["print(1)"])
    assert (result.stdout, result.failed) == ("1\n", None)
    counts = sandbox.take_counts()
    assert (counts["requests"], counts["retries"]) == (3, 2)


@pytest.mark.parametrize(
    ("trouble", "reason", "requests"),
    [
        (status(500), "status 500", 3),
        (status(404), "status 404", 1),  # no retry makes that right
        (closes, "RemoteProtocolError", 3),
        (lambda handler, _: send(handler, 200, b"<html>a proxy</html>"), "JSONDecodeError", 3),
        (lambda handler, _: send(handler, 200, b"x" * (3 << 20)), "longer than 2 MB", 3),
        (says([]), "status", 3),
        (says({"status": "Success", "run_result": None}), "run_result", 3),
        (says({"status": "SandboxError", "message": "no container"}), "SandboxError: no container", 1),
    ],
)
def test_trouble_that_stays_is_a_failure(serve: Serve, trouble: Answer, reason: str, requests: int) -> None:
    sandbox = client(serve(trouble), answer_mb=2)
    (result,) = sandbox.run(["print(1)"])
    assert result.failed is not None
    assert reason in result.failed
    assert result == Execution(failed=result.failed)
    assert sandbox.take_counts()["requests"] == requests


@pytest.mark.parametrize("trouble", [hangs, trickles])
def test_a_server_that_hangs_takes_bounded_time(serve: Serve, trouble: Answer) -> None:
    begun = time.monotonic()
    (result,) = client(serve(trouble), time_s=0.3, latency_s=0.2, max_retries=1).run(["1"])
    assert result.failed == "no answer within 0.5 s"
    assert time.monotonic() - begun < patient(3)


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_dead_server_fails_fast_is_counted_and_stops_the_run() -> None:
    sandbox = RemoteSandbox(
        f"http://127.0.0.1:{dead_port()}/run_code", max_retries=1, backoff_s=0.01, max_concurrency=4, breaker_failures=4
    )
    environment = ToolEnvironment(sandbox)
    begun = time.monotonic()
    assert all(r.failed and not r.done for r in environment.reply([turn(calls("1"))] * 20))
    with pytest.raises(RuntimeError, match=r"failed in 20 of 20 calls"), environment.awake():
        environment.reply([turn(calls("1"))] * 20)
    assert time.monotonic() - begun < patient(5)
    counts = environment.take_counts()
    assert counts["failed_calls"] == 40
    assert counts["skipped_requests"] >= 30  # the circuit was open


def test_a_wrong_address_is_found_before_training(serve: Serve) -> None:
    client(serve(runs)).check()
    wrong = {"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": "41\n"}}
    for sandbox in (
        RemoteSandbox(f"http://127.0.0.1:{dead_port()}/run_code"),
        client(serve(status(404))), client(serve(says(wrong))), client(serve(says({"result": []}))),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"url: .* does not run programs as SandboxFusion does"):
            sandbox.check()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://a"])
def test_a_wrong_address(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        RemoteSandbox(url)


@pytest.mark.parametrize("settings", [{"time_s": 0}, {"max_retries": -1}, {"max_concurrency": 0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    assert f'"given.{next(iter(settings))}"' in refused(RemoteSandbox, settings)


@pytest.mark.parametrize(
    "answer",
    [
        None, 3, {}, {"status": "Done"}, {"status": "Success"}, {"status": "Failed", "run_result": "text"},
        {"status": "Success", "run_result": {"status": "Finished"}},
        {"status": "Success", "run_result": {"status": "Finished", "return_code": "0"}},
        {"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": 3}},
    ],
)  # fmt: skip
def test_what_is_not_the_protocol(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_answer(answer, 1.0)


def test_missing_output_is_empty_output() -> None:
    answer = {"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": None}}
    assert read_answer(answer, 1.0) == Execution(exit_code=0)
