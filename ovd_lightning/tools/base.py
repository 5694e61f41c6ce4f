"""The interface of a sandbox: it takes programs that a model wrote and returns their output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SETTINGS = "task.init_args.environment.init_args.sandbox.init_args"
"""Path of a sandbox's settings in a run's config."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Execution:
    """The result of one program. An error of the program is a result too; ``failed`` means that there is none."""

    stdout: str = ""
    """Invalid UTF-8 is replaced. Of output longer than the sandbox's limit, the middle is dropped."""
    stderr: str = ""
    """With a traceback, if the program raised."""
    exit_code: int | None = None
    """None: it was killed, or there is no result."""
    timed_out: bool = False
    """It was killed at its limit of wall-clock or processor time."""
    killed: str | None = None
    """Why it was killed: "60 s are over", "memory", "signal SIGSEGV"; None: it ended by itself."""
    seconds: float = 0.0
    """Wall-clock time."""
    left_out: int = 0
    """Bytes of output that were dropped."""
    failed: str | None = None
    """Why the sandbox could not run the program; everything else is empty then."""


class Sandbox(ABC):
    """Runs Python programs independently: no state remains from one to the next. Construction checks settings and is
    cheap; :meth:`start` loads."""

    counted: tuple[str, ...] = ()
    """Names of the counts of :meth:`take_counts`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the sandbox, e.g. for the run's record; contains no key."""

    @abstractmethod
    def run(self, codes: Sequence[str]) -> list[Execution]:
        """One execution per program, in order; several run at a time. Never raises for what a program does, nor for a
        failure of the sandbox."""

    def settings(self) -> dict[str, Any]:
        """Everything that results depend on, for the record of an evaluation."""
        return {"sandbox": self.name}

    def check(self) -> None:  # noqa: B027 -- a sandbox may have nothing to check
        """Check everything that needs no loading. Raises: ConfigError."""

    def start(self) -> None:  # noqa: B027
        """Load. A second call does nothing."""

    def close(self) -> None:  # noqa: B027
        """Free all resources; a later :meth:`run` starts again."""

    def take_counts(self) -> dict[str, float]:
        """Counts since the last call, by the names in ``counted``; they are summed over ranks."""
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in self.counted}
