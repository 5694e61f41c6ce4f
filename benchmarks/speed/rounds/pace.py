"""The worker's side of a measurement: a round begins when the driver writes a line, and its costs are the answer.

Needs nothing but the standard library, so that it runs in TRL's environment too.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass

PHASES = ("sync", "generate", "score", "train", "other")
"""Weights to the engine; sampling; rewards, judging, demonstrations and log-probabilities of frozen weights; forward,
backward and update; the rest."""


@dataclass(slots=True)
class Cost:
    """What one round took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time, of all threads of the process."""
    phases: dict[str, float]
    """Seconds of wall-clock time by the names of PHASES."""
    sequences: int
    tokens: int
    """Completion tokens that the student sampled."""
    longest: int = 0
    """Tokens of the longest completion; 0: unknown."""
    teacher_tokens: int = 0
    """What the teacher read and wrote."""
    loaded_mib: float = 0.0
    """Resident memory before the first round: libraries, models, engine."""
    peak_mib: float = 0.0
    """The most resident memory so far."""


def take_stdout() -> int:
    """A file descriptor of standard output; what is printed from now on goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


class Pace:
    """Args:
    answers: file descriptor that the driver reads.
    """

    def __init__(self, answers: int) -> None:
        self._answers = os.fdopen(answers, "w")
        self._loaded = 0.0
        self._wall = self._cpu = 0.0

    def begin(self) -> None:
        """Say that the process is ready, and wait for the driver. Ends the process when there is nothing more to do."""
        if not self._loaded:
            self._loaded = resident_mib()
        self._answers.write('"ready"\n')
        self._answers.flush()
        if not sys.stdin.readline():
            self._answers.close()
            os._exit(0)  # whatever the libraries would still do at their end is not measured
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(
        self,
        phases: dict[str, float],
        sequences: int,
        tokens: int,
        longest: int = 0,
        teacher: int = 0,
        peak_mib: float | None = None,
    ) -> None:
        """Report the round that has just ended. Phases are seconds; the rest of the round becomes ``other``. Without
        another measurement, the peak is the process's."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if peak_mib is None:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak_mib = most / (2**20 if sys.platform == "darwin" else 2**10)
        phases = {**phases, "other": wall - sum(phases.values())}
        cost = Cost(wall, cpu, phases, sequences, tokens, longest, teacher, self._loaded, peak_mib)
        self._answers.write(json.dumps(asdict(cost)) + "\n")
        self._answers.flush()


def resident_mib() -> float:
    """Resident memory of this process; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0
