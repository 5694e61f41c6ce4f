"""What the tests of search share: a few documents, a tokenizer for any text, servers that misbehave, a rollout."""

from __future__ import annotations

import json
import threading
import time
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.round.turns import rollout, student_policy
from ovd_lightning.search.base import Query
from ovd_lightning.tasks.search import SearchEnvironment
from ovd_lightning.types import Problem, Trajectory
from tests.helpers import ScriptedEngine

RIVERS = [
    ("Ostrava bridge", "The old bridge of Ostrava was built in 1913 by Karel Brunn."),
    ("Karel Brunn", "Karel Brunn was an engineer from Telsa who built bridges."),
    ("Telsa", "Telsa is a town on the river Moine with two mills."),
    ("Moine", "The Moine is a river. It flows through Telsa and Orvin."),
]
"""(title, text)"""


def problem(name: str = "p") -> Problem:
    return Problem(id=name, question="Where was the builder of the Ostrava bridge from?", answers=("Telsa", "telsa"))


def query(text: str, seed: int = 0, progress: float | None = None, of: Problem | None = None) -> Query:
    return Query(text=text, problem=of or problem(), seed=seed, progress=progress)


def write_corpus(path: Path, documents: Sequence[tuple[str, str]] = tuple(RIVERS)) -> Path:
    rows = [{"id": str(i), "title": title, "text": text} for i, (title, text) in enumerate(documents)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_byte_tokenizer(path: Path) -> None:
    """One token a byte, for any text, with the markers of a chat template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=special[2:],
    ).save_pretrained(path)


# -------------------------------------------------------------------- servers

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
"""What a server does with a request of this body."""


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: send(handler, code, {"detail": f"no {code}"}, **headers)


def says(body: Any) -> Answer:
    return lambda handler, _: send(handler, 200, body)


def hangs(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    time.sleep(4)


def trickles(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Never silent for long, and never done."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def closes(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """In the middle of its answer."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"result": [[')
    handler.wfile.flush()
    handler.close_connection = True


class Server:
    """A real server of this process that plays ``script``, one entry a request, and then repeats the last."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.busiest = 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def do_GET(self) -> None:
                from urllib.parse import parse_qsl, urlsplit

                if self.path.endswith("/models"):
                    send(self, 200, {"data": [{"id": "m"}]})
                else:
                    self.answer(dict(parse_qsl(urlsplit(self.path).query)))

            def answer(self, body: dict[str, Any]) -> None:
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.times.append(time.monotonic())
                    act = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                try:
                    act(self, body)
                except OSError:
                    self.close_connection = True
                finally:
                    with lock:
                        outer.busy -= 1

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def refused(cls: type, settings: dict[str, Any]) -> str:
    """What the parser says to settings of a class that are out of range."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "given")
    with pytest.raises(ArgumentError) as error:
        parser.parse_object({"given": settings})
    return str(error.value)


# -------------------------------------------------------------------- rollouts

Script = Callable[[str, Request], str]
"""(all that was said so far, request) -> what the student says next."""


def roll(
    tokenizer: Any,
    environment: SearchEnvironment,
    script: Script,
    n: int = 1,
    max_tokens: int = 4000,
    progress: float | None = 0.0,
) -> list[Trajectory]:
    """n trajectories of one problem, by a student who says what ``script`` prescribes."""
    engine = ScriptedEngine(write=script, tokenizer=tokenizer)
    prompt = tokenizer.encode("Q:", add_special_tokens=False)
    trajectories = [Trajectory(problem=problem(), prompt_ids=prompt, seed=i) for i in range(n)]
    rollout(trajectories, environment, tokenizer, student_policy(engine, Sampling()), max_tokens, progress)
    return trajectories


def in_order(*turns: str) -> Script:
    """By the number of observations and corrections so far; the last turn is repeated."""
    return lambda said, _: turns[min(said.count("</information>") + said.count("not an action"), len(turns) - 1)]
