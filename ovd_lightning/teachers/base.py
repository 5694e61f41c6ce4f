"""What the workflow needs of any teacher, whatever it teaches with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ovd_lightning.engines.base import Engine


class Teacher(ABC):
    """Holds one or more frozen engines. Kept off the module tree: never wrapped, sharded or checkpointed."""

    @property
    @abstractmethod
    def engines(self) -> list[Engine]:
        """Every engine the teacher uses, each once."""

    def check(self) -> None:
        """Checks that load nothing. Raises: ConfigError."""
        for engine in self.engines:
            engine.check()

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
