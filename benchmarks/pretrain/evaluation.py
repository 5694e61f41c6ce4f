"""What the two checkpoints can do: accuracies of both, and how well the teacher's scores tell right from wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.pretrain.chains import Verdict, judge
from benchmarks.pretrain.data import DIGITS
from benchmarks.pretrain.training import complete
from benchmarks.pretrain.vocabulary import encode
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.tasks.arithmetic import ArithmeticTask, parse
from ovd_lightning.types import Problem

SCALE = SCALES["zero_to_nine"]


@dataclass(slots=True, kw_only=True, frozen=True)
class Chain:
    """A student's response and the truth about it."""

    problem: Problem
    steps: list[str]
    verdicts: list[Verdict]
    correct: bool
    """The answer is right."""

    @property
    def sound(self) -> bool:
        """Every step is right, so the answer is too."""
        return all(verdict == "right" for verdict in self.verdicts)


def accuracy(model: PreTrainedModel, task: ArithmeticTask, problems: Sequence[Problem], temperature: float) -> float:
    responses = complete(model, [task.prompt(p) for p in problems], temperature=temperature)
    return sum(task.grade(r, p).correct for r, p in zip(responses, problems, strict=True)) / len(problems)


def sample_chains(model: PreTrainedModel, task: ArithmeticTask, problems: Sequence[Problem], seed: int) -> list[Chain]:
    """One response a problem at T = 1."""
    chains: list[Chain] = []
    responses = complete(model, [task.prompt(p) for p in problems], temperature=1.0, seed=seed)
    for problem, response in zip(problems, responses, strict=True):
        steps = [line for line in response.split("\n") if line.strip()] or [response]
        verdicts = [line.verdict for line in judge(parse(problem.question), steps)]
        chains.append(
            Chain(problem=problem, steps=steps, verdicts=verdicts, correct=task.grade(response, problem).correct)
        )
    return chains


@torch.inference_mode()
def score_distributions(model: PreTrainedModel, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The distribution over the ten digits [n, 10], and the mass on digits before normalising [n]."""
    encoded = [encode(prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    distributions = torch.zeros(len(encoded), 10)
    for start in range(0, len(order), 256):
        places = order[start : start + 256]
        longest = len(encoded[places[-1]])
        ids = torch.tensor([encoded[i] + [0] * (longest - len(encoded[i])) for i in places])
        ends = torch.tensor([len(encoded[i]) - 1 for i in places])
        logits = model(input_ids=ids, use_cache=False).logits[torch.arange(len(places)), ends].float()
        distributions[torch.tensor(places)] = logits.softmax(-1)[:, DIGITS]
    mass = distributions.sum(-1)
    return distributions / mass[:, None], mass


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


def score_report(teacher: PreTrainedModel, chains: Sequence[Chain], title: str) -> list[str]:
    """Markdown lines: how the teacher's scores of these chains relate to the truth."""
    prompts = [
        step_prompt(c.problem.question, c.steps[:k], c.steps[k], SCALE) for c in chains for k in range(len(c.steps))
    ]
    verdicts = [v for c in chains for v in c.verdicts]
    owner = torch.tensor([i for i, c in enumerate(chains) for _ in c.steps])
    distributions, mass = score_distributions(teacher, prompts)
    expected = distributions @ torch.arange(10.0)
    right = torch.tensor([v == "right" for v in verdicts])
    own_mistake = torch.tensor([v in ("value", "expression") for v in verdicts])
    decided = right | own_mistake
    sound = torch.tensor([c.sound for c in chains])
    correct = torch.tensor([c.correct for c in chains])
    whole, whole_mass = score_distributions(
        teacher, [response_prompt(c.problem.question, "\n".join(c.steps), SCALE) for c in chains]
    )
    out = [
        f"### {title}",
        "",
        f"{len(chains)} chains, {len(prompts)} steps: {right.sum().item()} right, {own_mistake.sum().item()} wrong, "
        f"{len(prompts) - int(decided.sum())} right in themselves after a mistake. {sound.sum().item()} chains have "
        f"only right steps, {correct.sum().item()} the right answer. Mass on digits: mean {mass.mean():.4f}, least "
        f"{mass.min():.4f} (trajectory prompt: {whole_mass.mean():.4f}, {whole_mass.min():.4f}).",
        "",
        "| AUC | expected score | one score at T = 0.7 | one score at T = 1 |",
        "| --- | --- | --- | --- |",
    ]
    readings = [expected, sampled_scores(distributions, 0.7, 0), sampled_scores(distributions, 1.0, 0)]
    whole_readings = [whole @ torch.arange(10.0), sampled_scores(whole, 0.7, 0), sampled_scores(whole, 1.0, 0)]

    def row(name: str, values: list[float]) -> str:
        return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"

    out.append(row("step: right or wrong", [auc(r[decided], right[decided]) for r in readings]))
    out.append(row("step: right or anything else", [auc(r, right) for r in readings]))
    for name in ("min", "mean", "last"):
        aggregated = [torch.stack([_aggregate(r[owner == i], name) for i in range(len(chains))]) for r in readings]
        out.append(row(f"trajectory: right answer, {name} of steps", [auc(a, correct) for a in aggregated]))
        out.append(row(f"trajectory: all steps right, {name} of steps", [auc(a, sound) for a in aggregated]))
    out.append(row("trajectory: right answer, trajectory prompt", [auc(r, correct) for r in whole_readings]))
    means = {name: expected[torch.tensor([v == name for v in verdicts])].mean().item() for name in RUBRIC_ORDER}
    out += ["", "Mean expected score: " + ", ".join(f"{name} {means[name]:.2f}" for name in RUBRIC_ORDER) + "."]
    out += ["", "| one score at T = 1 | " + " | ".join(str(s) for s in range(10)) + " |", "| --- " * 11 + "|"]
    drawn = readings[2]
    counts = [int((drawn == s).sum()) for s in range(10)]
    shares = [f"{right[drawn == s].float().mean():.2f}" if counts[s] else "-" for s in range(10)]
    out += ["| steps | " + " | ".join(map(str, counts)) + " |", "| share right | " + " | ".join(shares) + " |"]
    good = distributions[:, 7:].sum(-1)
    out += [
        "",
        f'Calibration error (10 bins) against "the step is right": normalised expected score '
        f"{expected_calibration_error(expected / 9, right):.3f}, probability of a score of 7 or more "
        f'{expected_calibration_error(good, right):.3f}. Trajectory prompt against "the answer is right": '
        f"{expected_calibration_error(whole_readings[0] / 9, correct):.3f} and "
        f"{expected_calibration_error(whole[:, 7:].sum(-1), correct):.3f}.",
        "",
    ]
    return out


RUBRIC_ORDER: tuple[Verdict, ...] = ("right", "inherited", "value", "expression")


def _aggregate(scores: Tensor, how: str) -> Tensor:
    return scores.min() if how == "min" else scores.mean() if how == "mean" else scores[-1]
