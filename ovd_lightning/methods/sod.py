"""SOD (arXiv 2605.07725): step-wise on-policy distillation beside GRPO, for trajectories of several turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.methods.token_level import TokenLevel
from ovd_lightning.settings.ranges import AboveOne, NonNegativeFloat, OpenUnitInterval, PositiveFloat
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round


class SOD(TokenLevel):
    """Sampled: N student trajectories. Credited: the group-normalised outcome reward plus the teacher's advantage of
    each token, less in steps where student and teacher have drifted apart. Minimised: the clipped surrogate of eq. 4.

        d_k = mean over step k of |l_S_old - l_T|;  w_k = min((d_1 + eps) / (d_k + eps), 1 + delta)
        A_t = A_GRPO + distillation w_k(t) (l_T - l_S_old)

    A step is a maximal run of tokens that the student generated: the tokens of one turn. From the authors' code: the
    steps, w with eps = 1e-6 and delta = 0.2, the coefficient 1, the sum after GRPO's normalisation, no clip or
    normalisation of the log-ratio, clips 0.2 and 0.28, dual clip 3, token mean. w, l_T and l_S_old carry no gradient
    and stay as they are for all updates of a round; the clip covers the distillation too. Back-propagating
    sum w (l_S - l_T) on fixed samples would lose the teacher's direction. Ours: no KL to the initial student.

    Args:
        teacher: reads the student's tokens, observations included as context; must share its vocabulary.
        distillation: coefficient of the teacher's part.
        delta: a step's weight is at most 1 + delta.
        scale_by_std: of the GRPO part: divide by the group's standard deviation.
        clip, clip_high, dual_clip: of the ratio.
        kl_coefficient: of the KL to the initial student.
    """

    epsilon = 1e-6

    def __init__(
        self,
        teacher: TokenTeacher,
        distillation: NonNegativeFloat = 1.0,
        delta: NonNegativeFloat = 0.2,
        scale_by_std: bool = True,
        clip: OpenUnitInterval | None = 0.2,
        clip_high: PositiveFloat | None = 0.28,
        dual_clip: AboveOne | None = 3.0,
        kl_coefficient: NonNegativeFloat = 0.0,
        **objective: Any,
    ) -> None:
        super().__init__(
            teacher=teacher,
            clip=clip,
            clip_high=clip_high,
            dual_clip=dual_clip,
            kl_coefficient=kl_coefficient,
            **objective,
        )
        self.distillation = distillation
        self.delta = delta
        self.scale_by_std = scale_by_std

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            advantages = F.group_advantages([y.reward for y in group.sampled], scale_by_std=self.scale_by_std)
            for y, advantage in zip(group.sampled, advantages, strict=True):
                y.advantages = [advantage] * len(y.completion_ids)

    @property
    def by_token(self) -> bool:
        """False: a token's weight is of its step and of the first."""
        return False

    def token_advantages(self, batch: Batch, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mask, taught = batch.completion_mask, self.teacher_advantage(batch, old)
        weights = F.step_weights(taught.abs(), mask, self.delta, self.epsilon)
        later = mask & (F.step_index(mask) > 0)
        return batch.advantages + self.distillation * weights * taught, {
            "opd/reverse_kl": -taught[mask],
            "sod/divergence": taught[mask].abs(),
            "sod/step_weight": weights[mask],
            "sod/step_weight_later": weights[later],
        }
