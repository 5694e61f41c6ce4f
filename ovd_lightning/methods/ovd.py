"""OVD: On-policy Verbal Distillation (arXiv 2601.21968), Algorithm 1 and what it leaves open.

for each problem x_i, for j = 1 .. N:                                  line of `annotate` below
    generate tau ~ pi_S(. | x_i)                                       (sample, in the base class)
    query score S(tau); compute reward R(tau)                          query_scores
    if S(tau) < theta or incorrect: replace by tau ~ pi_T(. | x_i)     rejects, replace
advantages A = (R - mu_i) / (sigma_i + eps)                            credit
update pi_S by the clipped policy gradient                             (loss, in the base class)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning import functional as F
from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.base import Method, check_choice
from ovd_lightning.teachers.prompts import ScoreReading, step_prompt, trajectory_prompt
from ovd_lightning.teachers.self_test import self_test
from ovd_lightning.teachers.verbal import Judgement, VerbalTeacher
from ovd_lightning.types import Group, Problem, Step, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task

Scoring = Literal["step", "trajectory"]
StepAggregation = Literal["min", "mean", "last"]
Acceptance = Literal["threshold", "soft"]
ReplaceWhen = Literal["score", "incorrect", "score_or_incorrect"]
Replacement = Literal["trajectory", "continuation"]
Mixing = Literal["substitute", "add"]
Advantage = Literal["reward", "mixed_group", "student_group"]
Credit = Literal["trajectory", "step"]


class OVD(Method):
    """Sampled: N student trajectories; rejected ones give way to the teacher's. Credited: outcome reward of the
    mixture. Minimised: the clipped surrogate of eq. 4 plus k3 KL.

    The default is eq. 7 (A = R, no baseline within the group), not the last line of Algorithm 1. With "score or
    incorrect" as the trigger and a good teacher, every member of a mixed group is correct, so sigma = 0 and A = 0
    in exactly the groups in which the teacher intervened. Measured on the quickstart (held-out greedy accuracy %, 3
    seeds, from 26.4, equal student samples; `benchmarks.compare.quickstart_methods`): this default 76.9 +- 4.6, GRPO
    without a teacher 55.5 +- 3.3, Algorithm 1 as printed (`advantage: mixed_group`) 26.4 +- 1.8 with 95 % of its
    groups at zero advantage. That share is always logged as `ovd/zero_advantage_groups`.

    Args:
        teacher: judges and demonstrates; its `scale` is the one that `threshold` refers to.
        threshold: theta of eq. 5. The smallest score accepts all; one above the largest (10 on 0-9) rejects all.
        scoring: "step": every step s_k with the prompt of A.4; "trajectory": the whole chain at once.
        score_reading: the score is sampled from the teacher's distribution (the paper), or its mean, or argmax.
        score_temperature: of the sampled score (A.6.2: 0.7).
        step_aggregation: the trajectory score from its steps' scores. The paper does not say; the minimum ranks
            right before wrong trajectories best.
        acceptance: "threshold" (eq. 5) or "soft": accepted with probability min(1, exp(S/beta)/M) (A.1.1).
        soft_beta, soft_bound: beta and M of the soft acceptance.
        replace_when: "score" (eq. 5: S < theta), "incorrect", or "score_or_incorrect" (Algorithm 1).
        replacement: "trajectory": a whole teacher trajectory; "continuation": the teacher goes on from the first
            rejected step, the accepted prefix stays (section 3.3); where no single step was rejected, a whole one.
        mixing: "substitute" the rejected trajectory, or "add" the teacher's beside it, where the rejected ones go on
            training (with advantage: reward, those that are right for all their low score: not eq. 7).
        max_replacements: at most this many a group, lowest scores first; null: no limit.
        advantage: "reward": A = R (eq. 7); "mixed_group": normalised within the mixture (Algorithm 1);
            "student_group": baseline and scale from the student's group before replacement.
        sigma_floor: least sigma for "student_group", whose rewards before replacement are often all equal.
        credit: "trajectory": R(y) on every token; "step": eq. 3 with R_k = S_k on [0, 1] as the step's reward,
            which also has the teacher's own steps scored.
        objective: settings of the clipped objective, see `Method`.
    """

    teacher: VerbalTeacher

    def __init__(
        self,
        teacher: VerbalTeacher,
        threshold: float = 7,
        scoring: Scoring = "step",
        score_reading: ScoreReading = "sample",
        score_temperature: float = 0.7,
        step_aggregation: StepAggregation = "min",
        acceptance: Acceptance = "threshold",
        soft_beta: float = 3.0,
        soft_bound: float = 20.0,
        replace_when: ReplaceWhen = "score_or_incorrect",
        replacement: Replacement = "trajectory",
        mixing: Mixing = "substitute",
        max_replacements: int | None = None,
        advantage: Advantage = "reward",
        sigma_floor: float = 0.25,
        credit: Credit = "trajectory",
        **objective: Any,
    ) -> None:
        super().__init__(**objective)
        name = "method.init_args"
        for setting, value, choices in (
            ("scoring", scoring, Scoring),
            ("score_reading", score_reading, ScoreReading),
            ("step_aggregation", step_aggregation, StepAggregation),
            ("acceptance", acceptance, Acceptance),
            ("replace_when", replace_when, ReplaceWhen),
            ("replacement", replacement, Replacement),
            ("mixing", mixing, Mixing),
            ("advantage", advantage, Advantage),
            ("credit", credit, Credit),
        ):
            check_choice(f"{name}.{setting}", value, choices)
        low, top = teacher.scale.low, teacher.scale.reject_all
        if not low <= threshold <= top:
            raise ConfigError(
                f"{name}.threshold",
                f"is {threshold}, outside the teacher's score scale {low}-{teacher.scale.high}.",
                f"Use {low} (accept all) to {top} (reject all), or change teacher.init_args.scale.",
            )
        if self.group_size < 2 and advantage != "reward" and mixing == "substitute":
            raise ConfigError(
                f"{name}.group_size",
                f"is 1, and advantage: {advantage} normalises within the group, which gives 0 for a group of one.",
                "Use 2 or more, or advantage: reward.",
            )
        if replacement == "continuation" and scoring == "trajectory":
            raise ConfigError(
                f"{name}.replacement", "is continuation, which needs scored steps.", "Use scoring: step with it."
            )
        if credit == "step" and scoring == "trajectory":
            raise ConfigError(f"{name}.credit", "is step, which needs scored steps.", "Use scoring: step with it.")
        if acceptance == "soft" and (soft_beta <= 0 or soft_bound < 1):
            raise ConfigError(
                f"{name}.soft_beta", f"is {soft_beta} and soft_bound {soft_bound}.", "beta > 0 and M >= 1 are needed."
            )
        if max_replacements is not None and max_replacements < 0:
            raise ConfigError(f"{name}.max_replacements", f"is {max_replacements}.", "Use 0 or more, or null.")
        if score_temperature <= 0:
            raise ConfigError(
                f"{name}.score_temperature",
                f"is {score_temperature}.",
                "Use a positive value, or score_reading: argmax.",
            )
        if sigma_floor < 0 or (advantage == "student_group" and sigma_floor == 0):
            raise ConfigError(
                f"{name}.sigma_floor",
                f"is {sigma_floor}: where the student's rewards are all equal, it is what divides.",
                "Use a positive value.",
            )
        self.teacher = teacher
        self.threshold = threshold
        self.scoring = scoring
        self.score_reading = score_reading
        self.score_temperature = score_temperature
        self.step_aggregation = step_aggregation
        self.acceptance = acceptance
        self.soft_beta = soft_beta
        self.soft_bound = soft_bound
        self.replace_when = replace_when
        self.replacement = replacement
        self.mixing = mixing
        self.max_replacements = max_replacements
        self.advantage = advantage
        self.sigma_floor = sigma_floor
        self.credit_level = credit

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self_test(self.teacher, task, problems[0], max_tokens)

    # ------------------------------------------------------------ Algorithm 1

    def annotate(self, groups: list[Group], round: Round) -> None:
        sampled = [y for group in groups for y in group.sampled]
        with self.teacher.awake():
            with round.phase("score"):
                self.query_scores(sampled, round)
            rejected = [y for group in groups for y in self.rejects(group, round)]
            with round.phase("replace"):
                written = self.replace(rejected, round)
            if self.credit_level == "step":
                with round.phase("score"):
                    self.query_scores(list(written.values()), round)
        for group in groups:
            group.mixture = self.mix(group, written)
            self.credit(group)
        self.report(groups, sampled, written, round)

    def query_scores(self, trajectories: Sequence[Trajectory], round: Round) -> None:
        """S(tau): fill every step's, and so every trajectory's, distribution and score."""
        if self.scoring == "trajectory":
            prompts = [trajectory_prompt(y.problem.question, y.text, self.teacher.scale) for y in trajectories]
            judgements = self.teacher.score(prompts, seed=round.seed("judge"))
            for y, judgement in zip(trajectories, judgements, strict=True):
                y.distribution = judgement.distribution
                y.score = self.read(judgement, round, y)
            return
        steps = [(y, k) for y in trajectories for k in range(len(y.steps))]
        prompts = [
            step_prompt(y.problem.question, [s.text for s in y.steps[:k]], y.steps[k].text, self.teacher.scale)
            for y, k in steps
        ]
        for (y, k), judgement in zip(steps, self.teacher.score(prompts, seed=round.seed("judge")), strict=True):
            y.steps[k].distribution = judgement.distribution
            y.steps[k].score = self.read(judgement, round, y, k)
        for y in trajectories:
            y.score = self.aggregate(y.steps)

    def read(self, judgement: Judgement, round: Round, y: Trajectory, k: int = -1) -> float | None:
        """One score from the teacher's distribution; None where the teacher gave none."""
        rng = round.random("score", *y.key, k, y.source)
        return self.teacher.scale.read(judgement.distribution, self.score_reading, self.score_temperature, rng)

    def aggregate(self, steps: Sequence[Step]) -> float | None:
        """The trajectory score from the scores of its steps; steps without a score do not count."""
        scores = [s.score for s in steps if s.score is not None]
        if not scores:
            return None
        return {"min": min(scores), "mean": sum(scores) / len(scores), "last": scores[-1]}[self.step_aggregation]

    def accepts(self, y: Trajectory, round: Round) -> bool:
        """a(y), eq. 5 or its soft form (A.1.1). A trajectory the teacher gave no score to is accepted."""
        if y.score is None:
            return True
        if self.acceptance == "soft":
            probability = F.soft_acceptance(y.score, self.soft_beta, self.soft_bound)
            return round.random("accept", *y.key).random() < probability
        return y.score >= self.threshold

    def rejects(self, group: Group, round: Round) -> list[Trajectory]:
        """The trajectories of a group that the teacher is to replace."""
        rejected = []
        for y in group.sampled:
            y.accepted = self.accepts(y, round)
            by_score = not y.accepted and self.replace_when != "incorrect"
            by_outcome = not y.grade.correct and self.replace_when != "score"  # type: ignore[union-attr]
            if by_score or by_outcome:
                rejected.append(y)
        if self.max_replacements is not None:
            worst_first = sorted(rejected, key=lambda y: (y.score is None, y.score, y.sample))
            rejected = worst_first[: self.max_replacements]
        return rejected

    def replace(self, rejected: Sequence[Trajectory], round: Round) -> dict[tuple[int, int], Trajectory]:
        """Teacher trajectories ~ pi_T(. | x), graded; keyed by (group, sample) of what they replace."""
        kept = [self.accepted_prefix(y) for y in rejected]  # tokens
        written = round.demonstrate(self.teacher, rejected, kept)
        return {y.key: y for y in written if y is not None}

    def accepted_prefix(self, y: Trajectory) -> int:
        """Completion tokens before the first step with a score under theta; 0 for a whole replacement."""
        if self.replacement == "trajectory":
            return 0
        return next((s.start for s in y.steps if s.score is not None and s.score < self.threshold), 0)

    def mix(self, group: Group, written: dict[tuple[int, int], Trajectory]) -> list[Trajectory]:
        """The mixture p_train of eq. 6."""
        new = {y.sample: written.get(y.key) for y in group.sampled}
        if self.mixing == "add":
            return [*group.sampled, *(y for y in new.values() if y is not None)]
        return [new[y.sample] or y for y in group.sampled]

    def credit(self, group: Group) -> None:
        """Advantages of the mixture: one value a trajectory, or one a step (eq. 3)."""
        if self.credit_level == "trajectory":
            before = [y.reward for y in group.sampled]
            values = self.advantages([y.reward for y in group.mixture], before)
            for y, value in zip(group.mixture, values, strict=True):
                y.advantages = [value] * len(y.completion_ids)
            return
        rewards = [self.step_reward(s, y) for y in group.mixture for s in y.steps]
        before = [self.step_reward(s, y) for y in group.sampled for s in y.steps]
        values_left = iter(self.advantages(rewards, before) if rewards else [])
        for y in group.mixture:
            y.advantages = [0.0] * len(y.completion_ids)
            for step in y.steps:
                y.advantages[step.start : step.end] = [next(values_left)] * (step.end - step.start)

    def advantages(self, rewards: Sequence[float], before: Sequence[float]) -> list[float]:
        """A from R by the chosen rule; ``before``: the student's rewards before replacement."""
        if self.advantage == "reward":
            return list(rewards)
        if self.advantage == "mixed_group":
            return F.group_advantages(rewards)
        return F.group_advantages(rewards, reference=before or None, sigma_floor=self.sigma_floor)

    def step_reward(self, step: Step, y: Trajectory) -> float:
        """R_k of eq. 3: the step's score on [0, 1]; the outcome where the teacher gave no score."""
        return y.reward if step.score is None else self.teacher.scale.normalise(step.score)

    # ---------------------------------------------------------------- metrics

    def report(
        self,
        groups: Sequence[Group],
        sampled: Sequence[Trajectory],
        written: dict[tuple[int, int], Trajectory],
        round: Round,
    ) -> None:
        """What a round tells of the teacher; all means over this round's items."""
        ledger = self.teacher.take_ledger()
        scored: list[Step | Trajectory] = (
            [s for y in sampled for s in y.steps] if self.scoring == "step" else list(sampled)
        )
        distributions = [item.distribution for item in scored if item.distribution is not None]
        round.log_mean("ovd/acceptance_rate", [float(bool(y.accepted)) for y in sampled])
        round.log_mean("ovd/replaced_fraction", [float(y.key in written) for y in sampled])
        round.log_mean("ovd/teacher_reward", [y.reward for y in written.values()])
        round.log_mean("score/mean", [item.score for item in scored if item.score is not None])
        round.log_mean("score/trajectory_mean", [y.score for y in sampled if y.score is not None])
        for verdict, name in ((True, "score/mean_when_correct"), (False, "score/mean_when_wrong")):
            round.log_mean(
                name, [y.score for y in sampled if y.score is not None and y.grade and y.grade.correct is verdict]
            )
        round.log_mean("score/entropy", [F.entropy(d) for d in distributions])
        round.log_mean("score/mass", ledger.mass)
        round.log_sum("score/parse_failures", ledger.parse_failures)
        if ledger.parse_failures:
            example = "the calls failed" if ledger.unscored is None else f"the last said {ledger.unscored}"
            rank_zero_info(
                f"round {round.index + 1}: {ledger.parse_failures} of {ledger.scores} prompts got no score; {example}"
            )
        round.log_sum("teacher/scores", ledger.scores)
        round.log_sum("teacher/scores_asked", ledger.asked)
        round.log_sum("teacher/demonstrations", ledger.demonstrations)
        round.log_histogram(
            "score/histogram", [item.score for item in scored if item.score is not None], self.teacher.scale.values
        )
