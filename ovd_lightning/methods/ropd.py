"""ROPD (arXiv 2605.07396): the reward is how far a rubric is met, written from teacher against student answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.judges.base import JudgeRequest, UnparsedScores
from ovd_lightning.judges.contrast import Contrast, ContrastJudge
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Problem, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.tasks.base import Task


class ROPD(JudgeReward):
    """Sampled: N student trajectories. Credited: R = sum_k w_k v_k / sum_k w_k of a rubric, group-normalised; no
    replacement, no reference needed. Minimised: eq. 4.

    For each group a rubricator sees the question, M answers of the teacher and the N of the student, and writes
    criteria with weights, each decidable from one answer alone; a verifier answers v_k for every answer and criterion.
    From the authors' code: the roles, one rubric a group, N = 8, M = 1, weights from 1 to 5, R - mu without a standard
    deviation, no KL. Ours: the words of both prompts (theirs are Chinese); a criterion is a prompt of its own, where
    theirs has all answers and criteria in one; v_k is the probability of "Yes", or 0 or 1 with the judge's `read:
    text`, as theirs is.

    A group without a demonstration or without a rubric that can be read does not train.

    Args:
        teacher: its judge is a `ContrastJudge`, which is both rubricator and verifier; its demonstrator answers.
        references: M, answers of the teacher a group.
        objective: see `GRPO` and `Method`.
    """

    def __init__(self, teacher: VerbalTeacher, references: PositiveInt = 1, **objective: Any) -> None:
        super().__init__(teacher, **objective)
        raise_errors(self._errors(teacher))
        self.references = references

    @staticmethod
    def _errors(teacher: VerbalTeacher) -> Iterator[ConfigError]:
        for member in teacher.members.values():
            if not isinstance(member.judge, ContrastJudge):
                yield ConfigError(
                    "method.init_args.teacher.init_args.judge",
                    f"is a {type(member.judge).__name__}, which writes no rubrics.",
                    "Use ovd_lightning.judges.contrast.ContrastJudge.",
                )

    @staticmethod
    def judge_of(member: VerbalTeacher) -> ContrastJudge:
        """The rubricator of one of the teacher's members."""
        assert isinstance(member.judge, ContrastJudge)
        return member.judge

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        super().check_problems(task, problems, max_tokens)
        for member in self.teacher.members.values():
            own = [problem for problem in problems if self.teacher.of(problem) is member]
            self.judge_of(member).check_rubrics(own, (self.group_size + self.references) * max_tokens)

    def consult(self, groups: Sequence[Group], round: Round) -> None:
        asked: list[tuple[Trajectory, Problem]] = []
        with self.teacher.awake():
            with round.phase("replace"):
                round.demonstrate_groups(self.teacher, groups, self.references)
            with round.phase("score"):
                for member in self.teacher.members.values():
                    own = [g for g in groups if g.demonstrations and self.teacher.of(g.problem) is member]
                    written = self.judge_of(member).write([self.contrast(group, round) for group in own])
                    asked += [(y, p) for g, p in zip(own, written, strict=True) if p is not None for y in g.sampled]
                requests = [JudgeRequest(problem=p, response=y.text) for y, p in asked]
                unparsed = UnparsedScores(least=math.inf)
                judgements = self.teacher.score(requests, seed=round.seed("judge"), unparsed=unparsed)
        for (y, problem), judgement in zip(asked, judgements, strict=True):
            y.judged, y.score = True, judgement.mean(self.teacher.scale)
            y.meta["rubric"] = problem.meta["rubric"]

    def contrast(self, group: Group, round: Round) -> Contrast:
        """What the rubric of a group is written from."""
        return Contrast(
            problem=group.problem,
            references=[y.text for y in group.demonstrations],
            answers=[y.text for y in group.sampled],
            seed=round.seed("rubric", group.index),
        )

    def annotate(self, groups: list[Group], round: Round) -> None:
        super().annotate(groups, round)
        rubrics = [g.sampled[0].meta["rubric"] for g in groups if "rubric" in g.sampled[0].meta]
        round.log_mean("ropd/criteria", [float(len(rubric)) for rubric in rubrics])
        round.log_sum("ropd/groups_without_rubric", len(groups) - len(rubrics))
        round.log_mean("ropd/reference_reward", [y.reward for g in groups for y in g.demonstrations])

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        answers = (self.group_size + self.references) * expected.response_tokens
        calls = super().teacher_calls(expected)
        for member, groups in self.teacher.shared(expected.problems, expected.shares):
            judge, count = self.judge_of(member), round(groups)
            calls += TeacherCalls(
                tokens_in=count * (expected.prompt_tokens + answers),
                tokens_out=count * judge.rubric_tokens,
                prompts=((judge.engine, count),),
            )
        return calls + demonstrating(self.teacher, expected.problems * self.references, expected)
