"""What a round's judgements look like, for the dashboards. Means of scores are over this round's items
that were judged (docs/judges.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning import functional as F
from ovd_lightning.judges.base import Judgement, Ledger, UnparsedScores
from ovd_lightning.types import Group, Step, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.teachers.demonstrator import Demonstrator
    from ovd_lightning.teachers.verbal import VerbalTeacher


def log_demonstrations(teacher: Demonstrator, round: Round, ledgers: Mapping[str, Ledger] | None = None) -> None:
    """How many were wanted and, with a pool, how many of them it had; of several teachers those of each as well.

    Args:
        ledgers: of the teacher's members, by name; None: they are taken.
    """
    ledgers = {name: m.take_ledger() for name, m in teacher.members.items()} if ledgers is None else ledgers
    round.log_sum("teacher/demonstrations", sum(ledger.demonstrations for ledger in ledgers.values()))
    if any(member.pool is not None for member in teacher.members.values()):
        round.log_sum("teacher/demonstrations_from_pool", sum(ledger.pooled for ledger in ledgers.values()))
    for name, ledger in ledgers.items():
        if name:
            round.log_sum(f"teacher/demonstrations/{name}", ledger.demonstrations)


def log_judgements(
    groups: Sequence[Group],
    teacher: VerbalTeacher,
    level: Literal["step", "trajectory"],
    round: Round,
    complete: bool = True,
) -> None:
    """Scores of what the student sampled, and what the teacher was asked.

    Args:
        level: what was judged of what the student sampled.
        complete: all of it was. Otherwise nothing is logged of whole trajectories: those that have a score are no
            sample of them.
    Raises: RunError where too many judgements of the round had no score.
    """
    ledgers = {name: member.take_ledger() for name, member in teacher.members.items()}
    for name, ledger in ledgers.items():
        teacher.members[name].judge.check_scored(UnparsedScores(ledger.parse_failures, ledger.scores))
    sampled = [y for group in groups for y in group.sampled]
    written = {y.key: y for group in groups for y in group.mixture if y.source != "student"}
    steps = [step for y in sampled for step in y.steps]
    scored: Sequence[Step | Trajectory] = steps if level == "step" else sampled
    whole = [y for y in sampled if y.score is not None and complete]
    scores = [item.score for item in scored if item.score is not None]
    distributions = [item.distribution for item in scored if item.distribution is not None]
    round.log_mean("ovd/acceptance_rate", [float(not y.rejected) for y in sampled])
    round.log_mean("score/accepted_fraction", [float(y.accepted) for y in sampled if y.accepted is not None])
    round.log_mean("ovd/replaced_fraction", [float(y.key in written) for y in sampled])
    round.log_mean("ovd/teacher_reward", [y.reward for y in written.values()])
    round.log_mean("score/judged_fraction", [float(item.judged) for item in scored])
    round.log_mean("score/mean", scores)
    round.log_mean("score/trajectory_mean", [y.score for y in whole if y.score is not None])
    for verdict, name in ((True, "score/mean_when_correct"), (False, "score/mean_when_wrong")):
        of_verdict = [y.score for y in whole if y.score is not None and y.grade and y.grade.correct is verdict]
        round.log_mean(name, of_verdict)
    round.log_mean("score/entropy", [F.entropy(d) for d in distributions])
    round.log_mean("score/spread", [Judgement(d, 1.0).spread or 0.0 for d in distributions])
    every = ledgers.values()
    round.log_mean(
        "score/mass", sorted(mass for ledger in every for mass in ledger.mass)
    )  # whatever the order: one sum
    round.log_sum("score/parse_failures", sum(ledger.parse_failures for ledger in every))
    for name, ledger in ledgers.items():
        if ledger.parse_failures:
            example = "the calls failed" if ledger.unscored is None else f"the last answered {ledger.unscored}"
            of = f" of the teacher of {name}" if name else ""
            failed = f"{ledger.parse_failures} of {ledger.scores} prompts{of} got no score; {example}"
            round.metrics.failures.append(failed)
            rank_zero_info(f"round {round.index + 1}: {failed}")
        if name:
            round.log_mean(f"score/mass/{name}", sorted(ledger.mass))
            round.log_sum(f"teacher/scores/{name}", ledger.scores)
    for name, member in teacher.members.items() if len(ledgers) > 1 else ():
        rewards = [y.reward for y in written.values() if teacher.of(y.problem) is member]
        round.log_mean(f"ovd/teacher_reward/{name}", rewards)
    round.log_sum("teacher/scores", sum(ledger.scores for ledger in every))
    round.log_sum("teacher/scores_asked", sum(ledger.asked for ledger in every))
    log_demonstrations(teacher, round, ledgers)
    round.log_histogram("score/histogram", scores, teacher.scale.values)
