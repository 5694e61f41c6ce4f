"""Chains of reasoning with mistakes planted in them, and the rubric that labels every step.

Two kinds of mistake. *Misconceptions* are systematic and make the student: the smaller digit taken from the
larger, a carry that is dropped, a slip of one row in the times table, now and then a wrong box.
*Corruptions* are arbitrary and only teach the scorer: a wrong value, operator or operand, a copied step, a
box too early. After either a chain goes on consistently from its own wrong value.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.assets.rows import Verdict
from ovd_lightning.tasks.arithmetic import LIMIT, Expression, Operation, apply


class Line(NamedTuple):
    """A step as written, and as it should have been written after the steps before it."""

    written: str
    expected: str
    verdict: Verdict


Fault = Callable[["State", str, int, str, int], tuple[str, int] | None]
"""(state, previous line, left, op, right) -> the faulty line and the value it goes on with, or None."""

Node = tuple[int | None, int, str, int | None, int]


class State:
    """The operations of an expression in the order they are worked, with the values reached so far."""

    def __init__(self, expression: Expression):
        self.nodes: list[Node] = []
        if isinstance(expression, Operation):
            self._flatten(expression)
        self.values: list[int] = []
        self.wrong = False

    def _flatten(self, node: Operation) -> int:
        left = None if isinstance(node.left, int) else self._flatten(node.left)
        right = None if isinstance(node.right, int) else self._flatten(node.right)
        left_leaf = node.left if isinstance(node.left, int) else 0
        right_leaf = node.right if isinstance(node.right, int) else 0
        self.nodes.append((left, left_leaf, node.op, right, right_leaf))
        return len(self.nodes) - 1

    @property
    def done(self) -> bool:
        return len(self.values) == len(self.nodes)

    def operands(self) -> tuple[int, str, int]:
        left, left_leaf, op, right, right_leaf = self.nodes[len(self.values)]
        a = left_leaf if left is None else self.values[left]
        b = right_leaf if right is None else self.values[right]
        return a, op, b

    def expected(self) -> tuple[str, int]:
        """The next line, and the value it leaves."""
        if self.done:
            return f"\\boxed{{{self.values[-1]}}}", self.values[-1]
        left, op, right = self.operands()
        value = apply(left, op, right)
        return f"{left}{op}{right}={value}", value

    def write(self, line: str, value: int) -> Line:
        """Judge ``line`` and go on with ``value``."""
        expected, _ = self.expected()
        verdict: Verdict = "inherited" if self.wrong else "right"
        if line != expected:
            stem = re.escape(expected[: expected.index("{" if self.done else "=") + 1])
            verdict = "value" if re.fullmatch(stem + (r"\d+\}" if self.done else r"\d+"), line) else "expression"
            self.wrong = True
        if not self.done:
            self.values.append(value)
        return Line(line, expected, verdict)


def judge(expression: Expression, written: list[str]) -> list[Line]:
    """Label the steps of any response; a step out of order or after the box has a wrong expression."""
    state = State(expression)
    lines: list[Line] = []
    boxed = False
    for text in written:
        if boxed:
            lines.append(Line(text, "", "expression"))
            continue
        boxed = text.startswith("\\boxed{")
        number = re.search(r"=(-?\d+)$", text)
        lines.append(state.write(text, int(number[1]) if number else state.expected()[1]))
    return lines


def misconception(left: int, op: str, right: int) -> int | None:
    """The systematically wrong value, None where the operation is too easy for a mistake."""
    ones = (left % 10, right % 10)
    if op == "-":
        swapped = 10 * (left // 10 - right // 10) + ones[1] - ones[0]
        return swapped if ones[0] < ones[1] else None  # the smaller digit is taken from the larger
    if op == "+":
        return left + right - 10 if sum(ones) >= 10 else None  # the carry is dropped
    if max(left, right) < 10:
        return left * right - left if min(left, right) >= 2 else None  # one row short in the times table
    carry = ones[0] * ones[1] // 10
    return left * right - 10 * carry if carry else None


def misconceived(expression: Expression, rng: random.Random, rate: float, wrong_box: float = 0.05) -> list[Line]:
    """A solution by someone who falls for each misconception with probability ``rate``."""

    def fault(state: State, previous: str, left: int, op: str, right: int) -> tuple[str, int] | None:
        wrong = misconception(left, op, right)
        if wrong is None or rng.random() >= rate:
            return None
        return f"{left}{op}{right}={wrong}", wrong

    return _written(expression, rng, fault, wrong_box)


def corrupted(expression: Expression, rng: random.Random) -> list[Line]:
    """A solution with an arbitrary mistake at one step, now and then at a second."""
    steps = len(State(expression).nodes) + 1
    places = {int(rng.random() * steps)}
    if rng.random() < 0.15:
        places.add(int(rng.random() * steps))

    def fault(state: State, previous: str, left: int, op: str, right: int) -> tuple[str, int] | None:
        if len(state.values) not in places:
            return None
        return _corrupt(rng, previous, left, op, right)

    return _written(expression, rng, fault, float(steps - 1 in places))


def _corrupt(rng: random.Random, previous: str, left: int, op: str, right: int) -> tuple[str, int]:
    value = apply(left, op, right)
    kind = rng.random()
    if kind < 0.5:
        wrong = _nearby(rng, value)
        return f"{left}{op}{right}={wrong}", wrong
    if kind < 0.65:
        other = rng.choice([o for o in "+-*" if o != op])
        wrong = apply(left, other, right)
        return f"{left}{other}{right}={wrong}", wrong
    if kind < 0.85:
        if rng.random() < 0.5:
            left = _nearby(rng, left)
        else:
            right = _nearby(rng, right)
        wrong = apply(left, op, right)
        return f"{left}{op}{right}={wrong}", wrong
    if kind < 0.92 and previous:
        return previous, int(previous.rpartition("=")[2])
    return f"\\boxed{{{rng.choice([left, right, value])}}}", value


def _nearby(rng: random.Random, value: int) -> int:
    """Another value of 0 .. LIMIT: one digit off, one or ten off, or any."""
    kind = rng.random()
    if kind < 0.3:
        other = value + rng.choice((-1, 1))
    elif kind < 0.6:
        other = value + rng.choice((-10, 10))
    elif kind < 0.85:
        digit = int(rng.random() * 10)
        other = value // 10 * 10 + digit if rng.random() < 0.5 else digit * 10 + value % 10
    else:
        other = int(rng.random() * (LIMIT + 1))
    return other if 0 <= other <= LIMIT and other != value else (value + 1 + int(rng.random() * LIMIT)) % (LIMIT + 1)


def _written(expression: Expression, rng: random.Random, fault: Fault, wrong_box: float) -> list[Line]:
    """Work the expression with ``fault``; chains that leave 0 .. LIMIT are drawn again, at last without faults."""
    for attempt in range(6):
        state = State(expression)
        lines: list[Line] = []
        previous = ""
        while not state.done:
            left, op, right = state.operands()
            line, value = (attempt < 5 and fault(state, previous, left, op, right)) or state.expected()
            if not 0 <= value <= LIMIT:
                break
            lines.append(state.write(line, value))
            previous = line
            if line.startswith("\\boxed"):
                return lines
        else:
            box = state.expected()[0]
            if rng.random() < wrong_box:
                others = {_nearby(rng, state.values[-1]), *state.values[:-1]} - {state.values[-1]}
                box = f"\\boxed{{{rng.choice(sorted(others))}}}"
            return [*lines, state.write(box, 0)]
    raise ValueError(f"a problem leaves 0 .. {LIMIT}")
