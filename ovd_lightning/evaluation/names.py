"""Names of what evaluations log: ``<split>/<benchmark>/<kind>``. Imports nothing: a run is read without torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

EvalSplit = Literal["validation", "test"]
PREFIX: dict[EvalSplit, str] = {"validation": "eval", "test": "test"}
AVERAGE = "average"
"""Where a benchmark's name stands in a metric of the average over benchmarks."""
SHARES = ("teacher_step_share", "teacher_token_share")
"""Of answers under testing rejection: what the teacher wrote, in [0, 1]."""
ROLLOUTS = "rollouts"
"""W&B's table of a round's trajectories."""
MANY = 3
"""Of more benchmarks than these, a run's own tables and curves show the average alone."""
TEXTS = {
    "accuracy": "greedy accuracy",
    "truncated_fraction": "truncated",
    "sampled_accuracy": "sampled accuracy",
    "sampled_truncated_fraction": "samples truncated",
    "teacher_step_share": "teacher's steps",
    "teacher_token_share": "teacher's tokens",
    "sampled_teacher_step_share": "samples, teacher's steps",
    "sampled_teacher_token_share": "samples, teacher's tokens",
}


def text_of(kind: str) -> str:
    """ "accuracy" -> "greedy accuracy"."""
    return TEXTS.get(kind, kind.replace("sampled_", "samples, "))


def accuracies(names: Iterable[str]) -> list[str]:
    """The accuracies among metrics' names, sorted by split; of many benchmarks of a split the averages alone."""
    known = set(names)
    chosen: list[str] = []
    for prefix in PREFIX.values():
        found = sorted(n for n in known if n.startswith(f"{prefix}/") and n.endswith("accuracy"))
        averages = [n for n in found if n.startswith(f"{prefix}/{AVERAGE}/")]
        benchmarks = {n.rpartition("/")[0] for n in found if n not in averages}
        chosen += averages if averages and len(benchmarks) > MANY else found
    return chosen


def label(metric: str) -> str:
    """ "test/arithmetic/sampled_accuracy" -> "arithmetic, test, sampled accuracy"."""
    split, _, rest = metric.partition("/")
    benchmark, _, kind = rest.rpartition("/")
    name = "average over benchmarks" if benchmark == AVERAGE else benchmark
    return f"{name}, {'validation' if split == PREFIX['validation'] else split}, {text_of(kind)}"
