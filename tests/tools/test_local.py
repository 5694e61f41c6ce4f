"""The local sandbox as an interpreter: what programs see, what comes back, and how it fails."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import psutil
import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tools.local import LocalSandbox, Protection
from tests.limits import patient
from tests.search.parts import refused
from tests.tools.parts import SMALL, descendants, one, outputs


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    made = LocalSandbox(**{**SMALL, "time_s": 10.0, "workers": 2, "print_value": True})
    yield made
    made.close()


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("print(347 * 82)", "28454\n"),
        ("347 * 82", "28454\n"),
        ("x = 3\nx + 1  # the value", "4\n"),
        ("x = [1]\nx.append(2)", ""),
        ("x = 3", ""),
        ("print(1)\n'text'", "1\ntext\n"),
        ("(\n 1 +\n 2\n)", "3\n"),
        ("x = 5; x", "5\n"),
        ("None", ""),
        ("", ""),
        ("# nothing", ""),
        ("\ufeffprint(1)", "1\n"),  # a byte order mark, as a file may begin with
        ("if True: 7", ""),
        ("from __future__ import annotations\ndef f(x: undefined): return x\nf(8)", "8\n"),
        ("'𝟙é' + 'ü'", "𝟙éü\n"),
        ("print(__name__, __file__)", "__main__ main.py\n"),
        ("if __name__ == '__main__': print('main')", "main\n"),
        ("import math, fractions, itertools, json, random, re, decimal, statistics\nprint(math.comb(9, 3))", "84\n"),
        ("import collections, dataclasses, functools, heapq, zlib, hashlib, zoneinfo, sqlite3\nprint(1)", "1\n"),
        ("print('a\\ud800b')", "a\\ud800b\n"),
        ("import sys; sys.stdout.buffer.write(b'a\\xffb'); x = 1", "a\ufffdb"),
        ("import sys\nprint(sys.stdin.read() == '')", "True\n"),
        ("print('no end', end='')", "no end"),
        ("class A:\n    def f(self): return 3\nA().f()", "3\n"),
        ("import multiprocessing as m, os\np = os.pipe()\nif os.fork() == 0: os.write(p[1], b'child'); os._exit(0)\n"
         "print(os.read(p[0], 9))", "b'child'\n"),
        ("open('f', 'w').write('kept'); print(open('f').read())", "kept\n"),
    ],
)  # fmt: skip
def test_what_a_program_prints(sandbox: LocalSandbox, code: str, stdout: str) -> None:
    result = one(sandbox, code)
    assert (result.stdout, result.stderr, result.exit_code) == (stdout, "", 0)


@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("def f(:\n  pass", 1, "SyntaxError: invalid syntax"),
        ("a = 1\x00", 1, "source code string cannot contain null bytes"),
        ("  x = 1", 1, "IndentationError: unexpected indent"),
        ("input('number? ')", 1, "EOFError: EOF when reading a line"),
        ("import torch", 1, "ModuleNotFoundError: No module named 'torch'"),
        ("import ovd_lightning", 1, "ModuleNotFoundError: No module named 'ovd_lightning'"),
        ("raise SystemExit('a reason')", 1, "a reason"),
        ("assert 1 == 2, 'so'", 1, "AssertionError: so"),
        ("import sys\nsys.exit(3)", 3, ""),
        ("exit(4)", 4, ""),
        ("import os\nos._exit(5)", 5, ""),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", 1, "E: <exception str() failed>"),
        ("import sys\nsys.stdout.close()\nsys.exit(0)", 0, ""),
        ("import os\nos.close(1)\nos.close(2)\nprint(1)", 1, ""),
    ],
)
def test_how_a_program_ends(sandbox: LocalSandbox, code: str, exit_code: int, last: str) -> None:
    result = one(sandbox, code)
    assert result.exit_code == exit_code
    assert [*result.stderr.strip().splitlines(), ""][-2 if last else -1].endswith(last)
    assert last or not result.stderr
    assert (result.timed_out, result.killed) == (False, None)


def test_a_traceback_shows_the_program_and_nothing_of_the_sandbox(sandbox: LocalSandbox) -> None:
    result = one(sandbox, "def f(x):\n    return 1 / x\n\nprint('first')\nf(0)")
    assert result.stdout == "first\n"
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        'File "main.py", line 5, in <module>', 'File "main.py", line 2, in f',
    ]  # fmt: skip
    assert "    return 1 / x" in lines


def test_a_program_killed_by_a_signal_says_which(sandbox: LocalSandbox) -> None:
    result = one(sandbox, "import os\nprint('now', flush=True)\nos.kill(os.getpid(), 11)")
    assert (result.stdout, result.killed, result.exit_code) == ("now\n", "signal SIGSEGV", None)
    assert "SIGABRT" in str(one(sandbox, "import os\nos.abort()").killed)


def test_no_state_is_left_and_the_same_program_prints_the_same(sandbox: LocalSandbox) -> None:
    one(sandbox, "import math, builtins, sys\nmath.pi = 3\nbuiltins.print = None\nsys.modules['json'] = None\nx = 1")
    assert one(sandbox, "import math, json\nprint(math.pi > 3.1, 'x' in globals())").stdout == "True False\n"
    code = "import random\nprint(random.random(), hash('text'), {'a', 'b', 'c', 'd'})"
    assert len(set(outputs(sandbox.run([code] * 4)))) == 1


def test_hundreds_of_programs_in_order(sandbox: LocalSandbox) -> None:
    begun = time.monotonic()
    results = sandbox.run([f"import time\ntime.sleep({(i % 7) / 500})\nprint({i} ** 2)" for i in range(200)])
    assert outputs(results) == [f"{i**2}\n" for i in range(200)]
    assert time.monotonic() - begun < patient(60)
    assert sandbox.run([]) == []


def test_programs_run_beside_one_another(sandbox: LocalSandbox) -> None:
    sandbox.run(["0"] * 2)
    printed = outputs(sandbox.run(["import time\nprint(time.time())\ntime.sleep(2)\nprint(time.time())"] * 2))
    begun, ended = zip(*(map(float, text.split()) for text in printed), strict=True)
    assert max(begun) < min(ended)


def test_a_large_program_and_text_of_every_script(sandbox: LocalSandbox) -> None:
    text = "x" * 10**6
    assert one(sandbox, f"print(len('{text}'))").stdout == "1000000\n"
    assert one(sandbox, "print('ß漢字🙂', '\\u2028')").stdout == "ß漢字🙂 \u2028\n"


def test_numpy_and_sympy_are_there_and_cost_nothing() -> None:
    made = LocalSandbox(time_s=10, memory_mb=1024, workers=1)
    try:
        made.start()
        result = one(
            made,
            "import numpy as np, sympy, time\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 5*x + 6), "
            "np.linalg.det(np.eye(3)), sympy.integrate(sympy.sin(x), x), np.random.rand() == np.random.rand())",
        )
        assert (result.stdout, result.stderr) == ("[2, 3] 1.0 -cos(x) False\n", "")
        assert result.seconds < 5
        assert len(set(outputs(made.run(["import numpy\nnumpy.random.rand()"] * 2)))) == 1
        big = one(made, "import numpy as np\na = np.random.rand(300, 300)\nprint((a @ a).shape)")
        assert big.stdout == "(300, 300)\n"
    finally:
        made.close()


# ------------------------------------------------------------------- failures


def test_a_helper_that_is_killed_fails_its_program_alone(sandbox: LocalSandbox) -> None:
    sandbox.run(["0"] * 2)

    def kill() -> None:
        time.sleep(0.5)
        os.kill(sandbox.pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    results = sandbox.run(["import time\ntime.sleep(1.5)\nprint('done')"] * 2)
    killer.join()
    assert sorted(str(r.failed) for r in results) == ["None", "the helper process died or hung"]
    assert sorted(outputs(results)) == ["", "done\n"]
    assert outputs(sandbox.run(["1", "2", "3"])) == ["1\n", "2\n", "3\n"]


def test_nothing_outlives_the_trainer_or_a_closed_sandbox() -> None:
    code = (
        "import sys\nfrom ovd_lightning.tools.local import LocalSandbox\n"
        "made = LocalSandbox(time_s=60, workers=1, packages=())\nmade.start()\n"
        "print(*made.pids, flush=True)\nmade.run(['import time; time.sleep(60)'])"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    helper = psutil.Process(int(trainer.stdout.readline()))
    time.sleep(1)
    tree = [helper, *helper.children(recursive=True)]
    assert len(tree) >= 3
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    _, alive = psutil.wait_procs(tree, timeout=patient(10))
    assert alive == []

    made = LocalSandbox(**SMALL)
    made.start()
    tree = [psutil.Process(made.pids[0]), *descendants(made)]
    made.close()
    assert psutil.wait_procs(tree, timeout=patient(10))[1] == []
    assert one(made, "print('again')").stdout == "again\n"
    made.close()


@pytest.mark.parametrize("settings", [{"require": ["everything"]}, {"without": ["memory"]}])
def test_names_that_are_not_known(settings: dict[str, Any]) -> None:
    (name,) = settings
    assert f'"given.{name}"' in refused(LocalSandbox, settings)


@pytest.mark.parametrize("name", ["time_s", "memory_mb", "processes", "file_mb", "output_bytes", "workers"])
def test_settings_out_of_range(name: str) -> None:
    assert f'"given.{name}"' in refused(LocalSandbox, {name: 0})


def test_a_package_that_is_not_installed_and_limits_that_are_too_small_are_found_before_training() -> None:
    with pytest.raises(ConfigError, match="packages: nothing_of_this_name is not installed"):
        LocalSandbox(packages=["nothing_of_this_name"]).check()
    with pytest.raises(ConfigError, match="a first program does not run") as error:
        LocalSandbox(memory_mb=64, packages=["numpy", "sympy"], workers=1).check()
    assert "memory_mb" in error.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="the mechanisms are Linux'")
def test_a_missing_protection_stops_the_run_where_it_is_required_and_is_told_where_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    without = ["namespaces", "landlock", "seccomp"]
    with pytest.raises(ConfigError, match=r"require: files, network: .*switched off"):
        LocalSandbox(**SMALL, without=without, require=["time", "files", "network"]).check()
    made = LocalSandbox(**SMALL, without=without)
    with caplog.at_level(logging.WARNING):
        made.check()
        made.start()
        assert one(made, "print(1)").stdout == "1\n"
        made.close()
    (warning,) = [r.getMessage() for r in caplog.records if "DOES NOT PROTECT" in r.getMessage()]
    assert "FILES, NETWORK" in warning
    assert set(made._protections or ()) == set(get_args(Protection))


def test_protections_name_their_mechanisms(sandbox: LocalSandbox) -> None:
    found = sandbox.protections()
    assert tuple(found) == get_args(Protection)
    assert {name for name in ("time", "output", "environment") if found[name]} == {"time", "output", "environment"}
    assert sandbox.settings()["time_s"] == 10.0
