"""How long a round of the paper's size takes, by assumptions about student, teacher and pipeline.

    python -m benchmarks.speed simulator
    python -m benchmarks.speed simulator --assumptions.teacher_decode 5000 --assumptions.demonstration_tokens 700

The student's batch decodes at a fixed total rate until a step reaches its latency. The teacher is a queue with
processor sharing for what it writes; scores cost what it has to read, with a prefix cache that holds a trajectory's
earlier steps. Lengths are log-normal. Nothing is measured here: the rates are the assumptions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.report import Section

Floats = NDArray[np.float64]
Judge = Literal["all", "needed"]
Overlap = Literal["none", "score", "round", "ahead"]


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Defaults: configs/math.yaml with QwQ-32B on two GPUs behind a server.

    Args:
        problems: B of a round.
        group_size: N trajectories a problem.
        rounds: of the run.
        student_tokens: median of a trajectory.
        student_spread: standard deviation of its logarithm.
        max_tokens: limit of a trajectory.
        truncated: share of trajectories at the limit; they are wrong.
        student_decode: tokens/s of the whole batch.
        student_latency: seconds of a decoding step, at least.
        correct: share of correct ones among the trajectories that end.
        accepted: share of the correct ones that the judge accepts.
        judge: "all" scores every trajectory; "needed" the correct ones: a wrong one is replaced whatever its score.
        steps: K of a trajectory; each is one score.
        rubric_tokens: of the scoring prompt behind a step.
        prompt_tokens: of a problem with its template.
        teacher_prefill: tokens/s that the teacher reads.
        teacher_decode: tokens/s that it writes in total.
        teacher_stream: tokens/s of one completion, at most.
        teacher_slots: completions that it writes at once.
        demonstration_tokens: mean length of what it writes, thoughts included.
        pool: M demonstrations a problem that are written once and kept; 0: every replacement is written anew.
        pool_problems: problems that the pool covers.
        overlap: "none": sample, score, replace, train, one after the other; "score": scored as they finish; "round":
            and replaced as they are rejected; "ahead": as many demonstrations as a round needs are written while the
            last one trains and this one samples.
        reference: seconds of the reference model's log-probabilities.
        train: seconds of the update.
        seed: of lengths and verdicts.
        repeats: rounds that are averaged.
    """

    problems: int = 128
    group_size: int = 8
    rounds: int = 800
    student_tokens: float = 600.0
    student_spread: float = 0.6
    max_tokens: int = 3072
    truncated: float = 0.15
    student_decode: float = 20_000.0
    student_latency: float = 0.008
    correct: float = 0.625
    accepted: float = 0.8
    judge: Judge = "all"
    steps: int = 10
    rubric_tokens: int = 120
    prompt_tokens: int = 150
    teacher_prefill: float = 13_500.0
    teacher_decode: float = 2500.0
    teacher_stream: float = 45.0
    teacher_slots: int = 64
    demonstration_tokens: float = 8192.0
    pool: int = 0
    pool_problems: int = 1207
    overlap: Overlap = "none"
    reference: float = 12.0
    train: float = 108.0
    seed: int = 0
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class RoundTime:
    """Seconds; ``score`` and ``replace`` are what lies behind the phase before."""

    generate: float
    score: float
    replace: float
    total: float


def student_finish(lengths: Floats, a: Assumptions) -> Floats:
    """When each trajectory ends, with all of them decoded in one batch."""
    finish = np.empty(len(lengths))
    now, done, alive = 0.0, 0.0, len(lengths)
    for i in np.argsort(lengths):
        now += (lengths[i] - done) * max(alive / a.student_decode, a.student_latency)
        finish[i], done, alive = now, lengths[i], alive - 1
    return finish


def teacher_finish(arrivals: Floats, tokens: Floats, a: Assumptions) -> float:
    """When the last of some completions is written: a shared rate, limited slots, first come first served."""
    coming = deque(np.argsort(arrivals, kind="stable").tolist())
    waiting: deque[int] = deque()
    left: dict[int, float] = {}
    now = 0.0
    while coming or waiting or left:
        while coming and arrivals[coming[0]] <= now + 1e-9:
            waiting.append(coming.popleft())
        while waiting and len(left) < a.teacher_slots:
            job = waiting.popleft()
            left[job] = float(tokens[job])
        if not left:
            now = float(arrivals[coming[0]])
            continue
        speed = min(a.teacher_decode / len(left), a.teacher_stream)
        span = min(left.values()) / speed
        if coming:
            span = min(span, max(float(arrivals[coming[0]]) - now, 1e-6))
        now += span
        left = {job: rest - speed * span for job, rest in left.items() if rest - speed * span > 1e-6}
    return now


def one_round(a: Assumptions, rng: np.random.Generator) -> RoundTime:
    """A round drawn at random."""
    count = a.problems * a.group_size
    lengths = np.clip(np.exp(rng.normal(np.log(a.student_tokens), a.student_spread, count)), 200, a.max_tokens)
    lengths[rng.choice(count, int(a.truncated * count), replace=False)] = a.max_tokens
    verdict = rng.random(count)
    ended = lengths < a.max_tokens
    correct, accepted = (verdict <= a.correct) & ended, (verdict <= a.correct * a.accepted) & ended
    written = np.clip(np.exp(rng.normal(np.log(a.demonstration_tokens) - 0.3, 0.75, count)), 200, 16_384)
    finish = student_finish(lengths, a)
    generate = float(finish.max())
    read = a.prompt_tokens + 2 * lengths + a.steps * a.rubric_tokens  # new to the prefix cache
    cost = np.where(correct if a.judge == "needed" else True, read / a.teacher_prefill, 0.0)
    replaced = ~accepted
    tokens = np.zeros(0) if a.pool else written[replaced]
    zeros = np.zeros(len(tokens))
    rest = a.reference + a.train
    if a.overlap == "none":
        score, replacing = float(cost.sum()), teacher_finish(zeros, tokens, a)
        return RoundTime(generate, score, replacing, generate + score + replacing + rest)
    scored, now = np.empty(count), 0.0
    for i in np.argsort(finish):
        scored[i] = now = max(now, finish[i]) + cost[i]
    behind = now - generate
    if a.overlap == "score" or a.pool:
        replacing = teacher_finish(zeros, tokens, a)
        return RoundTime(generate, behind, replacing, now + replacing + rest)
    if a.overlap == "round":
        end = max(now, teacher_finish(scored[replaced], tokens, a))
        return RoundTime(generate, behind, end - now, end + rest)
    busy = teacher_finish(zeros, tokens, a) + float(cost.sum())  # the teacher's whole round
    total = max(now + rest, busy)
    return RoundTime(generate, behind, total - now - rest, total)


def simulate(a: Assumptions) -> RoundTime:
    """The mean of a few rounds."""
    rng = np.random.default_rng(a.seed)
    drawn = [one_round(a, rng) for _ in range(a.repeats)]
    means = [float(np.mean([getattr(r, name) for r in drawn])) for name in RoundTime.__slots__]
    return RoundTime(*means)


def scenarios(a: Assumptions, pool: int) -> dict[str, Assumptions]:
    """What the issue's measures change, one by one and together."""
    return {
        "as assumed": a,
        "only what can matter is judged": replace(a, judge="needed"),
        "scored as they finish": replace(a, overlap="score"),
        "scored and replaced as they finish": replace(a, overlap="round"),
        "demonstrations a round ahead": replace(a, overlap="ahead"),
        f"a pool of {pool} demonstrations": replace(a, pool=pool),
        "pool, needed, scored as they finish": replace(a, pool=pool, judge="needed", overlap="score"),
        "the same, train in 40 s": replace(a, pool=pool, judge="needed", overlap="score", train=40.0),
    }


def main(assumptions: Assumptions = Assumptions(), demonstrations: int = 8) -> Section:
    """A table of scenarios. ``demonstrations``: M of those with a pool."""
    rows, base = [], simulate(assumptions).total
    for name, a in scenarios(assumptions, demonstrations).items():
        r = simulate(a)
        once = a.pool * a.pool_problems * a.demonstration_tokens / a.teacher_decode / 3600
        rows.append([
            name, f"{r.generate:.0f}", f"{r.score:.0f}", f"{r.replace:,.0f}", f"{a.reference + a.train:.0f}",
            f"{r.total:,.0f}", f"{base / r.total:.2f}", f"{r.total * a.rounds / 3600:.0f}",
            f"{once:.0f}" if a.pool else "–",
        ])  # fmt: skip
    header = [
        "scenario",
        "generate",
        "score",
        "replace",
        "rest",
        "a round, s",
        "times faster",
        "run, h",
        "pool, h once",
    ]
    return Section(header, rows)
