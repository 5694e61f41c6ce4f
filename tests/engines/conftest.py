"""Models, an endpoint that serves one of them, and one engine of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.engines.vllm_server import VLLMServerEngine
from tests.served import serve, serve_student

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


@pytest.fixture(scope="session")
def server(tied_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a vLLM server of the tied model."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serve(tied_path, "tiny", CONTEXT, log, ["--logprobs-mode", "processed_logprobs"]) as url:
        yield url


@pytest.fixture(scope="session")
def student_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts a server for a student and keeps it, one a model and ``use``: who sends weights has a server alone."""
    with ExitStack() as stack:
        started: dict[tuple[str, str], str] = {}

        def start(path: str, use: str = "", *flags: str) -> str:
            if (path, use) not in started:
                log = tmp_path_factory.mktemp("student_server") / "log"
                started[path, use] = stack.enter_context(serve_student(path, log, *flags))
            return started[path, use]

        yield start


@pytest.fixture(scope="session")
def start_engine(student_server: Callable[..., str]) -> Callable[..., Engine]:
    """Starts an engine that can be synchronised, and keeps it: engines of one process must not be freed before its
    end.

    Args of the function: kind, folder of the model, and what it is for, where it is to be synchronised."""
    kept: list[Engine] = []

    def start(kind: str, path: str, use: str = "") -> Engine:
        engine: Engine
        if kind == "vllm_server":
            engine = VLLMServerEngine(path, [student_server(path, use)], patience_s=20)
        elif kind == "vllm":
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
