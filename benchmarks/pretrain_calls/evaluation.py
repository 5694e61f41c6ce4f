"""What the two checkpoints can do: answers of both, their mistakes, and how well the teacher's scores tell right from
wrong."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pretrain.chains import Verdict
from benchmarks.pretrain.evaluation import auc, expected_calibration_error, sampled_scores
from benchmarks.pretrain_calls.trajectories import Turn, fault, judge, mistake_of, write
from benchmarks.pretrain_calls.vocabulary import CLOSE_RESULT, OPEN_RESULT
from ovd_lightning.engines.base import Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.tasks.arithmetic import parse
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.tool_arithmetic import ToolArithmeticTask
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.teachers.prompts import SCALES, step_prompt, trajectory_prompt
from ovd_lightning.tokens import decode, encode_prompt
from ovd_lightning.tools.local import LocalSandbox
from ovd_lightning.turns import Episode, respond
from ovd_lightning.types import Problem

SCALE = SCALES["zero_to_nine"]
VERDICTS: dict[Verdict, str] = {
    "right": "right",
    "inherited": "right after a mistake",
    "value": "wrong operand, or boxed too early",
    "expression": "no call, or a guess",
}
MAX_TOKENS = 128
"""Of a trajectory, results included."""
TURNS: dict[str, Any] = {"max_turns": 4, "max_turn_tokens": 40, "max_observation_tokens": 24}
"""Of ``configs/quickstart_tools.yaml``."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Played:
    """A trajectory and the truth about it."""

    problem: Problem
    steps: list[str]
    verdicts: list[Verdict]
    text: str
    correct: bool
    mistake: str | None
    """The name of its first mistake."""

    @property
    def sound(self) -> bool:
        """Every step is right, so the answer is too."""
        return all(verdict == "right" for verdict in self.verdicts)


def tool_arithmetic(environment: Environment | None = None) -> ToolArithmeticTask:
    """The task with the interpreter of ``configs/quickstart_tools.yaml``."""
    return ToolArithmeticTask(environment=environment or ToolEnvironment(sandbox=LocalSandbox(), **TURNS))


def play(engine: HFEngine, task: ToolArithmeticTask, problems: Sequence[Problem], temperature: float) -> list[Played]:
    """One trajectory a problem, with the task's environment; temperature 0 is greedy."""
    prompts = [encode_prompt(task.prompt(p), engine.tokenizer, chat=False) for p in problems]
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=temperature)
    episodes = respond(engine, engine.tokenizer, task, problems, prompts, range(len(problems)), sampling)
    return [_played(episode, task, engine) for episode in episodes]


def _played(episode: Episode, task: ToolArithmeticTask, engine: HFEngine) -> Played:
    spans = task.split_steps(episode.ids, engine.tokenizer, episode.mask)
    turns = []
    for start, end in spans:
        runs = itertools.groupby(range(start, end), key=lambda i: episode.mask[i])
        texts = {own: decode(engine.tokenizer, [episode.ids[i] for i in run]) for own, run in runs}
        seen = texts.get(False)
        result = None if seen is None else seen.removeprefix(OPEN_RESULT).removesuffix("\n").removesuffix(CLOSE_RESULT)
        turns.append(Turn(texts.get(True, "").strip(), result))
    expression = parse(episode.problem.question)
    return Played(
        problem=episode.problem,
        steps=[decode(engine.tokenizer, episode.ids[a:b]).strip() for a, b in spans],
        verdicts=[judged.verdict for judged in judge(expression, turns)],
        text=episode.said,
        correct=task.grade(episode.written, episode.problem).correct,
        mistake=mistake_of(expression, turns),
    )


def score_distributions(engine: HFEngine, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The distribution over the ten digits [n, 10], and the mass on digits before normalising [n]."""
    found = engine.next_text_logprobs(prompts, [str(score) for score in range(10)]).exp()
    mass = found.sum(-1)
    return found / mass[:, None], mass


def answers_report(engines: dict[str, HFEngine], task: ToolArithmeticTask, out: Path) -> list[str]:
    """Markdown lines: sizes, and accuracies on held-out problems."""
    lines = [
        "| | parameters | MB (float16) | steps | minutes | validation: greedy | T = 1 | test: greedy | T = 1 |",
        "| --- " * 9 + "|",
    ]
    splits: tuple[Split, ...] = ("validation", "test")
    for name, engine in engines.items():
        made = json.loads((out / name / "pretraining.json").read_text())
        size = (out / name / "model.safetensors").stat().st_size / 1e6
        cells = []
        for split, temperature in itertools.product(splits, (0.0, 1.0)):
            played = play(engine, task, task.problems(split), temperature)
            cells.append(f"{sum(p.correct for p in played) / len(played):.1%}")
        lines.append(
            f"| {name} | {made['parameters']:,} | {size:.2f} | {made['steps']} | {made['minutes']} | "
            f"{' | '.join(cells)} |"
        )
    return lines


def mistakes_report(engines: dict[str, HFEngine], task: ToolArithmeticTask) -> list[str]:
    """Markdown lines: the share of test trajectories by their first mistake."""
    ways = [(name, temperature) for name in engines for temperature in (0.0, 1.0)]
    found = {
        way: Counter(p.mistake or "none" for p in play(engines[way[0]], task, task.problems("test"), way[1]))
        for way in ways
    }
    names = dict.fromkeys(
        ["none", *sorted({name for counts in found.values() for name in counts} - {"other"}), "other"]
    )
    header = [f"{name}, {'T = 1' if temperature else 'greedy'}" for name, temperature in ways]
    lines = [f"| first mistake | {' | '.join(header)} |", "| --- " * (len(ways) + 1) + "|"]
    for name in names:
        shares = [f"{found[way][name] / found[way].total():.1%}" for way in ways]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return lines


def scores_report(teacher: HFEngine, played: Sequence[Played]) -> list[str]:
    """Markdown lines: how the teacher's scores of these trajectories relate to the truth."""
    prompts = [
        step_prompt(p.problem.question, p.steps[:k], p.steps[k], SCALE) for p in played for k in range(len(p.steps))
    ]
    verdicts = [v for p in played for v in p.verdicts]
    owner = torch.tensor([i for i, p in enumerate(played) for _ in p.steps])
    steps, mass = score_distributions(teacher, prompts)
    wholes, whole_mass = score_distributions(
        teacher, [trajectory_prompt(p.problem.question, p.text, SCALE) for p in played]
    )
    right = torch.tensor([v == "right" for v in verdicts])
    decided = right | torch.tensor([v in ("value", "expression") for v in verdicts])
    sound = torch.tensor([p.sound for p in played])
    correct = torch.tensor([p.correct for p in played])
    out = [
        f"{len(played)} trajectories, {len(prompts)} steps: "
        + ", ".join(f"{verdicts.count(v)} {name}" for v, name in VERDICTS.items())
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
    row("trajectory: right answer, trajectory prompt", whole_readings, correct)
    means = {name: readings[0][torch.tensor([v == verdict for v in verdicts])] for verdict, name in VERDICTS.items()}
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


def faults_report(teacher: HFEngine, task: ToolArithmeticTask) -> list[str]:
    """Markdown lines: the expected score of the steps of trajectories with one arbitrary fault, by verdict."""
    rng = random.Random(0)
    prompts: dict[Verdict, list[str]] = {verdict: [] for verdict in VERDICTS}
    for problem in [*task.problems("test"), *task.problems("validation")]:
        expression = parse(problem.question)
        judged = judge(expression, write(expression, rng, fault(int(rng.random() * 4))))
        texts = [as_step(step.turn) for step in judged]
        for k, step in enumerate(judged):
            prompts[step.verdict].append(step_prompt(problem.question, texts[:k], texts[k], SCALE))
    lines = ["| | steps | mean expected score | 7 or more | 4 or less |", "| --- " * 5 + "|"]
    for verdict, name in VERDICTS.items():
        expected = _readings(score_distributions(teacher, prompts[verdict])[0])[0]
        shares = [f"{(inside).float().mean():.0%}" for inside in (expected >= 7, expected <= 4)]
        lines.append(f"| {name} | {len(expected)} | {expected.mean():.2f} | {' | '.join(shares)} |")
    return lines


def as_step(turn: Turn) -> str:
    """A turn with its result, as the task's steps have it."""
    return turn.text if turn.result is None else f"{turn.text}{OPEN_RESULT}{turn.result}{CLOSE_RESULT}"


def _readings(distributions: Tensor) -> list[Tensor]:
    """Expected scores, and one drawn at T = 0.7 and at T = 1, each [n]."""
    expected = distributions @ torch.arange(10.0)
    return [expected, sampled_scores(distributions, 0.7, 0), sampled_scores(distributions, 1.0, 0)]


def _aggregate(scores: Tensor, how: str) -> Tensor:
    return scores.min() if how == "min" else scores.mean() if how == "mean" else scores[-1]


def evaluate(out: Path) -> str:
    """The part of the README that is measured: on held-out problems, with the real sandbox."""
    task = tool_arithmetic()
    engines = {name: HFEngine(str(out / name), batch_size=256) for name in ("student", "teacher")}
    for engine in engines.values():
        engine.start()
    task.environment.start()
    try:
        problems = task.problems("test")
        lines = answers_report(engines, task, out)
        lines += ["", "## Where trajectories go wrong", "", *mistakes_report(engines, task), ""]
        lines += ["## The teacher as a scorer", "", "### Trajectories of the student, test problems, T = 1", ""]
        lines += scores_report(engines["teacher"], play(engines["student"], task, problems, 1.0))
        lines += ["", "### Written trajectories with one arbitrary fault, test and validation problems", ""]
        lines += faults_report(engines["teacher"], task)
    finally:
        task.environment.close()
    return "\n".join([*lines, ""])
