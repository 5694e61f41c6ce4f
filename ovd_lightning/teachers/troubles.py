"""What of a teacher's calls failed in a round, counted for the dashboards and said in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.engines.base import Troubles
from ovd_lightning.engines.endpoint import KINDS

if TYPE_CHECKING:
    from ovd_lightning.round.context import Round
    from ovd_lightning.teachers.base import Teacher


def merged(found: Sequence[Troubles]) -> Troubles:
    """Of several engines, one."""
    given_up: Counter[str] = sum((t.given_up for t in found), Counter())
    retried: Counter[str] = sum((t.retried for t in found), Counter())
    reasons = {kind: reason for t in found for kind, reason in t.reasons.items()}
    return Troubles(given_up, retried, reasons, sum(t.calls for t in found))


def line(troubles: Troubles) -> str | None:
    """Counts, kinds and one reason of each; None where every call was answered at once."""
    parts = []
    for counter, what in ((troubles.given_up, "brought no answer"), (troubles.retried, "were sent again")):
        if total := sum(counter.values()):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in counter.most_common())
            parts.append(f"{total} of {troubles.calls} calls {what} ({kinds})")
    if not parts:
        return None
    reasons = "; ".join(f"{kind}: {reason[:160]}" for kind, reason in troubles.reasons.items())
    return f"{'; '.join(parts)}. Last reasons: {reasons}"


def report_troubles(teacher: Teacher, round: Round) -> None:
    """Logs ``teacher/failed_calls``, ``teacher/retried_calls`` and ``teacher/failed/<kind>``, warns in a line for each
    teacher, and keeps it for the run's page."""
    of_members: list[Troubles] = []
    for name, member in teacher.members.items():
        found = [t for engine in member.engines if (t := engine.take_troubles()) is not None]
        if not found:
            continue
        of_members.append(own := merged(found))
        if name:
            round.log_sum(f"teacher/failed_calls/{name}", sum(own.given_up.values()))
        if (said := line(own)) is not None:
            of = f"of the teacher of {name}'s" if name else "of the teacher's"
            round.metrics.failures.append(f"{of} {said}")
            rank_zero_info(f"round {round.index + 1}: {of} {said}")
    if not of_members:
        return
    troubles = merged(of_members)
    round.log_sum("teacher/failed_calls", sum(troubles.given_up.values()))
    round.log_sum("teacher/retried_calls", sum(troubles.retried.values()))
    for kind in KINDS:
        round.log_sum(f"teacher/failed/{kind}", troubles.given_up[kind])
