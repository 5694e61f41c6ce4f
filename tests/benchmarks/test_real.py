"""The arithmetic of the tables of docs/real_models.md, and which answers they are of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.real import numbers
from benchmarks.real.answers import Answer, append, config, read
from benchmarks.real.judging import VARIANTS, balanced, expected
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import PromptTemplate

ANSWER = Answer(
    problem="p0", sample=0, question="1+1?", gold=["2"], model="m", prompt="1+1?", token_ids=[5, 6], text="2",
    truncated=False, correct=True, found="2", how="boxed",
)  # fmt: skip


def test_auc_counts_ties_half() -> None:
    assert numbers.auc([3.0, 2.0], [1.0, 0.0]) == 1
    assert numbers.auc([1.0], [1.0]) == 0.5
    assert numbers.auc([2.0, 0.0], [1.0]) == 0.5
    assert math.isnan(numbers.auc([], [1.0]))
    # 0.8, 50 and 50: q1 = .6667, q2 = .7111; sqrt((.16 + 49 (.0267 + .0711)) / 2500)
    assert numbers.auc_error(0.8, 50, 50) == pytest.approx(0.0445, abs=1e-4)


def test_calibration_error_is_of_bins() -> None:
    assert numbers.calibration_error([0.9, 0.9], [True, True]) == pytest.approx(0.1)
    assert numbers.calibration_error([0.1, 0.9], [True, True]) == pytest.approx(0.5)
    assert numbers.calibration_error([0.5, 0.5], [True, False]) == 0


def test_as_many_right_as_wrong_answers_are_judged_and_none_without_an_answer(tmp_path: Path) -> None:
    rows = [replace(ANSWER, problem=f"p{i}", correct=i % 4 == 0) for i in range(40)]
    rows += [replace(ANSWER, problem="none", found=None), replace(ANSWER, problem="cut", truncated=True)]
    append(tmp_path / "answers.jsonl", rows)
    assert read(tmp_path / "answers.jsonl") == rows
    chosen = balanced(read(tmp_path / "answers.jsonl"), 16)
    assert [a.correct for a in chosen] == [True] * 8 + [False] * 8
    assert not {"none", "cut"} & {a.problem for a in chosen}
    assert len(balanced(rows, 40)) == 40 - 0  # ten right ones, and the wrong ones that there are
    assert expected({"distribution": [0.0] * 9 + [1.0]}) == 9
    assert expected({"distribution": None}) == 0


@pytest.mark.parametrize("name", sorted({variant.prompt for variant in VARIANTS}))
def test_prompts_end_where_the_number_comes_and_show_the_reference_last(name: str) -> None:
    template = PromptTemplate(name, "prompt")
    request = JudgeRequest(problem=ANSWER.as_problem, response="It is 2.")
    plain, shown = (template.render(request, SCALES["zero_to_nine"], reference) for reference in (False, True))
    assert plain.endswith(":")
    assert "It is 2." in plain
    assert len(shown) > len(plain)
    before = plain[: plain.index("It is 2.") + len("It is 2.")]
    assert shown.startswith(before)  # which the engine then keeps


def test_the_config_trains_and_evaluates_with_one_prompt() -> None:
    written = config()
    assert written["task"]["init_args"]["prompt"] == written["data"]["benchmarks"]["init_args"]["prompt"]
