"""What one sees while a run goes on: lines in a file, a live display on a terminal; and where its time went."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.progress import to_come
from ovd_lightning.callbacks.rollout import PHASES
from tests.workflow import cli

TEACHER = "--method.init_args.teacher.init_args"
EVERY_S = 0.2
PACED = ["--engine=tests.workflow.slow.PacedEngine", "--trainer.callbacks+=tests.workflow.slow.PacedCallback"]
LINE = re.compile(
    r"^(starting|round \d+/\d+|(validation|test) (before|after) round \d+/\d+|after round \d+/\d+) \|.*$", re.MULTILINE
)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@contextmanager
def slow_teacher(seconds: float) -> Iterator[str]:
    """An endpoint that takes ``seconds`` for each request and always writes 7."""

    class Handler(BaseHTTPRequestHandler):
        def send(self, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send({"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            prompts = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
            time.sleep(seconds)
            choices = [
                {"index": i, "finish_reason": "stop", "text": "7", "logprobs": None} for i in range(len(prompts))
            ]
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            self.send({"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices, "usage": usage})

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """Folder, output and seconds of a run whose teacher is slow, written to a pipe."""
    folder = tmp_path_factory.mktemp("piped")
    engine = f"{TEACHER}.engine"
    with slow_teacher(0.1) as url:
        start = time.monotonic()
        done = cli.fit(
            folder, *PACED, f"--run.progress_every_s={EVERY_S}", "--model.lr_scheduler=linear",
            f"{engine}=ovd_lightning.engines.openai.OpenAIEngine", f"{engine}.init_args.base_url={url}",
            f"{engine}.init_args.model=m", f"{engine}.init_args.vllm_extensions=false",
            f"{engine}.init_args.prompts_per_request=4", f"{engine}.init_args.max_concurrency=1",
            f"{TEACHER}.judge.init_args.read=text", "--method.init_args.judged=all",
        )  # fmt: skip
        return folder, done.stdout, time.monotonic() - start


def test_a_file_gets_lines_that_say_round_phase_and_time(piped: tuple[Path, str, float]) -> None:
    _, out, seconds = piped
    lines = [found.group() for found in LINE.finditer(out)]
    assert 5 < len(lines) < seconds / EVERY_S + 1
    assert "\x1b" not in out
    assert "\r" not in out
    rounds = [int(line.split("/")[0].removeprefix("round ")) for line in lines if line.startswith("round")]
    assert rounds == sorted(rounds)
    assert set(rounds) == {1, 2, 3}
    assert any(re.match(r"validation before round 1/3 \| arithmetic answered \d+/16 ", line) for line in lines)


def test_counts_move_within_one_call(piped: tuple[Path, str, float]) -> None:
    for number in (1, 2, 3):
        found = re.findall(rf"^round {number}/3 \| scored (\d+)/(\d+) \|", piped[1], re.MULTILINE)
        counts, totals = [int(k) for k, _ in found], {int(n) for _, n in found}
        assert len(totals) == 1
        assert counts == sorted(counts)
        assert len(set(counts)) > 2
        assert max(counts) <= totals.pop()


def test_the_end_is_estimated_once_a_round_is_over(piped: tuple[Path, str, float]) -> None:
    lines = [found.group() for found in LINE.finditer(piped[1])]
    first = [line for line in lines if line.startswith(("round 1/3", "validation before", "test before"))]
    later = [line for line in lines if line.startswith(("round 2/3", "round 3/3"))]
    assert not any(re.search(r"to go$", line) for line in first)
    assert any(re.search(r"about .* to go in this phase$", line) for line in first)
    assert all(re.search(r"in this round \| about .* to go$", line) for line in later)


def test_the_learning_rate_is_that_of_the_rounds_last_update(piped: tuple[Path, str, float]) -> None:
    """Linear to 0 over 3 rounds of 2 updates, from the quickstart's 3e-4."""
    logged = [row["optim/learning_rate"] for row in cli.rounds(piped[0])]
    assert logged == pytest.approx([3e-4 * share / 6 for share in (5, 3, 1)])
    assert "Learning rate" in (piped[0] / "report.html").read_text()


def test_a_rounds_time_is_that_of_its_phases_and_of_what_is_outside_them(piped: tuple[Path, str, float]) -> None:
    names = (*PHASES, "checkpoint", "other")
    for row in cli.rounds(piped[0]):
        assert row["time/round"] == pytest.approx(sum(row.get(f"time/{name}", 0.0) for name in names))
        assert row["time/other"] >= 0
        assert row["time/score"] > 0.5


def test_the_table_accounts_for_every_second_of_training(piped: tuple[Path, str, float]) -> None:
    folder, out, seconds = piped
    cells = dict(re.findall(r"^│ (\S[^│]*?) +│ +(-?[\d.]+) │", out[out.index("The time of 3 rounds") :], re.MULTILINE))
    spent = {name: float(value) for name, value in cells.items()}
    total = spent.pop("all")
    assert {*PHASES, "checkpoints", "evaluations", "outside every phase"} == {*spent}
    assert sum(spent.values()) == pytest.approx(total, abs=1)  # rounded numbers
    assert spent["outside every phase"] >= 0
    of_rounds = sum(row["time/round"] for row in cli.rounds(folder))
    assert of_rounds + spent["evaluations"] <= total + 0.2
    assert total < seconds


def test_a_terminal_shows_the_phase_and_a_resumed_run_goes_on_counting(
    piped: tuple[Path, str, float], tmp_path: Path
) -> None:
    """What a person sees in the end is what came of the run: the row of the phase is gone."""
    screen = on_a_terminal(
        "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *PACED, *cli.GRPO,
        f"--ckpt_path={piped[0]}/checkpoints/step-000002.ckpt", f"--trainer.default_root_dir={tmp_path}",
        "--model.lr_scheduler=linear", "--run.progress_every_s=0.05",
    )  # fmt: skip
    frames = screen.split("\r")
    assert any(re.search(r"round 2/3: sampled +\S+ +\d+/32 ", frame) for frame in frames)
    assert any(re.search(r"round 3/3: micro-batches +\S+ +\d/2 ", frame) for frame in frames)
    assert "round 1/3" not in screen
    assert not LINE.search(screen)  # lines are for files
    last = max(i for i, frame in enumerate(frames) if re.search(r"micro-batches +\S+ +6/6 ", frame))
    assert not any("round 3/3:" in frame for frame in frames[last:])
    assert "The run in numbers" in frames[-1] or "The run in numbers" in "".join(frames[last:])


def on_a_terminal(*args: str) -> str:
    """Everything that is written to a terminal of 120 columns, without its colours and movements."""
    master, slave = pty.openpty()
    environment = cli.environment(COLUMNS="120", LINES="40", TERM="xterm-256color")
    process = subprocess.Popen(
        cli.command(*args), cwd=cli.ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    parts: list[bytes] = []
    try:
        while True:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            parts.append(data)
        text = ESCAPE.sub("", b"".join(parts).decode(errors="replace"))
        assert process.wait(timeout=60) == 0, text[-3000:]
        return text
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_who_wants_no_progress_gets_none(tmp_path: Path) -> None:
    args = ("--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO, "--benchmark.samples=0")
    done = cli.run(
        "validate", *args, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false",
        "--run.progress_every_s=0.05",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "answered" not in done.stdout
    assert "starting" not in done.stdout


def test_the_evaluations_that_are_to_come() -> None:
    benchmark = BenchmarkCallback(every_n_rounds=2)
    before, after = [(0, "validation"), (0, "test")], [(4, "validation"), (4, "test")]
    assert to_come(benchmark, 4, over=0) == [*before, (2, "validation"), *after]
    assert to_come(benchmark, 4, over=2) == after
    assert to_come(benchmark, 5, over=4) == [(5, "validation"), (5, "test")]
    assert to_come(BenchmarkCallback(every_n_rounds=0, before_training=False, after_training=["test"]), 3, 0) == [
        (3, "test")
    ]
