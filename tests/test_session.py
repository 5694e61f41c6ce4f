"""The test session itself: limits that count processor time, and nothing left behind by an interrupted one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ovd_lightning.engines.vllm import VLLMEngine

ROOT = Path(__file__).resolve().parents[1]

SERVER = """
import pathlib, subprocess, sys, time
pathlib.Path(sys.argv[1]).open("a").write("server\\n")
engine = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(engine, start_new_session=True)  # as vLLM's server starts its engine
subprocess.Popen(["sh", "-c", "sleep 600 &"], start_new_session=True)  # and one whose parent is gone
pathlib.Path(sys.argv[1]).open("a").write("engine\\n")
time.sleep(600)
"""
STARTS_A_SERVER = f"""
import subprocess, sys, time

def test_waits_for_ever():
    server = subprocess.Popen([sys.executable, "-c", {SERVER!r}, "{{started}}"], start_new_session=True)
    time.sleep(600)
"""
SERVES_A_MODEL = """
import pathlib, time
from tests.helpers import save_tiny_model
from tests.served import serve

def test_waits_for_ever(tmp_path):
    with serve(save_tiny_model(tmp_path / "model", tied=True), "tiny", 128, tmp_path / "log"):
        time.sleep(600)
"""


def session(folder: Path, test: str, *options: str) -> subprocess.Popen[str]:
    """A pytest of its own, of one file."""
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = cpu_limit\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.limits", "-p", "tests.survivors", "-p",
               "no:cacheprovider", "--rootdir", folder, *options, folder / "test_it.py"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_OF_TESTS": str(folder)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup ignores, and children inherit
    )  # fmt: skip


def alive(folder: Path) -> list[psutil.Process]:
    """Every process that descends from a session in ``folder``, the session's own among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TEST_OF_TESTS") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_all(folder: Path) -> None:
    """What a failed test of this file would leave."""
    for process in alive(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.mark.parametrize(
    ("how", "workers"), [(signal.SIGKILL, []), (signal.SIGKILL, ["-n1"]), (signal.SIGTERM, []), (signal.SIGINT, [])]
)
def test_what_a_session_started_ends_with_it(how: signal.Signals, workers: list[str], tmp_path: Path) -> None:
    started = tmp_path / "started"
    pytest_process = session(tmp_path, STARTS_A_SERVER.format(started=started), *workers)
    try:
        while not started.exists() or "engine" not in started.read_text():
            assert pytest_process.poll() is None, pytest_process.communicate()
            time.sleep(0.1)
        assert len(alive(tmp_path)) >= 4, "pytest, what watches it, the server, its engine"
        pytest_process.send_signal(how)
        pytest_process.wait()
        while alive(tmp_path):
            time.sleep(0.2)
    finally:
        kill_all(tmp_path)


def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    """The other workers go on; pytest-xdist starts another in its place."""
    started = tmp_path / "started"
    pytest_process = session(tmp_path, STARTS_A_SERVER.format(started=started), "-n1", "--max-worker-restart=0")
    try:
        while not started.exists() or "engine" not in started.read_text():
            assert pytest_process.poll() is None, pytest_process.communicate()
            time.sleep(0.1)
        servers = [p for p in alive(tmp_path) if "sleep" in " ".join(p.cmdline())]
        (worker,) = {q for p in servers for q in p.parents()} & set(psutil.Process(pytest_process.pid).children())
        worker.kill()
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in servers):
            time.sleep(0.2)
        assert "crashed" in pytest_process.communicate()[0]
    finally:
        kill_all(tmp_path)


@pytest.mark.slow
@pytest.mark.vllm
def test_vllms_server_ends_with_the_session_that_is_killed(tmp_path: Path) -> None:
    if VLLMEngine.installed() is None:
        pytest.skip("vLLM is not installed")
    pytest_process = session(tmp_path, SERVES_A_MODEL)
    try:
        while not [p for p in alive(tmp_path) if "spawn_main" in " ".join(p.cmdline())]:  # the engine
            assert pytest_process.poll() is None, pytest_process.communicate()
            time.sleep(0.2)
        pytest_process.kill()
        pytest_process.wait()
        while alive(tmp_path):
            time.sleep(0.2)
    finally:
        kill_all(tmp_path)


# --- limits -----------------------------------------------------------------------------------------------------

LIMITS = """
import subprocess, sys, time, pytest

BUSY = "import time\\nwhile time.process_time() < 60: pass"

@pytest.mark.cpu_limit(1)
def test_works_too_much():
    while True:
        pass

@pytest.mark.cpu_limit(1)
def test_starts_what_works_too_much():
    subprocess.run([sys.executable, "-c", BUSY])

@pytest.mark.cpu_limit(1)
def test_started_what_worked_too_much():
    subprocess.run([sys.executable, "-c", BUSY.replace("60", "2")])
    time.sleep(600)

@pytest.mark.cpu_limit(1)
def test_waits_and_works_little():
    time.sleep(5)

@pytest.fixture
def heavy():
    while True:
        pass

@pytest.mark.cpu_limit(1)
def test_of_a_heavy_fixture(heavy):
    pass
"""


def test_a_test_is_limited_in_processor_time_not_in_real_time(tmp_path: Path) -> None:
    """Its own, that of what it started and runs, and of what has ended; in a fixture as in the test."""
    out, _ = session(tmp_path, LIMITS).communicate()
    assert "3 failed, 1 passed, 1 error" in out
    assert out.count("s of processor time; its limit is 1 s") >= 4
