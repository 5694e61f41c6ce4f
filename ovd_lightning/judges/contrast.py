"""A rubric judge that writes the rubric itself (ROPD): what separates a teacher's answers from a student's?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.asked import Asked
from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.prompting import as_prompt, longest, room_errors
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.judges.base import SETTING
from ovd_lightning.judges.rubric import Criterion, RubricJudge, read_criteria
from ovd_lightning.judges.template import PromptTemplate
from ovd_lightning.settings.ranges import NonNegativeFloat, PositiveInt
from ovd_lightning.thoughts import behind
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

TYPICAL = [Criterion("The answer states the quantity that the question asks for, with its unit, at its end.", 1.0)] * 6
"""A rubric of a usual size, for estimates before there is any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What a rubric is written from."""

    problem: Problem
    references: Sequence[str]
    """The teacher's answers."""
    answers: Sequence[str]
    """The student's."""
    seed: int = 0


class ContrastJudge(RubricJudge):
    """Writes a rubric from the contrast of a teacher's and a student's answers (rubricator), and answers it criterion
    by criterion (verifier); one engine for both.

    Args:
        rubric_prompt: a Jinja template file with the variables question, references and answers, the last two lists.
        rubric_tokens: token limit of a rubric, thoughts included.
        rubric_temperature: at which it is sampled.
        judge: settings of the verifier, see `RubricJudge`; ``rubric`` is not among them.
    """

    def __init__(
        self,
        rubric_prompt: str = "rubricator.jinja",
        rubric_tokens: PositiveInt = 1024,
        rubric_temperature: NonNegativeFloat = 0.7,
        **judge: Any,
    ) -> None:
        super().__init__(**judge)
        variables = ("question", "references", "answers")
        self.rubricator = PromptTemplate(rubric_prompt, f"{SETTING}.rubric_prompt", variables)
        self.rubric_tokens = rubric_tokens
        self.rubric_temperature = rubric_temperature

    def write(self, contrasts: Sequence[Contrast]) -> list[Problem | None]:
        """Each problem with the rubric that was written for it; None where the answer holds none."""
        if not contrasts:
            return []
        requests = [
            Request(prompt=as_prompt(self.rubric_prompt(c), self.chat), seed=c.seed, max_tokens=self.rubric_tokens)
            for c in contrasts
        ]
        sampling = Sampling(max_tokens=self.rubric_tokens, temperature=self.rubric_temperature, logprobs=False)
        asked = Asked(self.engine, self.cache)
        completions, _ = asked.completions(requests, sampling, lambda c: parse_rubric(c.text) is not None)
        rubrics = [None if c.error is not None else parse_rubric(c.text) for c in completions]
        return [None if r is None else with_rubric(c.problem, r) for c, r in zip(contrasts, rubrics, strict=True)]

    def rubric_prompt(self, contrast: Contrast) -> str:
        """What the engine is asked to write a rubric."""
        return self.rubricator.fill(
            question=contrast.problem.question.strip(),
            references=[text.strip() for text in contrast.references],
            answers=[text.strip() for text in contrast.answers],
        )

    @property
    def prompts_per_request(self) -> int:
        """Of a rubric of a usual size."""
        return super().prompts_per_request * len(TYPICAL)

    def empty_prompt(self, of_step: bool) -> str:
        return super().empty_prompt(of_step) + TYPICAL[0].text

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        super().check_problems(task, [with_rubric(p, TYPICAL) for p in problems], max_tokens)

    def check_rubrics(self, problems: Sequence[Problem], answers_tokens: int) -> None:
        """Whether the answers that a rubric is written from fit the engine's context, ``answers_tokens`` in all.
        Raises: ConfigError."""
        for problem in longest(problems)[:1]:
            prompt = as_prompt(self.rubric_prompt(Contrast(problem=problem, references=[""], answers=[""])), self.chat)
            setting = f"{SETTING}.rubric_tokens"
            raise_errors(room_errors(setting, self.engine, prompt, answers_tokens, self.rubric_tokens, problem.id))

    def self_test(self, problem: Problem, response: str) -> str:
        """Also writes a rubric, of a contrast without any."""
        (written,) = self.write([Contrast(problem=problem, references=[response], answers=[response])])
        if written is None:
            raise ConfigError(
                f"{SETTING}.engine",
                f"{self.engine.name} wrote no rubric.",
                "Use a model that answers with JSON; chat: true for a chat model; a larger rubric_tokens for one that "
                "thinks.",
            )
        return f"a rubric of {len(written.meta['rubric'])} criteria; {super().self_test(written, response)}"

    def settings(self) -> dict[str, Any]:
        own = {"rubric_prompt": self.rubricator.text, "rubric_tokens": self.rubric_tokens}
        return {**super().settings(), **own, "rubric_temperature": self.rubric_temperature}


def with_rubric(problem: Problem, criteria: Sequence[Criterion]) -> Problem:
    """The problem as one that brings this rubric with it."""
    rubric = [{"criterion": c.text, "weight": c.weight} for c in criteria]
    return replace(problem, meta={**problem.meta, "rubric": rubric})


def parse_rubric(text: str) -> list[Criterion] | None:
    """The first JSON list of criteria in a text, behind its thought; None where there is none."""
    text = behind(text)
    start = text.find("[")
    while start >= 0:
        try:
            given, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
            return read_criteria(given, "a rubric")
        except (ValueError, RecursionError, ConfigError):
            start = text.find("[", start + 1)
    return None
