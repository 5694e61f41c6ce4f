"""OVD: On-policy Verbal Distillation (arXiv 2601.21968), Algorithm 1.

for each problem x_i, for j = 1 .. N:                              here
    generate tau ~ pi_S(. | x_i)                                   Method.sample
    query score S(tau), compute reward R(tau)                      consult: scoring.judge
    if S(tau) < theta or incorrect: replace by tau ~ pi_T(. | x_i) consult: rejects, replace
advantages A                                                       annotate: credit.assign
update pi_S by the clipped policy gradient                         Method.loss, eq. 4
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.methods import rules
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating, scoring
from ovd_lightning.methods.logging import log_judgements
from ovd_lightning.methods.rejection import Rejection, ReplaceWhen
from ovd_lightning.methods.rule_errors import check_rules
from ovd_lightning.methods.scoring import PAPER, Scoring
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Problem, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class OVD(Method):
    """Sampled: N student trajectories; rejected ones give way to the teacher's. Credited: outcome reward of the
    mixture. Minimised: the clipped surrogate of eq. 4 plus k3 KL.

    The default credit is eq. 7 (A = R, no baseline within the group), not the last line of Algorithm 1: with "score or
    incorrect" as the trigger and a good teacher, every member of a mixed group is correct, so that its normalised
    advantages are 0 in exactly the groups in which the teacher intervened (docs/methods.md measures both).

    Args:
        teacher: judges and demonstrates; its judge's `scale` is the one that `threshold` refers to.
        threshold: theta of eq. 5. The smallest score accepts all; one above the largest (10 on 0-9) rejects all.
        replace_when: "score" (eq. 5: S < theta), "incorrect", or "score_or_incorrect" (Algorithm 1).
        judged: "needed": only what can change what trains; "all": everything, for curves of scores (docs/judges.md).
        scoring: how S(tau) comes about: by default from the steps' scores (A.4), drawn, the minimum.
        acceptance: a(y); null: `Threshold` (eq. 5).
        replacement: what takes a rejected trajectory's place; null: `Whole` (Algorithm 1).
        credit: advantages of the mixture; null: `Reward` (eq. 7).
        objective: settings of the clipped objective, see `Method`. The rules are in ovd_lightning/methods/rules.py.
    """

    teacher: VerbalTeacher

    def __init__(
        self,
        teacher: VerbalTeacher,
        threshold: float = 7,
        replace_when: ReplaceWhen = "score_or_incorrect",
        judged: Literal["needed", "all"] = "needed",
        scoring: Scoring = PAPER,
        acceptance: rules.Acceptance | None = None,
        replacement: rules.Replacement | None = None,
        credit: rules.Credit | None = None,
        **objective: Any,
    ) -> None:
        super().__init__(**objective)
        self.teacher, self.threshold, self.scoring = teacher, threshold, scoring
        self.replacement, self.credit = replacement or rules.Whole(), credit or rules.Reward()
        deciding = (acceptance or rules.Threshold(), self.replacement)
        self.rejection = Rejection(threshold, replace_when, teacher.scale, scoring, *deciding)
        self.judges_all = judged == "all" or not (rules.is_lazy(self.replacement) and rules.is_lazy(self.credit))
        check_rules(threshold, teacher, scoring, self.replacement, self.credit, self.group_size)

    @property
    def needs_references(self) -> bool:
        return self.rejection.when != "score" or self.credit.needs_outcome

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        self.teacher.self_test(task, problems, max_tokens)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        """S(tau), a(tau), and the teacher's trajectories in place of the rejected ones."""
        settled = None if self.judges_all else lambda y: self.rejection.settled(y, round)
        with self.teacher.awake():
            with round.phase("score"):
                self.scoring.judge(self.teacher, [y for group in groups for y in group.sampled], round, settled)
            with round.phase("replace"):
                written = self.replace([y for group in groups for y in self.rejects(group, round)], round)
            if self.credit.scores_demonstrations:
                with round.phase("score"):
                    self.scoring.judge(self.teacher, written, round)
        for group in groups:
            group.demonstrations = [y for y in written if y.group == group.index]

    def annotate(self, groups: list[Group], round: Round) -> None:
        self.replacement.prepare(groups, round)
        for group in groups:
            group.mixture = self.replacement.mixture(group, {y.key: y for y in group.demonstrations})
            self.credit.assign(group, self.teacher.scale)
        log_judgements(groups, self.teacher, self.scoring.level, round, self.judges_all)

    def rejects(self, group: Group, round: Round) -> Sequence[Trajectory]:
        """Those of a group that the teacher is to replace; a(y) of each, and the verdict."""
        for y in group.sampled:
            y.accepted, y.rejected = self.rejection.decide(y, round)
        return self.replacement.choose([y for y in group.sampled if y.rejected])

    def replace(self, rejected: Sequence[Trajectory], round: Round) -> list[Trajectory]:
        """Teacher trajectories ~ pi_T(. | x), graded, under the key of what they replace."""
        kept = [self.replacement.kept_tokens(y, self.threshold) for y in rejected]
        return [y for y in round.demonstrate(self.teacher, rejected, kept) if y is not None]

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        sampled = float(expected.problems * self.group_size)
        replaced = self.replacement.expected(sampled * expected.rejected, expected.problems)
        judged = sampled if self.judges_all else self.rejection.judged(sampled, expected)
        judged += replaced if self.credit.scores_demonstrations else 0
        kept = 0.0 if expected.at_most else self.replacement.kept_share
        calls = scoring(self.teacher, judged, expected, self.scoring.level == "step")
        calls += TeacherCalls(added=replaced if self.replacement.adds else 0)
        return calls + demonstrating(self.teacher, replaced, expected, kept)
