"""What the workflow needs of any teacher, whatever it teaches with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ovd_lightning.engines.base import Engine, TokensUsed
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task


class Teacher(ABC):
    """Holds one or more frozen engines. Kept off the module tree: never wrapped, sharded or checkpointed."""

    @property
    @abstractmethod
    def engines(self) -> list[Engine]:
        """Every engine the teacher uses, each once."""

    @property
    def members(self) -> Mapping[str, Teacher]:
        """Who does the work, by name: itself, without one, or several that share it by the problem's task."""
        return {"": self}

    @property
    def used(self) -> TokensUsed:
        """Tokens that the teacher has read and written so far: its cost."""
        parts = [engine.used for engine in self.engines]
        return TokensUsed(sum(p.prompt for p in parts), sum(p.completion for p in parts))

    def check(self) -> None:
        """Checks that load nothing. Raises: ConfigError."""
        for engine in self.engines:
            engine.check()

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Whether these problems, with solutions of up to ``max_tokens``, fit the teacher. Raises: ConfigError."""
        return

    def start(self) -> None:
        for engine in self.engines:
            engine.start()

    @contextmanager
    def awake(self) -> Iterator[None]:
        with ExitStack() as stack:
            for engine in self.engines:
                stack.enter_context(engine.awake())
            yield

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
