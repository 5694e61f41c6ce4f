"""Arithmetic too large for a tiny model's head: one call of an interpreter an operation, and a boxed result.

``(347-82)*46=?`` is answered in turns, to which the environment replies with what the code printed::

    <tool_call>{"name": "code_interpreter", "arguments": {"code": "print(347-82)"}}</tool_call>
    <tool_response>
    265
    </tool_response>
    <tool_call>{"name": "code_interpreter", "arguments": {"code": "print(265*46)"}}</tool_call>
    <tool_response>
    12190
    </tool_response>
    \\boxed{12190}
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovd_lightning.settings.ranges import ProblemCount
from ovd_lightning.tasks.arithmetic import ArithmeticTask, Expression, Operation, apply, check_bounds, parse
from ovd_lightning.tasks.environment import Environment, turn_spans
from ovd_lightning.tasks.rewards import RewardFunction
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST = 999_999
"""Every value of a problem, intermediate ones included, lies in 0 .. LARGEST."""
RESPONSE = ("\n<tool_response>\n", "\n</tool_response>\n")
"""Text before and after a result."""


class ToolArithmeticTask(ArithmeticTask):
    """Chains of two or three operations over 0 .. 999,999 that want an interpreter.

    A step is a turn and the result it brought. As in `ArithmeticTask`, a question's split is a function of its text
    alone, so no held-out question of any seed was trained on by the shipped checkpoints.

    Args:
        environment: the interpreter; see `ovd_lightning.tasks.tools.ToolEnvironment`.
        seed: draws the problems.
        train_size: number of training problems.
        validation_size: number of validation problems.
        test_size: number of test problems.
        operations: fewest and most operations of a problem, both equally likely before problems with too large or
            negative values are drawn again; the shipped checkpoints know two and three.
        digits: fewest and most digits of a number in a question, equally likely; the shipped checkpoints know two and
            three.
        reward: module.function that gives the reward of a response to a problem; null: as in `ArithmeticTask`.

    Raises:
        ConfigError: ``operations`` is not an ordered pair within 2 .. 4, or ``digits`` within 1 .. 4.
    """

    name = "tool_arithmetic"
    environment: Environment

    def __init__(
        self,
        environment: Environment,
        seed: int = 0,
        train_size: ProblemCount = 20_000,
        validation_size: ProblemCount = 256,
        test_size: ProblemCount = 512,
        operations: tuple[int, int] = (2, 3),
        digits: tuple[int, int] = (2, 3),
        reward: str | RewardFunction | None = None,
    ) -> None:
        super().__init__(seed, train_size, validation_size, test_size, operations, reward)
        self.environment = environment
        self.digits = check_bounds("digits", digits, 1, 4)

    def expression(self, rng: random.Random) -> Expression:
        while True:
            drawn = random_tree(rng, self.draw_operations(rng), self.digits)
            if in_range(drawn):
                return drawn

    def solution(self, question: str) -> str:
        """The ideal trajectory, results included."""
        *calls, box = turns(question)
        return "".join(f"{call}{RESPONSE[0]}{value}{RESPONSE[1]}" for call, value in calls) + box[0]

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        """Spans of the turns, each with the result that followed it; without a result all is one step."""
        return turn_spans(token_ids, tokenizer, mask)


def solution(problem: Problem | str) -> list[str]:
    """The ideal written turns of a problem or question: a call an operation, in Python's order, then the box.

    Raises:
        ValueError: the question is not an expression followed by ``=?``.
    """
    return [text for text, _ in turns(problem if isinstance(problem, str) else problem.question)]


def turns(question: str) -> list[tuple[str, int]]:
    """The ideal written turns, each with the value that it is about: what its code prints, or what it boxes."""
    written: list[tuple[str, int]] = []
    value = _write(parse(question), written)
    return [*written, (f"\\boxed{{{value}}}", value)]


def _write(expression: Expression, written: list[tuple[str, int]]) -> int:
    if isinstance(expression, int):
        return expression
    left, right = _write(expression.left, written), _write(expression.right, written)
    value = apply(left, expression.op, right)
    written.append((call(f"print({left}{expression.op}{right})"), value))
    return value


def call(code: str) -> str:
    """A call of the interpreter as Hermes models write it."""
    return f"<tool_call>{json.dumps({'name': 'code_interpreter', 'arguments': {'code': code}})}</tool_call>"


def random_tree(rng: random.Random, operations: int, digits: tuple[int, int]) -> Expression:
    """A random tree with ``operations`` operations over numbers of ``digits[0]`` to ``digits[1]`` digits."""
    if operations == 0:
        least = 10 ** (digits[0] + int(rng.random() * (digits[1] - digits[0] + 1)) - 1)
        return least + int(rng.random() * 9 * least)
    in_left = int(rng.random() * operations)
    op = "+-*"[int(rng.random() * 3)]
    left = random_tree(rng, in_left, digits)
    return Operation(left, op, random_tree(rng, operations - 1 - in_left, digits))


def in_range(expression: Expression) -> bool:
    """Every value lies in 0 .. LARGEST."""
    return _value(expression) is not None


def _value(expression: Expression) -> int | None:
    if isinstance(expression, int):
        return expression
    left, right = _value(expression.left), _value(expression.right)
    if left is None or right is None:
        return None
    value = apply(left, expression.op, right)
    return value if 0 <= value <= LARGEST else None
