"""A rule of OVD's: of several demonstrations the one that the student itself finds likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovd_lightning.methods.rules import Replacement
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.types import Group, Trajectory

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round

LOGPROB = "student_logprob"
"""In a demonstration's ``meta``: the mean log-probability of its tokens under the student."""


class Likeliest(Replacement):
    """Of several demonstrations of a problem the one with the highest mean log-probability under the student that
    sampled, at temperature 1, in place of every rejected trajectory of the group. Ours.

    They are asked for once a group, however many of it are rejected: with a pool of as many demonstrations, which
    `candidates` should not exceed, nothing is written twice. The student's engine reads them all.

    Args:
        candidates: demonstrations of a group.
    """

    lazy = True
    composes = False

    def __init__(self, candidates: PositiveInt = 4) -> None:
        self.candidates = candidates

    def expected(self, rejected: float, groups: int) -> int:
        return self.candidates * min(round(rejected), groups)

    def choose(self, rejected: Sequence[Trajectory]) -> Sequence[Trajectory]:
        """As many places for demonstrations, whichever trajectories they will replace."""
        return [replace(rejected[0], sample=j) for j in range(self.candidates)] if rejected else []

    def prepare(self, groups: Sequence[Group], round: Round) -> None:
        found = [y for group in groups for y in group.demonstrations]
        if not found:
            return
        with round.phase("score"), round.engine.awake():
            values = round.engine.score([y.prompt_ids for y in found], [y.completion_ids for y in found])
        for y, each in zip(found, values, strict=True):
            y.meta[LOGPROB] = each.mean().item()
        chosen = [max(y.meta[LOGPROB] for y in group.demonstrations) for group in groups if group.demonstrations]
        round.log_mean("ovd/candidate_logprob", [y.meta[LOGPROB] for y in found])
        round.log_mean("ovd/likeliest_logprob", chosen)

    def mixture(self, group: Group, written: Mapping[tuple[int, int], Trajectory]) -> list[Trajectory]:
        if not written:
            return list(group.sampled)
        best = max(written.values(), key=lambda y: (y.meta[LOGPROB], -y.sample))
        return [replace(best, sample=y.sample) if y.rejected else y for y in group.sampled]
