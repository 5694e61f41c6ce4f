"""The scoring prompt of appendix A.4."""

from __future__ import annotations

import random

import pytest

from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt

APPENDIX_A4 = """\
Problem: x
Previous Steps: s_1, s_2, \\dots, s_{k-1}
Current Step: s_k
Rate the quality of the current reasoning step on a scale of 1-10, where:

- 1-3: Incorrect or irrelevant
- 4-6: Partially correct but incomplete
- 7-9: Correct and well-reasoned
- 10: Optimal step toward the solution

Output only a single number from 1 to 10:"""
"""As the paper prints it."""

ONE_TO_TEN, ZERO_TO_NINE = SCALES["one_to_ten"], SCALES["zero_to_nine"]


def test_word_for_word_on_the_scale_of_the_appendix() -> None:
    assert step_prompt("x", ["s_1, s_2, \\dots, s_{k-1}"], "s_k", ONE_TO_TEN) == APPENDIX_A4


def test_the_other_scale_shifts_the_bands_and_nothing_else() -> None:
    shifted = APPENDIX_A4
    for old, new in (("1-10,", "0-9,"), ("- 1-3", "- 0-2"), ("- 4-6", "- 3-5"), ("- 7-9", "- 6-8"), ("- 10:", "- 9:"),
                     ("from 1 to 10:", "from 0 to 9:")):  # fmt: skip
        assert shifted.count(old) == 1
        shifted = shifted.replace(old, new)
    assert step_prompt("x", ["s_1, s_2, \\dots, s_{k-1}"], "s_k", ZERO_TO_NINE) == shifted


def test_previous_steps_stand_one_a_line() -> None:
    prompt = step_prompt(" 1+1+1=? \n", ["1+1=2\n", " 2+1=3"], " the end\n", ZERO_TO_NINE)
    assert prompt.startswith("Problem: 1+1+1=?\nPrevious Steps: 1+1=2\n2+1=3\nCurrent Step: the end\nRate")
    assert step_prompt("x", [], "a", ZERO_TO_NINE).startswith("Problem: x\nPrevious Steps: \nCurrent Step: a\n")


@pytest.mark.parametrize("scale", SCALES.values())
def test_the_trajectory_prompt_is_the_same_of_the_whole(scale) -> None:
    prompt = response_prompt("x", "s_1\ns_2\n", scale)
    assert prompt.startswith("Problem: x\nSolution: s_1\ns_2\nRate the quality of the solution on a scale of ")
    assert prompt.endswith(f"\n\nOutput only a single number from {scale.low} to {scale.high}:")
    bands = step_prompt("x", [], "a", scale).split("where:")[1]
    assert prompt.split("where:")[1] == bands.replace("Optimal step toward the solution", "Optimal solution")


def test_scales() -> None:
    assert ZERO_TO_NINE.values == tuple(range(10))
    assert ONE_TO_TEN.values == tuple(range(1, 11))
    assert (ZERO_TO_NINE.reject_all, ONE_TO_TEN.reject_all) == (10, 11)
    # Proposition 3.4: S / (v - 1)
    assert [ZERO_TO_NINE.normalise(s) for s in (0, 3, 9)] == pytest.approx([0, 1 / 3, 1])
    assert [ONE_TO_TEN.normalise(s) for s in (1, 4, 10)] == pytest.approx([0, 1 / 3, 1])


# ------------------------------------------------------------------ what is read from an answer


def test_one_score_from_a_distribution() -> None:
    distribution = [0, 0, 0.25, 0, 0, 0, 0, 0, 0.35, 0.4]
    rng = random.Random(0)
    assert ZERO_TO_NINE.read(distribution, "argmax", 0.7, rng) == 9
    assert ONE_TO_TEN.read(distribution, "argmax", 0.7, rng) == 10
    # 2 * 0.25 + 8 * 0.35 + 9 * 0.4
    assert ZERO_TO_NINE.read(distribution, "mean", 0.7, rng) == pytest.approx(6.9)
    assert ZERO_TO_NINE.read(None, "sample", 0.7, rng) is None
    drawn = [ZERO_TO_NINE.read(distribution, "sample", 1.0, rng) for _ in range(4000)]
    assert [drawn.count(s) / 4000 for s in (2, 8, 9)] == pytest.approx([0.25, 0.35, 0.4], abs=0.03)
    # 0.25^2, 0.35^2, 0.4^2 of their sum
    drawn = [ZERO_TO_NINE.read(distribution, "sample", 0.5, rng) for _ in range(4000)]
    assert [drawn.count(s) / 4000 for s in (2, 8, 9)] == pytest.approx([0.181, 0.355, 0.464], abs=0.03)


ANSWERS = [
    # text, score on 0-9, score on 1-10
    ("7", 7, 7),
    (" 7\n", 7, 7),
    ("10", None, 10),
    ("0", 0, None),
    ("11", None, None),
    ("Score: 7", 7, 7),
    ("7/10", 7, 7),
    ("Score: 7 / 10", 7, 7),
    ("7 out of 10", 7, 7),
    ("I give it 7 out of 10.", 7, 7),
    ("On a scale of 1-10: 8", 8, 8),
    ("right and/or useful: 8", 8, 8),
    ("**8**", 8, 8),
    ("Score: **8**", 8, 8),
    ("`8`", 8, 8),
    ("\\boxed{6}", 6, 6),
    ("8.", 8, 8),
    ("8 because step 3 follows from 2", 8, 8),
    ("Step 3 is right. 9", 9, 9),
    ("<think>maybe 3</think>6", 6, 6),
    ("<think>maybe 3</think>\n\nScore: 6", 6, 6),
    ("<think>it could be 3", None, None),
    ("none", None, None),
    ("", None, None),
    ("</think>", None, None),
    ("-3", None, None),
    ("−3", None, None),
    ("7.5", None, None),
    ("17.5", None, None),
    ("7.5 of 8", None, None),
    ("100", None, None),
]


@pytest.mark.parametrize(("text", "zero_to_nine", "one_to_ten"), ANSWERS)
def test_parse(text: str, zero_to_nine: int | None, one_to_ten: int | None) -> None:
    assert ZERO_TO_NINE.parse(text) == zero_to_nine
    assert ONE_TO_TEN.parse(text) == one_to_ten
