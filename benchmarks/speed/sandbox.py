"""What a call of the interpreter costs: the local sandbox beside an interpreter started for each program.

    python -m benchmarks.speed.sandbox                # about a minute
    python -m benchmarks.speed.sandbox --calls 50

Processor time does not depend on what else the machine does: one idle core makes 1000 divided by it calls a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from ovd_lightning.tools.local import LocalSandbox

PROGRAMS = {
    "arithmetic": "print(347 * 82 - 1209)",
    "numpy": "import numpy as np\nprint(np.linalg.det(np.eye(3) * 2))",
    "sympy": "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 5*x + 6))",
}


def plain(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def processor_time(sandbox: LocalSandbox | None) -> float:
    """Seconds that the helpers and all ended programs, or this process' children, have taken."""
    if sandbox is None:
        times = psutil.Process().cpu_times()
        return times.children_user + times.children_system
    total = 0.0
    for pid in sandbox.pids:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += sum(process.cpu_times()[:4])
    return total


def measure(name: str, program: str, sandbox: LocalSandbox | None, run: Callable[[], int]) -> None:
    """One line of the table. ``run`` returns how many calls it made, one by one or together."""
    begun, used = time.perf_counter(), processor_time(sandbox)
    calls = run()
    seconds, used = time.perf_counter() - begun, processor_time(sandbox) - used
    print(f"{name:30}{program:12}{calls / seconds:10.1f}{1000 * seconds / calls:10.1f}{1000 * used / calls:14.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="of each kind (%(default)s)")
    calls = parser.parse_args().calls
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    print(f"{'':30}{'program':12}{'calls/s':>10}{'ms':>10}{'processor ms':>14}")
    for program, code in PROGRAMS.items():
        few = calls if program == "arithmetic" else max(5, calls // 10)

        def start_each(code: str = code, few: int = few) -> int:
            for _ in range(few):
                plain(code)
            return few

        measure("python -c for each", program, None, start_each)
    starts = []
    for workers in (1, 2):
        sandbox = LocalSandbox(workers=workers)
        try:
            begun = time.perf_counter()
            sandbox.start()
            starts.append(time.perf_counter() - begun)
            sandbox.run(["0"] * 4 * workers)  # so that all helpers are there
            for program, code in PROGRAMS.items():

                def run_all(sandbox: LocalSandbox = sandbox, code: str = code) -> int:
                    return sum(result.exit_code == 0 for result in sandbox.run([code] * calls))

                measure(f"sandbox, {workers} at a time", program, sandbox, run_all)
        finally:
            sandbox.close()
    print(f"starting the sandbox took {statistics.mean(starts):.2f} s")


if __name__ == "__main__":
    main()
