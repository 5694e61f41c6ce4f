"""The trajectories that the page of a run shows, compressed: of which rounds, and with which verdicts."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from ovd_lightning.report.read import Record, Run, Series, evenly, read_round
from ovd_lightning.report.rounds import over_rounds

VIEWER_ROUNDS = 12
DATA_LIMIT = 2_900_000
"""Compressed bytes of data; a third more in the page, which stays under 6 MB with Plotly's 2 MB."""
RAW_LIMIT = 8_000_000
"""Bytes of trajectories before compression, the first guess at what fits."""
STEP_TEXT_LIMIT = 20_000
"""Characters of one step."""
KEPT = (
    "sample source in_mixture reward correct answer score accepted advantage stop_reason tokens student_tokens "
    "policy_version"
).split()
Best = Callable[[Iterable[tuple[float, float]]], tuple[float, float]]
EXTREMES: tuple[tuple[str, Best, str], ...] = (
    ("reward/student", min, "lowest reward"),
    ("reward/student", max, "highest reward"),
    ("ovd/acceptance_rate", min, "lowest acceptance"),
    ("ovd/acceptance_rate", max, "highest acceptance"),
    ("ovd/zero_advantage_groups", max, "most zero-advantage groups"),
    ("teacher/demonstration_failures", max, "most failed demonstrations"),
    ("teacher/failed_calls", max, "most failed calls"),
    ("score/parse_failures", max, "most missing scores"),
)
"""(metric, which of its values, what the round is shown for); a count of failures only where there are any."""


def telling(run: Run) -> dict[int, str]:
    """Round -> why it is shown, "" for those that fill up the number: the first, the last, the one before which the
    reward fell most, and those with the extremes of reward, acceptance and failures; the rest evenly between."""
    numbers = list(run.transcripts)
    if not numbers:
        return {}
    metrics, _ = over_rounds(run.metrics)
    why: dict[int, list[str]] = {}
    for number, reason in ((numbers[0], "first"), (numbers[-1], "last")):
        why.setdefault(number, []).append(reason)

    def choose(points: Series, best: Best, reason: str) -> None:
        there = [(value, -number) for number, value in points if number in run.transcripts]
        if there and min(there)[0] < max(there)[0]:  # no round stands out of equal ones
            why.setdefault(int(-best(there)[1]), []).append(reason)

    for name, best, reason in EXTREMES:
        choose(metrics.get(name, []), best, reason)
    reward = metrics.get("reward/student", [])
    falls = [(now[0], now[1] - before[1]) for before, now in pairwise(reward)]
    if any(fall < 0 for _, fall in falls):
        choose(falls, min, "largest fall of the reward")
    rest = [number for number in numbers if number not in why]
    filling = evenly(rest, VIEWER_ROUNDS - len(why)) if len(why) < VIEWER_ROUNDS else []
    return {number: ", ".join(why.get(number, [])) for number in sorted({*why, *filling})}


def failures(run: Run) -> list[tuple[int, str]]:
    """(round, what the teacher failed at and why), the newest first."""
    found = [(file.stem.removeprefix("round-"), file) for file in (run.path / "failures").glob("round-*.txt")]
    numbered = sorted(((int(number), file) for number, file in found if number.isdigit()), reverse=True)
    return [(number, file.read_text(encoding="utf-8", errors="replace").strip()) for number, file in numbered]


def verdict(record: Record, run: Run) -> str:
    """What was decided of a student's trajectory, and why: ``replaced: score 2 < θ 7, wrong``. "" where nothing was.

    Accepted is what the score decides (eq. 5); kept is what is in the mixture. A trajectory may be accepted and yet
    replaced, because it is wrong, or rejected and yet kept, because the teacher wrote nothing better.
    """
    options = run.method.get("init_args") or {}
    decided = record.get("accepted") is not None or record.get("in_mixture") is False or "replace_when" in options
    if record.get("source") != "student" or not decided:
        return ""
    threshold, score = options.get("threshold"), record.get("score")
    rule = options.get("acceptance")
    by_threshold = isinstance(threshold, int | float) and (not isinstance(rule, dict) or "Threshold" in str(rule))
    reasons, accepted = [], record.get("accepted")
    if accepted is not None and options.get("replace_when") != "incorrect":
        if score is None:
            reasons.append("accepted without a score")
        elif by_threshold:
            reasons.append(f"score {score:.3g} {'≥' if accepted else '<'} θ {threshold:g}")
        else:
            reasons.append(f"score {score:.3g} {'accepted' if accepted else 'rejected'}")
    if options.get("replace_when") in ("incorrect", "score_or_incorrect") and record.get("correct") is not None:
        reasons.append("correct" if record["correct"] else "wrong")
    state = "kept" if record.get("in_mixture") is not False else "not kept"
    return f"{state}: {', '.join(reasons)}" if reasons else state


def packed(base: dict[str, Any], run: Run) -> tuple[str, str]:
    """Figures and as many trajectories as fit, compressed; and a sentence on what is shown."""
    reasons = telling(run)
    groups_by_round = {n: read_round(run.transcripts[n]) for n in reasons}
    total = sum(len(groups) for groups in groups_by_round.values())
    budget = RAW_LIMIT
    while True:
        share = budget // max(1, len(reasons))
        rounds = [_round(n, reasons[n], groups, share, run) for n, groups in groups_by_round.items()]
        packed = compressed(json.dumps(base | {"rounds": rounds}, allow_nan=False, separators=(",", ":")).encode())
        kept = sum(len(r["groups"]) for r in rounds)
        if len(packed) * 3 // 4 <= DATA_LIMIT or kept <= len(rounds):
            break
        budget //= 2
    if not rounds:
        return packed, ""
    shown = f"Shown: {len(rounds)} of {len(run.transcripts)} rounds"
    if len(rounds) < len(run.transcripts):
        shown += " (those that stand out, as the list says, and others evenly between)"
    if kept < total:
        shown += f", and {kept} of the {total} groups of those rounds, to bound the size of this page"
    return packed, shown + ". The files in transcripts/ hold everything."


def _round(number: int, reason: str, groups: list[list[Record]], budget: int, run: Run) -> dict[str, Any]:
    """The first groups of a round whose JSON stays within ``budget`` bytes; at least one."""
    kept: list[dict[str, Any]] = []
    for records in groups:
        group = _group(records, run)
        budget -= len(json.dumps(group))
        if kept and budget < 0:
            break
        kept.append(group)
    return {"round": number, "reason": reason, "groups": kept}


def _group(records: list[Record], run: Run) -> dict[str, Any]:
    first = records[0]
    return {
        "problem": str(first.get("problem_id")),
        "question": str(first.get("question") or ""),
        "answers": [str(answer) for answer in first.get("answers") or []],
        "trajectories": [_trajectory(record, run) for record in records],
    }


def _trajectory(record: Record, run: Run) -> dict[str, Any]:
    """What the viewer needs; numbers shortened. Without steps the whole text stands as a single one."""
    steps = record.get("steps") or [{**record, "text": record.get("text"), "start": 0, "end": record.get("tokens")}]
    kept = {name: _clean(record.get(name)) for name in KEPT}
    kept["verdict"] = verdict(record, run)
    # A trajectory-level distribution (the whole was scored at once) belongs to the trajectory, not to its steps.
    kept["distribution"] = _clean(record.get("distribution")) if record.get("steps") else None
    kept["steps"] = [
        {
            "text": _shortened(str(step.get("text") or "")),
            "score": _clean(step.get("score")),
            "distribution": _clean(step.get("distribution")),
            "start": step.get("start"),
        }
        for step in steps
    ]
    return kept


def _shortened(text: str) -> str:
    if len(text) <= STEP_TEXT_LIMIT:
        return text
    return f"{text[:STEP_TEXT_LIMIT]} [… {len(text) - STEP_TEXT_LIMIT} more characters in the transcript]"


def _clean(value: Any) -> Any:
    """Floats to four digits, non-finite ones to null, lists likewise."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else None
    return value


def compressed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")
