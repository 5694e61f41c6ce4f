"""SG-OPD (arXiv 2606.09304): on-policy distillation with a sign gate that the verifier opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating
from ovd_lightning.methods.logging import log_demonstrations
from ovd_lightning.methods.token_level import TokenLevel
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import (
    ClosedUnitInterval,
    HalfOpenUnitInterval,
    NonNegativeFloat,
    OneOrMore,
    OpenUnitInterval,
    PositiveInt,
)
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group, Problem

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task

Reference = Literal["student", "initial"]


class SGOPD(TokenLevel):
    """Sampled: N student trajectories, and for a while verified teacher trajectories. Credited: the teacher's token
    advantage, amplified where its sign agrees with the verifier's. Minimised: -mean(A_t rho_t) over the student's
    tokens + c(s) times the cross-entropy on the teacher's.

        a1 = (r - mean r) / (std r + 1e-6), r = 1 for a correct trajectory, else 0;  a2_t = sg[l_T - l_S]
        kappa_t = agree if a1 a2_t > 0 else conflict;  A_t = sg[kappa_t (l_T - l_R) - (l_S - l_R)]

    The paper's abstract: a binary verifier is the trust signal. From a third party's reading of the paper: the gate
    on the sign of a1 a2, agree = 1.8, conflict = 1.0, verified teacher rollouts as an auxiliary cross-entropy in three
    phases with a cosine decay to 0. The form with l_R is that of extrapolated OPD (ExOPD, RUCBM/G-OPD). Ours, for the
    equations themselves were not at hand: l_R is the initial student by default, since the paper says that agreement
    "extrapolates": in ExOPD that is lambda > 1 beyond the teacher, away from a frozen reference; with l_R = sg[l_S],
    A_t = kappa_t a2_t only scales the step. kappa = 1 where a1 = 0 (all right or all wrong); no GRPO term; the phases'
    bounds (held for 10 % of the rounds, 0 from 30 % on). Replications report it within 0.6 points of OPD.

    Args:
        teacher: reads the student's tokens; its `demonstrator` writes the trajectories to imitate.
        agree: lambda, on tokens where verifier and teacher agree; above 1 extrapolates.
        conflict: beta, where they do not, in (0, 1]; 1 damps nothing.
        reference: l_R: "initial": the frozen initial student, as in ExOPD; "student": the one that starts the round.
        imitation: c at the start; 0 wants no demonstrator.
        hold, end: shares of the run at which the decay of c begins and at which it is over.
        demonstrations: teacher trajectories a problem; only the correct ones enter.
        cache: file that keeps them; null keeps them in memory. Each is written once: the teacher is frozen.
        clip: null, as OPD; a number clips rho as eq. 4 does.
        kl_coefficient: 0, as OPD.
    """

    def __init__(
        self,
        teacher: TokenTeacher,
        agree: OneOrMore = 1.8,
        conflict: HalfOpenUnitInterval = 1.0,
        reference: Reference = "initial",
        imitation: NonNegativeFloat = 1.0,
        hold: ClosedUnitInterval = 0.1,
        end: ClosedUnitInterval = 0.3,
        demonstrations: PositiveInt = 1,
        cache: str | None = None,
        clip: OpenUnitInterval | None = None,
        kl_coefficient: NonNegativeFloat = 0.0,
        **objective: Any,
    ) -> None:
        super().__init__(teacher=teacher, clip=clip, kl_coefficient=kl_coefficient, **objective)
        raise_errors(self._errors(teacher, imitation, hold, end))
        self.agree, self.conflict, self.reference = agree, conflict, reference
        self.imitation, self.hold, self.end = imitation, hold, end
        self.demonstrations = demonstrations
        self.cache = AnswerCache(cache, "method.init_args.cache")

    @staticmethod
    def _errors(teacher: TokenTeacher, imitation: float, hold: float, end: float) -> Iterator[ConfigError]:
        if hold > end:
            yield ConfigError(
                "method.init_args.hold", f"is {hold}, after end, {end}.", "Use a value up to that of end."
            )
        if imitation and end and teacher.demonstrator is None:
            yield ConfigError(
                "method.init_args.imitation",
                f"is {imitation}, but the teacher has no demonstrator to imitate.",
                "Set teacher.init_args.demonstrator, or imitation: 0.",
            )

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        if self.teacher.demonstrator is not None:
            self.teacher.demonstrator.self_test(task, problems, max_tokens)

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        """Demonstrations are generated in the first rounds, and only those that the cache does not hold."""
        calls = super().teacher_calls(expected)
        if not expected.at_most or not self.imitation or self.teacher.demonstrator is None:
            return calls
        count = expected.problems * self.demonstrations
        return replace(calls + demonstrating(self.teacher.demonstrator, count, expected), added=count)

    @property
    def needs_reference(self) -> bool:
        return super().needs_reference or self.reference == "initial"

    def weight(self, round: Round) -> float:
        """c(s) of this round."""
        return F.held_then_cosine(round.progress, self.imitation, self.hold, self.end)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        """A demonstration is a function of run seed, problem and its number, not of the round that first needs it; it
        is generated where the cache does not have it."""
        demonstrator = self.teacher.demonstrator
        if demonstrator is None or self.weight(round) <= 0:
            return
        blank = [round.unwritten(g, j) for g in groups for j in range(self.demonstrations)]
        asked = (demonstrator.settings(), demonstrator.demonstrator.identity())
        keys = [
            AnswerCache.key(*asked, "with stop reason", y.problem.id, y.prompt_ids, y.sample, round.sampling.max_tokens,
                            round.run_seed)
            for y in blank
        ]  # fmt: skip
        known = self.cache.get(keys)
        missing = {key: y for key, y in zip(keys, blank, strict=True) if key not in known}
        with demonstrator.awake(), round.phase("replace"):
            seeds = [seed_of(round.run_seed, "demonstration", y.problem.id, y.sample) for y in missing.values()]
            numbers = [y.sample for y in missing.values()]
            written = round.demonstrate(demonstrator, list(missing.values()), [0] * len(missing), seeds, numbers)
        new = {
            key: {"ids": y.completion_ids, "mask": y.completion_mask, "text": y.text, "written": y.written,
                  "turns": y.turns, "stop_reason": y.stop_reason}
            for key, y in zip(missing, written, strict=True) if y is not None
        }  # fmt: skip
        self.cache.put(new)
        known.update(new)
        made = []
        for key, y in zip(keys, blank, strict=True):
            if key in known:
                kept = known[key]
                y.completion_ids, y.completion_mask, y.text = list(kept["ids"]), list(kept["mask"]), kept["text"]
                y.written, y.turns, y.stop_reason = kept["written"], kept["turns"], kept["stop_reason"]
                y.source = "teacher"
                made.append(y)
        round.finish(made)
        by_index = {g.index: g for g in groups}
        for y in made:
            by_index[y.group].demonstrations.append(y)

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            correct = [float(y.grade is not None and y.grade.correct) for y in group.sampled]
            for y, a1 in zip(group.sampled, F.group_advantages(correct), strict=True):
                y.advantages = [a1] * len(y.completion_ids)
        weight = self.weight(round)
        for group in groups:
            verified = [y for y in group.demonstrations if y.grade is not None and y.grade.correct]
            for y in verified:
                y.advantages, y.imitation = [0.0] * len(y.completion_ids), weight
            group.mixture += verified
        round.log_mean("sg_opd/imitation_weight", [weight])
        round.log_sum("sg_opd/imitated", sum(len(g.mixture) - len(g.sampled) for g in groups))
        if weight > 0 and self.teacher.demonstrator is not None:
            log_demonstrations(self.teacher.demonstrator, round)

    def token_advantages(self, batch: Batch, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a1, a2 = batch.advantages, self.teacher_advantage(batch, old)
        kappa = F.sign_gate(a1, a2, self.agree, self.conflict)
        advantages = kappa * a2
        if self.reference == "initial":
            assert batch.reference_logprobs is not None
            assert batch.teacher_logprobs is not None
            start = batch.reference_logprobs
            advantages = kappa * (batch.teacher_logprobs - start) - (old - start)
        policy = batch.policy_mask
        judged = policy & (a1 != 0)
        return advantages.detach(), {
            "opd/reverse_kl": -a2[policy],
            "sg_opd/agreement": (a1 * a2 > 0)[judged].to(torch.float32),
            "sg_opd/gated_fraction": judged[policy].to(torch.float32),
        }
