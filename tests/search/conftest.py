"""Fixtures of the tests of search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.search.parts import Answer, Server, save_byte_tokenizer, write_corpus


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token a byte."""
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("bytes")
    save_byte_tokenizer(path)
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*script: Answer) -> Server:
        started.append(Server(*script))
        return started[-1]

    yield start
    for server in started:
        server.close()
