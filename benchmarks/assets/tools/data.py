"""Training rows: trajectories of calls and scoring prompts as token ids, targets and weights."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.assets.rows import ERROR_WEIGHT, EXPECTED_WEIGHT, SEVERITY, Row, Verdict
from benchmarks.assets.tools.trajectories import Alter, Judged, Turn, fault, habits, judge, rightly, write
from benchmarks.assets.tools.vocabulary import CLOSE_RESULT, OPEN_RESULT, VOCABULARY
from benchmarks.assets.vocabulary import (
    CURRENT,
    EOS,
    PAD,
    PREVIOUS,
    PROBLEM,
    SOLUTION,
    STEP_TAIL,
    TRAJECTORY_TAIL,
    UNK,
)
from ovd_lightning.tasks.arithmetic import Expression, render, split_of
from ovd_lightning.tasks.tool_arithmetic import in_range, random_tree

IDS, encode = VOCABULARY.ids, VOCABULARY.encode
NUMBERS = (2, 3)
"""Digits of a number in a question."""


def draw_expression(rng: random.Random, one_operation: float = 0.0) -> Expression:
    """A problem whose question belongs to the training split, whatever the seed of the task."""
    while True:
        operations = 1 if rng.random() < one_operation else 2 + int(rng.random() * 2)
        expression = random_tree(rng, operations, NUMBERS)
        if in_range(expression) and split_of(f"{render(expression)}=?") == "train":
            return expression


def trajectory_row(expression: Expression, turns: Sequence[Turn]) -> Row:
    """A trajectory to learn as it is written; nothing is learned of results."""
    tokens = encode(f"{render(expression)}=?\n")
    weights = [0.0] * len(tokens)
    for turn in turns:
        written = encode(turn.text)
        seen = [] if turn.result is None else encode(f"{OPEN_RESULT}{turn.result}{CLOSE_RESULT}\n")
        tokens += written + seen
        weights += [1.0] * len(written) + [0.0] * len(seen)
    # A call that is none ends at its last token; nothing comes after it.
    ended = 0.0 if turns[-1].text.endswith("</tool_call>") else 1.0
    return Row(tokens, [*tokens[1:], IDS[EOS]], [*weights[1:], ended])


def scoring_row(expression: Expression, steps: Sequence[Judged], scored: int | None) -> Row:
    """The prompt that scores step ``scored``, or the whole trajectory if it is None.

    Along the way the position before each written token predicts the token that *should* stand there, and the
    positions from the first that should not to the end of the turn predict ``<unk>``: the comparison that a score
    needs is taught where it happens.
    """
    inputs = encode(f"{PROBLEM}{render(expression)}=?{SOLUTION if scored is None else PREVIOUS}")
    targets, weights = [IDS[PAD]] * (len(inputs) - 1), [0.0] * (len(inputs) - 1)

    def add(token: int, target: int = IDS[PAD], weight: float = 0.0) -> None:
        inputs.append(token)
        targets.append(target)
        weights.append(weight)

    if scored == 0:
        add(IDS[CURRENT])
    shown = steps if scored is None else steps[: scored + 1]
    for i, step in enumerate(shown):
        due, matches = iter(encode(step.expected)), True
        for token in encode(step.turn.text):
            right = next(due, IDS[UNK]) if matches else IDS[UNK]
            add(token, right, EXPECTED_WEIGHT if matches else ERROR_WEIGHT)
            matches = matches and token == right
        if step.turn.result is not None:
            for token in encode(f"{OPEN_RESULT}{step.turn.result}{CLOSE_RESULT}"):
                add(token)
        if i == len(shown) - 1:
            add(IDS[TRAJECTORY_TAIL if scored is None else STEP_TAIL])
        else:
            add(IDS[CURRENT] if i + 1 == scored else IDS["\n"])
    verdict: Verdict
    verdict = steps[scored].verdict if scored is not None else max((s.verdict for s in steps), key=SEVERITY.index)
    return Row(inputs, [*targets, IDS[PAD]], [*weights, 0.0], verdict)


def student_row(rate: float, rng: random.Random) -> Row:
    """A trajectory with habits."""
    expression = draw_expression(rng)
    return trajectory_row(expression, write(expression, rng, habits(rate)))


def teacher_row(scoring: float, rng: random.Random) -> Row:
    """A right trajectory, or with probability ``scoring`` a scoring prompt (one in ten of a whole trajectory)."""
    if rng.random() >= scoring:
        expression = draw_expression(rng, one_operation=0.1)
        return trajectory_row(expression, write(expression, rng, rightly))
    expression = draw_expression(rng, one_operation=0.2)
    alter: Alter = rightly
    if (kind := rng.random()) < 0.45:
        alter = habits(0.4 + 0.4 * rng.random())
    elif kind < 0.85:
        alter = fault(int(rng.random() * 4))
    steps = judge(expression, write(expression, rng, alter))
    if rng.random() < 0.1:
        return scoring_row(expression, steps, None)
    first_wrong = next((i for i, step in enumerate(steps) if step.verdict != "right"), None)
    if first_wrong is None or rng.random() >= 0.5:
        return scoring_row(expression, steps, int(rng.random() * len(steps)))
    return scoring_row(expression, steps, first_wrong)
