"""SOD (arXiv 2605.07725): step-wise on-policy distillation beside GRPO, for trajectories of several turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.methods.token_level import TokenLevel
from ovd_lightning.settings.ranges import AboveOne, NonNegativeFloat, OpenUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round


class SOD(TokenLevel):
    """Sampled: N student trajectories. Credited: the group-normalised outcome reward plus the teacher's advantage of
    each token, less in steps where student and teacher have drifted apart. Minimised: the clipped surrogate of eq. 4.

        d_k = mean over step k of |l_S_old - l_T|;  w_k = min((d_1 + eps) / (d_k + eps), 1 + delta)
        A_t = A_GRPO + distillation w_k(t) (l_T - l_S_old)

    A step is a maximal run of tokens that the student generated: the tokens of one turn. From the authors' code: the
    steps, w with eps = 1e-6 and delta = 0.2, the coefficient 1, the sum after GRPO's normalisation, no clip or
    normalisation of the log-ratio, clips 0.2 and 0.28, dual clip 3, token mean, no KL to the initial student; its
    reward is ``reward: tools`` with an ``overlong_buffer`` of 1024 tokens (configs/math_tools.yaml). w, l_T and l_S_old
    carry no gradient and stay as they are for all updates of a round; the clip covers the distillation too.
    Back-propagating sum w (l_S - l_T) on fixed samples would lose the teacher's direction. Ours: the task's reward by
    default.

    Args:
        teacher: reads the student's tokens, observations included as context; must share its vocabulary.
        distillation: coefficient of the teacher's part.
        delta: a step's weight is at most 1 + delta.
        scale_by_std: of the GRPO part: divide by the group's standard deviation.
        reward: of the GRPO part: "outcome": the task's; "tools": 1 for a correct trajectory, else -1, which rises by
            0.1 with each tool round, up to -0.6.
        overlong_buffer: the reward falls by up to 1 over so many tokens before the limit (see `GRPO`); null: it does
            not.
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
        reward: Literal["outcome", "tools"] = "outcome",
        overlong_buffer: PositiveInt | None = None,
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
        self.tools = reward == "tools"
        self.overlong_buffer = overlong_buffer

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            rewards = [self.reward(y, round.sampling.max_tokens) for y in group.sampled]
            round.log_mean("sod/reward", rewards)
            advantages = F.group_advantages(rewards, scale_by_std=self.scale_by_std)
            for y, advantage in zip(group.sampled, advantages, strict=True):
                y.advantages = [advantage] * len(y.completion_ids)

    def reward(self, y: Trajectory, limit: int) -> float:
        """R of the GRPO part. ``limit``: tokens that a trajectory may have, observations included."""
        reward = y.reward
        if self.tools:
            assert y.grade is not None, "sampled trajectories are graded"
            reward = F.tool_reward(y.grade.correct, y.turns_before(len(y.completion_ids)))
        if self.overlong_buffer is not None:
            reward += F.overlong_penalty(len(y.completion_ids), limit, self.overlong_buffer)
        return reward

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
