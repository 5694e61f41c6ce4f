"""An OpenAI-compatible chat endpoint that misbehaves in every way reported of real ones.

Runs in threads of the test's process, on the loopback interface. An honest answer is a digit with its log-probabilities
for a scoring prompt, and the worked solution for an arithmetic problem.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ovd_lightning.tasks.arithmetic import solution

Body = dict[str, Any]
SCORING = "Rate the quality"


def honest(body: Body, content: Any = None) -> Body:
    """The answer of a healthy endpoint; ``content`` replaces its text."""
    prompt = body["messages"][-1]["content"]
    scoring = SCORING in prompt
    text = content if content is not None else "7" if scoring else solution(prompt.strip().splitlines()[0].strip())
    choice: Body = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if body.get("logprobs"):
        tops = [{"token": t, "logprob": math.log(p)} for t, p in (("7", 0.5), ("3", 0.3))]
        choice["logprobs"] = {"content": [{"token": "7", "logprob": math.log(0.5), "top_logprobs": tops}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


def changed(**fields: Any) -> Callable[[Body], Body]:
    """An honest answer with other top-level fields."""
    return lambda body: {k: v for k, v in {**honest(body), **fields}.items() if v is not ...}


def choice(**fields: Any) -> Callable[[Body], Body]:
    """... with other fields in its choice."""

    def answer(body: Body) -> Body:
        made = honest(body)
        made["choices"][0] = {k: v for k, v in {**made["choices"][0], **fields}.items() if v is not ...}
        return made

    return answer


def message(**fields: Any) -> Callable[[Body], Body]:
    """... with other fields in its message."""
    return choice(message={"role": "assistant", **fields})


# Invalid bodies with status 200: each must be retried, counted and reported.
UNREADABLE: dict[str, Callable[[Body], Any]] = {
    "html": lambda body: b"<html><body>Please log in to the WiFi</body></html>",
    "not json": lambda body: b"not json!",
    "list": lambda body: [1, 2, 3],
    "null": lambda body: b"null",
    "error": lambda body: {"error": {"message": "upstream overloaded", "code": 502}},
    "error as text": lambda body: {"error": "upstream overloaded"},
    "no choices": changed(choices=...),
    "empty choices": changed(choices=[]),
    "choices null": changed(choices=None),
    "two choices": lambda body: {**honest(body), "choices": honest(body)["choices"] * 2},
    "message null": choice(message=None),
    "content a number": message(content=7),
    "content of other parts": message(content=[{"type": "text", "text": 7}]),
}
# Invalid only for a request for log-probabilities.
NO_LOGPROBS: dict[str, Callable[[Body], Any]] = {
    "no logprobs": choice(logprobs=...),
    "logprobs null": choice(logprobs=None),
    "content null": choice(logprobs={"content": None}),
    "top_logprobs null": choice(logprobs={"content": [{"token": "7", "logprob": -0.5, "top_logprobs": None}]}),
    "top_logprobs of texts": choice(logprobs={"content": [{"token": "7", "logprob": -0.5, "top_logprobs": ["7"]}]}),
    "logprob a text": choice(logprobs={"content": [{"token": "7", "logprob": "low", "top_logprobs": []}]}),
}
# Odd, but valid.
ODD: dict[str, Callable[[Body], Any]] = {
    "content parts": lambda body: honest(
        body, [{"type": "text", "text": honest(body)["choices"][0]["message"]["content"]}]
    ),
    "no index": choice(index=...),
    "usage null": changed(usage=None),
    "usage malformed": changed(usage={"prompt_tokens": "many"}),
    "no usage": changed(usage=...),
    "lone surrogate": lambda body: json.dumps(
        honest(body, honest(body)["choices"][0]["message"]["content"] + " \ud83d")
    ).encode(),
    "bytes that are no UTF-8": lambda body: json.dumps(honest(body, "XX7")).encode().replace(b"XX", b"\xff\xfe"),
    "gzip": lambda body: gzip.compress(json.dumps(honest(body)).encode()),
}
# Valid, without usable text.
NO_TEXT: dict[str, Callable[[Body], Any]] = {
    "content null": message(content=None),
    "reasoning only": message(content=None, reasoning_content="Let me think about this"),
    "refusal": message(content=None, refusal="I cannot help with that."),
    "content filter": choice(finish_reason="content_filter", message={"role": "assistant", "content": ""}),
    "empty": message(content=""),
    "no parts": message(content=[]),
}
Play = Callable[[BaseHTTPRequestHandler, Body], None]


def send(handler: BaseHTTPRequestHandler, status: int, data: Any, length: int | None = None, **headers: str) -> None:
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    handler.send_response(status)
    length = len(data) if length is None else length
    for name, value in {"content-type": "application/json", "content-length": str(length), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()


def status(code: int, data: Any = None, **headers: str) -> Play:
    return lambda handler, _: send(handler, code, data or {"error": {"message": f"no {code}"}}, **headers)


def says(made: Callable[[Body], Any], **headers: str) -> Play:
    return lambda handler, body: send(handler, 200, made(body), **headers)


def cut_off(handler: BaseHTTPRequestHandler, body: Body) -> None:
    data = json.dumps(honest(body)).encode()
    send(handler, 200, data[: len(data) // 2], length=len(data))
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def reset(handler: BaseHTTPRequestHandler, body: Body) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler, body: Body) -> None:
    time.sleep(8)
    handler.close_connection = True


# Faults that a retry may get past, by name.
PASSING: dict[str, Play] = {
    "500": status(500),
    "503 html": status(503, b"<html>Service Unavailable</html>"),
    "429": status(429, retry_after="0.1"),
    "429 with a date": status(429, retry_after="Wed, 21 Oct 2099 07:28:00 GMT"),
    "cut off": cut_off,
    "reset": reset,
    **{name: says(made) for name, made in UNREADABLE.items()},
}


class BadEndpoint:
    """``play(handler, body, number)`` answers each POST; ``played`` counts by the names that the test gives."""

    def __init__(self, play: Callable[[BaseHTTPRequestHandler, Body, int], None]) -> None:
        self.play, self.posts, self.played = play, 0, Counter[str]()
        self.seen: list[Body] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    number, outer.posts = outer.posts, outer.posts + 1
                    outer.seen.append(body)
                try:
                    outer.play(self, body, number)
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                send(self, 200, {"data": [{"id": "m"}]})

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """Quiet when a client hangs up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def endpoint(play: Callable[[BaseHTTPRequestHandler, Body, int], None]) -> Iterator[BadEndpoint]:
    made = BadEndpoint(play)
    threading.Thread(target=made.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
