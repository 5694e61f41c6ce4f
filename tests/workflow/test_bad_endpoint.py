"""A teacher behind an endpoint that misbehaves, through a real ``fit``: no crash, and every failure is reported."""

from __future__ import annotations

import sqlite3
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.bad_endpoint import (
    NO_LOGPROBS,
    NO_TEXT,
    ODD,
    PASSING,
    SCORING,
    BadEndpoint,
    Body,
    endpoint,
    hang,
    honest,
    says,
    send,
)
from tests.workflow import cli

KEY = "sk-proj-4f9a8b7c6d5e"
ENGINE = "--method.init_args.teacher.init_args.engine"
ROUNDS = 2


def arguments(server: BadEndpoint, folder: Path, **settings: object) -> list[str]:
    chosen = {
        "base_url": server.url, "model": "m", "api": "chat", "vllm_extensions": "false", "timeout_s": 2,
        "backoff_s": 0.01, "patience_s": 60, "max_concurrency": 8, "max_failures": 50, **settings,
    }  # fmt: skip
    return [
        *cli.HF,
        f"{ENGINE}=ovd_lightning.engines.openai.OpenAIEngine",
        *(f"{ENGINE}.init_args.{name}={value}" for name, value in chosen.items()),
        f"--method.init_args.teacher.init_args.cache={folder}/answers.sqlite", "--method.init_args.judged=all",
        f"--data.rounds={ROUNDS}", "--data.validation_limit=2", "--data.test_limit=2",
        "--benchmark.before_training=false", "--benchmark.after_training=false",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_passing_fault_is_retried_and_every_odd_answer_read(tmp_path: Path) -> None:
    """Each request gets the next fault of the list first, and an honest answer when it is retried."""
    good: dict[str, object] = {**PASSING, **{n: says(m) for n, m in NO_LOGPROBS.items()}, "hang": hang}
    faults, odd = list(good.items()), list(ODD.items())
    met: set[bytes] = set()
    lock, turn = threading.Lock(), {"fault": 0, "odd": 0}

    def play(handler: BaseHTTPRequestHandler, body: Body, number: int) -> None:
        me = repr(sorted(body.items())).encode()
        scoring = SCORING in body["messages"][-1]["content"]
        with lock:
            first = me not in met
            met.add(me)
            kind = "fault" if first else "odd"
            chosen = faults if first else odd
            while True:
                name, fault = chosen[turn[kind] % len(chosen)]
                turn[kind] += 1
                if (name not in NO_LOGPROBS or scoring) and (name != "hang" or turn[kind] < 2 * len(faults)):
                    break
            server.played[name] += 1
        if first:
            fault(handler, body)  # type: ignore[operator]
        elif name == "bytes that are no UTF-8" and not scoring:
            send(handler, 200, honest(body))  # "7" is no solution
        else:
            headers = {"content_encoding": "gzip"} if name == "gzip" else {}
            says(fault, **headers)(handler, body)  # type: ignore[arg-type]

    with endpoint(play) as server:
        done = cli.fit(tmp_path / "run", *arguments(server, tmp_path))
    assert set(server.played) == {name for name, _ in (*faults, *odd)}
    rows = cli.rounds(tmp_path / "run")
    assert len(rows) == ROUNDS
    for row in rows:
        assert row["score/parse_failures"] == row["teacher/failed_calls"] == row["teacher/demonstration_failures"] == 0
        assert row["teacher/retried_calls"] > 20
        assert row["score/mass"] == pytest.approx(0.8)
    output = done.stdout + done.stderr
    assert "were sent again" in output
    assert "bad_answer" in output
    for body in server.seen:
        assert body["top_p"] == 1.0
        assert body["presence_penalty"] == body["frequency_penalty"] == 0.0


@pytest.mark.slow
def test_nothing_is_no_demonstration(tmp_path: Path) -> None:
    """A teacher that refuses, is filtered or only thinks replaces nothing, and the run reports it."""
    modes = list(NO_TEXT.items())

    def play(handler: BaseHTTPRequestHandler, body: Body, number: int) -> None:
        if SCORING in body["messages"][-1]["content"] or number < 2:  # the self-test gets its demonstration
            send(handler, 200, honest(body))
            return
        name, made = modes[number % len(modes)]
        server.played[name] += 1
        says(made)(handler, body)

    with endpoint(play) as server:
        done = cli.fit(tmp_path / "run", *arguments(server, tmp_path, max_concurrency=1))
    assert len(server.played) == len(modes)
    rows = cli.rounds(tmp_path / "run")
    for row in rows:
        assert row["ovd/replaced_fraction"] == 0
        assert row["teacher/demonstration_failures"] > 0
    failed = sum(row["teacher/failed/no_text"] for row in rows)
    assert failed + server.played["empty"] == sum(row["teacher/demonstration_failures"] for row in rows)
    assert all(line["source"] == "student" for line in cli.transcripts(tmp_path / "run"))
    assert "no_text" in done.stdout + done.stderr
    failures = (tmp_path / "run/failures/round-000000.txt").read_text()
    assert "demonstrations failed: " in failures
    assert "no_text: " in failures
    assert "What the teacher failed at</h2>" in (tmp_path / "run/report.html").read_text()
    assert not any(SCORING in str(m) and "I cannot" in str(m) for m in server.seen)


@pytest.mark.slow
def test_what_was_paid_for_survives_an_outage(tmp_path: Path) -> None:
    """The endpoint dies after 60 answers: they are on disk, and a repeated run requests only the rest."""
    alive = threading.Event()

    def play(handler: BaseHTTPRequestHandler, body: Body, number: int) -> None:
        if number < 60 or alive.is_set():
            send(handler, 200, honest(body))
        else:
            send(handler, 500, {"error": {"message": "boom"}})

    with endpoint(play) as server:
        flags = arguments(server, tmp_path, patience_s=2, max_retries=1, max_failures=3)
        small = ["--config=configs/quickstart.yaml", *cli.SMALL, *flags]
        done = cli.run("fit", *small, f"--trainer.default_root_dir={tmp_path}/one")
        assert done.returncode not in (0, 2)
        assert "status 500: boom" in done.stderr
        kept = sqlite3.connect(tmp_path / "answers.sqlite").execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        assert kept >= 58 - 2, "all answers but those of the self-test"
        before = server.posts
        alive.set()
        cli.fit(tmp_path / "two", *flags)
        again = server.posts - before
        cli.fit(tmp_path / "three", *flags)
        third = server.posts - before - again
    assert third == 2, "the self-test; scores and demonstrations are all known"
    assert again > 10


def test_a_wrong_key_shows_before_training_and_never_in_a_file(tmp_path: Path) -> None:
    """The list of models is public; the first real call is not, and its answer repeats the key."""

    def play(handler: BaseHTTPRequestHandler, body: Body, number: int) -> None:
        given = handler.headers["authorization"]
        send(handler, 401, {"error": {"message": f"Incorrect API key provided: {given.removeprefix('Bearer ')}"}})

    with endpoint(play) as server:
        done = cli.run(
            "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *arguments(server, tmp_path),
            f"--trainer.default_root_dir={tmp_path}/run", OPENAI_API_KEY=KEY,
        )  # fmt: skip
    assert done.returncode == 2
    assert "Export a valid key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "transcripts").exists()
    assert KEY not in done.stdout + done.stderr
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "setting",
    [f"base_url=http://user:{KEY}@127.0.0.1:9/v1", f"base_url=http://127.0.0.1:9/v1?key={KEY}", f"api_key_env={KEY}",
     "api_key_env=4f9a8b7c6d5e4f9a8b7c6d5e", "api_key_env=a9a8b7c6d5e4f9a8b7c6d5e"],
)  # fmt: skip
def test_a_key_in_a_setting_is_refused_without_being_repeated(setting: str) -> None:
    from ovd_lightning.engines.openai import OpenAIEngine
    from ovd_lightning.errors import ConfigError

    name, value = setting.split("=", 1)
    settings = {"base_url": "http://127.0.0.1:9/v1", "model": "m", name: value}
    with pytest.raises(ConfigError) as caught:
        OpenAIEngine(**settings)  # type: ignore[arg-type]
    assert caught.value.setting == name
    assert KEY not in str(caught.value)
    assert "4f9a8b7c" not in str(caught.value)
