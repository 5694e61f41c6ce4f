"""GRPO: OVD's loss without a teacher. The baseline (RLVR) that the paper compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods import functional as F
from ovd_lightning.methods.base import Method
from ovd_lightning.types import Group

if TYPE_CHECKING:
    from ovd_lightning.rollout import Round


class GRPO(Method):
    """Sampled: N student trajectories. Credited: outcome reward, group-normalised. Minimised: eq. 4.

    Args:
        scale_by_std: divide by the group's standard deviation; false is Dr. GRPO's advantage.
    """

    def __init__(self, scale_by_std: bool = True, **objective: Any) -> None:
        super().__init__(**objective)
        if self.group_size < 2:
            raise ConfigError(
                "method.init_args.group_size",
                "is 1: a group of one has no baseline, every advantage would be 0.",
                "Use 2 or more (the paper has 8).",
            )
        self.scale_by_std = scale_by_std

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            advantages = F.group_advantages([y.reward for y in group.sampled], scale_by_std=self.scale_by_std)
            for y, advantage in zip(group.sampled, advantages, strict=True):
                y.advantages = [advantage] * len(y.completion_ids)
