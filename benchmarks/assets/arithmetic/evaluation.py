"""Accuracies of the arithmetic checkpoints, and how well the teacher's scores tell right from wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.assets.arithmetic.chains import judge
from benchmarks.assets.rows import Verdict
from benchmarks.assets.scoring import Judged, scores_report
from benchmarks.assets.training import load
from benchmarks.assets.vocabulary import EOS, IDS, TOKENS, encode
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.tasks.arithmetic import ArithmeticTask, parse
from ovd_lightning.types import Problem

VERDICTS: dict[Verdict, str] = {
    "right": "right",
    "inherited": "right after a mistake",
    "value": "wrong value",
    "expression": "wrong expression",
}


@torch.inference_mode()
def complete(
    model: PreTrainedModel, prompts: Sequence[str], *, temperature: float, seed: int = 0, limit: int = 64
) -> list[str]:
    """Complete prompts in batches of one length each; temperature 0 is greedy. End of sequence left out."""
    generator = torch.Generator().manual_seed(seed)
    by_length: dict[int, list[int]] = {}
    encoded = [encode(prompt) for prompt in prompts]
    for i, ids in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(i)
    texts = [""] * len(prompts)
    for places in by_length.values():
        cache: Any = None
        step, done = torch.tensor([encoded[i] for i in places]), torch.zeros(len(places), dtype=torch.bool)
        columns: list[Tensor] = []
        for _ in range(limit):
            output = model(input_ids=step, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            else:
                chosen = logits.argmax(-1, keepdim=True)
            columns.append(chosen.masked_fill(done[:, None], IDS[EOS]))
            done |= chosen[:, 0] == IDS[EOS]
            step = chosen
            if done.all():
                break
        for i, response in zip(places, torch.cat(columns, 1).tolist(), strict=True):
            end = response.index(IDS[EOS]) if IDS[EOS] in response else len(response)
            texts[i] = "".join(TOKENS[token] for token in response[:end])
    return texts


def accuracy(model: PreTrainedModel, task: ArithmeticTask, problems: Sequence[Problem], temperature: float) -> float:
    responses = complete(model, [task.prompt(p) for p in problems], temperature=temperature)
    return sum(task.grade(r, p).correct for r, p in zip(responses, problems, strict=True)) / len(problems)


def sample_chains(model: PreTrainedModel, task: ArithmeticTask, problems: Sequence[Problem], seed: int) -> list[Judged]:
    """One response a problem at T = 1."""
    chains: list[Judged] = []
    responses = complete(model, [task.prompt(p) for p in problems], temperature=1.0, seed=seed)
    for problem, response in zip(problems, responses, strict=True):
        steps = [line for line in response.split("\n") if line.strip()] or [response]
        chains.append(
            Judged(
                problem=problem,
                steps=steps,
                verdicts=[line.verdict for line in judge(parse(problem.question), steps)],
                text="\n".join(steps),
                correct=task.grade(response, problem).correct,
            )
        )
    return chains


def evaluate(out: Path) -> str:
    """The measured part of the README: sizes, accuracies on held-out problems, and the teacher as a scorer."""
    task = ArithmeticTask()
    validation, test = task.problems("validation"), task.problems("test")
    lines = [
        "| | parameters | MB (float16) | steps | minutes | validation: greedy | T = 1 | test: greedy | T = 1 |",
        "| --- " * 9 + "|",
    ]
    for name in ("student", "second_student", "teacher", "unseen_student"):
        if not (out / name).exists():
            continue
        model = load(out / name)
        made = json.loads((out / name / "pretraining.json").read_text())
        size = (out / name / "model.safetensors").stat().st_size / 1e6
        numbers = [f"{accuracy(model, task, p, t):.1%}" for p in (validation, test) for t in (0.0, 1.0)]
        lines.append(
            f"| {name.replace('_', ' ')} | {model.num_parameters():,} | {size:.2f} | {made['steps']} | "
            f"{made['minutes']} | {' | '.join(numbers)} |"
        )
    lines += ["", "The unseen student only serves the evaluation of the scorer and does not ship.", ""]
    lines += ["## The teacher as a scorer", ""]
    teacher = HFEngine(str(out / "teacher"), batch_size=256)
    teacher.start()
    for name, title in (
        ("student", "Chains of the shipped student, test problems, T = 1"),
        ("unseen_student", "Chains of another student, differently seeded and stopped early, test problems, T = 1"),
    ):
        if (out / name).exists():
            chains = sample_chains(load(out / name), task, test, seed=0)
            lines += [f"### {title}", "", *scores_report(teacher, chains, VERDICTS), ""]
    return "\n".join(lines)
