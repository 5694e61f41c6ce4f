"""Judge prompts are Jinja templates in files: appendix A.4 beside this module, or one of the user's.

Variables: ``question``; ``previous`` (texts of the steps before); ``step`` (the step that is judged) or ``response``
(the whole response), the other one is none; ``reference`` (none unless the judge is shown it); ``scale`` (``low``,
``high``); ``rubric`` (the problem's own, from its ``meta``, or none); ``criterion`` (of a rubric judge).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import Scale

PROMPTS = Path(__file__).with_name("prompts")
VARIABLES = ("question", "previous", "step", "response", "reference", "scale", "rubric", "criterion")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, which looks at the type of an object and the name of an attribute: at each pair once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._safe: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, type):
            return super().is_safe_attribute(obj, attr, value)
        pair = (type(obj), attr)
        if pair not in self._safe:
            self._safe[pair] = super().is_safe_attribute(obj, attr, value)
        return self._safe[pair]


_JINJA = _Sandbox(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


class PromptTemplate:
    """A judge's prompt.

    Args:
        path: a file; a name without a folder may be one of those in this package (``a4.jinja``).
        setting: that names it.
        variables: those that it may use.
    Raises: ConfigError for a file that is not there, no template, or one that uses an unknown variable.
    """

    def __init__(self, path: str, setting: str, variables: Sequence[str] = VARIABLES) -> None:
        self.path = path
        self.setting = setting
        file = Path(path).expanduser()
        if not file.is_file() and len(Path(path).parts) == 1:
            file = PROMPTS / path
        try:
            self.text = file.read_text(encoding="utf-8")
            used = jinja2.meta.find_undeclared_variables(_JINJA.parse(self.text))
            self._template = _JINJA.from_string(self.text)
        except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
            problem, hint = f"is no Jinja template: {error}.", "Correct it."
            if not isinstance(error, jinja2.TemplateError):
                known = ", ".join(sorted(p.name for p in PROMPTS.glob("*.jinja")))
                problem, hint = "cannot be read.", f"Name a Jinja file, or one of {known}."
            raise ConfigError(setting, f"{path} {problem}", hint) from error
        if unknown := sorted(used - set(variables)):
            raise ConfigError(
                setting, f"{path} uses {', '.join(unknown)}.", f"The variables are {', '.join(variables)}."
            )
        self.rates_steps = "step" in used
        self.rates_responses = "response" in used

    def render(self, request: JudgeRequest, scale: Scale, reference: bool = False, criterion: str | None = None) -> str:
        """The prompt of a request, ending where the score's token comes next.

        Raises: ConfigError where the template fails.
        """
        problem = request.problem
        return self.fill(
            question=problem.question.strip(),
            previous=[text.strip() for text in request.previous],
            step=None if request.step is None else request.step.strip(),
            response=None if request.response is None else request.response.strip(),
            reference=(" or ".join(problem.answers) or None) if reference else None,
            scale=scale,
            rubric=problem.meta.get("rubric"),
            criterion=criterion,
        )

    def fill(self, **variables: Any) -> str:
        """The prompt with these variables. Raises: ConfigError where the template fails."""
        try:
            return self._template.render(variables)
        except Exception as error:  # whatever an expression of the template raises
            raise ConfigError(self.setting, f"{self.path} cannot be rendered: {error}.", "Correct it.") from error


@cache
def _a4() -> PromptTemplate:
    return PromptTemplate("a4.jinja", "prompt")


def step_prompt(question: str, previous: Sequence[str], current: str, scale: Scale) -> str:
    """Appendix A.4, word for word on the 1-10 scale; the 0-9 scale shifts the four bands by one.

    The paper writes the previous steps as "s_1, s_2, ..."; here they stand one a line, as written.
    """
    return _a4().render(JudgeRequest.of_text(question, previous=tuple(previous), step=current), scale)


def response_prompt(question: str, response: str, scale: Scale) -> str:
    """Trajectory-level scoring (section 3.3: "it evaluates the complete chain"); the paper prints no template for it,
    so this is A.4 with the whole solution as what is rated."""
    return _a4().render(JudgeRequest.of_text(question, response=response), scale)
