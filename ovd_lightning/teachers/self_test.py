"""One real demonstration and one real score before the first round: what only an answer can show, shown at once.

A key that only the list of models does not ask for, a judge that thinks before its number, a demonstrator that answers
with nothing: each of them would otherwise be found after a round of student's samples, or never.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.engines.base import Completion, Engine
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.errors import ConfigError
from ovd_lightning.teachers.judgement import Ledger
from ovd_lightning.teachers.prompts import step_prompt
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

T = TypeVar("T")
NAME = "method.init_args.teacher.init_args"
TRIES = 3
"""Scores as text that are asked for before a judge is said to give none: one may fail by chance."""
LOW_MASS = 0.5


def self_test(teacher: VerbalTeacher, task: Task, problem: Problem, max_tokens: int, *, scores: bool = True) -> None:
    """Ask for a demonstration of ``problem``, and for a score of its beginning. Nothing stays in cache or ledger.

    Args:
        max_tokens: the student's limit.
        scores: the method asks for scores at all.
    Raises: ConfigError, with the answer quoted.
    """
    ledger, cache = teacher.ledger, teacher.cache
    teacher.ledger, teacher.cache = Ledger(), AnswerCache()
    try:
        with ExitStack() as stack:
            stack.enter_context(teacher.awake())
            for engine in teacher.engines:
                stack.enter_context(engine.impatient())
            written = _demonstrate(teacher, task, problem, max_tokens)
            said = f"demonstration of {written.completion_tokens} tokens: {_quote(written.text)}"
            if written.error is not None:
                said = f"no demonstration of the problem that was tried: {written.error}"
            if scores:
                said = f"{_score(teacher, problem, written.text)}; {said}"
        rank_zero_info(f"teacher: {said}")
    finally:
        teacher.ledger, teacher.cache = ledger, cache
        for engine in teacher.engines:
            engine.take_troubles()


def _demonstrate(teacher: VerbalTeacher, task: Task, problem: Problem, max_tokens: int) -> Completion:
    engine = teacher.demonstrator
    setting = "engine" if engine is teacher.engine else "demonstrator"
    stop = task.environment.stop if task.environment is not None else ()
    completions = _called(
        setting,
        engine,
        lambda: teacher.demonstrate([task.prompt(problem)], [""], [0], [max_tokens], stop=stop, system=task.system),
    )
    if (error := completions[0].error) is not None and "thought" not in error:
        raise ConfigError(f"{NAME}.{setting}", f"{engine.name} wrote no demonstration: {error}.", _hint(error))
    return completions[0]


def _score(teacher: VerbalTeacher, problem: Problem, solution: str) -> str:
    """What the judge said, in words."""
    steps = [line for line in solution.splitlines() if line.strip()] or ["I do not know."]
    prompts = [step_prompt(problem.question, steps[:k], step, teacher.scale) for k, step in enumerate(steps[:TRIES])]
    prompts = prompts[: 1 if teacher.read == "distribution" else TRIES]
    share, teacher.max_parse_failures = teacher.max_parse_failures, 1.0
    try:
        judgements = _called("engine", teacher.engine, lambda: teacher.score(prompts))
    finally:
        teacher.max_parse_failures = share
    judged = next((j for j in judgements if j.distribution is not None), None)
    if judged is None or judged.distribution is None:
        troubles = teacher.engine.take_troubles()
        reason = teacher.ledger.unscored or "; ".join(troubles.reasons.values() if troubles is not None else ())
        raise ConfigError(
            f"{NAME}.engine",
            f"{teacher.engine.name} gave no score from {teacher.scale.low} to {teacher.scale.high}: {reason}.",
            _hint(
                reason,
                "Set chat: true for a chat model; read: text, with a larger score_tokens, for one that thinks before "
                "it answers or whose endpoint hides log-probabilities.",
            ),
        )
    mean = sum(s * p for s, p in zip(teacher.scale.values, judged.distribution, strict=True))
    if teacher.read == "text":
        return f"score {mean:.0f} of {teacher.scale.low} to {teacher.scale.high}"
    warning = " (LITTLE: it would rather say something else)" if judged.mass < LOW_MASS else ""
    return (
        f"mean score {mean:.1f} of {teacher.scale.low} to {teacher.scale.high}, with {judged.mass:.3f} of its "
        f"probability on scores{warning}"
    )


def _called(setting: str, engine: Engine, call: Callable[[], T]) -> T:
    """Raises: ConfigError where the engine could not be asked."""
    try:
        return call()
    except RuntimeError as error:
        raise ConfigError(f"{NAME}.{setting}", f"{error}.", _hint(str(error))) from error


def _hint(reason: str, otherwise: str = "Correct the setting, or use another model.") -> str:
    if "status 401" in reason or "status 403" in reason:
        return "Export a valid key as the variable that api_key_env names."
    if "status 400" in reason or "status 422" in reason:
        return (
            "The endpoint refuses a field: leave it out by omit, rename the limit by max_tokens_field, or set "
            "vllm_extensions: false where the server is not vLLM's."
        )
    return otherwise


def _quote(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 120 else f"{flat[:117]}...")
