"""OPD: on-policy distillation by the token-level reverse KL as an advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ovd_lightning.methods.token_level import TokenLevel
from ovd_lightning.settings.ranges import NonNegativeFloat, OpenUnitInterval
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round


class OPD(TokenLevel):
    """Sampled: N student trajectories. Credited: A_t = sg[l_T - l_S], each token for itself (discount 0). Minimised:
    -mean(rho_t A_t), without a clip.

    As tinker-cookbook's on-policy distillation has it; E[-A_t] over the student's samples is KL(p_S || p_T). No reward
    enters: it is measured all the same. l_S is of the student that starts the round.

    Args:
        teacher: reads the student's tokens; must share its vocabulary.
        clip: null, as the source has none; a number clips rho as eq. 4 does.
        kl_coefficient: 0, as the source has none.
    """

    credits_trajectories = False

    def __init__(
        self,
        teacher: TokenTeacher,
        clip: OpenUnitInterval | None = None,
        kl_coefficient: NonNegativeFloat = 0.0,
        **objective: Any,
    ) -> None:
        super().__init__(teacher=teacher, clip=clip, kl_coefficient=kl_coefficient, **objective)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            for y in group.mixture:
                y.advantages = [0.0] * len(y.completion_ids)  # a token's is known once the teacher has read it

    def token_advantages(self, batch: Batch, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        advantages = self.teacher_advantage(batch, old)
        return advantages, {"opd/reverse_kl": -advantages[batch.policy_mask]}
