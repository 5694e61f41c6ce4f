"""A small run's folder in the formats that training writes, without training."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

from ovd_lightning.round.transcripts import TranscriptWriter
from ovd_lightning.types import Grade, Group, Problem, Source, Step, Trajectory

HOSTILE = "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>"

CONFIG = """\
seed_everything: 0
run:
  name: tiny
model:
  method:
    class_path: ovd_lightning.methods.ovd.OVD
    init_args:
      threshold: 7
      score_scale: zero_to_nine
      note: "</pre><script>window.hacked = true</script>"
"""

LOGGED: dict[str, Callable[[float], float]] = {
    "reward/student": lambda t: 0.25 + 0.5 * t,
    "reward/mixture": lambda t: 0.95,
    "ovd/acceptance_rate": lambda t: 0.2 + 0.5 * t,
    "ovd/replaced_fraction": lambda t: 0.8 - 0.5 * t,
    "ovd/zero_advantage_groups": lambda t: 0.02,
    "score/mean": lambda t: 4 + 4 * t,
    "score/entropy": lambda t: 1.5 - 0.5 * t,
    "score/parse_failures": lambda t: 0.0,
    "policy/kl": lambda t: 0.2 * t,
    "policy/clip_fraction": lambda t: 0.05,
    "policy/entropy": lambda t: 0.6 - 0.4 * t,
    "policy/ratio_max": lambda t: 1.5,
    "mismatch/logprob_abs_mean": lambda t: 1e-6,
    "completion/length_mean": lambda t: 25.0,
    "completion/truncated_fraction": lambda t: 0.0,
    "time/sync": lambda t: 0.05,
    "time/generate": lambda t: 0.3,
    "time/environment": lambda t: 0.1,
    "time/score": lambda t: 0.4,
    "time/grade": lambda t: 0.05,
    "time/replace": lambda t: 0.6 - 0.3 * t,
    "time/logprobs": lambda t: 0.2,
    "time/train": lambda t: 0.4,
    "time/checkpoint": lambda t: 0.1,
    "time/other": lambda t: 0.05,
    "teacher/failed_calls": lambda t: 3.0 * (0.4 < t < 0.6),
    "teacher/demonstration_failures": lambda t: 0.0,
    "throughput/generated_tokens_per_s": lambda t: 8000 + 500 * t,
    "throughput/trained_tokens_per_s": lambda t: 9000.0,
}


def write_run(folder: Path, *, rounds: int = 20, problems: int = 4, samples: int = 4, seed: int = 0) -> Path:
    """Fill ``folder`` with config.yaml, metrics.csv (sparse rows) and transcripts; returns it."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    with (folder / "metrics.csv").open("w", newline="") as stream:
        evaluated = ["eval/arithmetic/accuracy", "eval/arithmetic/sampled_accuracy"]
        columns = ["epoch", "step", "round", *LOGGED, *evaluated, "test/arithmetic/accuracy"]
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        for n in range(rounds):
            t = n / max(1, rounds - 1)
            if n % 5 == 0 or n == rounds - 1:
                writer.writerow({"step": 2 * n, evaluated[0]: 0.25 + 0.4 * t, evaluated[1]: 0.2 + 0.3 * t})
            if n in (0, rounds - 1):
                writer.writerow({"step": 2 * n, "test/arithmetic/accuracy": 0.24 + 0.4 * t})
            noise = rng.uniform(0.97, 1.03)
            writer.writerow(
                {"epoch": 0, "step": 2 * n + 2, "round": n} | {name: f(t) * noise for name, f in LOGGED.items()}
            )
    transcripts = TranscriptWriter(folder / "transcripts")
    for n in range(rounds):
        transcripts.write(n, [group(rng, n, p, samples, n / max(1, rounds - 1)) for p in range(problems)])
    return folder


def group(rng: random.Random, number: int, place: int, samples: int, quality: float) -> Group:
    """The first problem of a round holds hostile text and has its first sample replaced by the teacher."""
    a, b, c = rng.randrange(10, 60), rng.randrange(2, 9), rng.randrange(2, 9)
    problem = Problem(id=f"train-{number}-{place}", question=f"({a}+{b})*{c}=?\n", answers=(str((a + b) * c),))
    result = Group(problem=problem, sampled=[])
    for sample in range(samples):
        hostile = place == sample == 0
        right = not hostile and rng.random() < 0.2 + 0.6 * quality
        value = (a + b) * c + (0 if right else rng.choice([-10, 1, 10]))
        own = trajectory(
            problem, place, sample, "student", [f"{a}+{b}={a + b}\n", f"{a + b}*{c}={value}\n"], value, right
        )
        if hostile:
            own.steps[0].text = f"{HOSTILE}\n"
        own.accepted = own.score is None or own.score >= 7
        result.sampled.append(own)
        if right:
            result.mixture.append(own)
        else:
            source: Source = "mixed" if not hostile and rng.random() < 0.3 else "teacher"
            texts = [f"{a}+{b}={a + b}\n", f"{a + b}*{c}={(a + b) * c}\n"]
            result.mixture.append(trajectory(problem, place, sample, source, texts, (a + b) * c, True))
    for y in result.mixture:
        y.advantages = [y.reward] * len(y.completion_ids)
    return result


def trajectory(
    problem: Problem, place: int, sample: int, source: Source, texts: list[str], value: int, right: bool
) -> Trajectory:
    texts = [*texts, rf"\boxed{{{value}}}"]
    y = Trajectory(
        problem=problem,
        group=place,
        sample=sample,
        prompt_ids=[1],
        completion_ids=list(range(24)),
        completion_mask=[True] * 24,
        text="".join(texts),
        written="".join(texts),
        turns=1,
        stop_reason="end_of_sequence",
        source=source,
        student_tokens={"student": 24, "mixed": 8, "teacher": 0}[source],
        grade=Grade(reward=float(right), correct=right, answer=str(value)),
    )
    for i, text in enumerate(texts):
        step = Step(start=8 * i, end=8 * i + 8, text=text)
        if source != "teacher":
            centre = 9 if right or i == 0 else 2
            weights = [2.0 ** -abs(k - centre) for k in range(10)]
            step.score, step.distribution = float(centre), [w / sum(weights) for w in weights]
        y.steps.append(step)
    y.score = min((s.score for s in y.steps if s.score is not None), default=None)
    return y
