"""Search-R1's ``/retrieve`` over servers that are healthy, slow, broken, dying and gone."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import Document, SearchResult
from ovd_lightning.search.http import HTTPSearch, read_results
from ovd_lightning.tasks.search import SearchEnvironment
from tests.limits import patient
from tests.search.parts import Answer, Server, closes, hangs, query, refused, roll, says, send, status, trickles

Serve = Callable[..., Server]


def finds(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """One document a query: the query in capitals."""
    row = [[{"document": {"id": "7", "contents": f'"T"\n{q.upper()}'}, "score": 0.5}] for q in body["queries"]]
    send(handler, 200, {"result": row})


def client(server: Server, **settings: Any) -> HTTPSearch:
    quick = {"timeout_s": 5.0, "max_retries": 2, "backoff_s": 0.01, "breaker_failures": 100}
    return HTTPSearch(f"{server.url}/retrieve", **{**quick, **settings})


def ask(engine: HTTPSearch, *texts: str, top_k: int = 3) -> list[SearchResult]:
    return engine.search([query(text) for text in texts], top_k)


def texts(results: list[SearchResult]) -> list[str | None]:
    return [result.documents[0].text if result.documents else result.error for result in results]


def test_the_protocol(serve: Serve) -> None:
    server = serve(finds)
    (result,) = ask(client(server), "who built it", top_k=4)
    assert result == SearchResult(documents=[Document(id="7", title="T", text="WHO BUILT IT", score=0.5)])
    assert server.bodies == [{"queries": ["who built it"], "topk": 4, "return_scores": True}]
    assert server.headers[0]["content-type"] == "application/json"
    ask(client(server, return_scores=False), "x")
    assert server.bodies[-1]["return_scores"] is False


@pytest.mark.parametrize(
    ("row", "documents"),
    [
        ([{"document": {"contents": '"A"\nb'}, "score": 1}], [Document(title="A", text="b", score=1.0)]),
        ([{"document": {"contents": '"A"\nb'}, "score": "0.5"}], [Document(title="A", text="b", score=0.5)]),
        ([{"document": {"text": "b"}, "score": "nan"}], [Document(text="b")]),
        ([{"document": {"title": "A", "text": "b", "contents": '"A"\nb'}}], [Document(title="A", text="b")]),
        ([{"id": "1", "contents": '"A"\nb\nc'}], [Document(id="1", title="A", text="b\nc")]),
        ([{"contents": "only text"}], [Document(text="only text")]),
        ([], []),
        ([{"contents": str(i)} for i in range(9)], [Document(text=str(i)) for i in range(3)]),
    ],
)
def test_answers_with_and_without_scores(row: list[Any], documents: list[Document]) -> None:
    assert read_results({"result": [row]}, 1, 3) == [documents]


@pytest.mark.parametrize(
    "answer",
    [
        [], {}, {"result": None}, {"result": [None]}, {"result": []}, {"result": [[], []]}, {"result": [[3]]},
        {"result": [[{"document": "text"}]]}, {"result": [[{"document": {"body": "x"}}]]},
        {"result": [[{"document": {"contents": "x"}, "score": "high"}]]}, {"detail": "error"}, None, "text",
    ],
)  # fmt: skip
def test_what_is_not_the_protocol_is_a_failed_search(serve: Serve, answer: Any) -> None:
    (result,) = ask(client(serve(says(answer)), max_retries=0), "q")
    assert result.documents == []
    assert result.error is not None
    assert result.error.startswith("ValueError")


def test_many_queries_share_requests_which_run_beside_one_another(serve: Serve) -> None:
    def slowly(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        time.sleep(0.1)
        finds(handler, body)

    server = serve(slowly)
    engine = client(server, queries_per_request=4, max_concurrency=2)
    asked = [f"q{i % 10}" for i in range(30)]
    assert texts(ask(engine, *asked)) == [q.upper() for q in asked]
    assert sorted(len(body["queries"]) for body in server.bodies) == [2, 4, 4]
    assert server.busiest == 2


@pytest.mark.parametrize(
    "trouble", [status(500), status(503), status(429), closes, hangs, says(b"{not json"), trickles]
)
def test_trouble_is_retried(serve: Serve, trouble: Answer) -> None:
    engine = client(serve(trouble, finds), timeout_s=1.0 if trouble in (hangs, trickles) else 5.0)
    assert texts(ask(engine, "q")) == ["Q"]
    counts = engine.take_counts()
    assert (counts["requests"], counts["retries"], counts["skipped_requests"]) == (2, 1, 0)
    assert counts["request_seconds"] > 0
    assert counts.keys() == set(engine.counted)
    assert set(engine.take_counts().values()) == {0.0}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (status(503), "status 503: .*no 503"),
        (hangs, "no answer within 0.3 s"),
        (trickles, "no answer within 0.3 s"),
        (closes, "RemoteProtocolError"),
        (says(b"{not json"), "JSONDecodeError"),
        (says(b"[" * 100_000), "RecursionError"),
    ],
)
def test_a_search_is_given_up_after_its_retries(serve: Serve, trouble: Answer, reason: str) -> None:
    import re

    server, begun = serve(trouble), time.monotonic()
    (result,) = ask(client(server, timeout_s=0.3 if "0.3" in reason else 5.0, max_retries=1), "q")
    assert result.documents == []
    assert re.search(reason, result.error or "")
    assert len(server.bodies) == 2
    assert time.monotonic() - begun < patient(2)


def test_a_refusal_is_not_retried(serve: Serve) -> None:
    server = serve(status(404))
    assert (ask(client(server), "q")[0].error or "").startswith("status 404")
    assert len(server.bodies) == 1


def test_the_server_says_how_long_to_wait(serve: Serve) -> None:
    server = serve(status(429, retry_after="0.4"), finds)
    assert texts(ask(client(server), "q")) == ["Q"]
    assert server.times[1] - server.times[0] >= 0.4


def test_waits_grow(serve: Serve) -> None:
    server = serve(status(503))
    ask(client(server, backoff_s=0.1, max_retries=3), "q")
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert [0.1 * 2**i <= wait < 0.1 * 2**i * 1.25 + 0.15 for i, wait in enumerate(waits)] == [True] * 3


@pytest.mark.parametrize("code", [422, 500])
def test_one_query_does_not_spoil_the_others_of_its_request(serve: Serve, code: int) -> None:
    def choosy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        (status(code) if "bad" in body["queries"] else finds)(handler, body)

    results = ask(client(serve(choosy)), "a", "bad", "c")
    assert texts(results)[::2] == ["A", "C"]
    assert (results[1].error or "").startswith(f"status {code}")


def test_requests_per_minute(serve: Serve) -> None:
    server = serve(finds)
    ask(client(server, requests_per_minute=600, queries_per_request=1), *"abcde")
    assert server.times[-1] - server.times[0] >= 0.35


# ----------------------------------------------------------------------- circuit breaker


def test_the_circuit_opens_when_a_service_is_down_and_the_rest_fails_at_once(serve: Serve) -> None:
    server = serve(hangs)
    settings = {"timeout_s": 0.2, "max_retries": 1, "queries_per_request": 1, "max_concurrency": 2}
    engine = client(server, breaker_failures=3, breaker_pause_s=60, **settings)
    begun = time.monotonic()
    results = ask(engine, *(f"q{i}" for i in range(50)))
    assert all(result.error for result in results)
    assert time.monotonic() - begun < patient(3)
    sent = len(server.bodies)
    assert sent <= 8
    assert engine.take_counts()["skipped_requests"] >= 46
    (result,) = ask(engine, "again")
    assert "the circuit is open after" in (result.error or "")
    assert len(server.bodies) == sent


def test_one_search_probes_an_open_circuit_after_the_pause_and_the_others_wait_for_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(status(503), status(503), status(503), finds)
    engine = client(server, breaker_failures=2, breaker_pause_s=0.5, max_retries=0, queries_per_request=1)
    assert all(result.error for result in ask(engine, "a", "b"))
    assert [r.levelno for r in caplog.records if "circuit is open" in r.message] == [logging.WARNING]
    time.sleep(0.55)
    assert all(result.error for result in ask(engine, "c", "d"))  # the probe fails: nothing else is sent
    assert len(server.bodies) == 3
    time.sleep(0.55)
    assert texts(ask(engine, "e", "f", "g")) == ["E", "F", "G"]
    assert "answers again" in caplog.text
    assert texts(ask(engine, "h")) == ["H"]


def test_a_success_between_failures_forgives(serve: Serve) -> None:
    engine = client(serve(status(404), finds, status(404), finds), breaker_failures=2)
    assert [ask(engine, q)[0].error is None for q in "abcd"] == [False, True, False, True]


# -------------------------------------------------------------------------------- checks


def test_check_asks_a_question(serve: Serve) -> None:
    engine = client(serve(finds))
    engine.check()
    assert engine.take_counts()["requests"] == 0  # not one of the run's
    for answer in (status(404), says({"hello": "world"}), status(500)):
        with pytest.raises(ConfigError, match=r"search.init_args.url.*does not answer as a retrieval server"):
            client(serve(answer)).check()
    gone = serve(finds)
    gone.close()
    with pytest.raises(ConfigError, match="does not answer"):
        client(gone).check()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_retries": -1}, "max_retries"),
        ({"queries_per_request": 0}, "queries_per_request"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"breaker_failures": 0}, "breaker_failures"),
        ({"breaker_pause_s": -1}, "breaker_pause_s"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], named: str) -> None:
    assert f'"given.{named}"' in refused(HTTPSearch, settings)


def test_a_wrong_address() -> None:
    with pytest.raises(ConfigError, match=r"search.init_args.url: 'localhost:8000' is no address"):
        HTTPSearch(url="localhost:8000")


def test_inside_a_running_event_loop(serve: Serve) -> None:
    engine = client(serve(finds))

    async def main() -> list[str | None]:
        return texts(ask(engine, "q"))

    assert asyncio.run(main()) == ["Q"]


def test_what_was_found_is_kept_where_a_cache_is_named(serve: Serve, tmp_path: Any) -> None:
    server = serve(finds, finds, status(404), finds)
    cache = str(tmp_path / "cache.sqlite")
    before = ask(client(server, cache=cache), "a", "b")
    again = client(server, cache=cache)
    assert ask(again, "b", "a", "a") == [before[1], before[0], before[0]]
    assert len(server.bodies) == 1
    assert again.take_counts()["cache_hits"] == 3
    ask(again, "a", top_k=2)  # another number of documents is another search
    assert ask(again, "new")[0].error
    assert texts(ask(again, "new")) == ["NEW"]  # failures are not kept
    assert len(server.bodies) == 4


# -------------------------------------------------------- whole rollouts, a server of its own


@contextmanager
def process(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "tests.search.retrieval_server", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/retrieve", server
    finally:
        server.kill()
        server.wait()


def student(searches: int) -> Any:
    """Searches something of its own each turn, then answers."""

    def write(said: str, request: Any) -> str:
        done = said.count("</information>")
        return "<answer>Telsa</answer>" if done >= searches else f"<search>river {request.seed} {done}</search>"

    return write


def test_a_rollout_over_a_slow_and_failing_server(byte_tokenizer: Any) -> None:
    with process("--slow", "0.05", "--fail-every", "3") as (url, _):
        engine = HTTPSearch(url, queries_per_request=2, max_retries=3, backoff_s=0.01, timeout_s=2)
        environment = SearchEnvironment(engine, max_turns=4)
        trajectories = roll(byte_tokenizer, environment, student(3), n=8)
    assert [e.failed for e in trajectories] == [0] * 8
    assert all(e.text.count("Moine") >= 3 for e in trajectories)
    counts = environment.take_counts()
    assert (counts["searches"], counts["failed_searches"]) == (24, 0)
    assert counts["retries"] >= 4


def test_a_rollout_over_a_server_that_dies_in_the_middle(byte_tokenizer: Any) -> None:
    """It is slow, fails every third time and dies within its tenth answer: the rollout completes, what failed is
    counted, nothing hangs."""
    settings: dict[str, Any] = {"queries_per_request": 2, "max_retries": 2, "backoff_s": 0.02, "timeout_s": 2}
    with process("--slow", "0.05", "--fail-every", "3", "--die-at", "10") as (url, server):
        engine = HTTPSearch(url, breaker_failures=4, breaker_pause_s=0.3, **settings)
        engine.check()
        environment = SearchEnvironment(engine, max_turns=5, max_failed_share=1)
        begun = time.monotonic()
        trajectories = roll(byte_tokenizer, environment, student(4), n=8)
        assert time.monotonic() - begun < patient(10)
        assert server.wait() == 1  # it really died
        with pytest.raises(RuntimeError, match=r"8 of 8 searches by http.* failed.*max_failed_share = 0.5"):
            roll(byte_tokenizer, SearchEnvironment(engine, max_turns=1), student(1), n=8)
    assert all(
        e.error is None and e.stop_reason in ("stop_text", "turn_limit") and e.text.endswith("<answer>Telsa</answer>")
        for e in trajectories
    )
    assert all(e.turns == 5 for e in trajectories)
    assert all("Moine" in e.text for e in trajectories)  # the first turn was served
    for e in trajectories:
        assert e.text.count(environment.failed_message) == e.failed
    counts = environment.take_counts()
    assert counts["searches"] == 32
    assert counts["failed_searches"] == sum(e.failed for e in trajectories)
    assert 0 < counts["failed_searches"] < 32
