"""The rubric judge: weights by hand, its own answers, and rubrics that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.rubric import Criterion, RubricJudge, read_criteria
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.types import Problem
from tests.helpers import ScriptedEngine

RUBRIC = """
- is polite
- criterion: names the sum
  weight: 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rubric.yaml"
    path.write_text(RUBRIC)
    return str(path)


def request(**meta: Any) -> JudgeRequest:
    return JudgeRequest(problem=Problem(id="p", question="q", answers=(), meta=meta), response="r")


def by_criterion(answers: dict[str, Any]) -> Any:
    def judge(prompt: str) -> Any:
        found = re.search(r"Criterion: (.*)\n", prompt)
        assert found is not None
        return answers[found[1]]

    return judge


def test_the_score_is_the_weighted_mean_on_the_scale(file: str) -> None:
    engine = ScriptedEngine(by_criterion({"is polite": {"Yes": 0.3, "No": 0.1}, "names the sum": {"No": 0.5}}))
    judge = RubricJudge(file, engine=engine)
    (judgement,) = judge.judge([request()])
    # v = 0.75 and 0; (1 * 0.75 + 3 * 0) / 4 = 0.1875 of 0 to 9; mass (0.4 + 0.5) / 2
    assert judgement.value == pytest.approx(9 * 0.1875)
    assert judgement.mass == pytest.approx(0.45)
    assert judgement.read(SCALES["zero_to_nine"], "sample", 0.7, None) == judgement.value  # type: ignore[arg-type]
    assert len(engine.judged) == 2
    assert all("Response: r\n" in prompt and prompt.endswith("Output only Yes or No:") for prompt in engine.judged)


def test_on_the_other_scale_all_met_is_ten(file: str) -> None:
    engine = ScriptedEngine(by_criterion({"is polite": {"Yes": 1.0}, "names the sum": {"Yes": 1.0}}))
    (judgement,) = RubricJudge(file, engine=engine, scale="one_to_ten").judge([request()])
    assert judgement.value == 10


def test_criteria_may_be_rated(file: str) -> None:
    engine = ScriptedEngine(by_criterion({"is polite": 9, "names the sum": {"3": 0.5, "6": 0.5}}))
    (judgement,) = RubricJudge(file, answer="scale", engine=engine).judge([request()])
    # 1 and 4.5 / 9 = 0.5: (1 + 3 * 0.5) / 4
    assert judgement.value == pytest.approx(9 * 0.625)
    assert "on a scale of 0-9" in engine.judged[0]


def test_answers_as_text(file: str) -> None:
    answers = {"is polite": "**Yes**, it is.", "names the sum": "<think>yes?</think>No."}
    engine = ScriptedEngine(write=lambda prompt, request: by_criterion(answers)(prompt))
    (judgement,) = RubricJudge(file, engine=engine, read="text", score_tokens=32).judge([request()])
    assert judgement.value == pytest.approx(9 * 0.25)
    parse = RubricJudge(file, engine=engine, read="text").parse
    assert [parse(text) for text in ("yes", "No", "yes and no", "maybe", "knows")] == [1, 0, None, None, None]


def test_one_criterion_without_an_answer_is_no_score(file: str) -> None:
    engine = ScriptedEngine(by_criterion({"is polite": {"Yes": 1.0}, "names the sum": {"x": 1.0}}))
    (judgement,) = RubricJudge(file, engine=engine).judge([request()])
    assert not judgement.scored


def test_a_problem_brings_its_own_rubric() -> None:
    engine = ScriptedEngine(by_criterion({"a": {"Yes": 1.0}, "b": {"No": 1.0}}))
    judge = RubricJudge(engine=engine)
    one, two = judge.judge([request(rubric=["a"]), request(rubric=[{"criterion": "a"}, "b"])])
    assert (one.value, two.value) == (9, 4.5)
    from ovd_lightning.tasks.arithmetic import ArithmeticTask

    with pytest.raises(ConfigError, match=r"rubric: is null, and problem 'p' has no rubric"):
        judge.check_problems(ArithmeticTask(train_size=1), [request().problem], 8)


@pytest.mark.parametrize(
    "given",
    [None, [], "be kind", {"criterion": "a"}, [1], [{"weight": 2}], [{"criterion": "a", "weight": 0}],
     [{"criterion": "a", "wieght": 2}], [{"criterion": "a", "weight": float("inf")}], [["a"]]],
)  # fmt: skip
def test_what_is_no_rubric_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no rubric\. Give a list of texts"):
        read_criteria(given, "rubric")


def test_a_rubric_is_read() -> None:
    assert read_criteria([" a ", {"criterion": "b", "weight": 2}], "x") == [Criterion("a", 1), Criterion("b", 2)]


def test_a_rubric_file_that_cannot_be_read_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge\.init_args\.rubric: .*none\.yaml is not there"):
        RubricJudge(str(tmp_path / "none.yaml"))


def test_yes_and_no_must_be_tokens(tokenizer: Any, file: str) -> None:
    judge = RubricJudge(file, engine=ScriptedEngine(tokenizer=tokenizer))
    with pytest.raises(ConfigError, match=r"read: is distribution, but no token of scripted is Yes or No\. Use read"):
        judge.check()
    RubricJudge(file, read="text", engine=ScriptedEngine(tokenizer=tokenizer)).check()


def test_criteria_on_the_scale_need_no_rubric_of_the_judge_to_be_checked(tokenizer: Any) -> None:
    RubricJudge(answer="scale", engine=ScriptedEngine(tokenizer=tokenizer)).check()
