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

from benchmarks.assets.rows import Verdict
from benchmarks.assets.scoring import SCALE, Judged, scores_report, steps_report
from benchmarks.assets.tools.trajectories import Turn, fault, judge, mistake_of, write
from benchmarks.assets.tools.vocabulary import CLOSE_RESULT, OPEN_RESULT
from ovd_lightning.engines.base import Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.round.turns import respond
from ovd_lightning.tasks.arithmetic import parse
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.tool_arithmetic import ToolArithmeticTask
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.tokens import decode, encode_prompt
from ovd_lightning.tools.local import LocalSandbox
from ovd_lightning.types import Problem, Trajectory

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


@dataclass(kw_only=True, frozen=True)
class Played(Judged):
    """A trajectory of the tool task."""

    mistake: str | None
    """The name of its first mistake."""


def tool_arithmetic(environment: Environment | None = None) -> ToolArithmeticTask:
    """The task with the interpreter of ``configs/quickstart_tools.yaml``."""
    return ToolArithmeticTask(environment=environment or ToolEnvironment(sandbox=LocalSandbox(), **TURNS))


def play(engine: HFEngine, task: ToolArithmeticTask, problems: Sequence[Problem], temperature: float) -> list[Played]:
    """One trajectory a problem, with the task's environment; temperature 0 is greedy."""
    prompts = [encode_prompt(task.prompt(p), engine.tokenizer, chat=False) for p in problems]
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=temperature)
    trajectories = respond(engine, engine.tokenizer, task, problems, prompts, range(len(problems)), sampling)
    return [_played(y, task, engine) for y in trajectories]


def _played(y: Trajectory, task: ToolArithmeticTask, engine: HFEngine) -> Played:
    spans = task.split_steps(y.completion_ids, engine.tokenizer, y.completion_mask)
    turns = []
    for start, end in spans:
        runs = itertools.groupby(range(start, end), key=lambda i: y.completion_mask[i])
        texts = {own: decode(engine.tokenizer, [y.completion_ids[i] for i in run]) for own, run in runs}
        seen = texts.get(False)
        result = None if seen is None else seen.removeprefix(OPEN_RESULT).removesuffix("\n").removesuffix(CLOSE_RESULT)
        turns.append(Turn(texts.get(True, "").strip(), result))
    expression = parse(y.problem.question)
    return Played(
        problem=y.problem,
        steps=[decode(engine.tokenizer, y.completion_ids[a:b]).strip() for a, b in spans],
        verdicts=[judged.verdict for judged in judge(expression, turns)],
        text=y.text,
        correct=task.grade(y.written, y.problem).correct,
        mistake=mistake_of(expression, turns),
    )


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
    return steps_report(teacher, prompts, VERDICTS)


def as_step(turn: Turn) -> str:
    """A turn with its result, as the task's steps have it."""
    return turn.text if turn.result is None else f"{turn.text}{OPEN_RESULT}{turn.result}{CLOSE_RESULT}"


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
        lines += scores_report(engines["teacher"], play(engines["student"], task, problems, 1.0), VERDICTS)
        lines += ["", "### Written trajectories with one arbitrary fault, test and validation problems", ""]
        lines += faults_report(engines["teacher"], task)
    finally:
        task.environment.close()
    return "\n".join([*lines, ""])
