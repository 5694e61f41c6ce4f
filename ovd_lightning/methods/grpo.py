"""GRPO: OVD's loss without a teacher. The baseline (RLVR) that the paper compares with; and Dr. GRPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning import functional as F
from ovd_lightning.methods.base import Method
from ovd_lightning.settings.ranges import PositiveInt, TwoOrMore
from ovd_lightning.types import Group, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round

Overlong = Literal["count", "mask", "penalty"]


class GRPO(Method):
    """Sampled: N student trajectories. Credited: outcome reward, group-normalised. Minimised: eq. 4.

    Dr. GRPO (arXiv 2503.20783) is this with ``scale_by_std: false`` and ``aggregation: constant``
    (configs/method/dr_grpo.yaml).

    Args:
        group_size: N, trajectories sampled per problem. A group of one has no baseline.
        scale_by_std: divide by the group's standard deviation; false is Dr. GRPO's advantage.
        overlong: what becomes of trajectories cut off at the token limit, as DAPO (arXiv 2503.14476, section 3.4) has
            it: "count": they train like any other; "mask": their rewards count in the group, their tokens do not
            train; "penalty": the reward falls by up to 1 over the last ``overlong_buffer`` tokens before the limit.
        overlong_buffer: tokens of the penalty's slope (DAPO: 4096 of 20480).
    """

    def __init__(
        self,
        group_size: TwoOrMore = 8,
        scale_by_std: bool = True,
        overlong: Overlong = "count",
        overlong_buffer: PositiveInt = 512,
        **objective: Any,
    ) -> None:
        super().__init__(group_size=group_size, **objective)
        self.scale_by_std = scale_by_std
        self.overlong = overlong
        self.overlong_buffer = overlong_buffer

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            rewards = [self.reward(y, round) for y in group.sampled]
            advantages = F.group_advantages(rewards, scale_by_std=self.scale_by_std)
            for y, advantage in zip(group.sampled, advantages, strict=True):
                y.advantages = [advantage] * len(y.completion_ids)
            group.mixture = [y for y in group.sampled if not (y.truncated and self.overlong == "mask")]
        if self.overlong == "mask":
            round.log_sum("grpo/masked_trajectories", sum(len(g.sampled) - len(g.mixture) for g in groups))

    def reward(self, y: Trajectory, round: Round) -> float:
        """The outcome reward, less the penalty of a trajectory near the limit."""
        if self.overlong != "penalty":
            return y.reward
        penalty = F.overlong_penalty(len(y.completion_ids), round.sampling.max_tokens, self.overlong_buffer)
        round.log_mean("grpo/overlong_penalty", [penalty])
        return y.reward + penalty
