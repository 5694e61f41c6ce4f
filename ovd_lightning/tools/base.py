"""The contract of a sandbox: programs that a model wrote in, what they printed out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SETTINGS = "task.init_args.environment.init_args.sandbox.init_args"
"""Where a sandbox's settings stand in a run's config."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Execution:
    """What became of one program. An error of the program is a result like any other; ``failed`` is none."""

    stdout: str = ""
    """Bytes that are no UTF-8 are replaced. Where there was more than the sandbox keeps, the middle is left out."""
    stderr: str = ""
    """A traceback, for one that ended by an exception."""
    exit_code: int | None = None
    """0: it ran to its end. None: it was killed, or there is no result."""
    timed_out: bool = False
    """It was killed at a limit of time, of the clock or of the processor."""
    killed: str | None = None
    """Why it was killed, for a reader: "60 s are over", "memory", "signal SIGSEGV"; None: it ended by itself."""
    seconds: float = 0.0
    """By the clock."""
    left_out: int = 0
    """Bytes printed that are in neither ``stdout`` nor ``stderr``."""
    failed: str | None = None
    """Why the sandbox could not run it; everything else is empty then, and nothing is said of the program."""


class Sandbox(ABC):
    """Runs Python programs, each from scratch: no state is left from one to the next. Construction checks settings
    and is cheap; :meth:`start` loads."""

    counted: tuple[str, ...] = ()
    """Names of what :meth:`take_counts` may count."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the sandbox, e.g. for the run's record; holds no key."""

    @abstractmethod
    def run(self, codes: Sequence[str]) -> list[Execution]:
        """One execution a program, in order, some at a time. Never raises for what a program does, nor for a failure of
        the sandbox."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, for the record of an evaluation."""
        return {"sandbox": self.name}

    def check(self) -> None:  # noqa: B027 -- a sandbox may have nothing to check
        """Everything that can be checked without loading. Raises: ConfigError."""

    def start(self) -> None:  # noqa: B027
        """Load. A second call does nothing."""

    def close(self) -> None:  # noqa: B027
        """Give everything back; a later :meth:`run` starts again."""

    def take_counts(self) -> dict[str, float]:
        """What happened since the last call, by the names in ``counted``; sums, added up over ranks."""
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in self.counted}
