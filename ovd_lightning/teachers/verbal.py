"""The verbal teacher: a judge that scores with one number, and a demonstrator. Black box, any vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import SETTING as JUDGE
from ovd_lightning.judges.base import Judge, Judgement, JudgeRequest, Ledger, UnparsedScores
from ovd_lightning.judges.scale import Scale
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.demonstrator import SETTING, Demonstrator, called
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task


class VerbalTeacher(Demonstrator):
    """A judge and a demonstrator; usually one model, which is then loaded once.

    Args:
        engine: demonstrates and judges, unless ``demonstrator`` or the judge names an engine of its own; null: both
            do, or a pool's file has all demonstrations.
        judge: null: `VerbalJudge` with the paper's prompt and scale.
        demonstrator: another engine for writing trajectories.
        demonstrator_chat: send the task's prompts as a user message through the demonstrator's chat template; null: as
            the judge's `chat`. A reasoning model judges best without its template, where the score's digit comes next,
            and answers with it.
        writing: the other settings of `Demonstrator`; its disk cache holds the judge's answers as well.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        judge: Judge | None = None,
        demonstrator: Engine | None = None,
        demonstrator_chat: bool | None = None,
        **writing: Any,
    ) -> None:
        self.judge = judge or VerbalJudge()
        if demonstrator_chat is None:
            demonstrator_chat = bool(getattr(self.judge, "chat", False))
        super().__init__(engine, demonstrator, demonstrator_chat, **writing)
        if engine is None and not self.judge.own_engine:
            raise ConfigError(f"{SETTING}.engine", "is null, and the judge has none either.", "Name one.")
        self.judge.bind(self.engine, self.cache)

    @property
    def members(self) -> Mapping[str, VerbalTeacher]:
        return {"": self}

    def of(self, problem: Problem) -> VerbalTeacher:
        return self

    def shared(self, count: float, shares: Mapping[str, float]) -> Iterator[tuple[VerbalTeacher, float]]:
        yield self, count

    @property
    def scale(self) -> Scale:
        return self.judge.scale

    @property
    def engines(self) -> list[Engine]:
        return [self.judge.engine] if self.demonstrator is self.judge.engine else [self.judge.engine, self.demonstrator]

    def check(self) -> None:
        Teacher.check(self)
        self.judge.check()
        self._check_writing()

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.judge.check_problems(task, problems, max_tokens)
        super().check_problems(task, problems, max_tokens)

    def score(
        self, requests: Sequence[JudgeRequest], seed: int = 0, unparsed: UnparsedScores | None = None
    ) -> list[Judgement]:
        """See `Judge.judge`."""
        return self.judge.judge(requests, seed, unparsed)

    def _try(self, task: Task, problem: Problem, max_tokens: int) -> str:
        text, words = self._try_demonstration(task, problem, max_tokens)
        setting = f"{JUDGE}.engine" if self.judge.own_engine else f"{SETTING}.engine"
        cache, self.judge.cache = self.judge.cache, AnswerCache()
        try:
            with self.unrecorded():
                return f"{called(setting, lambda: self.judge.self_test(problem, text))}; {words}"
        finally:
            self.judge.cache = cache

    def settings(self) -> dict[str, Any]:
        return {"judge": self.judge.settings(), **super().settings()}

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What is asked inside is no part of a round, and leaves the ledger as it was."""
        judged, wrote = self.judge.take_ledger(), (self.demonstrations, self.pooled)
        try:
            yield
        finally:
            self.judge.ledger, (self.demonstrations, self.pooled) = judged, wrote

    def take_ledger(self) -> Ledger:
        ledger = self.judge.take_ledger()
        wrote = super().take_ledger()
        ledger.demonstrations, ledger.pooled = wrote.demonstrations, wrote.pooled
        return ledger
