"""Whether this machine's GPU does what the documentation says: a table of check, value, expected range and verdict.

    python -m benchmarks.gpu_check                       # about 12 minutes, no network
    python -m benchmarks.gpu_check --json found.json     # ... and as JSON
    python -m benchmarks.gpu_check --only memory,parity
    python -m benchmarks.gpu_check --tiny --device cpu   # what can be run without a GPU, seconds to minutes

Models have random weights: 1.5 billion parameters, 0.5 billion on less than 40 GiB. What a row means: docs/gpu.md. What
cannot be checked here is skipped, with the reason. The exit status is 1 where a check failed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import is_flash_attn_2_available

from benchmarks import ROOT
from benchmarks.gpu_bench import GIB, PEAK, SIZES, Bench, Row, machine, number, prepare, skip
from benchmarks.speed.allocator import peak_bytes
from benchmarks.speed.before import split_balanced
from ovd_lightning.dry_run.memory import Setup, account
from ovd_lightning.dry_run.plan import CONTEXT, GRAPHS
from ovd_lightning.engines.base import Engine, Request, Sampling
from ovd_lightning.lengths import split_by_length, split_by_tokens
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.module import OVDModule
from ovd_lightning.round.sync import distances, send_weights
from ovd_lightning.student import Student
from ovd_lightning.types import Batch


def step(bench: Bench, student: Student, batches: Sequence[Batch]) -> None:
    for batch in batches:
        with bench.autocast():
            loss = GRPO(group_size=2, kl_coefficient=0.0).loss(student, batch).loss
        (loss / len(batches)).backward()


# ------------------------------------------------------------------ checks, in the order in which they run


def speed(bench: Bench) -> Iterator[Row]:
    """A step by the rule that cuts micro-batches, and by the mask; then what of the card's peak it reaches."""
    student = bench.student(gradient_checkpointing=True)
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}
    for name, split, mask in (
        ("even, mask", split_balanced, True), ("by length, mask", split_by_length, True),
        ("by length, no mask", split_by_length, False),
    ):  # fmt: skip
        batches = bench.batches(4, split)
        student._head.needs_mask = mask
        run = partial(step, bench, student, batches)
        seconds[name], peaks[name] = bench.seconds(run), peak_bytes(run, bench.device)
        yield number(f"step, {name}", seconds[name], "s")
        yield number(f"peak of a step, {name}", peaks[name] / GIB, "GiB")
    yield Row("peak by length against even", peaks["by length, mask"] / peaks["even, mask"], "", 0, 1.05)
    best = min(seconds.values())
    if not bench.cuda:
        yield skip("no mask against mask", "a CPU's times are docs/speed.md's")
        yield skip("MFU", "no GPU")
        return
    yield Row("by length against even", seconds["by length, mask"] / seconds["even, mask"], "", 0, 1.05)
    yield Row("no mask against mask", seconds["by length, no mask"] / seconds["by length, mask"], "", 0, 1.05)
    tokens = sum(int(b.attention_mask.sum()) for b in bench.batches(4, split_by_length))
    reached = 8 * bench.shape.parameters * tokens / best / 1e12  # with recomputed activations
    yield number("reached in training", reached, "TFLOP/s")
    peak = next((p for name, p in PEAK.items() if name in torch.cuda.get_device_name()), None)
    if peak is None:
        yield skip("MFU", f"the peak of {torch.cuda.get_device_name()} is not known here")
    else:
        yield Row("MFU", reached * 6 / 8 / peak, "", 0.15, 1.0)


def packing(bench: Bench) -> Iterator[Row]:
    """A step on packed rows against padded ones: on a GPU by flash attention's kernels, elsewhere by a mask."""
    if bench.cuda and not is_flash_attn_2_available():
        yield skip("packed against padded", "flash-attn is not installed")
        return
    attention = "flash_attention_2" if bench.cuda else "sdpa"
    values: list[Tensor] = []
    seconds, peaks = [], []
    for packed, split in ((False, split_by_length), (True, split_by_tokens)):
        student = bench.student(attn_implementation=attention, gradient_checkpointing=True, packing=packed)
        same, batches = bench.batches(4, split_by_length), bench.batches(4, split)
        with torch.no_grad(), bench.autocast():
            found = [student(b.input_ids, b.attention_mask, b.completion_mask)[0][b.completion_mask] for b in same]
        values.append(torch.cat(found))
        run = partial(step, bench, student, batches)
        seconds.append(bench.seconds(run))
        peaks.append(peak_bytes(run, bench.device))
        del student
    gap = (values[1] - values[0]).abs()
    yield Row(f"log-probabilities, packed against padded, {attention}", float(gap.mean()), "nats", 0, 0.03)
    most = 1.05 if bench.cuda else math.inf
    yield Row("a step, packed against by length", seconds[1] / seconds[0], "", 0, most)
    yield Row("peak, packed against by length", peaks[1] / peaks[0], "", 0, most)


def heads(bench: Bench) -> Iterator[Row]:
    """Rounded and unrounded logits of half precision against exact sums of the same products."""
    student = bench.student()
    weight, *_ = student._head.parameters()
    rows = torch.randn(64, bench.shape.hidden, device=bench.device)
    exact = rows.bfloat16().double() @ weight.detach().bfloat16().double().t()

    def gap() -> float:
        with torch.no_grad(), bench.autocast():
            logits = student._head.logits(rows).float().log_softmax(-1)
        return float((logits - exact.log_softmax(-1)).abs().max())

    yield Row("log-probabilities, rounded head", gap(), "nats", 1e-4, 1)
    student.unround_logits()
    yield Row("log-probabilities, float32 head", gap(), "nats", 0, 1e-3)
    batch = bench.full()
    unrounded = bench.seconds(lambda: step(bench, student, [batch]))
    student._head.unrounded = False
    ratio = unrounded / bench.seconds(lambda: step(bench, student, [batch]))
    yield Row("a step, float32 head against rounded", ratio, "", 0, 1.2 if bench.cuda else math.inf)


def memory(bench: Bench) -> Iterator[Row]:
    """dry_run's account of a training step against the allocator's maximum."""
    for checkpointing in (True, False):
        setup = Setup(
            parameter_bytes=4, autocast=True, gradient_checkpointing=checkpointing, chunk=bench.chunk, rows=bench.rows,
            length=bench.length, reference=False, sharding="none", ranks=1,
        )  # fmt: skip
        planned = account(bench.shape, setup, [], []).step_peak
        name = "with checkpointing" if checkpointing else "all activations"
        if bench.cuda and planned > 0.4 * torch.cuda.get_device_properties(bench.device).total_memory:
            yield skip(f"dry_run's step against measured, {name}", "would take most of this card")
            continue
        student, batch = bench.student(gradient_checkpointing=checkpointing), bench.full()
        for p in student.parameters():
            p.grad = torch.zeros_like(p)
        step(bench, student, [batch])
        measured = peak_bytes(partial(step, bench, student, [batch]), bench.device)
        yield Row(f"dry_run's step against measured, {name}", planned / measured, "", 0.97, 1.3)
        del student
    if bench.cuda:
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        outside = total - free - torch.cuda.memory_reserved()
        yield Row("CUDA context", outside / GIB, "GiB", 0, 1.1 * CONTEXT / GIB)
    else:
        yield skip("CUDA context", "no GPU")


def parity(bench: Bench) -> Iterator[Row]:
    """What the engine says of its own tokens against what the trainer says of them; then sleep and wake."""
    before = torch.cuda.mem_get_info()[0] if bench.cuda else 0
    engine, kind = start_engine(bench)
    stays = before - torch.cuda.mem_get_info()[0] if bench.cuda else 0
    student = Student(bench.path, "float32", bench.chunk).to(bench.device)
    student.unround_logits()
    with torch.no_grad():  # other weights than those on the disk: only a push brings them over
        draw = torch.Generator().manual_seed(3)
        for p in student.parameters():
            p.add_((0.02 * torch.randn(p.shape, generator=draw)).to(bench.device))
    draws = random.Random(5)
    prompts = [[draws.randrange(3, 30) for _ in range(8 + i)] for i in range(8)]

    def gap() -> Tensor:
        with engine.awake():
            found = engine.generate([Request(prompt=p, seed=i) for i, p in enumerate(prompts)], Sampling(max_tokens=32))
        with bench.autocast():
            return distances(found, student, prompts, 1.0)

    send_weights(engine, student, 1, first=False)
    found = gap()
    yield Row(f"bf16 parity, {kind}: mean", float(found.mean()), "nats", 0, 0.03)
    yield Row(f"bf16 parity, {kind}: largest", float(found.max()), "nats", 0, 0.5)
    if kind != "vllm" or not bench.cuda:
        yield skip("sleep and wake", "needs vLLM and a GPU")
        return
    asleep = torch.cuda.mem_get_info()[0]
    with engine.awake():
        engine.generate([Request(prompt=prompts[0], seed=0)], Sampling(max_tokens=2))
        awake = torch.cuda.mem_get_info()[0]
    yield Row("freed by sleep", (asleep - awake) / GIB, "GiB", 2 * bench.shape.parameters / GIB, math.inf)
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(1.01)
    send_weights(engine, student, 2, first=False)
    yield Row("bf16 parity after sleep, push and wake: mean", float(gap().mean()), "nats", 0, 0.03)
    yield Row("what an engine holds asleep", stays / GIB, "GiB", 0, 1.5 * GRAPHS / GIB)


def start_engine(bench: Bench) -> tuple[Engine, str]:
    """vLLM where it is installed for this device; otherwise transformers."""
    from ovd_lightning.engines.hf import HFEngine
    from ovd_lightning.engines.vllm import VLLMEngine

    if (VLLMEngine.installed() is not None) and (bench.cuda or bench.shape.parameters < 1e8):
        cache = max(64 << 20, 32 * bench.shape.kv_values_per_token * 2 * 512)
        engine: Engine = VLLMEngine(
            bench.path, dtype="bfloat16", max_model_len=min(512, bench.length), kv_cache_memory_bytes=cache,
            head_dtype="float32", sleep=bench.cuda,
        )  # fmt: skip
        engine.start()
        return engine, "vllm"
    engine = HFEngine(bench.path, dtype="bfloat16", device=str(bench.device))
    engine.start()
    return engine, "hf"


def fit(bench: Bench, name: str, *args: str) -> Path:
    """Two rounds of the quickstart on transformers, in a process of its own, as a user would run them."""
    folder = bench.folder / name
    command = [
        sys.executable, "-m", "ovd_lightning", "fit", "--config", "quickstart", "--config", "overlays/no_vllm",
        "--method=grpo", "--data.problems_per_round=4", "--data.rounds=2", "--benchmark.every_n_rounds=0",
        "--benchmark.before_training=false", "--benchmark.after_training=false", "--checkpoint.every_n_rounds=1",
        "--checkpoint.keep=-1", "--summary.report=false", "--run.wandb=disabled", "--trainer.devices=1",
        f"--trainer.accelerator={'gpu' if bench.cuda else 'cpu'}", f"--trainer.default_root_dir={folder}", *args,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"fit ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "student/model.safetensors")


def apart(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def runs(bench: Bench) -> Iterator[Row]:
    """Whole runs of the quickstart: resumed, sharded, and with LoRA."""
    whole = fit(bench, "whole")
    near = 1e-4 if bench.cuda else 5e-5
    checkpoint = sorted((whole / "checkpoints").glob("step-*.ckpt"))[0]
    resumed = fit(bench, "resumed", "--ckpt_path", str(checkpoint))
    yield Row("resumed against whole", apart(whole, resumed), "", 0, near if bench.cuda else 0)
    if bench.cuda:
        sharded = fit(bench, "sharded", "--config", "strategy/fsdp2", "--trainer.devices", "1",
                      "--trainer.strategy.init_args.data_parallel_size", "1")  # fmt: skip
        yield Row("FSDP2 on one device against whole", apart(whole, sharded), "", 0, near)
    else:
        yield skip("FSDP2 on one device", "no GPU; tests/workflow/test_distributed.py has two CPU ranks")
    if "lora" not in inspect.signature(OVDModule.__init__).parameters:
        yield skip("LoRA", "this version has no model.lora")
        return
    lora = fit(bench, "lora", "--model.lora", json.dumps({"r": 4}))
    yield Row("LoRA moves the student", apart(whole, lora), "", 1e-9, 1)


CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "speed": speed, "packing": packing, "heads": heads, "memory": memory, "runs": runs, "parity": parity,
}  # fmt: skip
"""``parity`` is last: an engine in this process is not freed before its end."""


def check(bench: Bench, only: Sequence[str]) -> list[Row]:
    """Every row; a check that raises is a row that failed."""
    found: list[Row] = []
    for name in only:
        try:
            for row in CHECKS[name](bench):
                found.append(row)
                print(" | ".join(row.cells()), file=sys.stderr, flush=True)
        except Exception as error:
            traceback.print_exc()
            found.append(Row(name, math.inf, "", 0, 0, f"{type(error).__name__}: {str(error).splitlines()[0]}"))
        if bench.cuda:
            torch.cuda.empty_cache()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=sorted(SIZES), help="default: by the card's memory")
    parser.add_argument("--tiny", action="store_true", help="the same as --size tiny")
    parser.add_argument("--only", default=",".join(CHECKS), help="%(default)s")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type != "cuda" and not args.tiny:
        parser.error("without a GPU, use --tiny")
    large = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= 40 * GIB
    size = "tiny" if args.tiny else args.size or ("1.5b" if large else "0.5b")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(size, device, Path(folder))
        about, found = machine(bench), check(bench, args.only.split(","))
    print(f"{about}, {time.perf_counter() - start:.0f} s\n")
    print("| check | value | expected | verdict | |\n| --- | --- | --- | --- | --- |")
    for row in found:
        print(f"| {' | '.join(row.cells())} |")
    if args.json is not None:
        rows = [{**asdict(row), "verdict": row.verdict} for row in found]
        finite = json.loads(json.dumps({"machine": about, "rows": rows}), parse_constant=lambda _: None)
        args.json.write_text(json.dumps(finite, indent=2) + "\n")
    return int(any(row.verdict == "FAIL" for row in found))


if __name__ == "__main__":
    sys.exit(main())
