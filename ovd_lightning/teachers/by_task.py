"""Several teachers in one run: each part of a mixture of tasks has its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Engine
from ovd_lightning.errors import ConfigError, collecting, raise_errors
from ovd_lightning.judges.base import Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.judges.scale import Scale
from ovd_lightning.tasks.base import PART
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.demonstrator import SETTING
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

DEFAULT = "default"


class TeachersByTask(VerbalTeacher):
    """Judges and demonstrates with the teacher of each problem's task, in a mixture (`MixtureTask`).

    Each teacher has engines, prompts, cache and pool of its own; all score on one scale, to which the threshold refers.
    They are asked one after the other.

    Args:
        teachers: name of a part of the mixture -> its teacher.
        default: the teacher of all other parts; null: there are none.
    """

    def __init__(self, teachers: dict[str, VerbalTeacher], default: VerbalTeacher | None = None) -> None:
        raise_errors(_errors(teachers, default))
        self.teachers, self.default = dict(teachers), default

    @property
    def members(self) -> Mapping[str, VerbalTeacher]:
        return self.teachers | ({} if self.default is None else {DEFAULT: self.default})

    def of(self, problem: Problem) -> VerbalTeacher:
        found = self.teachers.get(problem.meta.get(PART, ""), self.default)
        assert found is not None, "check_problems has seen that every problem has a teacher"
        return found

    def shared(self, count: float, shares: Mapping[str, float]) -> Iterator[tuple[VerbalTeacher, float]]:
        rest = 1.0 - sum(shares.get(name, 0.0) for name in self.teachers)
        for name, member in self.members.items():
            yield member, count * (rest if name == DEFAULT else shares.get(name, 0.0))

    @property
    def scale(self) -> Scale:
        return next(iter(self.teachers.values())).scale

    @property
    def engines(self) -> list[Engine]:
        return [engine for member in self.members.values() for engine in member.engines]

    @property
    def writes(self) -> bool:
        return all(member.writes for member in self.members.values())

    def score(
        self, requests: Sequence[JudgeRequest], seed: int = 0, unparsed: UnparsedScores | None = None
    ) -> list[Judgement]:
        places: dict[str, list[int]] = defaultdict(list)
        names = {id(member): name for name, member in self.members.items()}
        for i, request in enumerate(requests):
            places[names[id(self.of(request.problem))]].append(i)
        found: dict[int, Judgement] = {}
        for name, own in places.items():
            judgements = self.members[name].score([requests[i] for i in own], seed, unparsed)
            found.update(zip(own, judgements, strict=True))
        return [found[i] for i in range(len(requests))]

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        found: list[ConfigError] = []
        for name, member in self.members.items():
            with collecting(found), self._within(name):
                member.check()
        raise_errors(found)

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Every part has a teacher, every teacher a part, and every problem fits its own."""
        raise_errors(self._part_errors(task))
        found: list[ConfigError] = []
        for name, own in self._problems(problems).items():
            with collecting(found), self._within(name):
                self.members[name].check_problems(task, own, max_tokens)
        raise_errors(found)

    def _part_errors(self, task: Task) -> Iterator[ConfigError]:
        parts = list(task.parts)
        if not parts:
            yield ConfigError(
                f"{SETTING}.teachers", f"but {type(task).__name__} has no parts.", "Name one teacher, or a MixtureTask."
            )
        elif unknown := [name for name in self.teachers if name not in parts]:
            yield ConfigError(
                f"{SETTING}.teachers.{unknown[0]}", "is no part of the task.", f"Its parts are {', '.join(parts)}."
            )
        elif self.default is None and (without := [name for name in parts if name not in self.teachers]):
            yield ConfigError(
                f"{SETTING}.teachers",
                f"has none for {', '.join(without)}.",
                "Add one each, or a default for all others.",
            )

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        for name, own in self._problems(problems).items():
            with self._within(name):
                self.members[name].self_test(task, own, max_tokens)

    def _problems(self, problems: Sequence[Problem]) -> dict[str, list[Problem]]:
        """By the member whose they are, in the order of the members."""
        own: dict[str, list[Problem]] = {}
        for name, member in self.members.items():
            if chosen := [problem for problem in problems if self.of(problem) is member]:
                own[name] = chosen
        return own

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        """A teacher's own errors name the settings of a teacher that is alone."""
        place = f"{SETTING}.{DEFAULT}" if name == DEFAULT else f"{SETTING}.teachers.{name}"
        try:
            yield
        except ConfigError as error:
            raise_errors(_placed(e, f"{place}.init_args") for e in error.errors)

    # -------------------------------------------------------------------- rest

    def settings(self) -> dict[str, Any]:
        return {name: member.settings() for name, member in self.members.items()}

    def start(self) -> None:
        Teacher.start(self)

    def close(self) -> None:
        for member in self.members.values():
            member.close()


def _errors(teachers: dict[str, VerbalTeacher], default: VerbalTeacher | None) -> Iterator[ConfigError]:
    if not teachers or DEFAULT in teachers:
        yield ConfigError(
            f"{SETTING}.teachers",
            "is empty." if not teachers else f"holds {DEFAULT!r}, which is a setting of its own.",
            "Name the parts of the task, each with its teacher.",
        )
    everyone = [*teachers.values(), *([] if default is None else [default])]
    if any(isinstance(teacher, TeachersByTask) for teacher in everyone):
        yield ConfigError(f"{SETTING}.teachers", "holds teachers by task.", "Name each part's teacher itself.")
    elif len({teacher.scale.low for teacher in everyone}) > 1:
        yield ConfigError(
            f"{SETTING}.teachers",
            "score on different scales, and there is one threshold.",
            "Give all judges one scale.",
        )


def _placed(error: ConfigError, place: str) -> ConfigError:
    if not error.setting.startswith(SETTING):
        return error
    return ConfigError(place + error.setting.removeprefix(SETTING), error.problem, error.hint)
