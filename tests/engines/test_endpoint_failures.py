"""Endpoints that misbehave: a small server that follows a script, one entry per request."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.prompts import estimate_tokens
from ovd_lightning.errors import ConfigError
from ovd_lightning.pretrained import load_tokenizer
from ovd_lightning.service import Limits
from tests.limits import patient

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, **headers: str) -> Reply:
    return lambda handler, _: send(handler, code, {"error": {"message": f"no {code}"}}, **headers)


def complete(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Echoes each prompt in capitals; its first position prefers " 7" and "7" over "3"."""
    top = {" 7": math.log(0.3), "7": math.log(0.2), "3": math.log(0.1), "x": -9999.0}
    if "messages" in body:
        tops = [{"token": token, "logprob": value} for token, value in top.items()]
        logprobs: Any = {"content": [{"token": "7", "logprob": -1.0, "top_logprobs": tops}]}
        message = {"role": "assistant", "content": body["messages"][-1]["content"].upper()}
        choices = [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}]
    else:
        logprobs = {"tokens": ["7"], "token_logprobs": [-1.0], "top_logprobs": [top], "text_offset": [0]}
        choices = [
            {"index": i, "finish_reason": "length", "text": prompt.upper(), "logprobs": logprobs}
            for i, prompt in enumerate(body["prompt"])
        ]
    usage = {"prompt_tokens": 3 * len(choices), "completion_tokens": 2 * len(choices), "total_tokens": 5}
    send(handler, 200, {"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices, "usage": usage})


def hang(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    time.sleep(3)


def trickle(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Never silent for long, and never done."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def die(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "x", "choi')
    handler.wfile.flush()
    handler.close_connection = True


def garbage(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "9")
    handler.end_headers()
    handler.wfile.write(b"not json!")


class Scripted:
    """Plays ``script``, then repeats its last entry; ``seen`` are the bodies that came."""

    def __init__(self, *script: Reply) -> None:
        self.script, self.seen, self.times = list(script), list[dict[str, Any]](), list[float]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append(body)
                outer.times.append(time.monotonic())
                reply = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                try:
                    reply(self, body)
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                send(self, 200, {"data": [{"id": "m", "max_model_len": 99}, {"id": "other"}]})

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(*script: Reply) -> Scripted:
        started.append(Scripted(*script))
        return started[-1]

    yield start
    for server in started:
        server.close()


def client(server: Scripted, **settings: Any) -> OpenAIEngine:
    quick = {"max_retries": 2, "backoff_s": 0.01, "timeout_s": 0.5, "patience_s": 0.0, "max_failures": 3}
    defaults = {"vllm_extensions": False, **quick}
    return OpenAIEngine(server.url, "m", **{**defaults, **settings})


def one(text: str = "hello") -> list[Request]:
    return [Request(prompt=text)]


def test_retries_until_it_succeeds(scripted: Callable[..., Scripted]) -> None:
    engine = client(scripted(status(429), status(500), complete))
    assert engine.generate(one(), Sampling())[0].text == "HELLO"
    usage = engine.usage
    assert (usage.requests, usage.retries, usage.failures) == (3, 2, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 2)
    assert usage.latency_s > 0


def test_waits_as_long_as_it_is_asked_to(scripted: Callable[..., Scripted]) -> None:
    server = scripted(status(429, retry_after="0.4"), complete)
    assert client(server).generate(one(), Sampling())[0].error is None
    assert server.times[1] - server.times[0] >= 0.4


def test_gives_up_after_its_retries_and_stops_the_run(scripted: Callable[..., Scripted]) -> None:
    server = scripted(status(503))
    engine = client(server)
    for _ in range(2):
        completion = engine.generate(one(), Sampling())[0]
        assert (completion.text, completion.token_ids) == ("", None)
        assert completion.error == "status 503: no 503"
    with pytest.raises(RuntimeError, match=r"endpoint at http.*/v1 failed 3 times in a row: status 503"):
        engine.generate(one(), Sampling())
    assert (engine.usage.requests, engine.usage.retries, engine.usage.failures) == (9, 6, 3)
    assert len(server.seen) == 9


def test_a_success_forgives(scripted: Callable[..., Scripted]) -> None:
    engine = client(scripted(status(400), status(400), complete, status(400)))
    errors = [engine.generate(one(), Sampling())[0].error for _ in range(5)]
    assert [error is None for error in errors] == [False, False, True, False, False]


@pytest.mark.parametrize("code", [400, 404, 401])
def test_a_refusal_is_not_retried(scripted: Callable[..., Scripted], code: int) -> None:
    server = scripted(status(code))
    assert client(server).generate(one(), Sampling())[0].error == f"status {code}: no {code}"
    assert len(server.seen) == 1


@pytest.mark.parametrize("reply", [hang, trickle])
def test_timeout(scripted: Callable[..., Scripted], reply: Reply) -> None:
    server, begun = scripted(reply), time.monotonic()
    engine = client(server, max_retries=1)
    assert engine.generate(one(), Sampling())[0].error == "no answer within 0.5 s"
    assert time.monotonic() - begun < patient(2.5)
    assert (engine.usage.requests, engine.usage.retries, engine.usage.failures) == (2, 1, 1)


@pytest.mark.parametrize("reply", [die, garbage])
def test_broken_answers_are_retried(scripted: Callable[..., Scripted], reply: Reply) -> None:
    engine = client(scripted(reply, complete))
    assert engine.generate(one(), Sampling())[0].text == "HELLO"
    assert engine.usage.retries == 1
    broken = client(scripted(reply))
    assert broken.generate(one(), Sampling())[0].error
    assert broken.usage.failures == 1


def test_nothing_listens(scripted: Callable[..., Scripted]) -> None:
    server = scripted(complete)
    server.close()
    engine = client(server, max_failures=1)
    with pytest.raises(RuntimeError, match="failed 1 times in a row"):
        engine.generate(one(), Sampling())


def test_giving_up_leaves_nothing_waiting(scripted: Callable[..., Scripted]) -> None:
    engine = client(scripted(hang), timeout_s=0.3, max_retries=0, prompts_per_request=1, max_concurrency=2)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="3 times in a row"):
        engine.generate([Request(prompt=str(i)) for i in range(40)], Sampling())
    assert time.monotonic() - begun < patient(3)


def test_one_refused_prompt_does_not_spoil_its_chunk(scripted: Callable[..., Scripted]) -> None:
    def choosy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if "bad" in body["prompt"]:
            status(400)(handler, body)
        else:
            complete(handler, body)

    server = scripted(choosy)
    completions = client(server).generate([Request(prompt=p) for p in ("a", "bad", "c")], Sampling())
    assert [completion.text for completion in completions] == ["A", "", "C"]
    assert [completion.error is None for completion in completions] == [True, False, True]


def test_many_prompts_share_requests(scripted: Callable[..., Scripted]) -> None:
    server = scripted(complete)
    engine = client(server, prompts_per_request=4)
    requests = [Request(prompt=f"p{i}", max_tokens=5 if i % 2 else None) for i in range(10)]
    assert [c.text for c in engine.generate(requests, Sampling())] == [f"P{i}" for i in range(10)]
    assert sorted(len(body["prompt"]) for body in server.seen) == [1, 1, 4, 4]
    assert {len({p in body["prompt"] for p in ("p0", "p1")}) for body in server.seen} <= {1, 2}
    assert all((body["max_tokens"] == 5) == (int(body["prompt"][0][1:]) % 2 == 1) for body in server.seen)
    assert (engine.usage.prompt_tokens, engine.usage.completion_tokens) == (30, 20)


def test_requests_per_minute(scripted: Callable[..., Scripted]) -> None:
    server = scripted(complete)
    engine = client(server, requests_per_minute=600, prompts_per_request=1)
    engine.generate([Request(prompt=str(i)) for i in range(5)], Sampling())
    assert server.times[-1] - server.times[0] >= 0.35


def test_tokens_per_minute(scripted: Callable[..., Scripted]) -> None:
    """A minute's worth is sent at once, then 600 tokens take 0.6 s; also in a later batch, on the same budget."""
    server = scripted(complete)
    prompt, limit = "p" * 400, 60_000  # 100 tokens, by four characters a token
    engine = client(server, tokens_per_minute=limit, prompts_per_request=1, max_concurrency=16)
    wanted = [59_400, 600, 600, 600, 600, 600]
    requests = [Request(prompt=prompt, max_tokens=tokens - 100) for tokens in wanted]
    begun = time.monotonic()
    assert all(c.error is None for c in engine.generate(requests[:-1], Sampling()))
    assert engine.generate(requests[-1:], Sampling())[0].error is None
    tokens = [100 + body["max_tokens"] for body in server.seen]
    assert sorted(tokens) == sorted(wanted)
    for i, when in enumerate(server.times):
        assert sum(tokens[: i + 1]) <= limit + (when - begun) * limit / 60


def test_a_request_of_more_tokens_than_a_minute_allows_waits_for_the_rest(scripted: Callable[..., Scripted]) -> None:
    server = scripted(complete)
    begun = time.monotonic()
    engine = client(server, tokens_per_minute=60_000)
    assert engine.generate([Request(prompt="p" * 400, max_tokens=60_400)], Sampling())[0].error is None
    assert server.times[0] - begun >= 0.5


def test_without_limits_nothing_waits() -> None:
    async def suspends() -> bool:
        waiting = Limits(8, None, None).acquire(10**9)
        try:
            waiting.send(None)
        except StopIteration:
            return False
        return True

    assert not asyncio.run(suspends())


def test_tokens_of_a_prompt_are_estimated_before_it_is_sent(tied_path: str) -> None:
    tokenizer = load_tokenizer("tokenizer", tied_path)  # one token per character
    messages = [{"role": "system", "content": "four"}, {"role": "user", "content": "andseven"}]
    assert [estimate_tokens(prompt, None) for prompt in ([1, 2, 3], "12345", messages)] == [3, 2, 3]
    assert [estimate_tokens(prompt, tokenizer) for prompt in ([1, 2, 3], "12345", messages)] == [3, 5, 12]


def test_an_outage_in_the_middle_of_a_batch_is_waited_for(scripted: Callable[..., Scripted]) -> None:
    """Much longer than the retries: calls that were on their way when it began are no more at fault than others."""
    server = scripted(*[complete] * 4, *[status(503)] * 40, complete)
    engine = client(
        server, prompts_per_request=1, max_concurrency=4, max_retries=1, patience_s=60, max_failures=2, backoff_s=0.001
    )
    completions = engine.generate([Request(prompt=str(i)) for i in range(12)], Sampling())
    assert [c.text for c in completions] == [str(i) for i in range(12)]
    assert engine.usage.failures == 0


def test_a_call_that_fails_while_others_succeed_is_given_up_soon(scripted: Callable[..., Scripted]) -> None:
    def choosy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        (status(503) if body["prompt"] == ["bad"] else complete)(handler, body)

    engine = client(scripted(choosy), prompts_per_request=1, max_concurrency=2, patience_s=60, backoff_s=0.05)
    prompts = ["bad", *map(str, range(60))]
    completions = engine.generate([Request(prompt=p) for p in prompts], Sampling())
    assert [c.error is None for c in completions] == [False] + [True] * 60
    assert 2 <= engine.usage.retries < 10


def test_candidates_given_as_text(scripted: Callable[..., Scripted]) -> None:
    """Tokens that differ in white space add up; what is not reported is impossible; a failure is not a number."""
    for api in ("chat", "completions"):
        server = scripted(complete, status(400))
        engine = client(server, api=api)
        row = engine.next_text_logprobs(["score?"], ["7", "3", "5"]).exp()[0].tolist()
        assert row == pytest.approx([0.5, 0.1, 0.0])
        assert server.seen[0]["temperature"] == 1.0
        assert engine.next_text_logprobs(["score?"], ["7", "3"]).isnan().all()


def test_protocol_without_extensions(scripted: Callable[..., Scripted]) -> None:
    server = scripted(complete)
    engine = client(server, api="chat", extra_body={"provider": "p"})
    requests = [Request(prompt=[{"role": "user", "content": "hi"}], seed=3), Request(prompt="yo")]
    completions = engine.generate(requests, Sampling(temperature=0.7, stop=("</s>",)))
    assert [completion.text for completion in completions] == ["HI", "YO"]
    assert [completion.token_ids for completion in completions] == [None, None]
    assert [completion.completion_tokens for completion in completions] == [2, 2]
    body = next(body for body in server.seen if body["messages"][0]["content"] == "hi")
    assert body.pop("messages") == [{"role": "user", "content": "hi"}]
    assert body == {
        "model": "m", "max_tokens": 512, "temperature": 0.7, "stop": ["</s>"], "seed": 3, "provider": "p",
        "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="cannot score"):
        engine.score([[1]], [[2]])
    with pytest.raises(ConfigError, match="tokenizer"):
        engine.next_token_logprobs(["a"], [1])
    with pytest.raises(ConfigError, match="takes no token ids"):
        engine.generate([Request(prompt=[1, 2])], Sampling())
    with pytest.raises(ConfigError, match="tokenizer"):
        client(server).generate([Request(prompt=[{"role": "user", "content": "hi"}])], Sampling())


def test_inside_a_running_event_loop(scripted: Callable[..., Scripted]) -> None:
    engine = client(scripted(complete))

    async def main() -> str:
        return engine.generate(one(), Sampling())[0].text

    assert asyncio.run(main()) == "HELLO"


def test_key_comes_from_the_environment(scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str | None] = []

    def note(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        keys.append(handler.headers["authorization"])
        complete(handler, body)

    server = scripted(note)
    monkeypatch.setenv("SOME_KEY", "k123")
    for name in ("SOME_KEY", "NO_SUCH_KEY"):
        engine = client(server, api_key_env=name)
        engine.generate(one(), Sampling())
        assert "k123" not in f"{vars(engine)} {engine.name}"
    assert keys == ["Bearer k123", "Bearer EMPTY"]


def test_it_is_given_up_before_everything_was_tried_once(scripted: Callable[..., Scripted]) -> None:
    server = scripted(hang)
    engine = client(server, timeout_s=0.2, max_retries=1, prompts_per_request=1, max_concurrency=2)
    with pytest.raises(RuntimeError, match="3 times in a row"):
        engine.generate([Request(prompt=str(i)) for i in range(50)], Sampling())
    assert len(server.seen) <= 10
