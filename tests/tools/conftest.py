"""Fixtures of the tests of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.search.parts import Answer, Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*script: Answer) -> Server:
        started.append(Server(*script))
        return started[-1]

    yield start
    for server in started:
        server.close()
