"""Grading of mathematical answers: docs/grading.md.

Importing this package imports the standard library alone; sympy and math-verify are for the worker processes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ovd_lightning import thoughts
from ovd_lightning.grading import extract, qwen
from ovd_lightning.grading.grader import Grader, Mode
from ovd_lightning.workers.pool import WorkerError

if TYPE_CHECKING:
    from ovd_lightning.types import Grade, Problem

__all__ = ["Grader", "Mode", "WorkerError", "extract_answer", "grade", "is_equivalent"]


def extract_answer(response: str, mode: Mode = "strict", choices: bool = False) -> str | None:
    """The answer of a response (never of its prompt), None when there is none.

    Args:
        response: the completion; only what follows its thought counts.
        mode: ``strict``: the content of the last box; ``qwen``: boxed, else after "answer is", else the last number,
            cleaned as the reference harness does.
        choices: the answer is the letter of an option; ``strict`` gives several letters sorted, as ``ACD``.
    """
    response = thoughts.behind(response)
    found = qwen.extract(response, choices) if mode == "qwen" else extract.strict(response, choices)
    return found.answer


def is_equivalent(prediction: str, reference: str, mode: Mode = "strict") -> bool:
    """Whether an answer equals a reference. Safe: a hostile prediction costs at most the time limit."""
    return _shared(mode).is_equivalent(prediction, reference)


def grade(response: str, problem: Problem, mode: Mode = "strict") -> Grade:
    """The grade of a response. Safe as :func:`is_equivalent`; many at a time are faster in ``Grader.grade_many``."""
    return _shared(mode).grade(response, problem)


@cache
def _shared(mode: Mode) -> Grader:
    """The grader of the functions above, one a mode and process. Global, because it holds no state that a caller could
    see: processes that take a third of a second to start and end with this one."""
    return Grader(mode)
