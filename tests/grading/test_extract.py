"""Where the answer of a response stands."""

from __future__ import annotations

import pytest

from ovd_lightning.grading import Mode, extract_answer
from ovd_lightning.grading.extract import last_box, letters, mentioned, option


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"Half of it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"First \boxed{3}, no: \boxed{4}", "4"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"x = \boxed{1} or x = \boxed{2}", "2"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\text{a } b}", r"\text{a } b"),
        (r"It is \boxed{5}, as asked within \boxed{}.", "5"),
        (r"It is \boxed{5}, the last \boxed of all.", "5"),
        (r"\boxed{5} and then \boxed{6", None),  # truncated while it was correcting itself
        (r"\boxed{", None),
        (r"\boxed{}", None),
        ("The answer is 5", None),
        ("", None),
    ],
)
def test_strict_is_the_last_box(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{\frac12}", r"\frac{1}{2}"),
        (r"so \boxed{12 \text{ cm}}", "12"),
        ("Hence the answer is $12$.", "12"),
        ("The final answer is 1,234.", "1,234"),
        ("Final Answer: The final answer is $x^2$. I hope it is correct.", "x^2"),
        ("We get 3 boxes of 4, so 12 in all", "12"),
        ("答案是 42", "42"),
        ("He ate three. The answer is twenty-five", "25"),
        ("It fell by \u2212 3, the answer is \u22123", "-3"),
        ("The probability is 3/13", r"\frac{3}{13}"),
        ("nothing here", None),
        ("", None),
    ],
)
def test_qwen_is_boxed_else_answer_is_else_last_number(response: str, answer: str | None) -> None:
    assert extract_answer(response, mode="qwen") == answer


@pytest.mark.parametrize(
    ("response", "mode", "answer"),
    [
        (r"\boxed{(B)}", "strict", "B"),
        (r"\boxed{\text{(D)}}", "strict", "D"),
        (r"\boxed{C. twelve}", "strict", "C"),
        (r"\boxed{A, C, D}", "strict", "ACD"),
        (r"\boxed{twelve}", "strict", "twelve"),
        ("The answer is B", "strict", None),
        ("(A) is too small. The answer is (B), not C.", "qwen", "B"),
        ("A or B? Rather D", "qwen", "D"),
        ("Problem solved; the correct choice is C.", "qwen", "C"),
    ],
)
def test_letters_of_options(response: str, mode: Mode, answer: str | None) -> None:
    assert extract_answer(response, mode=mode, choices=True) == answer


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("B", "B"), ("(B)", "B"), ("（B）", "B"), ("Ｂ", "B"), ("B.", "B"), (r"\text{B}", "B"), (r"\textbf{(B)}", "B"),
        (r"\mathrm{B}", "B"), ("B. nine", "B"), ("B) nine", "B"), ("(B) nine", "B"), ("B：nine", "B"), ("选 C", "C"),
        ("故选：B", "B"), ("答案是D", "D"), ("the answer is B", "B"), ("option B", "B"), ("ABD", "ABD"),
        ("D, B, A", "ABD"), ("A、B、D", "ABD"), ("A，B，D", "ABD"), ("A and B", "AB"), ("(A)(C)", "AC"), ("AAB", "AB"),
        ("b", None), ("nine", None), ("Bob", None), ("B nine", None), ("9", None), ("", None), ("YES", None),
        ("A or B", None),
    ],
)  # fmt: skip
def test_letters_that_an_answer_names(text: str, named: str | None) -> None:
    assert letters(text) == named


def test_option_is_the_one_with_this_text() -> None:
    options = ["$x+1$", "No change", "2:30 P.M.", "aab", "a ab"]
    assert option("x + 1", options) == 0
    assert option(r"\text{no change}", options) == 1
    assert option("2:30 pm", options) == 2
    assert option("aab", options) == 3
    assert option("x", options) is None
    assert option("yes", ["yes", "Yes"]) == 0
    assert option("YES", ["yes", "Yes"]) is None


@pytest.mark.parametrize(
    ("response", "index"),
    [
        ("(B) nonlinear", 1),
        ("B", 1),
        ("It grows by the same amount. The answer is linear.", 0),
        ("nonlinear", 1),
        ("The function is nonlinear, because it bends.", 1),
        ("linear or nonlinear", None),
        ("", None),
        ("neither", None),
    ],
)
def test_option_that_a_response_mentions(response: str, index: int | None) -> None:
    assert mentioned(response, ["linear", "nonlinear"]) == index


def test_a_longer_option_does_not_mention_the_shorter_one() -> None:
    options = ["1 hour", "1 hour and 30 minutes", "30 minutes"]
    assert mentioned("It takes 1 hour and 30 minutes.", options) == 1
    assert mentioned("It takes 1 hour.", options) == 0


@pytest.mark.cpu_limit(20)
@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{" * 20_000,
        "\\boxed{}" * 20_000,
        "\\boxed" * 20_000,
        "\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
        "\\boxed{" + "\\text{" * 20_000 + "}" * 20_001,
        "the answer is " * 10_000,
        "1" * 200_000,
        "a " * 100_000,
        "答案是" * 50_000,
        "\\" * 200_000,
    ],
)
@pytest.mark.cpu_limit(60)  # quadratic work on 200,000 characters takes far longer, linear work a tenth of a second
def test_long_responses_take_linear_time(response: str) -> None:
    for mode in ("strict", "qwen"):
        for choices in (False, True):
            extract_answer(response, mode, choices)  # type: ignore[arg-type]
    assert last_box(response) is None or len(last_box(response) or "") <= len(response)
    assert mentioned(response, ["linear", "nonlinear"]) is None
