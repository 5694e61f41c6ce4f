"""Worked examples that few-shot prompts show. Written for this project, none is taken from a test set.

All are choice questions, as the sets are whose prompts show them (SAT-Math, MMLU-STEM, and the single-choice questions
of the Gaokao), and end with the letter in a box. No worked example holds an empty line, which separates them.
"""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """A question as it is shown with its options, ``(A)`` first, in the format of the reference evaluation."""
    shown = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}\nAnswer Choices: {shown}"


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A question and its worked answer."""

    question: str
    """With the options, as it is shown."""
    answer: str
    """Ends with the letter in a box."""
    letter: str


SAT_MATH = (
    Demonstration(
        question=with_choices(
            "A phone plan costs $\\$18$ a month plus $\\$0.05$ for each text message. One month's bill was "
            "$\\$23.40$. How many text messages were sent that month?",
            ("$54$", "$108$", "$118$", "$468$"),
        ),
        answer="The messages cost $23.40 - 18 = 5.40$ dollars.\n"
        "At $0.05$ dollars each, there were $\\frac{5.40}{0.05} = 108$ of them.\n"
        "The answer is $\\boxed{B}$.",
        letter="B",
    ),
    Demonstration(
        question=with_choices(
            "If $3a - 2b = 11$ and $a + 2b = 13$, what is the value of $b$?",
            ("$\\frac{5}{2}$", "$3$", "$\\frac{7}{2}$", "$6$"),
        ),
        answer="Adding the two equations gives $4a = 24$, so $a = 6$.\n"
        "The second one then says $2b = 13 - 6 = 7$, so $b = \\frac{7}{2}$.\n"
        "The answer is $\\boxed{C}$.",
        letter="C",
    ),
    Demonstration(
        question=with_choices(
            "The function $g$ is defined by $g(t) = t^2 - 10t + 29$. What is the smallest value of $g(t)$?",
            ("$4$", "$5$", "$25$", "$29$"),
        ),
        answer="Completing the square, $g(t) = (t - 5)^2 - 25 + 29 = (t - 5)^2 + 4$.\n"
        "The square is never negative and is $0$ at $t = 5$, so the smallest value is $4$.\n"
        "The answer is $\\boxed{A}$.",
        letter="A",
    ),
    Demonstration(
        question=with_choices(
            "The price of a coat was raised by $25\\%$, and the new price was then lowered by $20\\%$. The last "
            "price is what percent of the first one?",
            ("$95\\%$", "$98\\%$", "$105\\%$", "$100\\%$"),
        ),
        answer="Raising by $25\\%$ multiplies by $1.25$, and lowering by $20\\%$ multiplies by $0.8$.\n"
        "Together that is $1.25 \\cdot 0.8 = 1$, which is $100\\%$.\n"
        "The answer is $\\boxed{D}$.",
        letter="D",
    ),
    Demonstration(
        question=with_choices(
            "The legs of a right triangle have lengths $9$ and $40$. What is the cosine of its smallest angle?",
            ("$\\frac{9}{41}$", "$\\frac{9}{40}$", "$\\frac{40}{41}$", "$\\frac{41}{40}$"),
        ),
        answer="The hypotenuse is $\\sqrt{9^2 + 40^2} = \\sqrt{1681} = 41$.\n"
        "The smallest angle lies opposite the side of length $9$, so the leg of length $40$ is next to it and its "
        "cosine is $\\frac{40}{41}$.\n"
        "The answer is $\\boxed{C}$.",
        letter="C",
    ),
)

MMLU_STEM = (
    Demonstration(
        question=with_choices(
            "Which process makes four haploid cells that differ genetically out of one diploid cell?",
            ("Binary fission", "Mitosis", "Meiosis", "Budding"),
        ),
        answer="Binary fission, mitosis and budding all make genetic copies of the parent cell.\n"
        "Meiosis divides twice after one replication and mixes the chromosomes, which leaves four different haploid "
        "cells.\n"
        "The answer is $\\boxed{C}$.",
        letter="C",
    ),
    Demonstration(
        question=with_choices(
            "A cart of 2 kg rolls at 3 m/s along a frictionless track, hits a cart of 4 kg that stands still, and "
            "sticks to it. How fast do both move afterwards?",
            ("0.5 m/s", "1.0 m/s", "1.5 m/s", "3.0 m/s"),
        ),
        answer="Momentum is conserved; before the collision it is $2 \\cdot 3 = 6$ kg m/s.\n"
        "Afterwards $6$ kg move together, so the speed is $\\frac{6}{6} = 1$ m/s.\n"
        "The answer is $\\boxed{B}$.",
        letter="B",
    ),
    Demonstration(
        question=with_choices(
            "A sorted array has 1000 elements. How many of them does binary search compare with the key, at most?",
            ("10", "32", "500", "1000"),
        ),
        answer="Each comparison leaves at most half of the elements, so $\\lfloor \\log_2 1000 \\rfloor + 1$ suffice.\n"
        "As $2^9 = 512 \\le 1000 < 1024 = 2^{10}$, that is $9 + 1 = 10$.\n"
        "The answer is $\\boxed{A}$.",
        letter="A",
    ),
    Demonstration(
        question=with_choices(
            "How much water forms when 4 g of hydrogen gas burn completely in oxygen? (Atomic masses: H = 1, O = 16)",
            ("9 g", "18 g", "36 g", "72 g"),
        ),
        answer="The reaction is $2H_2 + O_2 \\to 2H_2O$: each mole of hydrogen gas gives one mole of water.\n"
        "4 g of $H_2$ at 2 g/mol are 2 mol, and 2 mol of water at 18 g/mol are 36 g.\n"
        "The answer is $\\boxed{C}$.",
        letter="C",
    ),
    Demonstration(
        question=with_choices(
            "A bag holds 3 red and 5 green beads. Two beads are taken out without putting the first one back. What "
            "is the probability that both are green?",
            ("25/64", "5/8", "15/56", "5/14"),
        ),
        answer="The first bead is green with probability $\\frac{5}{8}$, and then the second with $\\frac{4}{7}$.\n"
        "Both are green with probability $\\frac{5}{8} \\cdot \\frac{4}{7} = \\frac{20}{56} = \\frac{5}{14}$.\n"
        "The answer is $\\boxed{D}$.",
        letter="D",
    ),
)

GAOKAO = (
    Demonstration(
        question="已知复数 $z = 2 - 3i$，则 $|z| =$ ( )\nA. $\\sqrt{5}$\nB. $\\sqrt{13}$\nC. $5$\nD. $13$",
        answer="由模的定义，$|z| = \\sqrt{2^2 + (-3)^2} = \\sqrt{13}$。\n故选 $\\boxed{B}$。",
        letter="B",
    ),
    Demonstration(
        question="设集合 $A = \\{x \\mid x^2 - 4x \\le 0\\}$，$B = \\{-1, 0, 2, 4, 5\\}$，"
        "则 $A \\cap B$ 中元素的个数为 ( )\n"
        "A. $1$\nB. $2$\nC. $3$\nD. $4$",
        answer="由 $x(x - 4) \\le 0$ 得 $A = [0, 4]$。\n"
        "所以 $A \\cap B = \\{0, 2, 4\\}$，共有 $3$ 个元素。\n"
        "故选 $\\boxed{C}$。",
        letter="C",
    ),
    Demonstration(
        question="在等差数列 $\\{a_n\\}$ 中，$a_2 = 5$，$a_6 = 17$，则 $a_{10} =$ ( )\n"
        "A. $26$\nB. $27$\nC. $28$\nD. $29$",
        answer="公差 $d = \\frac{17 - 5}{6 - 2} = 3$。\n所以 $a_{10} = a_6 + 4d = 17 + 12 = 29$。\n故选 $\\boxed{D}$。",
        letter="D",
    ),
    Demonstration(
        question="已知 $\\sin\\alpha = \\frac{3}{5}$，且 $\\alpha$ 是第二象限角，则 $\\tan\\alpha =$ ( )\n"
        "A. $-\\frac{3}{4}$\nB. $-\\frac{4}{3}$\nC. $\\frac{3}{4}$\nD. $\\frac{4}{3}$",
        answer="第二象限角的余弦为负，所以 $\\cos\\alpha = -\\sqrt{1 - \\frac{9}{25}} = -\\frac{4}{5}$。\n"
        "于是 $\\tan\\alpha = \\frac{\\sin\\alpha}{\\cos\\alpha} = -\\frac{3}{4}$。\n"
        "故选 $\\boxed{A}$。",
        letter="A",
    ),
    Demonstration(
        question="从 $4$ 名男生和 $2$ 名女生中任选 $2$ 人，恰好选到 $1$ 名男生和 $1$ 名女生的概率为 ( )\n"
        "A. $\\frac{2}{5}$\nB. $\\frac{8}{15}$\nC. $\\frac{3}{5}$\nD. $\\frac{2}{3}$",
        answer="从 $6$ 人中任选 $2$ 人，共有 $\\frac{6 \\times 5}{2} = 15$ 种选法。\n"
        "$1$ 名男生和 $1$ 名女生的选法有 $4 \\times 2 = 8$ 种，所求概率为 $\\frac{8}{15}$。\n"
        "故选 $\\boxed{B}$。",
        letter="B",
    ),
)
