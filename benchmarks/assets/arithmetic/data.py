"""Training rows of the arithmetic task: solutions and scoring prompts."""

from __future__ import annotations

import random

from benchmarks.assets.arithmetic.chains import Line, corrupted, misconceived
from benchmarks.assets.rows import ERROR_WEIGHT, EXPECTED_WEIGHT, SEVERITY, Row
from benchmarks.assets.vocabulary import (
    CURRENT,
    EOS,
    IDS,
    PAD,
    PREVIOUS,
    PROBLEM,
    SOLUTION,
    STEP_TAIL,
    TRAJECTORY_TAIL,
    UNK,
    encode,
)
from ovd_lightning.tasks.arithmetic import LIMIT, Expression, random_expression, render, split_of


def draw_expression(rng: random.Random, one_operation: float = 0.0) -> Expression:
    """A problem whose question belongs to the training split, whatever the seed of the task."""
    while True:
        operations = 1 if rng.random() < one_operation else 2 + int(rng.random() * 2)
        expression = random_expression(rng, operations, int(rng.random() * (LIMIT + 1)))
        if split_of(f"{render(expression)}=?") == "train":
            return expression


def solution_row(expression: Expression, lines: list[Line]) -> Row:
    """A response to learn as it is written."""
    question = encode(f"{render(expression)}=?\n")
    response = [*encode("\n".join(line.written for line in lines)), IDS[EOS]]
    tokens = question + response
    return Row(tokens[:-1], tokens[1:], [0.0] * (len(question) - 1) + [1.0] * len(response))


def scoring_row(expression: Expression, lines: list[Line], scored: int | None) -> Row:
    """The prompt that scores step ``scored``, or the whole trajectory if it is None.

    Along the way the position before each token of a step predicts the token that *should* stand there, and
    the positions from the first that should not to the end of the step predict ``<unk>``: the comparison
    that a score needs is taught where it happens.
    """
    inputs = encode(f"{PROBLEM}{render(expression)}=?{SOLUTION if scored is None else PREVIOUS}")
    targets = [IDS[PAD]] * (len(inputs) - 1)
    weights = [0.0] * (len(inputs) - 1)
    shown = lines if scored is None else lines[: scored + 1]
    if scored == 0:
        inputs.append(IDS[CURRENT])
        targets.append(IDS[CURRENT])
        weights.append(0.0)
    for i, line in enumerate(shown):
        tail = TRAJECTORY_TAIL if scored is None else STEP_TAIL
        end = IDS[tail] if i == len(shown) - 1 else IDS[CURRENT] if i + 1 == scored else IDS["\n"]
        written, expected = [*encode(line.written), end], [*encode(line.expected), end]
        matches = True
        for j, token in enumerate(written):
            targets.append(expected[j] if matches else IDS[UNK])
            weights.append(EXPECTED_WEIGHT if matches else ERROR_WEIGHT)
            matches = matches and token == expected[j]
        inputs += written
    verdict = lines[scored].verdict if scored is not None else max((x.verdict for x in lines), key=SEVERITY.index)
    return Row(inputs, [*targets, IDS[PAD]], [*weights, 0.0], verdict)


def student_row(rate: float, rng: random.Random) -> Row:
    """A solution with misconceptions."""
    expression = draw_expression(rng)
    return solution_row(expression, misconceived(expression, rng, rate))


def teacher_row(scoring: float, rng: random.Random) -> Row:
    """A right solution, or with probability ``scoring`` a scoring prompt (one in eight of a trajectory)."""
    if rng.random() >= scoring:
        expression = draw_expression(rng, one_operation=0.1)
        return solution_row(expression, misconceived(expression, rng, 0.0, 0.0))
    expression = draw_expression(rng, one_operation=0.25)
    if rng.random() < 0.6:
        lines = misconceived(expression, rng, rng.choice((0.25, 0.5, 0.75)))
    else:
        lines = corrupted(expression, rng)
    if rng.random() < 0.125:
        return scoring_row(expression, lines, None)
    first_wrong = next((i for i, line in enumerate(lines) if line.verdict != "right"), None)
    if first_wrong is None or rng.random() >= 0.6:
        return scoring_row(expression, lines, int(rng.random() * len(lines)))
    return scoring_row(expression, lines, first_wrong)
