"""A run that is told to end does so in any phase, loses no finished round, and goes on to the same result."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import torch

from tests.workflow import cli

pytestmark = pytest.mark.timeout(900)  # several runs each, on a machine that may be busy
LIMIT_S = 30
"""10 s are promised; a machine that runs other tests beside is slower."""
PARTS = ["--engine=tests.workflow.slow.SlowEngine", "--trainer.callbacks+=tests.workflow.slow.SlowCallback"]
EVALUATION = ["--data.validation_limit=8", "--data.eval_batch_size=2", "--benchmark.samples=0",
              "--benchmark.before_training=false", "--benchmark.after_training=[validation]"]  # fmt: skip


def arguments(folder: Path, *more: str) -> list[str]:
    """Three rounds of two updates, with a checkpoint after the last one alone; the second ends in a validation."""
    method = folder.parent / "method.yaml"
    method.write_text("class_path: tests.workflow.slow.SlowGRPO\ninit_args: {group_size: 4, kl_coefficient: 0.001}\n")
    return [
        "fit", "--config=configs/quickstart.yaml", *PARTS, f"--method={method}", "--data.rounds=3",
        "--data.problems_per_round=2", *EVALUATION, "--benchmark.every_n_rounds=2", "--checkpoint.every_n_rounds=50",
        "--summary.report=false", *more, f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip


@contextmanager
def running(args: list[str], **env: str) -> Iterator[cli.Process]:
    process = cli.start(*args, stderr=subprocess.STDOUT, **env)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait(process: cli.Process, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not until():
        if process.poll() is not None:
            pytest.fail(f"the run ended by itself: {process.communicate()[0][-3000:]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: cli.Process, number: int = signal.SIGTERM) -> tuple[str, float]:
    """What it printed and how long it took. None of its processes is left."""
    others = psutil.Process(process.pid).children(recursive=True)
    start = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=LIMIT_S)
    seconds = time.monotonic() - start
    left = [p for p in psutil.wait_procs(others, timeout=20)[1] if p.status() != psutil.STATUS_ZOMBIE]
    assert not left, left
    out, _ = process.communicate(timeout=20)
    print(f"{seconds:.1f} s from the signal to the end", file=sys.stderr)
    return out, seconds


def stopped(phase: str, folder: Path, *more: str, number: int = signal.SIGTERM) -> str:
    """The run, ended in a phase; what it printed."""
    there = folder.parent / f"{folder.name}.{phase}"
    with running(arguments(folder, *more), STAND=f"{phase} {there}") as process:
        wait(process, there.exists)
        out, _ = end(process, number)
        assert process.returncode == 128 + number, out[-3000:]
    assert "Traceback" not in out
    return out


def go_on(out: str) -> subprocess.CompletedProcess[str]:
    """By the command that was printed."""
    command = out[out.rindex("python -m ovd_lightning") :].splitlines()[0]
    done = cli.run(*shlex.split(command)[3:])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def load(folder: Path, name: str = "last.ckpt") -> dict:
    return torch.load(folder / "checkpoints" / name, weights_only=False)


def assert_finished(folder: Path, rounds: int, out: str) -> None:
    """So many rounds are saved, in both files."""
    assert f"stopped by SIGTERM. {rounds} of 3 rounds are finished and saved in {folder}/checkpoints." in out
    assert load(folder)["global_step"] == load(folder, f"step-{2 * rounds:06d}.ckpt")["global_step"] == 2 * rounds
    assert not [p.name for p in folder.rglob("*.partial")]


def assert_same(whole: Path, other: Path, first: int) -> None:
    """From a round on: trajectories, metrics; at the end weights, optimiser, schedule."""
    for index in range(first, 3):
        name = f"transcripts/round-{index:06d}.jsonl.gz"
        assert (whole / name).read_bytes() == (other / name).read_bytes()
    rows = {int(row["round"]): cli.timeless(row) for row in cli.rounds(whole)}
    for row in cli.rounds(other):
        assert cli.timeless(row) == rows[int(row["round"])]
    a, b = load(whole), load(other)
    assert a["global_step"] == b["global_step"] == 6
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])
    for i, moments in a["optimizer_states"][0]["state"].items():
        assert all(torch.equal(moments[name], b["optimizer_states"][0]["state"][i][name]) for name in moments)
    assert a["lr_schedulers"] == b["lr_schedulers"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = cli.run(*arguments(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "rounds"),
    [("sync", 1), ("annotation", 1), ("log-probabilities", 1), ("update-0", 1), ("checkpoint", 3), ("export", 3)],
)
def test_a_signal_in_any_phase_saves_the_last_finished_round(phase: str, rounds: int, tmp_path: Path) -> None:
    out = stopped(phase, tmp_path / "run")
    assert_finished(tmp_path / "run", rounds, out)
    assert "--ckpt_path" in out


@pytest.mark.slow
def test_a_signal_before_anything_is_finished(tmp_path: Path) -> None:
    """Nothing is saved, and the command starts in the same folder."""
    for phase in ("loading", "before-training"):
        out = stopped(phase, tmp_path / "run", number=signal.SIGINT if phase == "loading" else signal.SIGTERM)
        assert "No round is finished yet. The run goes on with" in out
        assert "--ckpt_path" not in out
        assert f"--trainer.default_root_dir={tmp_path}/run" in out
    assert not list((tmp_path / "run/checkpoints").iterdir())


@pytest.mark.slow
def test_stopped_while_generating_and_gone_on_with_it_is_the_run_that_was_not(whole: Path, tmp_path: Path) -> None:
    """Meanwhile a second process is kept out of the folder."""
    folder, there = tmp_path / "run", tmp_path / "there"
    with running(arguments(folder), STAND=f"generation {there}") as process:
        wait(process, there.exists)
        second = cli.run(*arguments(folder))
        assert second.returncode == 2
        line = second.stderr.strip().splitlines()[-1]
        assert line.startswith(f"error: trainer.default_root_dir: {folder} is in use by process {process.pid} on ")
        assert "Traceback" not in second.stderr
        out, _ = end(process)
        assert process.returncode == 143
    assert_finished(folder, 1, out)
    go_on(out)
    assert_same(whole, folder, 1)


@pytest.mark.slow
def test_stopped_between_the_updates_of_a_round_and_gone_on_with(whole: Path, tmp_path: Path) -> None:
    out = stopped("update-1", tmp_path / "run")
    assert_finished(tmp_path / "run", 1, out)
    go_on(out)
    assert_same(whole, tmp_path / "run", 1)


@pytest.mark.slow
def test_without_a_snapshot_a_round_of_several_updates_goes_back_to_the_newest_file(tmp_path: Path) -> None:
    more = ["--checkpoint.snapshot=false", "--checkpoint.every_n_rounds=1"]
    out = stopped("update-1", tmp_path / "run", *more)
    assert "1 of 3 rounds are finished and saved" in out
    assert load(tmp_path / "run")["global_step"] == 2


@pytest.mark.slow
def test_an_interrupted_validation_is_finished_first(whole: Path, tmp_path: Path) -> None:
    """With the answers that were there, and its numbers logged once."""
    folder = tmp_path / "run"
    out = stopped("validation", folder)
    assert_finished(folder, 2, out)
    assert "4 answers are kept" in out
    assert not (folder / "evaluations/validation-000004.json").exists()
    done = go_on(out)
    assert "4 of 8 answers were found" in done.stderr
    assert_same(whole, folder, 2)
    a, b = (json.loads((f / "evaluations/validation-000004.json").read_text())["benchmarks"] for f in (whole, folder))
    assert a["arithmetic"]["scores"] == b["arithmetic"]["scores"]
    rows = [[r for r in cli.metrics(f) if "eval/arithmetic/accuracy" in r] for f in (whole, folder)]
    assert [row["eval/arithmetic/accuracy"] for row in rows[0]] == [row["eval/arithmetic/accuracy"] for row in rows[1]]
    assert [row["step"] for row in rows[1]] == [4, 6]


@pytest.mark.slow
def test_two_ranks_end_together(tmp_path: Path) -> None:
    """The signal reaches the first alone."""
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp", "--benchmark.every_n_rounds=0"]
    out = stopped("generation", tmp_path / "run", *ranks)
    assert_finished(tmp_path / "run", 1, out)


@pytest.mark.slow
def test_slurm_requeues_a_run_with_its_last_finished_round(whole: Path, tmp_path: Path) -> None:
    """Lightning's own way, at a moment that it does not choose: between the updates of a round."""
    folder, there, asked = tmp_path / "run", tmp_path / "there", tmp_path / "asked"
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    scontrol.chmod(0o755)
    job = {f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")}
    job |= {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "run"}
    job |= {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    with running(arguments(folder), STAND=f"update-1 {there}", **job) as process:
        wait(process, there.exists)
        process.send_signal(signal.SIGUSR1)
        wait(process, asked.exists)
        out, _ = end(process)
        assert process.returncode == 143
    assert asked.read_text() == "requeue 77\n"
    assert_finished(folder, 1, out)
    assert torch.load(folder / "hpc_ckpt_1.ckpt", weights_only=False)["global_step"] == 2
    again = cli.run(*arguments(folder), **job)  # as SLURM does
    assert again.returncode == 0, again.stderr[-3000:]
    assert_same(whole, folder, 1)


# --- a teacher behind HTTP --------------------------------------------------------------------------------------


@contextmanager
def teacher(failing: Callable[[], str | None]) -> Iterator[tuple[str, threading.Event]]:
    """Scores everything with an 8, until ``failing`` says "hang" or "500". (base URL, whether it is hanging)."""
    hanging, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "teacher", "max_model_len": 256}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            how = failing()
            if how == "hang":
                hanging.set()
                over.wait(120)
                return
            if how == "500":
                self.send_error(500)
                return
            choices = [
                {"index": i, "text": "8", "finish_reason": "stop", "logprobs": None}
                for i, _ in enumerate(asked["prompt"])
            ]
            self.answer({"id": "1", "object": "text_completion", "created": 0, "model": "teacher", "choices": choices})

        def answer(self, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # all of a round's connections at once

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked is gone."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", hanging
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def scored_over_http(folder: Path, url: str) -> list[str]:
    engine = "--method.init_args.teacher.init_args.engine"
    return [
        "fit", "--config=configs/quickstart.yaml", *cli.HF, "--data.rounds=3", "--data.problems_per_round=2",
        *EVALUATION, "--benchmark.every_n_rounds=0", "--benchmark.after_training=false",
        "--checkpoint.every_n_rounds=50", "--method.init_args.replace_when=score", "--method.init_args.group_size=4",
        "--method.init_args.teacher.init_args.judge.init_args.read=text",
        f"{engine}=ovd_lightning.engines.openai.OpenAIEngine",
        f"{engine}.init_args.model=teacher", f"{engine}.init_args.base_url={url}",
        f"{engine}.init_args.vllm_extensions=false", f"{engine}.init_args.max_retries=0",
        f"{engine}.init_args.max_failures=1", f"{engine}.init_args.patience_s=0",
        f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_signal_while_a_teacher_does_not_answer(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = folder / "transcripts/round-000000.jsonl.gz"
    serving = teacher(lambda: "hang" if first.exists() else None)
    with serving as (url, hanging), running(scored_over_http(folder, url)) as process:
        wait(process, hanging.is_set)
        out, _ = end(process)
        assert process.returncode == 143, out[-3000:]
    assert_finished(folder, 1, out)


@pytest.mark.slow
def test_a_teacher_that_is_gone_ends_the_run_in_one_line_with_its_rounds_saved(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = folder / "transcripts/round-000000.jsonl.gz"
    with teacher(lambda: "500" if first.exists() else None) as (url, _):
        done = cli.run(*scored_over_http(folder, url))
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: the endpoint at {url} failed 1 times in a row")
    assert "1 of 3 rounds are finished and saved" in done.stderr
    assert f"--ckpt_path=last --trainer.default_root_dir={folder}" in done.stderr
    assert load(folder)["global_step"] == 2
