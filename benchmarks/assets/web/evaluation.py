"""What the two checkpoints can do: answers of both, and how well the teacher's scores tell right from wrong."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.assets.rows import Verdict
from benchmarks.assets.scoring import SCALE, Judged, scores_report, steps_report
from benchmarks.assets.web.searching import TOP_K, Library, Piece, faults, into_steps, judge, write
from benchmarks.assets.web.vocabulary import CLOSE, EMPTY, FAILED, INVALID, OPEN
from ovd_lightning.engines.base import Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.round.turns import respond
from ovd_lightning.search.bm25 import BM25Search
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.search import SearchEnvironment
from ovd_lightning.tasks.small_world import SmallWorldTask, World, write_corpus
from ovd_lightning.tokens import decode, encode_prompt
from ovd_lightning.types import Grade, Problem, Trajectory

VERDICTS: dict[Verdict, str] = {
    "right": "right",
    "inherited": "right after a mistake",
    "value": "wrong reading",
    "expression": "useless query, or none",
}
MAX_TOKENS = 144
"""Of a trajectory, observations included."""


@dataclass(kw_only=True, frozen=True)
class Played(Judged):
    """A trajectory of Web Q&A."""

    grade: Grade


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
    trajectories = respond(engine, tokenizer, task, problems, prompts, range(len(problems)), sampling)
    return [_played(y, task, engine) for y in trajectories]


def _played(y: Trajectory, task: SmallWorldTask, engine: HFEngine) -> Played:
    problem, meta = y.problem, y.problem.meta
    spans = task.split_steps(y.completion_ids, engine.tokenizer, y.completion_mask)
    steps = []
    for start, end in spans:
        runs = itertools.groupby(range(start, end), key=lambda i: y.completion_mask[i])
        steps.append(
            [Piece(decode(engine.tokenizer, [y.completion_ids[i] for i in run]), not own) for own, run in runs]
        )
    judged = judge(task.world, meta["entity"], meta["relations"], steps)
    grade = task.grade(y.written, problem)
    return Played(
        problem=problem,
        steps=[decode(engine.tokenizer, y.completion_ids[a:b]).strip() for a, b in spans],
        verdicts=[step.verdict for step in judged],
        text=y.text,
        correct=grade.correct,
        grade=grade,
    )


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
    return steps_report(teacher, prompts, VERDICTS)


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
    lines += scores_report(engines["teacher"], play(engines["student"], task, problems, 1.0), VERDICTS)
    lines += ["", "### Trajectories of the teacher, test problems, T = 1", ""]
    lines += scores_report(engines["teacher"], play(engines["teacher"], task, problems, 1.0), VERDICTS)
    lines += ["", "### Written trajectories with one arbitrary fault, test and validation problems", ""]
    lines += faults_report(engines["teacher"], task)
    return "\n".join([*lines, ""])
