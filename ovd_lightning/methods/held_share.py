"""OVD whose theta holds the share of trajectories that are accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import Acceptance
from ovd_lightning.settings.ranges import OpenUnitInterval, PositiveFloat
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round


class Between(Acceptance):
    """a(y) = 1 where S(y) >= floor(theta + u), u drawn from [0, 1): with theta 7.3 the bound is 8 for three
    trajectories of ten and 7 for the others. `Threshold` where theta is a whole number."""

    lazy = True

    def accepts(self, y: Trajectory, score: float, threshold: float, rng: random.Random) -> bool:
        return score >= math.floor(threshold + rng.random())


class OVDHeldShare(OVD):
    """OVD with theta_(t+1) = theta_t + rate (accepted share of round t - target). Ours.

    Scores are often whole numbers, between which the share would jump; so the rule is `Between`.

    The share is that of the trajectories whose acceptance is known: of the right ones alone, unless `replace_when:
    score` or `judged: all` has the others judged as well. theta stays on the scale, and is part of checkpoints.

    Args:
        teacher: see `OVD`.
        threshold: theta of the first round.
        target: share that is accepted.
        rate: points of the scale for a share that is wrong by 1. Above 2 theta may swing around its place.
        settings: the others of `OVD`.
    """

    def __init__(
        self,
        teacher: VerbalTeacher,
        threshold: float = 7,
        target: OpenUnitInterval = 0.5,
        rate: PositiveFloat = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(teacher, threshold, acceptance=Between(), **settings)
        self.target, self.rate = target, rate
        self._accepted: list[bool] = []
        """Of the round that trains, where it is known."""
        self._device = torch.device("cpu")

    def start(self, student: str, device: torch.device) -> None:
        self._device = device

    def annotate(self, groups: list[Group], round: Round) -> None:
        super().annotate(groups, round)
        self._accepted = [y.accepted for group in groups for y in group.sampled if y.accepted is not None]
        round.log_mean("ovd/threshold", [self.threshold])

    def end_round(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        counts = torch.tensor([sum(self._accepted), len(self._accepted)], dtype=torch.float32, device=self._device)
        accepted, known = sum_over_ranks(counts).tolist()
        if known:
            self._move(self.next_threshold(accepted / known))

    def next_threshold(self, accepted: float) -> float:
        """theta of the next round, where so great a share of this one's trajectories was accepted."""
        moved = self.threshold + self.rate * (accepted - self.target)
        return min(max(moved, self.teacher.scale.low), self.teacher.scale.reject_all)

    def _move(self, threshold: float) -> None:
        self.threshold = threshold
        self.rejection = replace(self.rejection, threshold=threshold)

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._move(state["threshold"])
