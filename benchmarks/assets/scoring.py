"""How well a teacher's scores of trajectories tell right from wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.assets.rows import Verdict
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.types import Problem

SCALE = SCALES["zero_to_nine"]


@dataclass(kw_only=True, frozen=True)
class Judged:
    """A trajectory and the truth about it."""

    problem: Problem
    steps: list[str]
    verdicts: list[Verdict]
    text: str
    correct: bool

    @property
    def sound(self) -> bool:
        """Every step is right, so the answer is too."""
        return all(verdict == "right" for verdict in self.verdicts)


def sampled_scores(distributions: Tensor, temperature: float, seed: int) -> Tensor:
    """One score drawn from each tempered distribution, [n]."""
    tempered = (distributions.clamp_min(1e-30).log() / temperature).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(tempered, 1, generator=generator)[:, 0].float()


def auc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a positive outscores a negative, ties counting half."""
    high, low = scores[positive], scores[~positive]
    wins = (high[:, None] > low[None]).float() + 0.5 * (high[:, None] == low[None]).float()
    return wins.mean().item()


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 10) -> float:
    """Mean |confidence - accuracy| over equal-width bins, weighted by their sizes."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    error = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            gap = confidence[inside].mean() - correct[inside].float().mean()
            error += inside.float().mean().item() * abs(gap.item())
    return error


def score_distributions(engine: HFEngine, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The distribution over the ten digits [n, 10], and the mass on digits before normalising [n]."""
    found = engine.next_text_logprobs(prompts, [str(score) for score in range(10)]).exp()
    mass = found.sum(-1)
    return found / mass[:, None], mass


def scores_report(teacher: HFEngine, played: Sequence[Judged], verdict_names: dict[Verdict, str]) -> list[str]:
    """Markdown lines: how the teacher's scores of these trajectories relate to the truth."""
    prompts = [
        step_prompt(p.problem.question, p.steps[:k], p.steps[k], SCALE) for p in played for k in range(len(p.steps))
    ]
    verdicts = [v for p in played for v in p.verdicts]
    owner = torch.tensor([i for i, p in enumerate(played) for _ in p.steps])
    steps, mass = score_distributions(teacher, prompts)
    wholes, whole_mass = score_distributions(
        teacher, [response_prompt(p.problem.question, p.text, SCALE) for p in played]
    )
    right = torch.tensor([v == "right" for v in verdicts])
    decided = right | torch.tensor([v in ("value", "expression") for v in verdicts])
    sound = torch.tensor([p.sound for p in played])
    correct = torch.tensor([p.correct for p in played])
    out = [
        f"{len(played)} trajectories, {len(prompts)} steps: "
        + ", ".join(f"{verdicts.count(v)} {name}" for v, name in verdict_names.items())
        + f". {int(sound.sum())} trajectories have only right steps, {int(correct.sum())} the right answer. Mass on "
        f"digits: mean {mass.mean():.4f}, least {mass.min():.4f} (trajectory prompt: {whole_mass.mean():.4f}, "
        f"{whole_mass.min():.4f}).",
        "",
        "| AUC | expected score | one score at T = 0.7 | one score at T = 1 |",
        "| --- | --- | --- | --- |",
    ]
    readings, whole_readings = _readings(steps), _readings(wholes)

    def row(name: str, scores: Sequence[Tensor], positive: Tensor) -> None:
        out.append(f"| {name} | {' | '.join(f'{auc(s, positive):.3f}' for s in scores)} |")

    row("step: right or wrong", [r[decided] for r in readings], right[decided])
    row("step: right or anything else", readings, right)
    for name in ("min", "mean", "last"):
        scores = [torch.stack([_aggregate(r[owner == i], name) for i in range(len(played))]) for r in readings]
        row(f"trajectory: right answer, {name} of steps", scores, correct)
        row(f"trajectory: all steps right, {name} of steps", scores, sound)
    row("trajectory: right answer, trajectory prompt", whole_readings, correct)
    row("trajectory: all steps right, trajectory prompt", whole_readings, sound)
    means = {
        name: readings[0][torch.tensor([v == verdict for v in verdicts])] for verdict, name in verdict_names.items()
    }
    out += ["", "Mean expected score: " + ", ".join(f"{n} {s.mean():.2f}" for n, s in means.items() if len(s)) + "."]
    drawn = readings[2]
    counts = [int((drawn == s).sum()) for s in range(10)]
    shares = [f"{right[drawn == s].float().mean():.2f}" if counts[s] else "-" for s in range(10)]
    out += ["", "| one score at T = 1 | " + " | ".join(map(str, range(10))) + " |", "| --- " * 11 + "|"]
    out += ["| steps | " + " | ".join(map(str, counts)) + " |", "| share right | " + " | ".join(shares) + " |", ""]
    errors = [
        expected_calibration_error(confidence, truth)
        for distributions, truth in ((steps, right), (wholes, correct))
        for confidence in (distributions @ torch.arange(10.0) / 9, distributions[:, 7:].sum(-1))
    ]
    out.append(
        'Calibration error (10 bins) against "the step is right": normalised expected score '
        f'{errors[0]:.3f}, probability of a score of 7 or more {errors[1]:.3f}. Trajectory prompt against "the '
        f'answer is right": {errors[2]:.3f} and {errors[3]:.3f}.'
    )
    return out


def steps_report(teacher: HFEngine, prompts: dict[Verdict, list[str]], verdict_names: dict[Verdict, str]) -> list[str]:
    """Markdown lines: the expected scores of the steps of each verdict."""
    lines = ["| | steps | mean expected score | 7 or more | 4 or less |", "| --- " * 5 + "|"]
    for verdict, name in verdict_names.items():
        expected = _readings(score_distributions(teacher, prompts[verdict])[0])[0]
        shares = [f"{(inside).float().mean():.0%}" for inside in (expected >= 7, expected <= 4)]
        lines.append(f"| {name} | {len(expected)} | {expected.mean():.2f} | {' | '.join(shares)} |")
    return lines


def _readings(distributions: Tensor) -> list[Tensor]:
    """Expected scores, and one drawn at T = 0.7 and at T = 1, each [n]."""
    expected = distributions @ torch.arange(10.0)
    return [expected, sampled_scores(distributions, 0.7, 0), sampled_scores(distributions, 1.0, 0)]


def _aggregate(scores: Tensor, how: str) -> Tensor:
    return scores.min() if how == "min" else scores.mean() if how == "mean" else scores[-1]
