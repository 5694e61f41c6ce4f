"""vLLM's own OpenAI-compatible server of a model, as a process of the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovd_lightning.engines.vllm import VLLMEngine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(model: str, name: str, context: int, log: Path, extra: Sequence[str] = ()) -> Iterator[str]:
    """Base URL of a server of ``model``, alone in its session so that all its processes end with it."""
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", name]
    command += ["--dtype", "float32", "--max-model-len", str(context), "--block-size", "32", "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(64 << 20), *extra]
    with _running(command, free_port(), log) as url:
        yield f"{url}/v1"


@contextmanager
def serve_student(model: str, log: Path, *extra: str, port: int | None = None) -> Iterator[str]:
    """URL of a server that a run can sample its student on, by the command that a user gives."""
    command = ["-m", "ovd_lightning", "serve", model, *extra]
    with _running(command, port or free_port(), log) as url:
        yield url


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[str]:
    pytest.importorskip("uvicorn")
    if VLLMEngine.installed() is None:
        pytest.skip("vLLM is not installed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    # on the CPU, 0 lets the engine's process be the worker's, too: half of what a server costs to start
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [sys.executable, *command, "--port", str(port), "--host", "127.0.0.1"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
