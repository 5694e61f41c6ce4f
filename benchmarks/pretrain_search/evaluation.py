"""What the two checkpoints can do: answers of both, and how well the teacher's scores tell right from wrong."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pretrain.chains import Verdict
from benchmarks.pretrain.evaluation import auc, expected_calibration_error, sampled_scores
from benchmarks.pretrain_search.searching import TOP_K, Library, Piece, faults, into_steps, judge, write
from benchmarks.pretrain_search.vocabulary import CLOSE, EMPTY, FAILED, INVALID, OPEN
from ovd_lightning.engines.base import Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.search.bm25 import BM25Search
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.search import SearchEnvironment
from ovd_lightning.tasks.small_world import SmallWorldTask, World, write_corpus
from ovd_lightning.teachers.prompts import SCALES, step_prompt, trajectory_prompt
from ovd_lightning.tokens import decode, encode_prompt
from ovd_lightning.turns import Episode, respond
from ovd_lightning.types import Grade, Problem

SCALE = SCALES["zero_to_nine"]
VERDICTS: dict[Verdict, str] = {
    "right": "right",
    "inherited": "right after a mistake",
    "value": "wrong reading",
    "expression": "useless query, or none",
}
MAX_TOKENS = 144
"""Of a trajectory, observations included."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Played:
    """A trajectory and the truth about it."""

    problem: Problem
    steps: list[str]
    verdicts: list[Verdict]
    text: str
    grade: Grade

    @property
    def sound(self) -> bool:
        """Every step is right, so the answer is too."""
        return all(verdict == "right" for verdict in self.verdicts)


def small_world(corpus: Path, seed: int = 0, index: Path | None = None) -> SmallWorldTask:
    """The task with the search of ``configs/quickstart_web.yaml``."""
    environment = SearchEnvironment(
        search=BM25Search(str(corpus), str(index or corpus.parent / "index"), stemmer=None, stopwords=None),
        top_k=TOP_K,
        document_format="- {text}",
        observation_prefix=OPEN,
        observation_suffix=CLOSE,
        invalid_message=INVALID,
        failed_message=FAILED,
        empty_message=EMPTY,
        max_turns=3,
        max_turn_tokens=32,
        max_observation_tokens=48,
    )
    return SmallWorldTask(seed=seed, environment=environment)


def play(engine: HFEngine, task: SmallWorldTask, problems: Sequence[Problem], temperature: float) -> list[Played]:
    """One trajectory a problem, with the task's environment; temperature 0 is greedy."""
    tokenizer = engine.tokenizer
    prompts = [encode_prompt(task.prompt(p), tokenizer, chat=False) for p in problems]
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=temperature)
    episodes = respond(engine, tokenizer, task, problems, prompts, range(len(problems)), sampling)
    return [_played(episode, task, engine) for episode in episodes]


def _played(episode: Episode, task: SmallWorldTask, engine: HFEngine) -> Played:
    problem, meta = episode.problem, episode.problem.meta
    spans = task.split_steps(episode.ids, engine.tokenizer, episode.mask)
    steps = []
    for start, end in spans:
        runs = itertools.groupby(range(start, end), key=lambda i: episode.mask[i])
        steps.append([Piece(decode(engine.tokenizer, [episode.ids[i] for i in run]), not own) for own, run in runs])
    judged = judge(task.world, meta["entity"], meta["relations"], steps)
    return Played(
        problem=problem,
        steps=[decode(engine.tokenizer, episode.ids[a:b]).strip() for a, b in spans],
        verdicts=[step.verdict for step in judged],
        text=episode.said,
        grade=task.grade(episode.written, problem),
    )


def score_distributions(engine: HFEngine, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The distribution over the ten digits [n, 10], and the mass on digits before normalising [n]."""
    found = engine.next_text_logprobs(prompts, [str(score) for score in range(10)]).exp()
    mass = found.sum(-1)
    return found / mass[:, None], mass


def answers_report(engines: dict[str, HFEngine], tasks: dict[str, SmallWorldTask], out: Path) -> list[str]:
    """Markdown lines: sizes, and EM and F1 of each model on each world's held-out problems."""
    lines = [
        "| | parameters | MB (float16) | steps | minutes | world | problems | greedy EM | F1 | T = 1 EM | F1 |",
        "| --- " * 11 + "|",
    ]
    parts: list[tuple[str, Split]] = [(name, split) for name in tasks for split in ("validation", "test")]
    for name, engine in engines.items():
        made = json.loads((out / name / "pretraining.json").read_text())
        size = (out / name / "model.safetensors").stat().st_size / 1e6
        for world, split in parts:
            cells = []
            for temperature in (0.0, 1.0):
                played = play(engine, tasks[world], tasks[world].problems(split), temperature)
                for metric in ("em", "f1"):
                    cells.append(f"{sum(p.grade.metrics[metric] for p in played) / len(played):.1%}")
            lines.append(
                f"| {name} | {made['parameters']:,} | {size:.2f} | {made['steps']} | {made['minutes']} | {world} | "
                f"{split} | {' | '.join(cells)} |"
            )
    return lines


def kinds_report(engine: HFEngine, task: SmallWorldTask) -> list[str]:
    """Markdown lines: greedy EM by the question's last relation."""
    played = play(engine, task, task.problems("test"), 0.0)
    kinds: dict[tuple[int, str], list[float]] = {}
    for p in played:
        kinds.setdefault((p.problem.meta["hops"], p.problem.meta["relations"][-1]), []).append(p.grade.metrics["em"])
    cells = [
        f"| {hops} | {relation} | {len(values)} | {sum(values) / len(values):.0%} |"
        for (hops, relation), values in sorted(kinds.items())
    ]
    return ["| hops | asks for | problems | greedy EM |", "| --- | --- | --- | --- |", *cells]


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
    correct = torch.tensor([p.grade.correct for p in played])
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
        row(f"trajectory: all steps right, {name} of steps", scores, sound)
    row("trajectory: right answer, trajectory prompt", whole_readings, correct)
    row("trajectory: all steps right, trajectory prompt", whole_readings, sound)
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


def faults_report(teacher: HFEngine, task: SmallWorldTask) -> list[str]:
    """Markdown lines: the expected score of the steps of trajectories with one arbitrary fault, by verdict."""
    library, rng = Library(task.world), random.Random(0)
    prompts: dict[Verdict, list[str]] = {verdict: [] for verdict in VERDICTS}
    for problem in [*task.problems("test"), *task.problems("validation")]:
        entity, relations = problem.meta["entity"], problem.meta["relations"]
        pieces = write(library, rng, entity, relations, faults(int(rng.random() * len(relations))))
        judged = judge(task.world, entity, relations, into_steps(pieces))
        texts = ["".join(piece.text for piece in step.pieces).strip() for step in judged]
        for k, step in enumerate(judged):
            prompts[step.verdict].append(step_prompt(problem.question, texts[:k], texts[k], SCALE))
    lines = ["| | steps | mean expected score | 7 or more | 4 or less |", "| --- " * 5 + "|"]
    for verdict, name in VERDICTS.items():
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


def evaluate(out: Path) -> str:
    """The part of the README that is measured: on the task's own world, and on another that no model has seen."""
    tasks = {"shipped": small_world(out / "corpus.jsonl")}
    other = out / "other_corpus.jsonl"
    write_corpus(World(1), other)
    tasks["another"] = small_world(other, seed=1)
    engines = {name: HFEngine(str(out / name), batch_size=256) for name in ("student", "teacher")}
    for engine in engines.values():
        engine.start()
    lines = answers_report(engines, tasks, out)
    task, problems = tasks["shipped"], tasks["shipped"].problems("test")
    lines += ["", "## What the student gets right", "", *kinds_report(engines["student"], task), ""]
    lines += ["## The teacher as a scorer", "", "### Trajectories of the student, test problems, T = 1", ""]
    lines += scores_report(engines["teacher"], play(engines["student"], task, problems, 1.0))
    lines += ["", "### Trajectories of the teacher, test problems, T = 1", ""]
    lines += scores_report(engines["teacher"], play(engines["teacher"], task, problems, 1.0))
    lines += ["", "### Written trajectories with one arbitrary fault, test and validation problems", ""]
    lines += faults_report(engines["teacher"], task)
    return "\n".join([*lines, ""])
