"""A rule of OVD's: theta holds the share of trajectories that are accepted."""

from __future__ import annotations

import math
import random

from ovd_lightning.judges.scale import Scale
from ovd_lightning.methods.rules import Acceptance
from ovd_lightning.settings.ranges import OpenUnitInterval, PositiveFloat
from ovd_lightning.types import Trajectory


class HeldShare(Acceptance):
    """a(y) = 1 where S(y) >= theta_t, with theta_(t+1) = theta_t + rate (accepted share of round t - target). Ours.

    Scores are often whole numbers, between which the share would jump. So the threshold of a trajectory is
    floor(theta_t + u), u drawn from [0, 1): with theta 7.3 it is 8 for three trajectories of ten and 7 for the others.

    The share is that of the trajectories whose acceptance is known: of the right ones alone, unless `replace_when:
    score` or `judged: all` has the others judged as well. theta stays on the scale, and is part of checkpoints.

    Args:
        target: share that is accepted.
        rate: points of the scale for a share that is wrong by 1. Above 2 theta may swing around its place.
    """

    lazy = moves_threshold = True

    def __init__(self, target: OpenUnitInterval = 0.5, rate: PositiveFloat = 1.0) -> None:
        self.target = target
        self.rate = rate

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return score >= math.floor(threshold + rng.random())

    def next_threshold(self, threshold: float, accepted: float, scale: Scale) -> float:
        moved = threshold + self.rate * (accepted - self.target)
        return min(max(moved, scale.low), scale.reject_all)
