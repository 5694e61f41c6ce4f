"""Programs that mean harm, each under small limits. After every one the sandbox still works and nothing is left.

They run with all mechanisms that the kernel offers, and with one of them switched off, where what remains still has to
hold. Where a protection is missing altogether, its attacks are skipped.
"""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ovd_lightning.tools.local import LocalSandbox
from tests.tools.parts import SMALL, descendants, idle, needs, one, world_readable

WITHOUT = {
    "everything": [],
    "no namespaces": ["namespaces"],
    "no landlock": ["landlock"],
    "no seccomp": ["seccomp"],
    "no user namespaces": ["user namespaces"],
}
SECRET = "a secret that no program may read"


each_mechanism = pytest.mark.parametrize("sandbox", WITHOUT, indirect=True, scope="module")
"""With everything, and with everything but one; tests without this mark have everything."""


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    param = getattr(request, "param", "everything")
    if sys.platform != "linux" and param != "everything":
        pytest.skip("mechanisms of Linux")
    made = LocalSandbox(**SMALL, without=WITHOUT[param])
    made.start()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _works_afterwards(sandbox: LocalSandbox) -> Iterator[None]:
    yield
    assert one(sandbox, "print('still here')").stdout == "still here\n"
    assert idle(sandbox) <= len(sandbox.pids), "a process is left"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that every user of the machine may read and write, with a secret in it."""
    folder = world_readable(tmp_path)
    (folder / "secret.txt").write_text(SECRET)
    os.chmod(folder / "secret.txt", 0o666)
    return folder


# ------------------------------------------------------------------ resources


@each_mechanism
def test_a_fork_bomb(sandbox: LocalSandbox) -> None:
    needs(sandbox, "processes")
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            try:
                most = max(most, len(descendants(sandbox)))
            except psutil.Error:
                continue
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = one(sandbox, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", endless=True)
    over.set()
    watcher.join()
    assert result.timed_out
    assert 3 <= most <= sandbox.processes + 2  # with the zygote and the first process of the program


@each_mechanism
def test_the_number_of_processes_and_threads_is_exact(sandbox: LocalSandbox) -> None:
    needs(sandbox, "processes")
    code = (
        "import os, time\nn = 1\nwhile n < 100:\n    try:\n        if os.fork() == 0: time.sleep(9)\n"
        "    except OSError: break\n    n += 1\nprint(n)"
    )
    assert int(one(sandbox, code).stdout) <= sandbox.processes
    if "namespace" in str(sandbox.protections()["processes"]):
        assert int(one(sandbox, code).stdout) == sandbox.processes
    threads = (
        "import threading, time\nthreading.stack_size(65536)\nn = 1\ntry:\n    while n < 100:\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        n += 1\n"
        "except RuntimeError: pass\nprint(n)"
    )
    assert int(one(sandbox, threads).stdout) <= sandbox.processes


def test_a_memory_bomb(sandbox: LocalSandbox) -> None:
    needs(sandbox, "memory")
    result = one(sandbox, "x = bytearray(10**10)")
    assert result.stderr.endswith("MemoryError\n")
    assert result.exit_code == 1
    result = one(sandbox, "x = []\nwhile True: x.append(bytearray(10**6))")
    assert "MemoryError" in result.stderr or result.killed is not None


def test_a_memory_bomb_of_many_processes(sandbox: LocalSandbox) -> None:
    needs(sandbox, "memory", "processes")
    if "all of them" not in str(sandbox.protections()["memory"]):
        pytest.skip("memory is limited for each process alone with these mechanisms")
    result = one(
        sandbox,
        "import os, time\nfor _ in range(5):\n    if os.fork() == 0: break\nx = bytearray(90 << 20)\n"
        "x[::4096] = b'x' * len(x[::4096])\nprint('held', flush=True)\ntime.sleep(9)",
    )
    assert (result.killed, result.timed_out, result.exit_code) == ("memory", False, None)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "import atexit, time\natexit.register(time.sleep, 60)",
        "(9**9**9) % 7",
        "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    ],
    ids=["loop", "sleep", "deaf", "thread", "exit", "C code", "regex"],
)  # fmt: skip
def test_endless_programs(sandbox: LocalSandbox, code: str) -> None:
    results = [one(sandbox, f"print('begun')\n{code}", endless=True)]
    while not results[-1].stdout and len(results) < 5:  # it had not even begun: a crowded machine
        results.append(one(sandbox, f"print('begun')\n{code}", endless=True))
    result = results[-1]
    assert result.timed_out
    assert result.exit_code is None
    assert result.stdout == "begun\n"  # what was printed before the kill is there
    assert result.seconds < sandbox.time_s + 2


def test_limits_cannot_be_raised(sandbox: LocalSandbox) -> None:
    code = (
        "import resource\nfor kind in ('AS', 'NPROC', 'FSIZE', 'NOFILE', 'CPU', 'CORE'):\n"
        "    kind = getattr(resource, 'RLIMIT_' + kind)\n    hard = resource.getrlimit(kind)[1]\n"
        "    try: resource.setrlimit(kind, (hard + 1, hard + 1))\n    except (OSError, ValueError): pass\n"
        "    assert resource.getrlimit(kind)[1] == hard\nprint('ok')"
    )
    assert one(sandbox, code).stdout == "ok\n"


def test_a_file_that_is_too_large(sandbox: LocalSandbox) -> None:
    result = one(sandbox, "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()")
    assert "OSError" in result.stderr
    assert "File too large" in result.stderr or "No space left" in result.stderr


def test_many_files_that_are_too_large_together(sandbox: LocalSandbox) -> None:
    if sandbox.protections()["disk"] != "own file system":
        pytest.skip("only each file is limited with these mechanisms")
    result = one(sandbox, "for i in range(100):\n    with open(str(i), 'wb') as f: f.write(bytes(1 << 20))")
    assert "No space left" in result.stderr


def test_100_mb_of_output_leave_both_ends_and_little_memory() -> None:
    made = LocalSandbox(**{**SMALL, "time_s": 20.0})
    try:
        made.start()
        before = psutil.Process().memory_info().rss
        result = one(made, "print('begin')\nfor _ in range(100): print('x' * (1 << 20))\nprint('end')")
        helpers = [psutil.Process(pid) for pid in made.pids] + descendants(made)
        assert max(p.memory_info().rss for p in [*helpers]) < 64 << 20
        assert psutil.Process().memory_info().rss - before < 16 << 20
    finally:
        made.close()
    assert result.exit_code == 0
    assert result.stdout.startswith("begin\nxxx")
    assert result.stdout.endswith("xxx\nend\n")
    assert len(result.stdout) < 2 * made.output_bytes
    assert result.left_out == 100 * ((1 << 20) + 1) + len("begin\nend\n") - made.output_bytes


def test_a_flood_without_end(sandbox: LocalSandbox) -> None:
    result = one(sandbox, "while True: print('x' * 10**5)", endless=True)
    assert result.timed_out
    assert len(result.stdout) < 2 * sandbox.output_bytes


def test_recursion_without_end(sandbox: LocalSandbox) -> None:
    assert "RecursionError" in one(sandbox, "def f(): return f()\nf()").stderr
    result = one(sandbox, "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", endless=True)
    assert result.exit_code != 0
    assert one(sandbox, "x = " + "(" * 10000 + ")" * 10000).exit_code == 1


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("how", ["open(p).read()", "os.open(p, os.O_RDONLY)", "os.listdir(os.path.dirname(p))"])
def test_files_outside_cannot_be_read(sandbox: LocalSandbox, outside: Path, how: str) -> None:
    needs(sandbox, "files")
    result = one(sandbox, f"import os\np = {str(outside / 'secret.txt')!r}\nprint({how})")
    assert result.exit_code == 1
    assert "PermissionError" in result.stderr or "FileNotFoundError" in result.stderr
    assert "secret.txt" not in result.stdout + result.stderr.split("Error:")[0].split("p = ")[0]


@each_mechanism
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/environ", "/proc/{parent}/environ",
             "/proc/{parent}/mem", "/proc/{helper}/environ", "/root", "~/.ssh", "/dev/mem", "/sys/kernel", "{home}"],
)  # fmt: skip
def test_the_machine_cannot_be_looked_at(sandbox: LocalSandbox, path: str) -> None:
    needs(sandbox, "files")
    path = path.format(parent=os.getpid(), helper=sandbox.pids[0], home=Path.home())
    result = one(
        sandbox,
        f"import os\np = os.path.expanduser({path!r})\n"
        "print(os.listdir(p) if os.path.isdir(p) else open(p, 'rb').read())",
    )
    if result.exit_code == 0:  # in a root of its own there are the folders that lead to the libraries
        assert set(ast.literal_eval(result.stdout)) <= {*Path(os.__file__).parts}
    else:
        assert (result.stdout, result.exit_code) == ("", 1)


@each_mechanism
def test_nothing_outside_can_be_written(sandbox: LocalSandbox, outside: Path) -> None:
    needs(sandbox, "files")
    library = Path(os.__file__).parent
    for target in (outside / "new.txt", outside / "secret.txt", library / "sandbox_test.py", Path("/tmp/sandbox_test")):
        result = one(sandbox, f"open({str(target)!r}, 'a').write('x')")
        if target.parent != Path("/tmp"):  # where it has a file system of its own, that is its own folder
            assert result.exit_code == 1, target
    for act in ("os.remove", "os.truncate", "os.rename", "os.chmod"):
        argument = {"os.truncate": ", 0", "os.rename": ", 'x'", "os.chmod": ", 0"}.get(act, "")
        assert one(sandbox, f"import os\n{act}({str(outside / 'secret.txt')!r}{argument})").exit_code == 1, act
    assert (outside / "secret.txt").read_text() == SECRET
    assert sorted(p.name for p in outside.iterdir()) == ["secret.txt"]
    assert not (library / "sandbox_test.py").exists()
    assert not Path("/tmp/sandbox_test").exists()


@each_mechanism
def test_links_lead_nowhere(sandbox: LocalSandbox, outside: Path) -> None:
    needs(sandbox, "files")
    code = (
        f"import os\nos.symlink({str(outside)!r}, 'folder')\nos.symlink({str(outside / 'secret.txt')!r}, 'file')\n"
        "for path in ('file', 'folder/secret.txt'):\n    try: print(open(path).read())\n"
        "    except OSError as error: print(type(error).__name__)\n"
        f"try: os.link({str(outside / 'secret.txt')!r}, 'hard')\nexcept OSError: print('no link')"
    )
    lines = one(sandbox, code).stdout.split("\n")
    assert set(lines[:2]) <= {"PermissionError", "FileNotFoundError"}
    assert lines[2] == "no link"
    assert (outside / "secret.txt").read_text() == SECRET  # removing the links removed nothing behind them


@each_mechanism
def test_nothing_is_left_for_the_next_program(sandbox: LocalSandbox) -> None:
    before = {p for p in Path(tempfile.gettempdir()).iterdir() if p.name.startswith("sandbox-")}
    code = (
        "import os, tempfile\nprint(os.listdir('.'), tempfile.gettempdir() == os.getcwd())\nopen('left', 'w').close()\n"
        "os.makedirs('a/b')\nopen('a/b/c', 'w')\nos.mkdir('closed', 0)\nos.umask(0o777)\nos.makedirs('d')\n"
        "open('.hidden', 'w')"
    )
    for _ in range(2):
        result = one(sandbox, code)
        assert (result.stdout, result.stderr) == ("[] True\n", "")
    assert {p for p in Path(tempfile.gettempdir()).iterdir() if p.name.startswith("sandbox-")} == before


def test_nothing_is_inherited(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys\nfound = []\nfor fd in range(3, 1024):\n    try: os.fstat(fd); found.append(fd)\n"
        "    except OSError: pass\nprint(found, sys.argv)"
    )
    assert one(sandbox, code).stdout == "[] ['main.py']\n"
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    made = LocalSandbox(**SMALL)
    try:
        made.start()
        assert SECRET not in one(made, "import os\nprint(dict(os.environ))").stdout
        for process in [psutil.Process(made.pids[0]), *descendants(made)]:
            assert SECRET not in str(process.environ())  # nor does anything that a program could look into
    finally:
        made.close()


# -------------------------------------------------------------------- network


@each_mechanism
def test_no_socket_can_be_opened(sandbox: LocalSandbox, outside: Path) -> None:
    needs(sandbox, "network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        result = one(sandbox, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
        assert result.exit_code == 1
        with pytest.raises(TimeoutError):
            server.accept()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.2)
        address = ("127.0.0.1", udp.getsockname()[1])
        one(sandbox, f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', {address})")
        with pytest.raises(TimeoutError):
            udp.recv(1)
    for name in (str(outside / "listening"), "\0listening-for-a-program"):
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(name)
            unix.listen()
            if not name.startswith("\0"):
                os.chmod(name, 0o777)
            result = one(sandbox, f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})")
            assert result.exit_code == 1, name
    assert one(sandbox, "import urllib.request\nurllib.request.urlopen('http://example.com', timeout=1)").exit_code == 1


def test_an_event_loop_works_all_the_same(sandbox: LocalSandbox) -> None:
    result = one(sandbox, "import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))")
    assert (result.stdout, result.stderr) == ("7\n", "")


# ------------------------------------------------------------ other processes


@each_mechanism
def test_other_processes_cannot_be_hurt(sandbox: LocalSandbox) -> None:
    needs(sandbox, "programs")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        targets = [victim.pid, os.getpid(), sandbox.pids[0], "os.getppid()", 0, -1, -victim.pid]
        for target in targets:
            one(sandbox, f"import os\ntry: os.kill({target}, 9)\nexcept OSError: pass\nprint('done')")
        for target in (victim.pid, os.getpid()):
            code = (
                f"import resource\ntry: resource.prlimit({target}, resource.RLIMIT_NOFILE, (3, 3))\n"
                "except OSError as error: print(type(error).__name__)"
            )
            assert one(sandbox, code).stdout.strip() in ("PermissionError", "ProcessLookupError")
        assert victim.poll() is None
        assert psutil.Process(victim.pid).nice() == 0
    finally:
        victim.kill()
        victim.wait()


ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2): os.close(fd)
        {deaf}
        time.sleep(60)
    os._exit(0)
os.wait()
print("gone", flush=True)
{then}
"""


DEAF = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]"


@each_mechanism
@pytest.mark.parametrize("then", ["", "time.sleep(60)", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_daemon_does_not_outlive_its_program(sandbox: LocalSandbox, then: str) -> None:
    needs(sandbox, "survivors")
    result = one(sandbox, ESCAPE.format(then=then, deaf=DEAF), endless="sleep" in then)
    assert result.stdout == "gone\n"
    assert idle(sandbox) <= len(sandbox.pids)


def test_no_program_is_started(sandbox: LocalSandbox) -> None:
    needs(sandbox, "programs")
    for code in (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'])",
        "import os\nos.execv('/bin/sh', ['sh'])",
        "import os\nraise SystemExit(os.system('true') != 0)",
    ):
        assert one(sandbox, code).exit_code not in (0, None), code


SYSTEM_CALLS = {
    # by number on x86-64: the C library is not asked
    "ptrace": (101, 16, 1, 0, 0), "mount": (165, 0, 0, 0, 0), "unshare": (272, 0x10000000), "setns": (308, 0, 0),
    "keyctl": (250, 0, -3, 1), "bpf": (321, 0, 0, 0), "userfaultfd": (323, 0), "memfd_create": (319, 0, 0),
    "io_uring_setup": (425, 1, 0), "chroot": (161, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "shmget": (29, 0, 4096, 0o1600), "perf_event_open": (298, 0, 0, -1, -1, 0), "socket": (41, 2, 1, 0),
    "clone a namespace": (56, 0x10000000 | 17, 0, 0, 0, 0), "socketpair of internet": (53, 2, 1, 0, 0),
    "a signal by fcntl": (72, 1, 8, 1), "reboot": (169, 0, 0, 0), "name_to_handle_at": (303, 0, 0, 0, 0, 0),
}  # fmt: skip


@each_mechanism
def test_system_calls_that_no_program_needs_are_refused(sandbox: LocalSandbox) -> None:
    import platform

    if "seccomp" in sandbox.without or platform.machine() != "x86_64" or sandbox.protections()["programs"] is None:
        pytest.skip("no seccomp, or other numbers on this machine")
    code = (
        f"import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\nfor name, call in {SYSTEM_CALLS!r}.items():\n"
        "    ctypes.set_errno(0)\n    result = libc.syscall(*map(ctypes.c_long, call))\n"
        "    print(name, result, errno.errorcode.get(ctypes.get_errno()))\n"
        "print('clone3', libc.syscall(ctypes.c_long(435), 0, 0), errno.errorcode.get(ctypes.get_errno()))\n"
        "print('x32', libc.syscall(ctypes.c_long(0x40000000 + 39)), errno.errorcode.get(ctypes.get_errno()))"
    )
    lines = one(sandbox, code).stdout.splitlines()
    assert lines[: len(SYSTEM_CALLS)] == [f"{name} -1 EPERM" for name in SYSTEM_CALLS]
    assert lines[len(SYSTEM_CALLS) :] == ["clone3 -1 ENOSYS", "x32 -1 ENOSYS"]


@each_mechanism
def test_a_program_has_no_powers(sandbox: LocalSandbox) -> None:
    if sys.platform != "linux":
        pytest.skip("capabilities are Linux'")
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nprint([libc.prctl(23, i, 0, 0, 0) for i in range(38)].count(1), "
        "libc.prctl(39, 0, 0, 0, 0))\n"
        "for act in (lambda: os.setuid(0), lambda: os.chown('.', 1, 1), lambda: os.mknod('d', 0o20600, 259)):\n"
        "    try: act(); print(os.getuid())\n    except OSError as error: print('refused')"
    )
    powers, *acts = one(sandbox, code).stdout.splitlines()
    assert powers.split()[1] == "1"  # no new privileges
    if os.geteuid() == 0:
        assert powers.split()[0] == "0"  # none of the bounding set
    assert acts[1:] == ["refused", "refused"]
    assert acts[0] in ("refused", "0")  # where it is already
