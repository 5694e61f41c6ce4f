"""Training rows as token ids, targets and weights, the rubric of their scores, and how rows are packed into a batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.assets.vocabulary import IDS, PAD

EXPECTED_WEIGHT, ERROR_WEIGHT, SCORE_WEIGHT = 0.5, 0.9, 15.0
"""Weights of the scorer's targets; a token of a solution has weight 1."""
DIGITS = [IDS[str(score)] for score in range(10)]
Verdict = Literal["right", "inherited", "value", "expression"]
"""``right``; right in itself after an earlier mistake (``inherited``); a wrong value; a wrong expression."""

RUBRIC: dict[Verdict, dict[int, float]] = {
    "right": {9: 0.72, 8: 0.19, 7: 0.06, 6: 0.03},
    "inherited": {5: 0.50, 4: 0.25, 6: 0.15, 3: 0.10},
    "value": {2: 0.50, 3: 0.25, 1: 0.20, 4: 0.05},
    "expression": {0: 0.50, 1: 0.40, 2: 0.10},
}
"""Soft labels: the score distribution that the teacher learns for each verdict."""
SEVERITY: tuple[Verdict, ...] = ("right", "inherited", "value", "expression")
"""From the best to the worst: a trajectory has the verdict of its worst step."""


class Row(NamedTuple):
    """One example: position j sees ``inputs[j]`` and is to predict ``targets[j]``."""

    inputs: list[int]
    targets: list[int]
    weights: list[float]
    score: Verdict | None = None
    """The last position's target is the rubric's distribution for this verdict instead of a token."""


class Packed(NamedTuple):
    """A batch: examples laid end to end in R rows of length L, each seeing only itself."""

    inputs: Tensor  # [R, L] int64
    targets: Tensor  # [R, L] int64
    weights: Tensor  # [R, L] float32
    segments: Tensor  # [R, L] int64, one number per example of a row
    score_rows: Tensor  # [S] int64, where scores are due
    score_columns: Tensor  # [S] int64
    score_labels: Tensor  # [S, 10] float32

    def attention(self) -> Tensor:
        """[R, 1, L, L] bool: causal within an example. Rotary positions are relative, so none is reset."""
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return same.tril()[:, None]


def pack(rng: random.Random, make_row: Callable[[random.Random], Row], count: int, length: int) -> Packed:
    """Draw examples into ``count`` rows of ``length`` until three in a row find no place; first fit."""
    inputs = torch.full((count, length), IDS[PAD])
    targets = torch.full((count, length), IDS[PAD])
    weights = torch.zeros(count, length)
    segments = torch.zeros(count, length, dtype=torch.int64)
    filled = [0] * count
    scores: list[tuple[int, int]] = []
    labels: list[list[float]] = []
    misfits = examples = 0
    while misfits < 3:
        row = make_row(rng)
        size = len(row.inputs)
        place = next((i for i in range(count) if filled[i] + size <= length), None)
        if place is None:
            misfits += 1
            continue
        examples += 1
        span = slice(filled[place], filled[place] + size)
        inputs[place, span] = torch.tensor(row.inputs)
        targets[place, span] = torch.tensor(row.targets)
        weights[place, span] = torch.tensor(row.weights)
        segments[place, span] = examples
        filled[place] += size
        if row.score is not None:
            scores.append((place, span.stop - 1))
            labels.append([RUBRIC[row.score].get(score, 0.0) for score in range(10)])
    places = torch.tensor(scores, dtype=torch.int64).reshape(-1, 2)
    label = torch.tensor(labels).reshape(-1, 10)
    return Packed(inputs, targets, weights, segments, places[:, 0], places[:, 1], label)
