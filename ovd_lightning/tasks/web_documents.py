"""One generation that ends with its answer, and documents in the prompt: Table 3's baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovd_lightning.seeds import seed_of
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.types import Problem

BLOCK = 64
"""Neighbouring problems that are searched for in one call."""


class AnswerOnly(Environment):
    """Replies to nothing: one generation, which ends with its answer. A base model would continue with questions and
    answers that it makes up, and the last answer counts."""

    stop = ("</answer>",)

    def __init__(self) -> None:
        super().__init__(max_turns=0, max_turn_tokens=1 << 20)

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        return [Reply(done=True) for _ in turns]


class Retrieval(AnswerOnly):
    """The documents of retrieval-augmented generation: what a search environment replies to the question itself, put
    into the prompt. Each question is searched for once a process, before anything is written.

    Args:
        environment: replies to ``<search> question </search>``; its counts and its end are this one's.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.environment = environment
        self.counted = environment.counted
        self.tells_answer = bool(getattr(environment, "tells_answer", False))
        self._blocks: dict[str, Sequence[Problem]] = {}
        self._found: dict[str, str] = {}

    def settings(self) -> dict[str, Any]:
        inner = getattr(self.environment, "settings", None)
        return {"retrieval": inner() if callable(inner) else type(self.environment).__name__}

    def expect(self, problems: Sequence[Problem]) -> None:
        """Problems whose documents will be needed: neighbours are searched for together."""
        for i, problem in enumerate(problems):
            self._blocks[problem.id] = problems[i - i % BLOCK : i - i % BLOCK + BLOCK]

    def documents(self, problem: Problem) -> str:
        """What was found, or that nothing was or that the search failed, in the environment's words."""
        if problem.id not in self._found:
            self._find(self._blocks.get(problem.id, [problem]))
        return self._found[problem.id]

    def _find(self, problems: Sequence[Problem]) -> None:
        turns = [
            Turn(
                problem=problem,
                index=0,
                text=f"<search>{problem.question}</search>",
                history="",
                seed=seed_of("documents", problem.id),
            )
            for problem in problems
        ]
        self.environment.start()
        with self.environment.awake():
            replies = self.environment.reply(turns)
        self._found |= {problem.id: reply.body for problem, reply in zip(problems, replies, strict=True)}

    def take_counts(self) -> dict[str, float]:
        return self.environment.take_counts()

    def check(self) -> None:
        self.environment.check()

    def start(self) -> None:
        self.environment.start()

    def close(self) -> None:
        self.environment.close()
