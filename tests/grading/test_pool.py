"""Hostile answers, and the processes that they meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ovd_lightning.grading import Grader, WorkerError, grade
from ovd_lightning.grading.grader import default_workers
from ovd_lightning.types import Problem
from ovd_lightning.workers.pool import Pool
from tests.limits import patient

HANGS = r"\boxed{9^{9^{9^{9}}}}"
RIGHT, WRONG = r"\boxed{2\sqrt{3}}", r"\boxed{3\sqrt{2}}"
ROOT = Problem(id="root", question="?", answers=(r"\sqrt{12}",))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """Two workers and a second each; a test may kill what it likes."""
    with Grader(workers=2, timeout_s=1.0) as grader:
        yield grader


HOSTILE = {
    "power tower": HANGS,
    "python power tower": r"\boxed{9**9**9**9}",
    "factorial": r"\boxed{99999999999!}",
    "long sum": r"\boxed{\sum_{n=1}^{100000000} \sin(n^2)}",
    "integral": r"\boxed{\int_0^{100} e^{\sin(x^x)} dx}",
    "braces, 100 kB": "\\boxed{" + "{" * 50_000 + "1" + "}" * 50_000 + "}",
    "braces, 4 kB": "\\boxed{" + "{" * 1900 + "1" + "}" * 1900 + "}",
    "open braces": "\\boxed{" * 30_000,
    "fractions": "\\boxed{" + "\\frac{1}{" * 300 + "x" + "}" * 300 + "}",
    "digits": "\\boxed{" + "7" * 100_000 + "}",
    "long list": "\\boxed{" + ",".join(map(str, range(20_000))) + "}",
    "sets in sets": "\\boxed{" + "\\{" * 900 + "\\}" * 900 + "}",
    "import": r"\boxed{__import__('os').system('touch PATH')}",
    "import, as an index": r"\boxed{x_{__import__('os').system('touch PATH')}}",
    "open": r"\boxed{open('PATH', 'w').write('x')}",
    "exec": '\\boxed{exec(\'open("PATH", "w")\')}',
    "lambda": r"\boxed{(\lambda: open('PATH','w'))()}",
    "write18": r"\boxed{\immediate\write18{touch PATH}}",
    "null": "\\boxed{\x00\ud800}",
}


@pytest.fixture(scope="module", params=["strict", "qwen"])
def impatient(request: pytest.FixtureRequest) -> Iterator[Grader]:
    with Grader(request.param, workers=1, timeout_s=0.5) as grader:
        yield grader


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_costs_at_most_the_time_limit(impatient: Grader, name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    response = HOSTILE[name].replace("PATH", str(trace))
    while not impatient.is_equivalent(r"\sqrt{12}", r"2\sqrt3"):  # the worker is up, and works
        pass
    before = impatient.pool.pids
    verdict = impatient.grade(response, ROOT)
    spent = sum(psutil.Process(pid).cpu_times().user for pid in impatient.pool.pids if pid in before)
    assert (verdict.correct, verdict.reward) == (False, 0.0)
    assert spent < 0.5 * 8 + 5  # processor time of a worker that lives, all answers before this one included
    assert verdict.timed_out == (impatient.pool.pids != before)
    assert not verdict.timed_out or not psutil.pid_exists(before[0])
    assert not trace.exists()


def test_the_limit_is_processor_time_and_not_the_clock() -> None:
    """A worker that does not get a processor for longer than its limit is not late."""
    with Grader(workers=1, timeout_s=1.0) as grader:
        assert grader.grade(RIGHT, ROOT).correct
        (pid,) = grader.pool.pids
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(3.0, os.kill, (pid, signal.SIGCONT)).start()
        verdict = grader.grade(RIGHT, ROOT)
        assert (verdict.correct, verdict.timed_out) == (True, False)
        assert grader.pool.pids == [pid]
        for _ in range(3):  # each answer has the limit for itself
            assert grader.grade(RIGHT, ROOT).correct
        hung = grader.grade(HANGS, ROOT)
        assert (hung.correct, hung.timed_out) == (False, True)


def test_a_worker_that_never_works_is_given_up_by_the_clock() -> None:
    with Grader(workers=1, timeout_s=1.0) as grader:
        assert grader.grade(RIGHT, ROOT).correct
        grader.pool.timeout_s = 1.0
        os.kill(grader.pool.pids[0], signal.SIGSTOP)
        verdict = grader.grade(RIGHT, ROOT)
        assert (verdict.correct, verdict.timed_out) == (False, True)
        grader.pool.timeout_s = 60.0
        assert grader.grade(RIGHT, ROOT).correct


def test_thirty_grades_in_order_while_one_hangs(grader: Grader) -> None:
    responses = [(RIGHT, WRONG)[i % 2] for i in range(30)]
    responses[11] = HANGS
    grades = grader.grade_many(responses, [ROOT] * 30)
    assert [g.correct for g in grades] == [i % 2 == 0 for i in range(30)]
    assert [g.timed_out for g in grades] == [i == 11 for i in range(30)]


def test_the_killed_worker_is_gone_and_another_is_there(grader: Grader) -> None:
    grader.grade_many([RIGHT] * 4, [ROOT] * 4)
    before = set(grader.pool.pids)
    assert len(before) == 2
    assert grader.grade(HANGS, ROOT).timed_out
    after = set(grader.pool.pids)
    assert len(after) == 2
    assert len(before & after) == 1
    assert not any(psutil.pid_exists(pid) for pid in before - after)
    assert [g.correct for g in grader.grade_many([RIGHT, WRONG], [ROOT] * 2)] == [True, False]


def test_a_worker_that_dies_at_work_is_a_wrong_grade() -> None:
    with Grader(workers=1, timeout_s=30) as grader:
        assert grader.grade(RIGHT, ROOT).correct
        threading.Timer(0.3, os.kill, (grader.pool.pids[0], signal.SIGSEGV)).start()
        verdict = grader.grade(HANGS, ROOT)
        assert (verdict.correct, verdict.timed_out) == (False, True)
        assert grader.grade(RIGHT, ROOT).correct


def test_a_worker_that_died_idle_is_not_even_that(grader: Grader) -> None:
    grader.grade(RIGHT, ROOT)
    for process in [psutil.Process(pid) for pid in grader.pool.pids]:
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:  # ours, and not waited for yet
            time.sleep(0.01)
    assert [g.correct for g in grader.grade_many([RIGHT, WRONG, RIGHT], [ROOT] * 3)] == [True, False, True]


def test_close_ends_the_workers_and_grading_again_starts_new_ones(grader: Grader) -> None:
    assert grader.grade(RIGHT, ROOT).correct
    pids = grader.pool.pids
    grader.close()
    grader.close()
    assert grader.pool.pids == []
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert grader.grade(RIGHT, ROOT).correct


def test_plain_numbers_start_no_worker() -> None:
    problems = [Problem(id="x", question="?", answers=(str(i),)) for i in range(100)]
    with Grader() as grader:
        grades = grader.grade_many([rf"\boxed{{{i // 2 * 2}.0}}" for i in range(100)], problems)
        assert sum(g.correct for g in grades) == 50
        assert grader.pool.pids == []


def test_a_forgotten_grader_leaves_no_worker() -> None:
    grader = Grader(workers=1)
    grader.grade(RIGHT, ROOT)
    pid = grader.pool.pids[0]
    del grader
    assert not psutil.pid_exists(pid)


def test_many_threads_may_share_a_grader(grader: Grader) -> None:
    verdicts: dict[int, list[bool]] = {}

    def work(index: int) -> None:
        grades = grader.grade_many([RIGHT, WRONG] * 3, [ROOT] * 6)
        verdicts[index] = [g.correct for g in grades]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {i: [True, False] * 3 for i in range(6)}


def test_module_functions_work_off_the_main_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(grade(RIGHT, ROOT).correct))
    thread.start()
    thread.join()
    assert found == [True]


def run_script(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + patient(seconds)
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("busy", [False, True])
def test_workers_die_with_a_killed_parent(busy: bool) -> None:
    """Also while they work: nobody is left to kill them, so the kernel ends them by their processor time."""
    work = "grader.is_equivalent('9^{9^{9^{9}}}', '5')" if busy else "time.sleep(60)"
    parent = run_script(f"""
        import time
        from ovd_lightning.grading import Grader
        grader = Grader(workers=1, timeout_s=1.0)
        grader.is_equivalent("x+y", "y+x")
        grader.pool.timeout_s = 60
        print(*grader.pool.pids, flush=True)
        {work}
    """)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 1
    time.sleep(0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(pids, 60)


def test_a_fork_of_the_process_has_workers_of_its_own() -> None:
    parent = run_script("""
        import os
        from ovd_lightning.grading import Grader
        grader = Grader(workers=1)
        assert grader.is_equivalent("x+y", "y+x")
        before = grader.pool.pids
        child = os.fork()
        if child == 0:
            assert grader.is_equivalent("x+z", "z+x")
            assert set(grader.pool.pids).isdisjoint(before)
            grader.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert grader.is_equivalent("x+t", "t+x")
        assert grader.pool.pids == before
        print("as it was")
    """)
    assert parent.communicate()[0].strip() == "as it was"


def test_a_worker_imports_no_torch() -> None:
    """It would take seconds and gigabytes; importing the package is enough for it to happen."""
    loaded = "import sys, ovd_lightning.grading, ovd_lightning.grading.worker, ovd_lightning.grading.symbolic"
    names = "torch", "transformers", "lightning", "numpy", "vllm"
    code = f"{loaded}; print([n for n in {names!r} if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_confined_process_can_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import os, socket, subprocess, sys
            from ovd_lightning.grading.worker import confine
            confine(1024)
            attempts = [
                lambda: os.system("touch " + sys.argv[1] + "/trace"),
                lambda: subprocess.run(["touch", sys.argv[1] + "/trace"]),
                lambda: open(sys.argv[1] + "/trace", "w"),
                lambda: os.open(sys.argv[1] + "/trace", os.O_CREAT | os.O_WRONLY),
                lambda: os.remove(sys.argv[1] + "/kept"),
                lambda: socket.socket(),
                lambda: os.fork(),
                lambda: bytearray(2 << 30),
            ]
            for attempt in attempts:
                try:
                    attempt()
                    print("done")
                except (PermissionError, MemoryError) as error:
                    print(type(error).__name__)
        """), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["PermissionError"] * 7 + ["MemoryError"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_text_is_never_evaluated() -> None:
    """sympy evaluates every number it is given as a text; in a worker that is closed, and says so when it is not."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import builtins, sympy
            from ovd_lightning.grading import symbolic
            try:
                symbolic.equivalent("x+y", "y+x")
            except symbolic.EvaluationError as error:
                print(error)
            symbolic.disarm()
            def refuse(*_): raise AssertionError("evaluated")
            builtins.eval = refuse
            assert symbolic.equivalent("2.50x+3", "3+\\\\frac{5}{2}x") and symbolic.prose("it is 3*(4+5) then", "27")
            for text in ("x+1", "__import__('os')", "1+1"):
                try:
                    sympy.sympify(text)
                except Exception as error:
                    print(type(error).__name__)
        """)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["disarm() was not called", *["EvaluationError"] * 3]


def test_workers_that_cannot_start_are_an_error() -> None:
    pool = Pool([sys.executable, "-c", "import sys; sys.exit(3)"], size=2, timeout_s=1.0)
    with pytest.raises(WorkerError, match="could not be started"):
        pool.run([{}])
    assert pool.run([]) == []


def test_cores_are_shared_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    for ranks, expected in ((1, min(8, cores)), (2, max(1, min(8, cores // 2))), (1000, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert default_workers() == expected


def test_as_many_responses_as_problems(grader: Grader) -> None:
    with pytest.raises(ValueError, match="zip"):
        grader.grade_many([RIGHT], [])
