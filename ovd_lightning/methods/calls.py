"""What a round asks of its teacher, computed before anything is loaded: `Method.teacher_calls` puts it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine
    from ovd_lightning.teachers.demonstrator import Demonstrator
    from ovd_lightning.teachers.token import TokenTeacher
    from ovd_lightning.teachers.verbal import VerbalTeacher

CHARACTERS_PER_TOKEN = 4
"""For the fixed words of the scoring prompt, since no tokenizer is loaded."""


@dataclass(slots=True, kw_only=True, frozen=True)
class ExpectedRound:
    """Sizes of a round over all ranks, known or assumed."""

    problems: int
    """B."""
    max_tokens: int
    """Limit of a trajectory."""
    prompt_tokens: int
    """Of a problem, on average."""
    response_tokens: int
    """Of a student's trajectory, on average."""
    steps: float
    """K, steps of a trajectory."""
    rejected: float
    """Share of the student's trajectories that the teacher rejects, in [0, 1]."""
    demonstration_tokens: int | None
    """That the teacher generates for a demonstration, thoughts included; None: follows from the other sizes."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part of a mixture of tasks -> its share of the problems."""
    at_most: bool
    """An upper bound is asked for, not an expectation."""


@dataclass(slots=True, kw_only=True, frozen=True)
class TeacherCalls:
    """Equal prompts, which are asked once, are counted as often as they occur. The sum of two adds every field."""

    scores: int = 0
    """Scoring prompts."""
    read: int = 0
    """Trajectories read token by token."""
    demonstrations: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    prompts: tuple[tuple[Engine, int], ...] = ()
    """(engine, prompts that it answers); a model that is loaded beside the student is no engine."""
    added: int = 0
    """Trajectories that train beside those that the student sampled; replacements are not among them."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever reads the numbers."""

    def __add__(self, other: TeacherCalls) -> TeacherCalls:
        return TeacherCalls(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def scoring(teacher: VerbalTeacher, trajectories: float, expected: ExpectedRound, by_step: bool = True) -> TeacherCalls:
    """Verbal scores of all steps of some trajectories, or of each as a whole."""
    parts = teacher.shared(trajectories, expected.shares)
    return sum((_scoring(member, own, expected, by_step) for member, own in parts), TeacherCalls())


def _scoring(teacher: VerbalTeacher, trajectories: float, expected: ExpectedRound, by_step: bool) -> TeacherCalls:
    judge = teacher.judge
    words = judge.prompt_characters(by_step) // CHARACTERS_PER_TOKEN
    if by_step:
        judged = round(trajectories * expected.steps)
        # Step k is shown with the steps before it: sum over k of (words + problem + k T / K).
        each = expected.steps * (words + expected.prompt_tokens) + expected.response_tokens * (expected.steps + 1) / 2
    else:
        judged = round(trajectories)
        each = words + expected.prompt_tokens + expected.response_tokens
    asked = judge.prompts_per_request
    return TeacherCalls(
        scores=judged,
        tokens_in=round(asked * trajectories * each),
        tokens_out=asked * judged * judge.answer_tokens,
        prompts=((judge.engine, asked * judged),) if asked else (),
    )


def demonstrating(teacher: Demonstrator, count: int, expected: ExpectedRound, kept: float = 0.0) -> TeacherCalls:
    """``count`` demonstrations; ``kept``: share of a student's trajectory that one continues, in [0, 1]."""
    parts = teacher.shared(count, expected.shares)
    return sum((_demonstrating(member, round(own), expected, kept) for member, own in parts), TeacherCalls())


def _demonstrating(teacher: Demonstrator, count: int, expected: ExpectedRound, kept: float) -> TeacherCalls:
    if not teacher.writes:
        return TeacherCalls(demonstrations=count, notes=("Demonstrations are read from a file.",))
    limit = teacher.demonstration_tokens or expected.max_tokens
    likely = round(expected.response_tokens * (1 - kept))  # as long as the student's would be
    if teacher.demonstration_thinking == "strip":
        likely = max(limit // 2, 1)
    notes: tuple[str, ...] = ()
    if teacher.pool is not None:
        notes = (f"Of whole demonstrations at most {teacher.pool.size} a problem are written, then drawn from a pool.",)
    each = limit if expected.at_most else min(expected.demonstration_tokens or likely, limit)
    return TeacherCalls(
        demonstrations=count,
        tokens_in=count * (expected.prompt_tokens + round(kept * expected.response_tokens)),
        tokens_out=count * each,
        prompts=((teacher.demonstrator, count),),
        notes=notes,
    )


def reading(teacher: TokenTeacher, trajectories: int, expected: ExpectedRound) -> TeacherCalls:
    """Log-probabilities of all tokens of some trajectories."""
    return TeacherCalls(
        read=trajectories,
        tokens_in=trajectories * (expected.prompt_tokens + expected.response_tokens),
        prompts=() if teacher.engine is None else ((teacher.engine, trajectories),),
    )
