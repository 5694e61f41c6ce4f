"""The pretraining loop: Muon on matrices, AdamW on the rest, decay over the last part."""

from __future__ import annotations

import functools
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from benchmarks.assets.rows import DIGITS, SCORE_WEIGHT, Packed, Row, pack
from benchmarks.assets.vocabulary import EOS, IDS, PAD, Vocabulary


def new_model(shape: dict[str, Any], seed: int, vocabulary: Vocabulary) -> Qwen2ForCausalLM:
    """A random Qwen2 of ``shape``; heads of 32, which vLLM's CPU attention supports."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(vocabulary.tokens),
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
        **shape,
    )
    return Qwen2ForCausalLM(config)


def token_loss(logits: Tensor, rows: Packed) -> tuple[Tensor, Tensor]:
    """Weighted sum of the tokens' cross-entropies [], and the cross-entropy of each score [S].

    The score's is over the whole vocabulary, so its mass is taught to lie on the digits.
    """
    losses = cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")  # [B * L]
    tokens = (losses * rows.weights.flatten()).sum()
    scores = log_softmax(logits[rows.score_rows, rows.score_columns], -1)[:, DIGITS]  # [S, 10]
    return tokens, -(scores * rows.score_labels).sum(-1)


def train(
    model: Qwen2ForCausalLM,
    make_row: Callable[[random.Random], Row],
    *,
    steps: int,
    seed: int,
    shape: tuple[int, int],
    matrix_lr: float = 0.02,
    other_lr: float = 3e-3,
    decay_from: float,
    compiled: bool = False,
    report: Callable[[int], None] = lambda step: None,
    report_every: int = 300,
) -> None:
    """Train in place on packed batches of ``shape`` (rows, tokens), about 130 examples each.

    Batch k is a function of (seed, k). From the share ``decay_from`` of the steps on, the learning rates fall linearly
    to zero (1: they do not fall). ``compiled`` is a third faster where there is a C++ compiler.
    """
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(hidden, lr=matrix_lr, weight_decay=0.01, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)

    def batch(step: int) -> Packed:
        return pack(random.Random(f"{seed}/{step}"), make_row, *shape)

    def forward(inputs: Tensor, attention: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=inputs, attention_mask=attention, use_cache=False).logits.float()
        return logits

    run = torch.compile(forward) if compiled else forward
    model.train()
    started = time.monotonic()
    token_average = score_average = 0.0
    with ThreadPoolExecutor(1) as worker:
        upcoming = worker.submit(batch, 0)
        for step in range(steps):
            rows = upcoming.result()
            upcoming = worker.submit(batch, step + 1)
            warmup = min(1.0, (step + 1) / 30)
            scale = warmup * (min(1.0, (1 - step / steps) / (1 - decay_from)) if decay_from < 1 else 1.0)
            muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = scale * matrix_lr, scale * other_lr
            tokens, scores = token_loss(run(rows.inputs, rows.attention()), rows)
            weight = rows.weights.sum() + SCORE_WEIGHT * len(scores)
            loss = (tokens + SCORE_WEIGHT * scores.sum()) / weight
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step()
            adam.step()
            model.zero_grad(set_to_none=True)
            keep = 0.98 if step > 50 else 0.9
            token_average = keep * token_average + (1 - keep) * (tokens / rows.weights.sum()).item()
            if len(scores):
                score_average = keep * score_average + (1 - keep) * scores.mean().item()
            if (step + 1) % 50 == 0:
                minutes = (time.monotonic() - started) / 60
                print(
                    f"step {step + 1} tokens {token_average:.3f} score {score_average:.3f} {minutes:.1f} min",
                    flush=True,
                )
            if (step + 1) % report_every == 0:
                model.eval()
                report(step + 1)
                model.train()
    model.eval()


def train_phases(
    out: Path,
    shape: dict[str, Any],
    make_row: Callable[..., Row],
    phases: Sequence[tuple[int, float, float]],
    *,
    vocabulary: Vocabulary,
    rows: tuple[int, int],
    seed: int = 0,
    first_batch: int = 0,
    compiled: bool = False,
    resume: bool = False,
) -> None:
    """Train the checkpoint ``out`` in phases of (steps, first argument of ``make_row``, share of the steps after which
    the learning rates fall).

    It is saved every few hundred steps. With ``resume`` training continues from the checkpoint in ``out`` at the next
    phase.

    Args:
        shape: of the model.
        rows: rows and tokens of a packed batch.
        seed: of the initial weights; phase i draws its batches with ``seed + first_batch + i``.
    """
    model, made, before = new_model(shape, seed, vocabulary), {"steps": 0, "minutes": 0.0}, 0
    if resume:
        model, made = load(out), json.loads((out / "pretraining.json").read_text())
    started = time.monotonic() - 60 * made["minutes"]

    def save(step: int) -> None:
        minutes = round((time.monotonic() - started) / 60, 1)
        facts: dict[str, object] = {
            "seed": seed,
            "steps": before + step,
            "minutes": minutes,
            "parameters": model.num_parameters(),
        }
        save_checkpoint(model, out, facts, vocabulary)

    for phase, (steps, argument, decay_from) in enumerate(phases):
        if before + steps <= made["steps"]:
            before += steps
            continue
        train(
            model,
            functools.partial(make_row, argument),
            steps=steps,
            seed=seed + first_batch + phase,
            shape=rows,
            decay_from=decay_from,
            compiled=compiled,
            report=save,
        )
        before += steps
    save(0)


def save_checkpoint(model: Qwen2ForCausalLM, directory: Path, facts: dict[str, object], vocabulary: Vocabulary) -> None:
    """Write weights in float16, configuration and tokenizer beside ``directory``, then move them into place."""
    fresh, old = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    half: Any = Qwen2ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(eos_token_id=IDS[EOS], pad_token_id=IDS[PAD], do_sample=True)
    half.to(torch.float16).save_pretrained(fresh)
    vocabulary.save_tokenizer(fresh)
    (fresh / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    if directory.exists():
        directory.rename(old)
    (fresh / "model.safetensors").chmod(0o644)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load(directory: Path) -> Qwen2ForCausalLM:
    """A saved checkpoint in float32."""
    model: Any = Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    loaded: Qwen2ForCausalLM = model
    return loaded
