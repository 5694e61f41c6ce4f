"""Runs of configs/real_small.yaml side by side: what a round takes, and what evaluations say.

python -m benchmarks.real.rounds runs/real_small/*
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import auto_cli

from benchmarks.real.numbers import mean
from benchmarks.speed.report import machine, table
from ovd_lightning.report.read import read_metrics

PHASES = ("generate", "grade", "score", "replace", "logprobs", "train", "sync", "other")
SHOWN = {
    "reward/student": "reward",
    "completion/truncated_fraction": "cut off",
    "completion/length_mean": "tokens",
    "completion/steps_mean": "steps",
    "ovd/replaced_fraction": "replaced",
    "ovd/teacher_reward": "teacher's reward",
    "seqkd/teacher_reward": "teacher's reward",
    "score/mass": "mass on scores",
    "score/judged_fraction": "judged",
}
Series = Mapping[str, Sequence[tuple[float, float]]]


def main(runs: list[Path]) -> None:
    """Print two tables: seconds of a round by phase, and means over the rounds.

    Args:
        runs: their folders.
    """
    metrics = {run.name: read_metrics(run) for run in runs}
    print(f"On {machine()}.\n")
    print(table(("run", "rounds", "s a round", *PHASES), [seconds(*item) for item in metrics.items()]), "\n")
    names = list(dict.fromkeys(SHOWN.values()))
    print(table(("run", *names), [means(*item, names) for item in metrics.items()]), "\n")
    print(table(("run", "evaluation", "round", "accuracy"), [row for item in metrics.items() for row in curve(*item)]))


def seconds(name: str, of: Series) -> list[str]:
    rounds = [value for _, value in of["time/round"]]
    return [name, str(len(rounds)), f"{mean(rounds):.0f}", *(f"{values(of, f'time/{p}'):.1f}" for p in PHASES)]


def means(name: str, of: Series, names: Sequence[str]) -> list[str]:
    found = {shown: f"{values(of, metric):.2f}" for metric, shown in SHOWN.items() if metric in of}
    return [name, *(found.get(shown, "–") for shown in names)]


def curve(name: str, of: Series) -> list[list[str]]:
    evaluated = sorted(metric for metric in of if metric.endswith("/accuracy"))
    return [[name, m.removesuffix("/accuracy"), f"{step:.0f}", f"{v:.3f}"] for m in evaluated for step, v in of[m]]


def values(of: Series, metric: str) -> float:
    return mean([value for _, value in of.get(metric, ())])


if __name__ == "__main__":
    auto_cli(main)
