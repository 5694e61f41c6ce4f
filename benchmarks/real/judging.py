"""How well a model judges: what its digits say about answers whose correctness is known.

python -m benchmarks.real.judging Qwen/Qwen2.5-Coder-0.5B-Instruct student.jsonl teacher.jsonl
python -m benchmarks.real.judging HuggingFaceTB/SmolLM2-135M-Instruct student.jsonl teacher.jsonl --levels [trajectory]

As many right as wrong answers are judged, of both files together. One thing is varied at a time, from the paper's prompt
with a chat template and without the reference. Distributions are kept beside the first file, and not asked for again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to ask."""

    name: str
    prompt: str = "a4.jinja"
    chat: bool = True
    reference: bool = False


VARIANTS = (
    Variant("A.4"),
    Variant("A.4, no template", chat=False),
    Variant("A.4, reference", reference=True),
    Variant("A.4, reference, no template", chat=False, reference=True),
    Variant("short", str(PROMPTS / "short.jinja")),
    Variant("short, reference", str(PROMPTS / "short.jinja"), reference=True),
    Variant("check first", str(PROMPTS / "check.jinja")),
    Variant("check first, reference", str(PROMPTS / "check.jinja"), reference=True),
)


def main(
    judge: str,
    files: list[Path],
    count: int = 64,
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
    engine = VLLMEngine(judge, max_model_len=2048, kv_cache_memory_bytes=512 << 20)
    ask = Asker(engine, keep)
    rows = [
        row(variant, level, chosen, ask)
        for level in levels or ["trajectory", "step"]
        for variant in VARIANTS
        if variants is None or variant.name in variants
    ]
    right = sum(answer.correct for answer in chosen)
    print(f"{Path(judge).name}, {right} right and {len(chosen) - right} wrong answers:\n")
    print(table(HEAD, rows))


HEAD = ("asked", "level", "mass", "entropy", "mean, right", "mean, wrong", "AUC", "calibration error", "θ 7 keeps, right",
        "wrong")  # fmt: skip


def balanced(answers: Sequence[Answer], count: int) -> list[Answer]:
    """As many right as wrong ones, in a fixed random order; complete answers only."""
    order = sorted((a for a in answers if a.text.strip()), key=lambda a: (a.model, a.problem, a.sample))
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
        missing = list(dict.fromkeys(i for i, key in enumerate(keys) if key not in self.known))
        if missing and not self.started:
            self.engine.start()
            self.started = True
        for start in range(0, len(missing), 32):
            part = missing[start : start + 32]
            found = judge.judge([requests[i] for i in part], unparsed=UnparsedScores(least=float("inf")))
            with self.keep.open("a", encoding="utf-8") as out:
                for i, judgement in zip(part, found, strict=True):
                    entry = {"key": keys[i], "distribution": judgement.distribution, "mass": judgement.mass}
                    self.known[keys[i]] = entry
                    out.write(json.dumps(entry) + "\n")
        return [self.known[key] for key in keys]


def row(variant: Variant, level: Level, answers: Sequence[Answer], ask: Asker) -> list[str]:
    """A line of the table: of the answers' scores, for steps the minimum of their expected scores."""
    tokenizer, task = ask.engine.tokenizer, training_task(None)
    requests: list[JudgeRequest] = []
    spans: list[list[int]] = []
    for answer in answers:
        if level == "trajectory":
            asked = [JudgeRequest(problem=answer.as_problem, response=answer.text)]
        else:
            ids = tokenizer.encode(answer.text, add_special_tokens=False)
            steps = [decode(tokenizer, ids[a:b]) for a, b in task.split_steps(ids, tokenizer)]
            asked = [
                JudgeRequest(problem=answer.as_problem, previous=tuple(steps[:k]), step=step)
                for k, step in enumerate(steps)
            ]
        spans.append(list(range(len(requests), len(requests) + len(asked))))
        requests += asked
    judged = ask(variant, requests)
    expected = [
        None if j["distribution"] is None else sum(s * p for s, p in enumerate(j["distribution"])) for j in judged
    ]
    scores = [min((expected[i] or 0.0 for i in span), default=0.0) for span in spans]
    correct = [answer.correct for answer in answers]
    of: Callable[[bool], list[float]] = lambda verdict: [
        s for s, c in zip(scores, correct, strict=True) if c is verdict
    ]  # noqa: E731
    right, wrong = of(True), of(False)
    area = numbers.auc(right, wrong)
    return [
        variant.name,
        level,
        f"{numbers.mean([j['mass'] for j in judged]):.3f}",
        f"{numbers.mean([F.entropy(j['distribution']) for j in judged if j['distribution']]):.2f}",
        f"{numbers.mean(right):.2f}",
        f"{numbers.mean(wrong):.2f}",
        f"{area:.2f} ± {numbers.auc_error(area, len(right), len(wrong)):.2f}",
        f"{numbers.calibration_error([s / 9 for s in scores], correct):.2f}",
        f"{numbers.mean([float(s >= 7) for s in right]):.0%}",
        f"{numbers.mean([float(s >= 7) for s in wrong]):.0%}",
    ]


if __name__ == "__main__":
    auto_cli(main)
