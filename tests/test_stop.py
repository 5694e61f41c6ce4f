"""How a process ends on a signal, with nothing heavy in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRELUDE = """
import hashlib, os, signal, subprocess, sys, threading, time
from ovd_lightning import stop
def ready(): print("ready", flush=True)
def saved(): print("saved by", threading.current_thread().name, flush=True)
"""


def ended(code: str, *numbers: int, wait_s: float = 0.3) -> tuple[int, str, float]:
    """(exit status, what was printed, seconds from the first signal)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait_s)
        start = time.monotonic()
        for i, number in enumerate(numbers):
            time.sleep(1.5 if i else 0)
            process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out, time.monotonic() - start
    finally:
        process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_at_once_and_after_saving(number: int, status: int) -> None:
    code = """
with stop.ending_on_signals():
    stop.current().last_words = saved
    try:
        ready()
        time.sleep(60)
    except Exception:
        print("a failure?")
"""
    assert ended(code, number)[:2] == (status, "saved by MainThread\n")


def test_a_section_is_finished_first() -> None:
    code = """
with stop.ending_on_signals():
    with stop.shielded():
        ready()
        until = time.monotonic() + 1.5
        while time.monotonic() < until: pass
        print("finished")
    print("too far")
"""
    assert ended(code, signal.SIGTERM)[:2] == (143, "finished\nstopped by SIGTERM\n")


@pytest.mark.parametrize(
    "stuck",
    [
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 30)",  # minutes without a bytecode: Python runs no handler
        """
while True:
    try: time.sleep(60)
    except BaseException: pass
""",
    ],
    ids=["in C", "swallowed"],
)
def test_a_main_thread_that_does_not_end_is_ended(stuck: str) -> None:
    body = stuck.replace("\n", "\n    ")
    code = f"""
with stop.ending_on_signals():
    stop.current().last_words = saved
    ready()
    {body}
"""
    status, out, seconds = ended(code, signal.SIGTERM)
    assert (status, out) == (143, "saved by end\n")
    assert 3 < seconds < 20


def test_threads_and_children_do_not_outlive_it() -> None:
    code = """
with stop.ending_on_signals():
    threading.Thread(target=time.sleep, args=(60,)).start()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    stop.current().last_words = lambda: print(child.pid)
    ready()
    time.sleep(60)
"""
    status, out, seconds = ended(code, signal.SIGTERM)
    assert status == 143
    assert seconds < 15
    pid = int(out.split()[0])
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_same_signal_twice_is_one_and_a_later_one_ends_at_once() -> None:
    code = """
with stop.ending_on_signals():
    with stop.shielded():
        ready()
        until = time.monotonic() + 3
        while time.monotonic() < until: pass
        print("finished")
"""
    assert ended(code, signal.SIGTERM, signal.SIGTERM)[:2] == (143, "")
    twice = code.replace("until =", "os.kill(os.getpid(), 15); os.kill(os.getpid(), 15); until =")
    assert ended(twice)[:2] == (143, "finished\nstopped by SIGTERM\n")


def test_a_fork_has_its_signals_to_itself() -> None:
    code = """
with stop.ending_on_signals():
    if (pid := os.fork()) == 0:
        time.sleep(60)
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    ready()
    time.sleep(2)
    print("still here")
"""
    process = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "-15\nready\nstill here\n")


def test_a_librarys_handler_waits_for_the_end_of_a_section() -> None:
    code = """
signal.signal(signal.SIGUSR1, lambda *_: print("requeued", flush=True))
with stop.ending_on_signals():
    signal.signal(signal.SIGTERM, lambda *_: print("a library's", flush=True))
    stop.current().take_over(signal.SIGUSR1, signal.SIGUSR2)
    with stop.shielded():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.3)
        print("finished", flush=True)
    time.sleep(1)
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    ready()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    process = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False)
    assert process.returncode == 143
    assert process.stdout == "finished\nrequeued\nready\n"
    assert os.environ.get("LOCAL_RANK") is None
