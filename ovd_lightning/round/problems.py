"""Which problems a round is made of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from ovd_lightning.seeds import seed_of
from ovd_lightning.types import Problem


def round_problems(problems: Sequence[Problem], count: int, round: int, seed: int) -> list[Problem]:
    """The ``count`` problems of a round: a pure function of its arguments.

    Rounds walk through a fresh permutation of the problems each epoch; fewer problems than ``count`` are repeated
    (A.2 trains on one example: 128 groups of one problem).
    """
    chosen: list[Problem] = []
    order: Sequence[int] = ()
    epoch = -1
    for position in range(round * count, (round + 1) * count):
        if position // len(problems) != epoch:
            epoch = position // len(problems)
            order = _order(len(problems), f"{seed}/{epoch}")
        chosen.append(problems[order[position % len(problems)]])
    return chosen


@lru_cache(maxsize=2)  # an epoch has many rounds
def _order(size: int, seed: str) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return tuple(order)


def further_problems(problems: Sequence[Problem], count: int, round: int, seed: int, attempt: int) -> list[Problem]:
    """As many problems again, for groups that take the place of others: from an order of their own for each attempt
    (1, 2, ...), so that no later round loses its problems."""
    return round_problems(problems, count, round, seed_of(seed, "further", attempt))
