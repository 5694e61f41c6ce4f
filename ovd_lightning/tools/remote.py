"""A sandbox that is a service, with SandboxFusion's ``/run_code`` protocol (github.com/bytedance/SandboxFusion)."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.service import COUNTED, Call, Failure, Service, check_url
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ovd_lightning.tools.base import SETTINGS, Execution, Sandbox
from ovd_lightning.tools.program import run_main, traceback_of

if TYPE_CHECKING:
    import httpx

LATENCY_S = 20.0
"""Seconds for a request besides its program's: the server's queue and the network."""
STATUSES = ("Success", "Failed", "SandboxError")


class RemoteSandbox(Sandbox):
    """Posts each program to a server that runs it in a container or on a machine of its own: for untrusted models at
    scale, and for machines whose kernel protects too little.

    A round takes bounded time whatever the server does: n programs take at most ceil(n / ``max_concurrency``) times
    ``max_retries`` + 1 timeouts with the backoff between them, and after ``breaker_failures`` failed programs in a row
    the circuit is open. A program may have run even if its answer was lost, so a retry may run it twice.

    Args:
        url: With its path, e.g. http://127.0.0.1:8080/run_code.
        time_s: seconds for one program (SOD: 60).
        memory_mb: of one program, where the server limits it (SOD: 2048).
        print_value: see `LocalSandbox`.
        latency_s: seconds for one request besides its program's.
        answer_mb: a longer answer is a failure.
        max_retries: after too many requests (429), server errors (5xx), broken connections, answers that cannot be
            parsed, and timeouts.
        backoff_s: wait before the first retry; doubles with each, up to a quarter longer at random.
        max_concurrency: programs in flight per rank.
        requests_per_minute: limit per rank, retries included; null: none.
        breaker_failures: failed programs in a row after which the circuit is open: calls then fail at once.
        breaker_pause_s: for how long; then one program is sent as a probe.
    """

    counted = COUNTED

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080/run_code",
        time_s: PositiveFloat = 10.0,
        memory_mb: PositiveInt = 2048,
        print_value: bool = True,
        latency_s: NonNegativeFloat = LATENCY_S,
        answer_mb: PositiveInt = 16,
        max_retries: NonNegativeInt = 3,
        backoff_s: NonNegativeFloat = 0.5,
        max_concurrency: PositiveInt = 32,
        requests_per_minute: PositiveInt | None = None,
        breaker_failures: PositiveInt = 8,
        breaker_pause_s: NonNegativeFloat = 30.0,
    ) -> None:
        super().__init__()
        check_url(f"{SETTINGS}.url", url)
        self.url = url
        self.time_s, self.memory_mb, self.print_value = time_s, memory_mb, print_value
        self.answer_bytes = answer_mb << 20
        self.service = Service(
            url,
            timeout_s=time_s + latency_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            breaker_failures=breaker_failures,
            breaker_pause_s=breaker_pause_s,
        )

    @property
    def name(self) -> str:
        return f"remote:{self.url}"

    def settings(self) -> dict[str, Any]:
        return {
            "sandbox": self.name,
            "time_s": self.time_s,
            "memory_mb": self.memory_mb,
            "print_value": self.print_value,
        }

    def check(self) -> None:
        """Runs one program. Raises: ConfigError when the server does not answer as the protocol says."""
        (answer,) = self.service.send([self._call("print(6 * 7)")], max_retries=0)
        self.service.take_traffic()
        problem = answer.reason if isinstance(answer, Failure) else answer.failed
        if problem is None and answer.stdout != "42\n":
            problem = f"print(6 * 7) gave {answer.stdout[:100]!r} {answer.stderr[-200:]}".rstrip()
        if problem is not None:
            raise ConfigError(
                f"{SETTINGS}.url",
                f"{self.url} does not run programs as SandboxFusion does ({problem}).",
                "Correct it (it ends in /run_code), or start the server; docs/sandbox.md shows how.",
            )

    def take_counts(self) -> dict[str, float]:
        return self.service.take_traffic().counts()

    def run(self, codes: Sequence[str]) -> list[Execution]:
        answers = self.service.send([self._call(code) for code in codes])
        return [Execution(failed=a.reason) if isinstance(a, Failure) else a for a in answers]

    def _call(self, code: str) -> Call:
        body = {
            "code": self._wrapped(code),
            "language": "python",
            "stdin": "",
            "compile_timeout": self.time_s,
            "run_timeout": self.time_s,
            "memory_limit_MB": self.memory_mb,
            "files": {},
            "fetch_files": [],
        }

        async def call(client: httpx.AsyncClient) -> Execution:
            async with client.stream("POST", self.url, json=body) as response:
                if response.is_error:
                    await response.aread()
                    response.raise_for_status()
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > self.answer_bytes:
                        raise ValueError(f"the answer is longer than {self.answer_bytes >> 20} MB")
            return read_answer(json.loads(data), self.time_s)

        return call

    def _wrapped(self, code: str) -> str:
        """A program that runs the program and prints its last value."""
        if not self.print_value:
            return code
        return "\n\n".join(
            [
                "from __future__ import annotations\nimport sys\nfrom typing import Any",
                inspect.getsource(run_main),
                inspect.getsource(traceback_of),
                f"try:\n    run_main({code!r}, {{'__name__': '__main__'}}, True)\n"
                "except SystemExit:\n    raise\n"
                "except BaseException as error:\n    sys.exit(traceback_of(error).rstrip())\n",
            ]
        )


def read_answer(answer: Any, time_s: float) -> Execution:
    """The result in a server's answer. Raises: ValueError when the answer does not follow the protocol."""
    if not isinstance(answer, dict) or answer.get("status") not in STATUSES:
        raise ValueError(f'"status" is none of {", ".join(STATUSES)}')
    if answer["status"] == "SandboxError":
        return Execution(failed=f"SandboxError: {answer.get('message')}"[:500])
    result = answer.get("run_result")
    if not isinstance(result, dict):
        raise ValueError('the answer has no "run_result"')
    code, seconds = result.get("return_code"), result.get("execution_time")
    if not isinstance(code, int | None) or not isinstance(seconds, int | float | None):
        raise ValueError("return_code or execution_time is no number")
    stdout, stderr = result.get("stdout") or "", result.get("stderr") or ""
    if not isinstance(stdout, str) or not isinstance(stderr, str):
        raise ValueError("stdout or stderr is no text")
    timed_out, killed = result.get("status") == "TimeLimitExceeded", None
    if timed_out:
        killed = f"{time_s:g} s are over"
    elif code is None:
        raise ValueError("a program that has ended has no return_code")
    elif code < 0:
        known = {s.value: s.name for s in signal.Signals}
        killed = f"signal {known.get(-code, -code)}"
    return Execution(
        stdout=stdout,
        stderr=stderr,
        exit_code=None if killed else code,
        timed_out=timed_out,
        killed=killed,
        seconds=float(seconds or 0.0),
    )
