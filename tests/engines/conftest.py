"""Models, an endpoint that serves one of them, and one engine of each kind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.vllm import VLLMEngine

from .tiny import CONTEXT, KINDS, Reference, save_tiny_model


@pytest.fixture(scope="session")
def tied_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tied"), tied=True, seed=0)


@pytest.fixture(scope="session")
def untied_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("untied"), tied=False, seed=1)


@pytest.fixture
def reference(tied_path: str) -> Reference:
    return Reference(tied_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tied_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a vLLM server of the tied model, alone in its session so that all its processes end with it."""
    pytest.importorskip("uvicorn")
    if VLLMEngine.installed() is None:
        pytest.skip("vLLM is not installed")
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", tied_path, "--served-model-name", "tiny", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--max-model-len", str(CONTEXT), "--block-size", "32", "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(64 << 20), "--logprobs-mode", "processed_logprobs"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def start_engine() -> Callable[..., Engine]:
    """Starts a local engine and keeps it: engines of one process must not be freed before its end."""
    kept: list[Engine] = []

    def start(kind: str, path: str) -> Engine:
        engine: Engine
        if kind == "vllm":
            if VLLMEngine.installed() is None:
                pytest.skip("vLLM is not installed")
            engine = VLLMEngine(path, kv_cache_memory_bytes=64 << 20)
        else:
            engine = HFEngine(path)
        engine.start()
        kept.append(engine)
        return engine

    return start


@pytest.fixture(scope="session", params=KINDS)
def engine(request: pytest.FixtureRequest, tied_path: str, start_engine: Callable[..., Engine]) -> Engine:
    """One engine of each kind, all of the tied model, never synchronised."""
    if request.param != "openai":
        return start_engine(request.param, tied_path)
    endpoint = OpenAIEngine(
        request.getfixturevalue("server"), "tiny", tokenizer=tied_path, processed_logprobs=True, timeout_s=60
    )
    endpoint.check()
    endpoint.start()
    return endpoint
