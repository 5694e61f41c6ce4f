"""Judge prompts as files: the variables, the packaged ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import PROMPTS, VARIABLES, PromptTemplate
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.types import Problem
from tests.helpers import ScriptedEngine

NINE = SCALES["zero_to_nine"]
PROBLEM = Problem(id="p", question=" 1+1=? ", answers=("2", "two"), meta={"rubric": "short"})


def template(folder: Path, text: str) -> PromptTemplate:
    file = folder / "mine.jinja"
    file.write_text(text)
    return PromptTemplate(str(file), "prompt")


def test_every_variable_can_be_used(tmp_path: Path) -> None:
    text = "{{ question }}|{{ previous | join(',') }}|{{ step }}|{{ response }}|{{ reference }}|{{ scale.low }}"
    mine = template(tmp_path, text + "-{{ scale.high }}|{{ rubric }}|{{ criterion }}")
    step = JudgeRequest(problem=PROBLEM, previous=(" a ", "b"), step=" c\n")
    assert mine.render(step, NINE) == "1+1=?|a,b|c|None|None|0-9|short|None"
    assert mine.render(JudgeRequest(problem=PROBLEM, response="r"), NINE, reference=True, criterion="k") == (
        "1+1=?||None|r|2 or two|0-9|short|k"
    )
    assert (mine.rates_steps, mine.rates_responses) == (True, True)
    assert not template(tmp_path, "{{ response }}").rates_steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ query }}", "uses query. The variables are question, previous, step"),
        ("{% if %}", "is no Jinja template"),
        ("{{ question", "is no Jinja template"),
    ],
)
def test_a_template_that_cannot_work_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        template(tmp_path, text)


def test_an_expression_that_fails_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.jinja cannot be rendered"):
        template(tmp_path, "{{ step + 1 }}").render(JudgeRequest(problem=PROBLEM, step="a"), NINE)


def test_a_template_reaches_nothing_of_python(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be rendered"):
        template(tmp_path, "{{ question.__class__.__mro__ }}").render(JudgeRequest(problem=PROBLEM, step="a"), NINE)


def test_a_file_that_is_not_there_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jinja cannot be read\. Name a Jinja file, or one of a4\.jinja"):
        PromptTemplate("nowhere.jinja", "prompt")


def test_the_packaged_ones_use_known_variables_and_end_where_the_answer_begins() -> None:
    files = sorted(PROMPTS.glob("*.jinja"))
    assert [file.name for file in files] == ["a4.jinja", "criterion.jinja", "criterion_scale.jinja", "rubricator.jinja"]
    for file in files[:3]:
        packaged = PromptTemplate(file.name, "prompt")
        text = packaged.render(JudgeRequest(problem=PROBLEM, step="s"), NINE, criterion="c")
        assert text.endswith(":")
        assert "Reference" not in text
        assert "Reference Answer: 2 or two" in packaged.render(JudgeRequest(problem=PROBLEM, step="s"), NINE, True, "c")
    assert len(set(VARIABLES)) == len(VARIABLES)


def test_a_judge_asks_with_its_own_prompt_and_shows_the_reference(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ response }} should be {{ reference }}:")
    engine = ScriptedEngine(lambda prompt: 4)
    judge = VerbalJudge(engine, prompt=str(file), reference=True)
    (judgement,) = judge.judge([JudgeRequest(problem=PROBLEM, response="3")])
    assert engine.judged == ["3 should be 2 or two:"]
    assert judgement.mean(NINE) == 4
    assert judge.settings() != VerbalJudge(engine, reference=True).settings()


def test_a_reference_that_is_not_there_is_found_before_the_run() -> None:
    from ovd_lightning.tasks.arithmetic import ArithmeticTask

    bare = Problem(id="bare", question="q", answers=())
    with pytest.raises(ConfigError, match=r"judge\.init_args\.reference: is true, but problem 'bare' has no answer"):
        VerbalJudge(ScriptedEngine(), reference=True).check_problems(ArithmeticTask(train_size=1), [bare], 8)
