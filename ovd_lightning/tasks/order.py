"""In which order problems are trained on: an endless one, of which every round takes the next piece."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from ovd_lightning.types import Problem


def shuffled(problems: Sequence[Problem], start: int, count: int, seed: int) -> list[Problem]:
    """``count`` problems from position ``start`` on: a pure function of its arguments.

    The order walks through a fresh permutation of the problems each epoch; fewer problems than ``count`` are repeated
    (A.2 trains on one example: 128 groups of one problem).
    """
    chosen: list[Problem] = []
    order: Sequence[int] = ()
    epoch = -1
    for position in range(start, start + count):
        if position // len(problems) != epoch:
            epoch = position // len(problems)
            order = _permutation(len(problems), f"{seed}/{epoch}")
        chosen.append(problems[order[position % len(problems)]])
    return chosen


@lru_cache(maxsize=16)  # an epoch has many rounds
def _permutation(size: int, seed: str) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return tuple(order)
