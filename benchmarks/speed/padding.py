"""Padding: tokens that micro-batches compute over tokens that they hold.

    python -m benchmarks.speed padding

Rounds of trajectories with random lengths go through the package's own ``collate``; the product of every micro-batch's
shape is what a model computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.speed.report import Section
from ovd_lightning.round.collate import collate
from ovd_lightning.types import Group, Problem, Trajectory

SHAPES: tuple[tuple[str, int, int, float, float, int], ...] = (
    # name, trajectories, prompt tokens, median, standard deviation of the logarithm, limit
    ("math.yaml", 1024, 150, 700, 0.6, 3072),
    ("math.yaml, wider", 1024, 150, 700, 1.0, 3072),
    ("quickstart", 128, 15, 30, 0.5, 64),
    ("long prompts", 1024, 600, 300, 0.3, 1024),
)


def groups_of(lengths: Sequence[int], prompt: int, size: int = 8) -> list[Group]:
    """Groups of trajectories with these completions; their content does not matter."""
    problem = Problem(id="0", question="?", answers=("0",))
    groups = []
    for first in range(0, len(lengths), size):
        rows = [
            Trajectory(
                problem=problem,
                prompt_ids=[2] * prompt,
                completion_ids=[3] * n,
                completion_mask=[True] * n,
                advantages=[1.0] * n,
                student_tokens=n,
                group=first // size,
                sample=j,
            )
            for j, n in enumerate(lengths[first : first + size])
        ]
        groups.append(Group(problem=problem, sampled=rows, mixture=rows))
    return groups


def padding(lengths: Sequence[int], prompt: int, micro_batches: int) -> tuple[float, float]:
    """(tokens computed over tokens there, the largest micro-batch over the mean one)."""
    steps = collate(
        groups_of(lengths, prompt),
        mini_batches=1,
        accumulate=micro_batches,
        aggregation="token_mean",
        max_tokens=max(lengths),
        pad_id=0,
        temperature=1.0,
        round=0,
        policy_version=0,
        world_size=1,
        all_reduce_sum=lambda value: value,
    )
    computed = [batch.input_ids.numel() for batch in steps[0]]
    real = sum(lengths) + prompt * len(lengths)
    return sum(computed) / real, max(computed) * len(computed) / sum(computed)


def main(micro_batches: list[int] = [4, 16, 64, 256], seeds: int = 3) -> Section:  # noqa: B006 -- jsonargparse reads it
    """Padding by the number of micro-batches of an update.

    Args:
        micro_batches: trainer.accumulate_grad_batches.
        seeds: rounds that are averaged.
    """
    rows = []
    for name, count, prompt, median, spread, limit in SHAPES:
        for parts in micro_batches:
            if parts > count:
                continue
            drawn = [
                np.random.default_rng(seed)
                .lognormal(math.log(median), spread, count)
                .clip(4, limit)
                .astype(int)
                .tolist()
                for seed in range(seeds)
            ]
            ratio, largest = np.mean([padding(lengths, prompt, parts) for lengths in drawn], axis=0)
            rows.append([name, f"{count}", f"{parts}", f"{ratio:.3f}", f"{largest:.2f}"])
    header = ["lengths", "trajectories", "micro-batches", "computed / real tokens", "largest / mean micro-batch"]
    return Section(header, rows)
