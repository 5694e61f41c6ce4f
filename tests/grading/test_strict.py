"""Strict equality: what counts as the same answer, and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ovd_lightning.grading import Grader
from ovd_lightning.grading.strict import alternatives, decide
from ovd_lightning.types import Problem

EQUAL = [
    # numbers
    ("1,250,000", "1250000"), (r"1{,}250{,}000", "1250000"), (r"1,\!250", "1250"), (r"1\,250", "1250"), ("17.0", "17"),
    (".25", "0.25"), ("+7", "7"), ("007", "7"), ("１７", "17"), ("−8", "-8"), ("$42$", "42"), (r"\(42\)", "42"),
    ("42.", "42"),
    ("{42}", "42"), ("(42)", "42"), (r"\$19.50", "19.5"), ("€19.50", "19.50"),
    # fractions, decimals, powers of ten
    ("1/2", "0.5"), (r"\frac12", "0.5"), (r"\dfrac{6}{8}", "3/4"), (r"-\tfrac{3}{7}", r"\frac{-3}{7}"),
    ("0.333333", r"\frac13"),
    (r"3\frac{1}{4}", "13/4"), ("3 1/4", "3.25"), (r"2.5\times 10^{-3}", "0.0025"), ("2.5e-3", r"2.5 \cdot 10^{-3}"),
    ("3e8", "300000000"), (r"\frac{\sqrt{2}}{2}", "0.70710678"), ("½", "0.5"),
    (r"\text{12}", "12"), (r"\mathbf{12}", "12"), (r"\boldsymbol{\frac12}", "0.5"), ("= 12", "12"),
    (r"\mathrm{12}", "12"),
    # units
    ("12 cm", "12"), (r"12\text{ cm}", "12"), ("12", r"12 \text{ cm}"), (r"12\,\mathrm{cm}^2", "12"), ("5 apples", "5"),
    (r"12 \text{ square meters}", r"12\text{ m}^2"), ("60 miles per hour", "60 mph"), ("2 seconds", "2s"), ("5m", "5"),
    (r"45^\circ", "45"), ("45°", r"45^{\circ}"), ("45 degrees", r"45^\circ"), (r"7\sqrt{3}\text{ cm}", r"7\sqrt3"),
    (r"20\pi\ \text{cm}^2", r"20\pi"),
    # percentages: the sign is a unit, or it means a hundredth
    (r"35\%", "35"), ("35%", "0.35"), ("0.35", r"35\%"), ("35 percent", r"35\%"), (r"12.5\%", "12.5"),
    (r"\frac18", r"12.5\%"),
    # algebra
    (r"\sqrt{12}", r"2\sqrt{3}"), ("(x+1)^2", "x^2+2x+1"), (r"\frac{x^2-1}{x-1}", "x+1"), (r"\sin^2 t+\cos^2 t", "1"),
    (r"\ln 8", r"3\ln 2"), ("ln8", r"3 \ln 2"), ("2^10", "1024"), ("ba", "ab"), (r"e^{i\pi}", "-1"), ("(1+i)^2", "2i"),
    (r"\frac{4A}{3+3i}e^{it}", r"\frac{2(1-i)}{3} A e^{i t}"),
    (r"5!", "120"),
    (r"\binom{5}{2}", "10"), ("x=9", "9"), ("9", "x = 9"), ("x=9", "x=9.0"), (r"f(x)=2x", "f(x)=x+x"),
    ("y=2x-1", "2x-1"),
    ("x+2y=3", "2x+4y=6"), ("y = 1 - x", "x + y - 1 = 0"), ("x<4", "4>x"), ("-x < 2", "x > -2"),
    ("sqrt(5)", r"\sqrt{5}"),
    ("3*sqrt(5)", r"3\sqrt5"), (r"\frac{L_{\odot}}{4}", r"0.25L_{\odot}"),
    ("2(3)", "6"), ("(2)(3)", "6"), (r"4\binom{4}{2}", "24"), (r"\binom{4}{2}\binom{3}{1}", "18"),
    (r"(2)\frac{1}{2}", "1"),
    (r"\frac{6}{2}\frac{1}{2}", r"\frac32"), (r"\log_2(8)", "3"), ("C_{10}^{2}", r"\binom{10}{2}"),
    ("c<a<b", "b > a > c"),
    # sets, lists, tuples, intervals
    (r"\{3,1,2\}", r"\{1,2,3\}"), ("2, 1", "1,2"), ("1 and 2", "1,2"), (r"1\text{ or }2", "2, 1"),
    ("(1,2)", r"\left(1, 2\right)"),
    ("(1, 0.5)", r"(1,\frac12)"), ("[0,1)", r"\left[0,1\right)"), (r"(-\infty, 2]", r"(-\infty,2]"), ("1;2", "1,2"),
    (r"(0,1)\cup(2,3)", r"(2,3) \cup (0,1)"), (r"x\in[0,1)", "[0,1)"), (r"0\le x<1", "[0,1)"),
    ("[0,1)", r"0 \leq x < 1"),
    (r"\{x \mid 0 \le x < 1\}", "[0,1)"), (r"\{x|x<2\}", r"\{x:x<2\}"), (r"2\pm\sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}"),
    ("x=1, x=2", "1,2"), ("(1,2),(3,4)", "(3,4),(1,2)"), (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2"),
    ("x > 2 or x < 1", r"x<1 \text{ or } x>2"), ("6:8:10", "3 : 4 : 5"), (r"\emptyset", r"\varnothing"),
    ("1，2", "1,2"), ("1；2", "1,2"),
    # matrices
    (r"\begin{pmatrix}1\\ 1/2\end{pmatrix}", r"\begin{pmatrix}1\\0.5\end{pmatrix}"),
    (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    # words, times, ratios, bases, letters, statements
    (r"\text{parabola}", "parabola"), ("Parabola.", "a parabola"), ("the blue team", "The blue team."), ("Yes", "yes"),
    (r"\text{east}", "east"), ("Mr. Gray", "mr. gray"), ("3:45 PM", "3:45 p.m."), (r"3{:}45", "3:45"),
    ("15:45", "3:45 p.m."),
    ("3:45 pm", "3:45"), ("4:6", "2:3"), ("2:3", "2/3"), ("301_7", "301_{7}"), ("301", "301_7"), (r"\text{(C)}", "C"),
    ("C", r"\text{(C)}"), ("C. nine", "C"), ("D,A", "AD"), ("A、D", "AD"), ("（1）（3）", "(1)(3)"), ("①③", "(1)(3)"),
    ("①、③", "(1)(3)"), ("3", r"\frac{6}{2} \text{ OR } 7-4"),
]  # fmt: skip

DIFFERENT = [
    ("18", "17"), ("-17", "17"), ("1.7", "17"), ("17000", "17"), ("0.33", r"\frac13"), ("0.3334", r"\frac13"),
    ("100001", "100000"),
    ("123456.7", "123456.8"), ("2e-9", "3e-9"), ("0", "1e-8"), ("1/3", "2/3"), ("1 1/2", "11/2"), ("35", "0.35"),
    ("3.5%", "35%"),
    ("12 cm", "12 m"), (r"12\text{ cm}^2", r"12\text{ cm}^3"), ("12 dollars", "12 cents"),
    (r"7\sqrt3\text{ cm}", r"7\sqrt3\text{ m}"),
    ("6", "6m"), ("6x", "6"), ("5i", "5"), ("2", "2k"), ("8(2)", "10"), ("2(3)", "5"), ("6:8:11", "3:4:5"),
    ("a>b>c", "b>a>c"),
    (r"(-\infty,1)\cup(3,\infty)", r"x<1 \text{ or } x>2"), (r"\frac{3}{4}", r"\frac{3}{4} m"),
    (r"\sqrt{3}", r"\sqrt{2}"), ("(x+1)^2", "x^2+1"), ("x+1", "y+1"), ("x=9", "x=8"), ("x=9", "y=9"), ("x<4", "x>4"),
    ("x+2y=3", "x+2y=4"), ("x^2=-3", "x^4=-2"), ("x", "5"), ("x+1", "5"), (r"e^{i\pi}", "1"),
    (r"10^{-9}", r"2\cdot 10^{-9}"),
    ("1,2", "1,2,3"), ("1,2,3", "1,2"), ("1,4", "1,2"), ("(2,1)", "(1,2)"), ("(0,1)", "[0,1)"), ("[0,1]", "[0,2]"),
    (r"(0,1)\cup(2,4)", r"(0,1)\cup(2,3)"), (r"\{1,2\}", r"\{1,3\}"), (r"2+\sqrt3", r"2\pm\sqrt3"), ("5 or 6", "5"),
    ("5, 6", "6"),
    ("32, 100", "32100"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\{x|-2\le x<1\}", "1"), ("the 3 of us", "3 or 4"),
    ("hyperbola", "parabola"), ("seat", "east"), ("No", "Yes"), ("equal", "They are equal"), ("3:45 a.m.", "3:45 p.m."),
    ("3:45", "3:45 p.m."), ("3:46", "3:45"), ("301_8", "301_7"), ("302", "301_7"), ("a", "a_1"), ("B", "C"),
    ("B, C", "C"),
    ("A", "AD"),
    ("ABD", "AD"), ("①②", "(1)(3)"), ("A or D", "AD"), ("", "5"), (" ", "5"), ("5", ""), ("$", "$"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "reference"), EQUAL)
def test_equal(strict: Grader, prediction: str, reference: str) -> None:
    assert strict.is_equivalent(prediction, reference)


@pytest.mark.parametrize(("prediction", "reference"), DIFFERENT)
def test_different(strict: Grader, prediction: str, reference: str) -> None:
    assert not strict.is_equivalent(prediction, reference)


def test_what_is_decided_without_a_worker_agrees_with_what_is() -> None:
    decided = [
        (verdict, right, pair)
        for pairs, right in ((EQUAL, True), (DIFFERENT, False))
        for pair in pairs
        if len(alternatives(pair[1])) == 1 and (verdict := decide(*pair)) is not None
    ]
    assert len(decided) > len(EQUAL + DIFFERENT) / 2
    assert [pair for verdict, right, pair in decided if verdict != right] == []


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("She pays 2,74 $ a day", "2.74", True),
        ("Thus $x = \\frac{3}{4}$, and we are done.", "0.75", True),
        ("Thus the width is \\boxed{12} cm", "12", True),
        ("The final answer is $7$. I hope it is correct.", "7", True),
        ("Thus the width is \\boxed{13} cm", "12", False),
        ("Thus there are none", "12", False),
    ],
)
def test_a_text_may_stand_for_its_answer(strict: Grader, prediction: str, reference: str, same: bool) -> None:
    assert strict.is_equivalent(prediction, reference) is same


def check(grader: Grader, box: str, answers: Sequence[str], **meta: Any) -> tuple[bool, str | None, str | None]:
    response = f"Some thoughts, 1 or 2. So we have $\\boxed{{{box}}}$."
    grade = grader.grade(response, Problem(id="x", question="?", answers=tuple(answers), meta=meta))
    assert grade.reward == float(grade.correct)
    assert not grade.timed_out
    return grade.correct, grade.answer, grade.how


def test_any_answer_of_the_problem_is_correct(strict: Grader) -> None:
    assert check(strict, "0.3", ["3/10", "0.30"]) == (True, "0.3", "boxed")
    assert check(strict, r"\sqrt{8}", ["3", r"2\sqrt2"])[0]
    assert not check(strict, "0.4", ["3/10", "0.30"])[0]
    assert not check(strict, "0.4", [])[0]


def test_only_the_last_box_counts(strict: Grader) -> None:
    problem = Problem(id="x", question="?", answers=("1,2",))
    assert strict.grade(r"\boxed{1,2}, that is \boxed{1} and \boxed{2}", problem).correct is False
    assert strict.grade(r"\boxed{1} and \boxed{2}, that is \boxed{1,2}", problem).correct is True
    assert strict.grade("The answer is 1,2", problem).how is None


def test_the_box_is_an_answer_and_not_a_text(strict: Grader) -> None:
    """A number in prose is found for ``is_equivalent``; a reward wants an answer in the box."""
    assert not check(strict, r"\text{It is either } 3 \text{ or not, I hope } 4", ["4"])[0]


OPTIONS = [r"$\frac{1}{2}$", "2", r"$\sqrt{2}$", "none of these"]


@pytest.mark.parametrize(
    ("box", "correct", "answer", "how"),
    [
        ("A", True, "A", "boxed"),
        (r"\text{(A)}", True, "A", "boxed"),
        (r"A. \frac{1}{2}", True, "A", "boxed"),
        (r"\text{(D) none of these}", False, "D", "boxed"),
        (r"\frac{1}{2}", True, "A", "option"),
        ("0.5", True, "A", "option"),
        (r"\sqrt{2}", False, "C", "option"),
        (r"\frac{2}{\sqrt{2}}", False, "C", "option"),
        (r"\text{None of these}", False, "D", "option"),
        ("A, B", False, "AB", "boxed"),
        ("A B C D", False, "ABCD", "boxed"),
        ("E", False, "E", "boxed"),
        ("7", False, "7", "boxed"),
    ],
)
def test_one_letter_of_options(strict: Grader, box: str, correct: bool, answer: str, how: str) -> None:
    assert check(strict, box, ["A"], choices=OPTIONS) == (correct, answer, how)


def test_two_equal_options_are_no_answer(strict: Grader) -> None:
    assert not check(strict, r"\frac{2}{4}", ["A"], choices=["1/2", "0.5", "2"])[0]


@pytest.mark.parametrize(
    ("box", "correct", "answer"),
    [
        ("shortage", True, "shortage"),
        (r"\text{Shortage}", True, "shortage"),
        ("A", True, "shortage"),
        ("(A) shortage", True, "shortage"),
        ("B", False, "surplus"),
        ("surplus", False, "surplus"),
        ("both", False, "both"),
    ],
)
def test_answers_that_are_the_text_of_an_option(strict: Grader, box: str, correct: bool, answer: str) -> None:
    assert check(strict, box, ["shortage"], choices=["shortage", "surplus"])[:2] == (correct, answer)


def test_several_letters_without_options(strict: Grader) -> None:
    for box in ("ACD", "A, C, D", "D、C、A", "A C D A", r"\text{ACD}", "（A）（C）（D）"):
        assert check(strict, box, ["ACD"])[0], box
    for box in ("AC", "ABCD", "A", "A C E"):
        assert not check(strict, box, ["ACD"])[0], box


def test_a_stated_tolerance_is_absolute(strict: Grader) -> None:
    assert check(strict, "4.25", ["4.2"], error="1e-1")[0]
    assert check(strict, r"3\sqrt{2}", ["4.2"], error="1e-1")[0]
    assert not check(strict, "4.35", ["4.2"], error="1e-1")[0]
    assert not check(strict, "4.25", ["4.2"])[0]


def test_a_stated_unit_may_be_given_but_no_other(strict: Grader) -> None:
    assert check(strict, "45", ["45"], unit="minutes")[0]
    assert check(strict, r"45\text{ min}", ["45"], unit="minutes")[0]
    assert not check(strict, r"45\text{ hours}", ["45"], unit="minutes")[0]
    assert check(strict, r"45\text{ tiles}", ["45"], unit="broken tiles")[0]
