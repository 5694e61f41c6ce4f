"""Two-digit arithmetic chains: the task of the quickstart, small enough for two CPU cores.

``(17-5)*7+5=?`` is answered by one line an operation and a boxed result::

    17-5=12
    12*7=84
    84+5=89
    \\boxed{89}
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from ovd_lightning import thoughts
from ovd_lightning.errors import ConfigError
from ovd_lightning.settings.ranges import ProblemCount
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.tasks.rewards import RewardFunction
from ovd_lightning.types import Grade, Problem

LIMIT = 99
"""Every value of a problem, intermediate ones included, lies in 0 .. LIMIT."""

_PRECEDENCE = {"+": 1, "-": 1, "*": 2}
_TOKEN = re.compile(r"\d+|[-+*()]")
_QUESTION = re.compile(r"[-+*()\d]+=\?")
_BOXED = re.compile(r"\\boxed\{([^{}\n]*)\}")
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_FACTORS = [[a for a in range(2, v // 2 + 1) if v % a == 0] for v in range(LIMIT + 1)]


class Operation(NamedTuple):
    """A node of an expression tree; its leaves are ints."""

    left: Operation | int
    op: str
    right: Operation | int


Expression = Operation | int


def check_bounds(setting: str, bounds: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """(fewest, most) of something. Raises: ConfigError where they are not in order, or not within the limits."""
    low, high = bounds
    if not least <= low <= high <= most:
        raise ConfigError(
            f"task.init_args.{setting}", f"is {[low, high]}.", f"Give [fewest, most] within {least} to {most}."
        )
    return low, high


class ArithmeticTask(Task):
    """Chains of two to four operations over 0 .. 99, with Python's precedence.

    A question's split is a function of its text alone (a hash: one question in eight each is a test and a
    validation question), so the splits are disjoint for every seed and size, and a checkpoint pretrained on
    training questions has seen no held-out question of any seed.

    Args:
        seed: draws the problems; every split has its own stream, so a size does not move another split.
        train_size: number of training problems.
        validation_size: number of validation problems.
        test_size: number of test problems.
        operations: fewest and most operations of a problem, both equally likely; the shipped checkpoints
            know two and three.
        reward: module.function that gives the reward of a response to a problem; null: 1 for the right integer in
            the last box, else 0.

    Raises:
        ConfigError: ``operations`` is not an ordered pair within 2 .. 4.
    """

    name = "arithmetic"

    def __init__(
        self,
        seed: int = 0,
        train_size: ProblemCount = 20_000,
        validation_size: ProblemCount = 256,
        test_size: ProblemCount = 512,
        operations: tuple[int, int] = (2, 3),
        reward: str | RewardFunction | None = None,
    ) -> None:
        super().__init__(reward)
        self.sizes: dict[Split, int] = {"train": train_size, "validation": validation_size, "test": test_size}
        self.seed = seed
        self.operations = check_bounds("operations", operations, 2, 4)
        self._problems: dict[Split, list[Problem]] = {}

    def problems(self, split: Split) -> Sequence[Problem]:
        if split not in self._problems:
            self._problems[split] = self._draw(split)
        return self._problems[split]

    def _draw(self, split: Split) -> list[Problem]:
        rng = random.Random(f"{self.name}/{split}/{self.seed}")
        drawn: dict[str, Problem] = {}
        while len(drawn) < self.sizes[split]:
            expression = self.expression(rng)
            question = f"{render(expression)}=?"
            if question not in drawn and split_of(question) == split:
                drawn[question] = Problem(
                    id=f"{self.name}/{split}/{len(drawn)}",
                    question=question,
                    answers=(str(evaluate(expression)),),
                    meta={"solution": self.solution(question)},
                )
        return list(drawn.values())

    def expression(self, rng: random.Random) -> Expression:
        """What a question asks for; of any split."""
        value = int(rng.random() * (LIMIT + 1))
        return random_expression(rng, self.draw_operations(rng), value)

    def draw_operations(self, rng: random.Random) -> int:
        """How many operations a problem has."""
        fewest, most = self.operations
        return fewest + int(rng.random() * (most - fewest + 1))

    def solution(self, question: str) -> str:
        """The ideal response."""
        return solution(question)

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}\n"

    def grade(self, response: str, problem: Problem) -> Grade:
        """1 if the integer in the last ``\\boxed{...}`` after any thought is the answer, 0 otherwise."""
        boxes = _BOXED.findall(thoughts.behind(response))
        answer = boxes[-1].strip() if boxes else None
        correct = (
            answer is not None
            and _INTEGER.fullmatch(answer) is not None
            and any(int(answer) == int(alternative) for alternative in problem.answers)
        )
        return Grade(reward=float(correct), correct=correct, answer=answer)


def split_of(question: str) -> Split:
    """The split that a question belongs to, whatever the seed."""
    bucket = zlib.crc32(question.encode()) % 8
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def solution(problem: Problem | str) -> str:
    """The ideal response to a problem or question: one line an operation in Python's order, then the box.

    Raises:
        ValueError: the question is not an expression followed by ``=?``.
    """
    question = problem if isinstance(problem, str) else problem.question
    lines: list[str] = []
    value = _write(parse(question), lines)
    return "\n".join([*lines, f"\\boxed{{{value}}}"])


def _write(expression: Expression, lines: list[str]) -> int:
    if isinstance(expression, int):
        return expression
    left, right = _write(expression.left, lines), _write(expression.right, lines)
    value = apply(left, expression.op, right)
    lines.append(f"{left}{expression.op}{right}={value}")
    return value


def apply(left: int, op: str, right: int) -> int:
    return left + right if op == "+" else left - right if op == "-" else left * right


def evaluate(expression: Expression) -> int:
    """The value of a tree."""
    if isinstance(expression, int):
        return expression
    return apply(evaluate(expression.left), expression.op, evaluate(expression.right))


def random_expression(rng: random.Random, operations: int, value: int) -> Expression:
    """A random tree with ``operations`` operations that evaluates to ``value`` within 0 .. LIMIT throughout.

    Built from the root: the value is split into two operands, so nothing is drawn in vain.
    """
    if operations == 0:
        return value
    draw = int(rng.random() * 3)
    if draw == 0 and _FACTORS[value]:
        factors = _FACTORS[value]
        op, left = "*", factors[int(rng.random() * len(factors))]
        right = value // left
    elif (draw == 1 or value == LIMIT) and value >= 2:
        op, left = "+", 1 + int(rng.random() * (value - 1))
        right = value - left
    else:
        op, left = "-", value + int(rng.random() * (LIMIT - value + 1))
        right = left - value
    in_left = int(rng.random() * operations)
    return Operation(random_expression(rng, in_left, left), op, random_expression(rng, operations - 1 - in_left, right))


def render(expression: Expression) -> str:
    """The expression with the fewest parentheses from which Python reads the same tree."""
    if isinstance(expression, int):
        return str(expression)
    rank = _PRECEDENCE[expression.op]
    left, right = render(expression.left), render(expression.right)
    if isinstance(expression.left, Operation) and _PRECEDENCE[expression.left.op] < rank:
        left = f"({left})"
    if isinstance(expression.right, Operation) and _PRECEDENCE[expression.right.op] <= rank:
        right = f"({right})"
    return f"{left}{expression.op}{right}"


def parse(question: str) -> Expression:
    """The tree of ``question``, by Python's precedence and left-to-right association.

    Raises:
        ValueError: the question is not an expression of integers, ``+ - *`` and parentheses with ``=?``.
    """
    if not _QUESTION.fullmatch(question):
        raise ValueError(f"not an arithmetic question: {question!r}")
    tokens = [*_TOKEN.findall(question), ""]
    expression, position = _parse_operations(tokens, 0, 1)
    if tokens[position]:
        raise ValueError(f"not an arithmetic question: {question!r}")
    return expression


def _parse_operations(tokens: list[str], position: int, rank: int) -> tuple[Expression, int]:
    """Precedence climbing: a chain of operators of at least ``rank`` from ``position`` on."""
    left, position = _parse_operand(tokens, position)
    while _PRECEDENCE.get(tokens[position], 0) >= rank:
        op = tokens[position]
        right, position = _parse_operations(tokens, position + 1, _PRECEDENCE[op] + 1)
        left = Operation(left, op, right)
    return left, position


def _parse_operand(tokens: list[str], position: int) -> tuple[Expression, int]:
    if tokens[position] == "(":
        inside, position = _parse_operations(tokens, position + 1, 1)
        if tokens[position] != ")":
            raise ValueError("an arithmetic question has a parenthesis that is not closed")
        return inside, position + 1
    if not tokens[position].isdigit():
        raise ValueError(f"an arithmetic question has {tokens[position]!r} where a number should be")
    return int(tokens[position]), position + 1
