"""DAPO (arXiv 2503.14476): GRPO that draws again where a group teaches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning import functional as F
from ovd_lightning.methods.grpo import GRPO, Overlong
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.types import Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round


class DAPO(GRPO):
    """Sampled: N student trajectories; groups without variance in their rewards give way to groups of further problems.
    Credited: as GRPO. Minimised: eq. 4 with the higher upper clip, a mean over tokens, and no KL.

    The paper's: clip-higher, token mean, dynamic sampling, overlong punishment, no KL. Ours: a group is filtered by the
    standard deviation of its outcome rewards, not by whether its mean is 0 or 1, which lets constant F1 rewards
    through; sampling again is bounded, and slots that stay without variance keep their last group, at zero advantage,
    so every rank trains on equally many groups.

    Args:
        refills: attempts at replacing the groups without variance; the paper has no bound.
        min_std: a group is kept where the standard deviation of its outcome rewards is above this.
        clip, clip_high, kl_coefficient: the paper's 0.2, 0.28 and 0.
        overlong, overlong_buffer: as of GRPO; the paper has the penalty.
    """

    def __init__(
        self,
        refills: NonNegativeInt = 3,
        min_std: NonNegativeFloat = 1e-6,
        clip: OpenUnitInterval | None = 0.2,
        clip_high: PositiveFloat | None = 0.28,
        kl_coefficient: NonNegativeFloat = 0.0,
        overlong: Overlong = "penalty",
        overlong_buffer: PositiveInt = 512,
        **objective: Any,
    ) -> None:
        super().__init__(
            clip=clip,
            clip_high=clip_high,
            kl_coefficient=kl_coefficient,
            overlong=overlong,
            overlong_buffer=overlong_buffer,
            **objective,
        )
        self.refills = refills
        self.min_std = min_std

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        groups = round.sample_student(problems, self.group_size)
        empty = self.slots_to_fill(groups)
        round.log_mean("dapo/filtered_fraction", [float(slot in empty) for slot in range(len(groups))])
        sampled, attempt = 0, 0
        while empty and attempt < self.refills:
            attempt += 1
            further = round.further(attempt)[: len(empty)]
            # A new group may go into any empty slot: one without variance is no better than the one that was there.
            drawn = round.sample_student(further, self.group_size, empty[: len(further)], attempt)
            sampled += len(drawn)
            for slot, group in zip(empty, drawn, strict=False):
                groups[slot] = group
            empty = self.slots_to_fill(groups)
        round.log_sum("dapo/further_groups", sampled)
        round.log_sum("dapo/unfilled_groups", len(empty))
        return groups

    def slots_to_fill(self, groups: Sequence[Group]) -> list[int]:
        """Indices of the groups whose outcome rewards are all the same."""
        return [i for i, g in enumerate(groups) if F.sample_std([y.reward for y in g.sampled]) <= self.min_std]
