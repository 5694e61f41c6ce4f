"""A judge that answers a rubric criterion by criterion: which of these does the response meet?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.engines.asked import Asked
from ovd_lightning.engines.prompting import as_prompt
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import SETTING, Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.settings.yaml_files import read_yaml
from ovd_lightning.thoughts import behind
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

YES_NO = ["Yes", "No", " Yes", " No"]
SHAPE = "a list of texts, or of mappings with `criterion` and, if it is not 1, `weight`"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of a rubric."""

    text: str
    weight: float
    """Above 0; only the ratio to the other weights counts."""


def read_criteria(given: Any, setting: str) -> list[Criterion]:
    """A rubric as a file or a problem's ``meta["rubric"]`` has it. Raises: ConfigError."""
    criteria = []
    for item in given if isinstance(given, list) else ():
        item = {"criterion": item} if isinstance(item, str) else item
        if not isinstance(item, dict) or not {"criterion"} <= item.keys() <= {"criterion", "weight"}:
            break
        weight = item.get("weight", 1)
        if not isinstance(item["criterion"], str) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            break
        criteria.append(Criterion(item["criterion"].strip(), float(weight)))
    else:
        if criteria:
            return criteria
    raise ConfigError(
        setting, f"{json.dumps(given, ensure_ascii=False, default=str)[:200]} is no rubric.", f"Give {SHAPE}."
    )


class RubricJudge(VerbalJudge):
    """One score S = low + (high - low) sum_i w_i v_i / sum_i w_i from the criteria's values v_i in [0, 1].

    A criterion is a question of its own. Answered yes or no, its value is P(yes) / (P(yes) + P(no)) of the next token,
    or 1 or 0 where answers are text; on the scale, it is the mean score, normalised.

    Args:
        rubric: YAML or JSON file with the criteria; null: each problem brings its own, in its data's column `rubric`.
        answer: "yes_no" or "scale".
        prompt: a Jinja template file, with the variable `criterion` beside those of `ovd_lightning.judges.template`;
            null: the one for ``answer`` in this package.
        judge: settings of the judge, see `VerbalJudge`; its ``min_mass`` is of yes and no together where they are the
            answers.
    """

    def __init__(
        self,
        rubric: str | None = None,
        answer: Literal["yes_no", "scale"] = "yes_no",
        prompt: str | None = None,
        **judge: Any,
    ) -> None:
        packaged = "criterion.jinja" if answer == "yes_no" else "criterion_scale.jinja"
        super().__init__(prompt=prompt or packaged, **judge)
        self.answer = answer
        self.criteria: list[Criterion] | None = None
        if rubric is not None:
            setting = f"{SETTING}.rubric"
            given = read_yaml(Path(rubric).expanduser(), setting, f"Name a file with {SHAPE}.")
            self.criteria = read_criteria(given, setting)

    def criteria_of(self, problem: Problem) -> list[Criterion]:
        """Raises: ConfigError for a problem without a rubric, where the judge has none."""
        if self.criteria is not None:
            return self.criteria
        if "rubric" not in problem.meta:
            without = f"is null, and problem {problem.id!r} has no rubric."
            raise ConfigError(f"{SETTING}.rubric", without, "Name a file, or give every problem a `rubric`.")
        return read_criteria(problem.meta["rubric"], f"the rubric of problem {problem.id!r}")

    @property
    def vocabulary(self) -> tuple[int, ...]:
        return (0, 1) if self.answer == "yes_no" else super().vocabulary

    def parse(self, text: str) -> int | None:
        if self.answer == "scale":
            return super().parse(text)
        found = {word.lower() for word in re.findall(r"\b(yes|no)\b", behind(text), re.IGNORECASE)}
        return None if len(found) != 1 else int(found == {"yes"})

    def _errors(self) -> Iterator[ConfigError]:
        if self.answer == "scale":
            return super()._errors()
        return self._answer_errors(YES_NO, "Use read: text, or answer: scale.")

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        for problem in problems:
            self.criteria_of(problem)
        super().check_problems(task, problems, max_tokens)

    @property
    def prompts_per_request(self) -> int:
        """One a criterion and sample; as if there were one where every problem brings its own."""
        each = super().prompts_per_request if self.answer == "scale" or self.read == "text" else 1
        return each * len(self.criteria or [None])

    def empty_prompt(self, of_step: bool) -> str:
        empty = JudgeRequest.of_text("", **{"step" if of_step else "response": ""})
        return self._about(empty, (self.criteria or [Criterion("", 1.0)])[0])

    def prompt(self, request: JudgeRequest) -> str:
        """The longest criterion's."""
        longest = max(self.criteria_of(request.problem), key=lambda c: len(c.text))
        return self._about(request, longest)

    def _about(self, request: JudgeRequest, criterion: Criterion) -> str:
        return self.template.render(request, self.scale, self.reference, criterion.text)

    def settings(self) -> dict[str, Any]:
        criteria = None if self.criteria is None else [[c.text, c.weight] for c in self.criteria]
        return {**super().settings(), "rubric": criteria, "answer": self.answer}

    def judge(
        self, requests: Sequence[JudgeRequest], seed: int = 0, unparsed: UnparsedScores | None = None
    ) -> list[Judgement]:
        rubrics = [self.criteria_of(request.problem) for request in requests]
        prompts = [self._about(r, c) for r, rubric in zip(requests, rubrics, strict=True) for c in rubric]
        found = iter(self.score(prompts, seed, unparsed))
        judgements = []
        for rubric in rubrics:
            answers = [next(found) for _ in rubric]
            mass = math.fsum(a.mass for a in answers) / len(answers)
            values = [self._value(a) for a in answers]
            if any(value is None for value in values):  # a partial rubric would be another rubric
                judgements.append(Judgement(None, mass))
                continue
            total = math.fsum(c.weight * (v or 0.0) for c, v in zip(rubric, values, strict=True))
            share = total / math.fsum(c.weight for c in rubric)
            judgements.append(Judgement(None, mass, self.scale.low + (self.scale.high - self.scale.low) * share))
        return judgements

    def _value(self, answer: Judgement) -> float | None:
        """v in [0, 1] of one criterion."""
        if answer.distribution is None:
            return None
        mean = math.fsum(v * p for v, p in zip(self.vocabulary, answer.distribution, strict=True))
        return mean if self.answer == "yes_no" else self.scale.normalise(mean)

    def _distributions(self, prompts: list[str], seed: int) -> tuple[list[Judgement], int]:
        if self.answer == "scale":
            return super()._distributions(prompts, seed)
        single = self._single_token_texts(YES_NO)
        yes = [text.strip() == "Yes" for text in single]

        def useful(row: list[float]) -> bool:
            return math.fsum(map(math.exp, row)) >= self.min_mass

        asked = Asked(self.engine, self.cache)
        rows, count = asked.rows([as_prompt(p, self.chat) for p in prompts], single, useful)
        judgements = []
        for row in rows:
            mass = [0.0, 0.0]
            for logprob, is_yes in zip(row or (), yes, strict=row is not None):
                mass[is_yes] += math.exp(logprob)
            total = math.fsum(mass)
            if row is not None and total < self.min_mass:
                self.ledger.unscored = f"only {total:.2g} of its probability on Yes and No"
            judgements.append(Judgement([m / total for m in mass] if total >= self.min_mass else None, total))
        return judgements, count
