"""From a response and its problem to a grade."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning import thoughts
from ovd_lightning.grading import extract, quantity, qwen, strict
from ovd_lightning.grading.extract import Found
from ovd_lightning.grading.text import MAX_LENGTH, tidy, words
from ovd_lightning.workers.pool import Pool, Reply

if TYPE_CHECKING:
    from ovd_lightning.types import Grade, Problem

Mode = Literal["strict", "qwen"]

TIMEOUT_S = 3.0
"""The reference harness's limit for one comparison; here of processor time."""
PATIENCE = 20.0
"""A comparison that has taken so many times its limit by the clock is given up as well: a worker that does not work."""
MEMORY_MB = 2048
"""Address space of a worker."""


@dataclass(slots=True)
class _Plan:
    """What is known of a response without a parser."""

    found: Found
    correct: bool = False
    request: dict[str, Any] | None = None
    """What a worker has to decide; None where everything is decided."""
    wanted: int | None = None
    """Index of the right option where the request asks which option an answer is."""
    letters: bool = False
    """The answer is to be reported as the option's letter."""


class Grader:
    """Grades responses to mathematical problems; owns the worker processes that parse them.

    Most answers are plain numbers or equal texts and are decided here. The others go to a worker, which is killed when
    it takes too long: the grade is then incorrect and ``timed_out``. Workers start with the first answer that needs
    them and end with ``close``, with the ``with`` block, or with this process, however it ends.

    Args:
        mode: ``strict`` for rewards: the last box of the response under mathematical equivalence. ``qwen`` for
            comparing with published numbers: the rules of the reference harness. docs/grading.md has both.
        timeout_s: seconds of a worker's processor time for one answer, so that a busy machine makes no answer wrong.
        workers: processes; None: a process for every core that this rank may use, at most 8.
    """

    def __init__(self, mode: Mode = "strict", timeout_s: float = TIMEOUT_S, workers: int | None = None):
        self.mode, self.timeout_s = mode, timeout_s
        command = [sys.executable, "-P", "-m", "ovd_lightning.grading.worker", str(timeout_s), str(MEMORY_MB)]
        self.pool = Pool(command, workers or default_workers(), timeout_s=10 + PATIENCE * timeout_s)

    def grade(self, response: str, problem: Problem) -> Grade:
        """The grade of one response."""
        return self.grade_many([response], [problem])[0]

    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """Grades in the order of the responses, worked out in parallel.

        Raises:
            ValueError: not as many responses as problems.
            WorkerError: the workers cannot be started.
        """
        responses = [thoughts.behind(response) for response in responses]
        plans = [self._plan(response, problem) for response, problem in zip(responses, problems, strict=True)]
        open_ = [plan for plan in plans if plan.request is not None]
        replies = dict(
            zip(map(id, open_), self.pool.run([plan.request for plan in open_ if plan.request]), strict=True)
        )
        return [self._finish(plan, replies.get(id(plan))) for plan in plans]

    def is_equivalent(self, prediction: str, reference: str) -> bool:
        """Whether two answers are equal. The prediction may also be a text with the answer in it, boxed or not."""
        prediction = thoughts.behind(prediction)
        request = self._qwen_pair(prediction, reference) if self.mode == "qwen" else self._pair(prediction, reference)
        if isinstance(request, bool):
            return request
        return bool((self.pool.run([request])[0] or {}).get("equal"))

    def _pair(self, prediction: str, reference: str) -> bool | dict[str, Any]:
        box, boxed = extract.last_box(prediction), extract.last_box(reference)
        one, other = box or prediction, boxed or reference
        verdict = _any(strict.decide(one, offered) for offered in strict.alternatives(other))
        text = prediction if box is not None or strict.is_prose(prediction) else ""
        if verdict is True or (verdict is False and not text):
            return verdict
        return {
            "mode": "strict",
            "prediction": one[: 2 * MAX_LENGTH],
            "references": [other],
            "text": text[: 4 * MAX_LENGTH],
            "raw_reference": reference,
        }

    def _qwen_pair(self, prediction: str, reference: str) -> bool | dict[str, Any]:
        bare, text = (one.strip().strip("$") for one in (reference, prediction))
        gold = qwen.reference(qwen.boxed(reference) if "boxed" in reference else bare)
        readings = [qwen.clean(text[:MAX_LENGTH])]
        if "boxed" in text or strict.is_prose(text):
            readings.append((qwen.extract(text).answer or "")[:MAX_LENGTH])
        verdicts = [qwen.equal(reading, gold) for reading in readings]
        verdict = _any(verdicts)
        if verdict is not None:
            return verdict
        return {"mode": "qwen", "prediction": readings[-1 if verdicts[-1] is None else 0], "references": [gold]}

    def close(self) -> None:
        """End the workers. Grading again starts new ones."""
        self.pool.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, response: str, problem: Problem) -> _Plan:
        problem = replace(problem, answers=tuple(map(extract.reference, problem.answers)))
        choices = [str(choice) for choice in problem.meta.get("choices") or ()]
        by_letter = bool(choices) and _answers_are_letters(problem.answers, choices)
        if self.mode == "qwen":
            return self._plan_qwen(response, problem, choices, by_letter)
        found = extract.strict(response)
        if found.answer is None or not problem.answers:
            return _Plan(found)
        if choices and (plan := self._plan_choice(found, problem, choices, by_letter)) is not None:
            return plan
        tolerance = _tolerance(problem.meta)
        references = [_with_unit(answer, problem.meta.get("unit")) for answer in problem.answers]
        offered = [one for reference in references for one in strict.alternatives(reference)]
        verdicts = [strict.decide(found.answer, one, tolerance) for one in offered]
        return _planned(found, _any(verdicts), {
            "mode": self.mode,
            "prediction": found.answer,
            "references": [one for one, verdict in zip(offered, verdicts, strict=True) if verdict is None],
            "tolerance": str(tolerance) if tolerance is not None else None,
        })  # fmt: skip

    def _plan_choice(self, found: Found, problem: Problem, choices: list[str], by_letter: bool) -> _Plan | None:
        """A box in a problem with options: a letter, the text of one option, or an expression equal to one option."""
        box = found.answer or ""
        wanted = _index(problem.answers, choices, by_letter)
        if wanted is None:  # the answer is none of the options: compared as any other
            return None
        if len(box) > MAX_LENGTH:
            return _Plan(found)
        named = extract.letters(box)
        lettered = extract.labelled(box, choices)
        if lettered is None and named is not None and len(named) == 1 and ord(named) - ord("A") < len(choices):
            lettered = ord(named) - ord("A")
        spelled = extract.option(box, choices)
        if lettered is None and spelled is None:
            lettered = extract.letter(box, choices)
        for index, how in ((lettered, "boxed"), (spelled, "option"))[:: 1 if by_letter else -1]:
            if index is not None:
                return _Plan(Found(_name(index, choices, by_letter), how), correct=index == wanted)
        if named is not None and by_letter:  # several letters, or one that is no option
            return _Plan(Found(named, "boxed"))
        request = {"mode": self.mode, "prediction": box, "references": choices, "options": True}
        return _Plan(found, request=request, wanted=wanted, letters=by_letter)

    def _plan_qwen(self, response: str, problem: Problem, choices: list[str], by_letter: bool) -> _Plan:
        if choices and not by_letter:
            text = (qwen.boxed(response) if "boxed" in response else None) or response
            index = extract.mentioned(text, choices)
            if index is not None:
                right = words(tidy(choices[index])) in {words(tidy(answer)) for answer in problem.answers}
                return _Plan(Found(choices[index], "option"), correct=right)
        keep_units = bool(problem.meta.get("keep_units"))
        found = qwen.extract(response, choices=by_letter, keep_units=keep_units)
        if found.answer is None or not problem.answers:
            return _Plan(found)
        references = [qwen.reference(answer, keep_units) for answer in problem.answers]
        if len(found.answer) > max(MAX_LENGTH, 2 * max(map(len, references))):
            return _Plan(found)
        verdicts = [qwen.equal(found.answer, reference) for reference in references]
        return _planned(found, _any(verdicts), {
            "mode": self.mode,
            "prediction": found.answer,
            "references": [one for one, verdict in zip(references, verdicts, strict=True) if verdict is None],
        })  # fmt: skip

    def _finish(self, plan: _Plan, reply: Reply | None) -> Grade:
        from ovd_lightning.types import Grade  # imports torch, which a worker must not when it imports this package

        answer, how, correct = *plan.found, plan.correct
        if reply is not None and plan.wanted is not None:
            index = reply.get("option")
            correct = index == plan.wanted
            if index is not None:
                how = "option"
                answer = chr(ord("A") + index) if plan.letters else plan.request["references"][index]  # type: ignore[index]
        elif reply is not None:
            correct = bool(reply.get("equal"))
        stopped = plan.request is not None and reply is None
        return Grade(reward=float(correct), correct=correct, answer=answer, how=how, timed_out=stopped)


def default_workers() -> int:
    """Cores of this machine shared among its ranks, 1 to 8."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    return max(1, min(8, cores // max(1, ranks)))


def _planned(found: Found, verdict: bool | None, request: dict[str, Any]) -> _Plan:
    return _Plan(found, correct=verdict is True, request=request if verdict is None else None)


def _any(verdicts: Any) -> bool | None:
    """Whether one is True; None where that hangs on an open one."""
    verdicts = list(verdicts)
    return True if True in verdicts else None if None in verdicts else False


def _answers_are_letters(answers: Sequence[str], choices: Sequence[str]) -> bool:
    """The answers name options by letter, and not by their text as in TabMWP."""
    named = [extract.letters(answer) for answer in answers]
    return all(named) and any(extract.letters(choice) != choice.strip() for choice in choices)


def _index(answers: Sequence[str], choices: Sequence[str], by_letter: bool) -> int | None:
    """The right option; None where the answers are no single option."""
    if by_letter:
        index = ord((extract.letters(answers[0]) or "A")[0]) - ord("A")
        return index if len(extract.letters(answers[0]) or "") == 1 and index < len(choices) else None
    found = {extract.option(answer, choices) for answer in answers} - {None}
    return found.pop() if len(found) == 1 else None


def _name(index: int, choices: Sequence[str], by_letter: bool) -> str:
    return chr(ord("A") + index) if by_letter else choices[index]


def _tolerance(meta: dict[str, Any]) -> Fraction | None:
    """Absolute tolerance that a problem states (``tolerance``, or ``error`` in OlympiadBench); of several the least."""
    stated = meta.get("tolerance") or meta.get("error")
    if stated is None:
        return None
    try:
        return min(Fraction(part.strip()) for part in str(stated).split(","))
    except ValueError:
        return None


def _with_unit(answer: str, unit: Any) -> str:
    """The answer with the unit that the problem asks for, so that another unit is not equal to it."""
    if not isinstance(unit, str):
        return answer
    read = quantity.quantity(tidy(answer))
    if read is None or read.unit or read.percent:
        return answer
    if unit.strip(" $\\") == "%":
        return f"{answer}\\%"
    return f"{answer}\\text{{ {tidy(unit)}}}" if quantity.canonical(tidy(unit)) else answer
