"""In which order problems are trained on: an endless one, of which every round takes the next piece."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ovd_lightning.types import Problem


def shuffled(problems: Sequence[Problem], start: int, count: int, seed: int) -> list[Problem]:
    """``count`` problems from position ``start`` on: a pure function of its arguments.

    The order walks through a fresh permutation of the problems each epoch; fewer problems than ``count`` are repeated
    (A.2 trains on one example: 128 groups of one problem).
    """
    chosen: list[Problem] = []
    order: list[int] = []
    epoch = -1
    for position in range(start, start + count):
        if position // len(problems) != epoch:
            epoch = position // len(problems)
            order = list(range(len(problems)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
        chosen.append(problems[order[position % len(problems)]])
    return chosen
