"""How well a model judges: what its digits say about answers whose correctness is known.

python -m benchmarks.real.judging Qwen/Qwen2.5-Coder-0.5B-Instruct '[student.jsonl, teacher.jsonl]'
python -m benchmarks.real.judging HuggingFaceTB/SmolLM2-135M-Instruct '[student.jsonl, teacher.jsonl]' \\
    --levels '[step]' --variants '["A.4"]'

As many right as wrong answers of all files together are judged: boxed and complete ones, whose verdict is the answer's
and not the format's. Distributions are kept, and not asked for again. A trajectory's score is the judge's mean score,
or the least of its steps'. θ 7 keeps it with the probability that every score, drawn as OVD draws it (temperature 0.7),
is at least 7.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli

from benchmarks.real import numbers
from benchmarks.real.answers import Answer, read, training_task
from benchmarks.speed.report import table
from ovd_lightning import functional as F
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.judges.base import JudgeRequest, UnparsedScores
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.tokens import decode

PROMPTS = Path(__file__).with_name("prompts")
Level = Literal["step", "trajectory"]
HEAD = (
    "asked", "level", "mass", "entropy", "mean, right", "mean, wrong", "AUC", "calibration error",
    "θ 7 keeps of right", "of wrong",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to ask."""

    name: str
    prompt: str = "a4.jinja"
    chat: bool = True
    reference: bool = False


VARIANTS = tuple(  # with and without the reference next to each other: the engine keeps what they share
    Variant(f"{name}, reference" if reference else name, prompt, chat, reference)
    for name, prompt, chat in (
        ("A.4", "a4.jinja", True),
        ("A.4, no template", "a4.jinja", False),
        ("short", str(PROMPTS / "short.jinja"), True),
        ("marks", str(PROMPTS / "check.jinja"), True),
    )
    for reference in (False, True)
)


def main(
    judge: str,
    files: list[Path],
    count: int = 48,
    levels: list[Level] | None = None,
    variants: list[str] | None = None,
    keep: Path = Path("judged.jsonl"),
) -> None:
    """Judge answers, and print a table.

    Args:
        judge: a folder or a hub id.
        files: answers, made by benchmarks.real.sample.
        count: answers that are judged, half of them right where there are as many.
        levels: step, trajectory, or both; null: both.
        variants: names of those to ask by; null: all.
        keep: JSONL of distributions; what it has is not asked for again.
    """
    chosen = balanced([answer for file in files for answer in read(file)], count)
    ask = Asker(VLLMEngine(judge, max_model_len=2048, kv_cache_memory_bytes=1 << 30), keep)
    right = sum(answer.correct for answer in chosen)
    print(f"{Path(judge).name}, {right} right and {len(chosen) - right} wrong answers:\n")
    rows = []
    for level in levels or ["trajectory", "step"]:
        for variant in VARIANTS:
            if variants is None or variant.name in variants:
                rows.append(row(variant, level, chosen, ask))
                print(rows[-1], flush=True)
    print(table(HEAD, rows))


def balanced(answers: Sequence[Answer], count: int) -> list[Answer]:
    """As many right as wrong ones, in a fixed random order."""
    order = sorted((a for a in answers if a.found and not a.truncated), key=lambda a: (a.model, a.problem, a.sample))
    random.Random(0).shuffle(order)
    right = [a for a in order if a.correct][: count // 2]
    return right + [a for a in order if not a.correct][: count - len(right)]


class Asker:
    """A judge's distributions, each asked for once."""

    def __init__(self, engine: VLLMEngine, keep: Path) -> None:
        self.engine, self.keep, self.started = engine, keep, False
        lines = keep.read_text(encoding="utf-8").splitlines() if keep.is_file() else []
        self.known: dict[str, dict[str, Any]] = {entry["key"]: entry for entry in map(json.loads, lines)}

    def __call__(self, variant: Variant, requests: Sequence[JudgeRequest]) -> list[dict[str, Any]]:
        """Of each request ``{"distribution": [v] or None, "mass": float}``."""
        judge = VerbalJudge(self.engine, prompt=variant.prompt, reference=variant.reference, chat=variant.chat)
        keys = [json.dumps([self.engine.model, variant.chat, judge.prompt(request)]) for request in requests]
        missing = [i for i, key in enumerate(keys) if key not in self.known and keys.index(key) == i]
        if missing and not self.started:
            self.engine.start()
            self.started = True
        for start in range(0, len(missing), 16):
            part = missing[start : start + 16]
            found = judge.judge([requests[i] for i in part], unparsed=UnparsedScores(least=float("inf")))
            with self.keep.open("a", encoding="utf-8") as out:
                for i, judgement in zip(part, found, strict=True):
                    entry = {"key": keys[i], "distribution": judgement.distribution, "mass": judgement.mass}
                    self.known[keys[i]] = entry
                    out.write(json.dumps(entry) + "\n")
        return [self.known[key] for key in keys]


def requests_of(answer: Answer, level: Level, tokenizer: Any) -> list[JudgeRequest]:
    """The whole answer, or its steps, as the training task of configs/real_small.yaml cuts them."""
    if level == "trajectory":
        return [JudgeRequest(problem=answer.as_problem, response=answer.text)]
    ids = tokenizer.encode(answer.text, add_special_tokens=False)
    steps = [decode(tokenizer, ids[start:end]) for start, end in training_task(None).split_steps(ids, tokenizer)]
    return [
        JudgeRequest(problem=answer.as_problem, previous=tuple(steps[:k]), step=step) for k, step in enumerate(steps)
    ]


def row(variant: Variant, level: Level, answers: Sequence[Answer], ask: Asker) -> list[str]:
    """A line of the table."""
    wanted = [requests_of(answer, level, ask.engine.tokenizer) for answer in answers]
    judged = iter(ask(variant, [request for requests in wanted for request in requests]))
    of_answers = [[next(judged) for _ in requests] for requests in wanted]
    every = [judgement for of_answer in of_answers for judgement in of_answer]
    scores = [min(map(expected, of_answer)) for of_answer in of_answers]
    correct = [answer.correct for answer in answers]
    right, wrong = ([s for s, c in zip(scores, correct, strict=True) if c is verdict] for verdict in (True, False))
    area = numbers.auc(right, wrong)
    return [
        variant.name,
        level,
        f"{numbers.mean([judgement['mass'] for judgement in every]):.3f}",
        f"{numbers.mean([F.entropy(j['distribution']) for j in every if j['distribution']]):.2f}",
        f"{numbers.mean(right):.2f}",
        f"{numbers.mean(wrong):.2f}",
        f"{area:.2f} ± {numbers.auc_error(area, len(right), len(wrong)):.2f}",
        f"{numbers.calibration_error([score / 9 for score in scores], correct):.2f}",
        *(
            f"{numbers.mean([k for k, c in zip(map(kept, of_answers), correct, strict=True) if c is verdict]):.0%}"
            for verdict in (True, False)
        ),
    ]


def kept(judgements: Sequence[dict[str, Any]]) -> float:
    """Probability that every drawn score is at least 7."""
    return math.prod(sum(F.temper(j["distribution"], 0.7)[7:]) if j["distribution"] else 0.0 for j in judgements)


def expected(judgement: dict[str, Any]) -> float:
    """E[S] on 0-9; 0 without a score."""
    return sum(score * p for score, p in enumerate(judgement["distribution"] or [1.0]))


if __name__ == "__main__":
    auto_cli(main)
