"""The contract of a method: what is sampled, what is credited, what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.errors import ConfigError
from ovd_lightning.loss_head import Expected
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls
from ovd_lightning.settings.ranges import AboveOne, NonNegativeFloat, OpenUnitInterval, PositiveFloat, PositiveInt
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.round.context import Round
    from ovd_lightning.student import Student
    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.base import Teacher

Aggregation = Literal["token_mean", "trajectory_mean", "constant"]
Ratio = Literal["token", "trajectory"]
Mismatch = Literal["none", "token_truncation", "sequence_masking"]


@dataclass(slots=True)
class LossOutput:
    """Result of :meth:`Method.loss` for one micro-batch."""

    loss: Tensor
    """Scalar, with gradient."""
    means: dict[str, Tensor]
    """Metric name -> per-token values [M] (any M); the round's mean over all tokens is logged."""
    maxima: dict[str, Tensor]
    """Metric name -> values; the round's maximum is logged."""
    logprobs: Tensor
    """[B, L-1] of the trained tokens, 0 outside the mask, without gradient."""


class Method(ABC):
    """One file a method, in four hooks: :meth:`sample`, :meth:`consult`, :meth:`annotate`, :meth:`objective`.

    The base class holds what every policy-gradient method shares, the clipped objective of eq. 4 with a
    k3 KL term to the initial student, and the cross-entropy on trajectories that ``annotate`` marked as imitated. A
    method that credits tokens by log-probabilities overrides :meth:`token_advantages`; one that minimises something
    else overrides :meth:`objective`, or :meth:`loss` where it needs more of the student than log-probabilities.

    Args:
        group_size: N, trajectories sampled per problem (A.6.2: 8).
        clip: epsilon_c of eq. 4 (0.2), below and, without ``clip_high``, above; null clips nothing.
        clip_high: upper clip where it differs (DAPO: 0.28).
        dual_clip: c > 1: the loss of a token with A < 0 is at most -c A; null: no such bound (SOD: 3).
        kl_coefficient: weight of the k3 KL to the initial student (A.6.2: 0.001). 0 loads no reference model.
        kl_in_reward: beta of a second KL term: A - beta sum_t (l_old - l_ref) over the trajectory. A.6.2 has "an
            additional KL control term using the same coefficient", 0.001; the recipe that the paper builds on leaves it
            out where the first term is on. It takes the sum off the reward: so does this where A = R; an advantage that
            was normalised within the group is not normalised again.
        entropy_coefficient: weight of an entropy bonus. 0: the paper lists none; the recipe it builds on has 0.001.
        ratio: "token" (what the paper's code base computes) or "trajectory" (eq. 4 as printed: the ratio of whole
            trajectories, which overflows or vanishes for long ones; use it with aggregation: trajectory_mean, since
            token_mean would count a trajectory's one ratio once a token).
        aggregation: how token losses are averaged over an update: over all tokens; first within each trajectory
            (the original GRPO); or divided by trajectories x the token limit (Dr. GRPO). The paper leaves it open.
        mismatch: what is done where the engine that sampled and the model that trains give a token different
            probabilities, r = pi_old / pi_engine: "none"; "token_truncation": a token's loss is multiplied by
            min(r, C); "sequence_masking": trajectories whose r, the geometric mean over their tokens, leaves
            [1/C, C] do not train. r is always logged, and never multiplied over a trajectory: that explodes with its
            length.
        mismatch_bound: C. 2 for tokens; sequence means are far nearer to 1, so use e.g. 1.05 for masking.
        log_entropy: log policy/entropy. False saves its computation, unless entropy_coefficient needs it.
    """

    teacher: Teacher | None = None
    credits_trajectories: ClassVar[bool] = True
    """Whether ``annotate`` decides on advantages; False where only the loss does, and groups are never idle."""
    loss_copies: ClassVar[int] = 1
    """Float32 tensors [chunk, V] alive at once in the loss: logits, which become their gradient (docs/memory.md)."""

    def __init__(
        self,
        group_size: PositiveInt = 8,
        clip: OpenUnitInterval | None = 0.2,
        clip_high: PositiveFloat | None = None,
        dual_clip: AboveOne | None = None,
        kl_coefficient: NonNegativeFloat = 0.001,
        kl_in_reward: NonNegativeFloat = 0.0,
        entropy_coefficient: float = 0.0,
        ratio: Ratio = "token",
        aggregation: Aggregation = "token_mean",
        mismatch: Mismatch = "none",
        mismatch_bound: AboveOne = 2.0,
        log_entropy: bool = True,
    ) -> None:
        if clip is None and clip_high is not None:
            raise ConfigError("method.init_args.clip", "is null beside a clip_high.", "Set both, or neither.")
        self.group_size = group_size
        self.clip = inf if clip is None else clip
        self.clip_high = self.clip if clip_high is None else clip_high
        self.dual_clip = dual_clip
        self.kl_coefficient = kl_coefficient
        self.kl_in_reward = kl_in_reward
        self.entropy_coefficient = entropy_coefficient
        self.ratio = ratio
        self.aggregation: Aggregation = aggregation
        self.mismatch = mismatch
        self.mismatch_bound = mismatch_bound
        self.log_entropy = log_entropy

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry ``reference_logprobs``."""
        return self.kl_coefficient > 0 or self.kl_in_reward > 0

    @property
    def needs_references(self) -> bool:
        """Whether a task without references (`Task.graded`) leaves this method without a reward."""
        return True

    def check(self, engine: Engine, sampling: Sampling) -> None:
        """What only the student's engine and its sampling decide; before any model is loaded. Raises: ConfigError."""
        return

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """What the training problems decide, with solutions of up to ``max_tokens``; before any model is loaded.
        Raises: ConfigError."""
        if self.teacher is not None:
            self.teacher.check_problems(task, problems, max_tokens)

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """A real call of each kind that the method will make, after loading and before the first round.
        Raises: ConfigError."""
        return

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        """What a round asks of the teacher, in expectation or at most; for `dry_run`, so without loading anything.

        A method with a teacher overrides it with a sum of `scoring`, `demonstrating` and `reading` of
        `ovd_lightning.methods.calls`. Raises: ConfigError where it does not.
        """
        if self.teacher is not None:
            raise ConfigError(
                "method",
                f"{type(self).__name__} has a teacher and no teacher_calls: what it asks of it is not known.",
                "Override Method.teacher_calls.",
            )
        return TeacherCalls()

    def sample(self, problems: Sequence[Problem], round: Round) -> list[Group]:
        """Fresh on-policy groups, graded; by default N student trajectories a problem."""
        return round.sample_student(problems, self.group_size)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        """Ask the teacher about these groups: judgements and demonstrations, stored on their trajectories.

        Called with every group of a round once, in any division into calls, possibly while other groups are still being
        sampled: what is stored may depend on the groups given only, and nothing is credited or logged here.
        Demonstrations go to ``group.demonstrations``; of failures, sums are counted.
        """
        return

    @abstractmethod
    def annotate(self, groups: list[Group], round: Round) -> None:
        """Fill ``group.mixture`` and every trajectory's ``advantages``; log through ``round.log``. All groups of the
        round at once, after :meth:`consult`."""

    # ----------------------------------------------------- what it learns itself

    def start(self, student: str, device: torch.device) -> None:
        """Before the first round: load what trains beside the student.

        Args:
            student: the checkpoint that the student starts from.
            device: the one that trains.
        """
        return

    def end_round(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Once a round, after its last gradient and before the step that ends it: learn from the round.

        Nothing of :meth:`state_dict` changes anywhere else, so that a checkpoint is of a finished round whenever it is
        asked for.

        Args:
            sum_over_ranks: of a tensor, which it may overwrite. Collective: every rank enters equally often.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of it: tensors and plain data. Nothing, where the settings say everything."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """After :meth:`start`: go on from a checkpoint of a method of the same class."""
        return

    # ---------------------------------------------------------------- the loss

    def annotate_batch(self, batch: Batch) -> None:
        """Once a micro-batch of a round, on the training device and without gradient: what the loss needs of frozen
        models. ``reference_logprobs`` are there already, where they are needed."""
        return

    def token_advantages(self, batch: Batch, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A_t of every token, without gradient, and metrics (name -> per-token values) of how they came about.

        Args:
            old: [B, L-1] log-probabilities under the student that starts the round; 0 outside the mask.
        Returns:
            ([B, L-1], means); by default what ``annotate`` credited.
        """
        return batch.advantages, {}

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        """What is minimised, from the student's log-probabilities of the batch: by default :meth:`objective`'s."""
        logprobs, entropies = student(
            batch.input_ids,
            batch.attention_mask,
            batch.completion_mask,
            batch.temperature,
            entropy=self.log_entropy or self.entropy_coefficient != 0,
            expected=expected(self.objective, batch) if self.by_token else None,
        )  # [B, L-1]
        return self.objective(batch, logprobs, entropies)

    @property
    def by_token(self) -> bool:
        """Whether a token's part of :meth:`objective` depends on no other token's log-probability: what it contributes
        to the gradient is then known as soon as its chunk of logits is. True where that is wrong costs time only."""
        return self.ratio == "token" and self.mismatch != "sequence_masking" and not self.kl_in_reward

    def objective(self, batch: Batch, logprobs: Tensor, entropies: Tensor) -> LossOutput:
        """-min(rho A, clip(rho) A) + kl_coefficient k3 - entropy_coefficient H, corrected for the mismatch; -log pi
        where a trajectory is imitated. Weighted by ``batch.weights``.

        Args:
            logprobs, entropies: [B, L-1], as `Student.forward` returns them.
        """
        mask = batch.completion_mask
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        advantages, credited = self.token_advantages(batch, old)
        if self.kl_in_reward:
            assert batch.reference_logprobs is not None
            drift = F.trajectory_log_ratio(old.detach(), batch.reference_logprobs, mask)
            advantages = torch.where(mask, advantages - self.kl_in_reward * drift, 0.0)
        loss, rho, clipped = self.surrogate(batch, logprobs, old, advantages)
        policy = batch.policy_mask
        means = {
            "policy/clip_fraction": clipped[policy].float(),
            "policy/advantage_abs": advantages[policy].abs(),
            "policy/teacher_token_logprob": logprobs[batch.teacher_mask].detach(),
            **credited,
        }
        if self.log_entropy:
            means["policy/entropy"] = entropies[mask].detach()
        maxima = {"policy/ratio_max": rho[policy]}
        if batch.reference_logprobs is not None and self.kl_coefficient:
            kl = F.k3_kl(logprobs, batch.reference_logprobs)
            loss = loss + self.kl_coefficient * kl
            means["policy/kl"] = kl[policy].detach()  # as in the loss; an estimate of KL on the student's samples only:
            means["policy/kl_student_tokens"] = kl[policy & ~batch.teacher_mask].detach()
        if self.entropy_coefficient:
            loss = loss - self.entropy_coefficient * entropies
        loss = loss * self.correction(batch, old, means, maxima)
        loss = torch.where(policy, loss, 0.0)
        if batch.imitation_mask is not None:
            loss = torch.where(batch.imitation_mask, -logprobs, loss)
        return LossOutput((loss * batch.weights).sum(), means, maxima, logprobs.detach())

    def surrogate(
        self, batch: Batch, logprobs: Tensor, old: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Eq. 4 of every token: (-min(rho A, clip(rho) A), rho without gradient, where a clip removed the gradient),
        [B, L-1] each."""
        new, before = logprobs, old
        if self.ratio == "trajectory":
            new = F.trajectory_log_ratio(logprobs, old, batch.completion_mask)
            before = torch.zeros_like(new)
        return F.clipped_surrogate(new, before, advantages, self.clip, self.clip_high, self.dual_clip)

    def correction(
        self, batch: Batch, old: Tensor, means: dict[str, Tensor], maxima: dict[str, Tensor]
    ) -> Tensor | float:
        """The factor [B, L-1] of each token's loss that corrects for the engine's other probabilities; 1 where no
        engine sampled. What the mismatch is goes into the metrics, whether it is corrected or not."""
        sampled = batch.completion_mask & ~batch.behaviour_logprobs.isnan()  # tokens of the student's engine
        log_ratio = torch.where(sampled, old.detach() - batch.behaviour_logprobs, 0.0)
        means["mismatch/logprob_abs_mean"] = log_ratio[sampled].abs()
        means["mismatch/ratio_mean"] = log_ratio[sampled].exp()
        maxima["mismatch/logprob_abs_max"] = log_ratio[sampled].abs()
        maxima["mismatch/ratio_max"] = log_ratio[sampled].exp()
        if self.mismatch == "none":
            return 1.0
        if self.mismatch == "token_truncation":
            factor, corrected = F.truncated_ratio(log_ratio, self.mismatch_bound)
            means["mismatch/truncated_fraction"] = corrected[sampled].float()
        else:
            factor, corrected = F.sequence_mask(log_ratio, sampled, self.mismatch_bound)
            means["mismatch/masked_fraction"] = corrected[sampled].float()
        return factor


def expected(objective: Callable[..., LossOutput], batch: Batch) -> Expected:
    """What ``objective(batch, *values)`` will contribute to the gradient, for any span of the trained tokens."""
    mask = batch.completion_mask
    per_token: dict[str, Any] = {
        f.name: value[mask]
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), Tensor) and value.shape == mask.shape
    }  # [M] each

    def gradient(span: slice, values: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
        tokens = replace(batch, **{name: value[None, span] for name, value in per_token.items()})  # one row of them
        leaves = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            loss = objective(tokens, *(leaf[None] for leaf in leaves)).loss
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    return gradient
