"""A grading worker: ``python -m ovd_lightning.grading.worker TIMEOUT_S MEMORY_MB``, one JSON object a line in and out.

It imports sympy and math-verify and no more (a start is well under a second), and holds no state between requests. It
can hang, run out of memory or crash: the pool kills and replaces it. What it must never do is prevented twice: no text
is evaluated (:func:`ovd_lightning.grading.symbolic.disarm`), and the process can neither write files, nor start
programs, nor open sockets (:func:`confine`).
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from fractions import Fraction
from typing import Any

from ovd_lightning.workers import pipe

_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.", "socket.", "ctypes.",
    "os.kill", "os.putenv", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "shutil.", "urllib.", "ftplib.", "smtplib.", "webbrowser.",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _guard(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook. Raises PermissionError."""
    if event.startswith(_FORBIDDEN) or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
        raise PermissionError(f"a grading worker may not {event}")


def confine(memory_mb: int) -> None:
    """Limit this process for good: address space, no file written, no core dump, none of the audit events above."""
    limits = [(resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, memory_mb << 20)]
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    sys.addaudithook(_guard)


def limit_cpu(timeout_s: float) -> None:
    """The kernel ends this process after ``timeout_s`` more seconds of its processor time, however long they take on a
    busy machine, and also when no pool is left to kill it. 0: no limit until the next request."""
    signal.setitimer(signal.ITIMER_PROF, timeout_s)  # SIGPROF, whose default is the end, also within one long call
    if not timeout_s:
        return
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + timeout_s) + 1, resource.RLIM_INFINITY))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request, see :class:`ovd_lightning.grading.grader.Grader`."""
    from ovd_lightning.grading import qwen, strict, symbolic

    prediction, references = request["prediction"], request["references"]
    if request["mode"] == "qwen":
        return {"equal": any(qwen.equal(prediction, reference, symbolic.harness) for reference in references)}
    tolerance = Fraction(request["tolerance"]) if request.get("tolerance") else None
    if request.get("options"):
        fits = [symbolic.equivalent(prediction, option, tolerance) for option in references]
        return {"option": fits.index(True) if fits.count(True) == 1 else None}
    offered = [one for reference in references for one in strict.alternatives(reference)]
    if any(symbolic.equivalent(prediction, reference, tolerance) for reference in offered):
        return {"equal": True}
    return {"equal": bool(request.get("text")) and symbolic.prose(request["text"], request["raw_reference"])}


def main() -> None:
    timeout_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()
    source, sink = pipe.take_over()

    from ovd_lightning.grading import symbolic

    symbolic.disarm()
    for pair in ((r"\frac{x^2-1}{x-1}", "x+1"), (r"\{1,\sqrt{2}\}", r"\{\sqrt2,1\}")):
        symbolic.equivalent(*pair)  # whatever is imported late is imported before the process is confined
    confine(memory_mb)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pipe.send(sink, {"ready": True})
    for request in pipe.requests(source, lambda: os.getppid() != parent):
        limit_cpu(timeout_s)
        try:
            reply = answer(request)
        except MemoryError:
            pipe.send(sink, {"failed": "MemoryError"})
            return
        except Exception as error:  # a comparison that fails is no equality, whatever failed in it
            reply = {"equal": False, "option": None, "error": type(error).__name__}
        limit_cpu(0)
        pipe.send(sink, reply)


if __name__ == "__main__":
    main()
