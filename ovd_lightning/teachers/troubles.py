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
    """Logs ``teacher/failed_calls``, ``teacher/retried_calls`` and ``teacher/failed/<kind>``, warns in a line, and
    keeps it for the run's page."""
    found = [t for engine in teacher.engines if (t := engine.take_troubles()) is not None]
    if not found:
        return
    troubles = merged(found)
    round.log_sum("teacher/failed_calls", sum(troubles.given_up.values()))
    round.log_sum("teacher/retried_calls", sum(troubles.retried.values()))
    for kind in KINDS:
        round.log_sum(f"teacher/failed/{kind}", troubles.given_up[kind])
    if (said := line(troubles)) is not None:
        round.metrics.failures.append(f"of the teacher's {said}")
        rank_zero_info(f"round {round.index + 1}: of the teacher's {said}")
