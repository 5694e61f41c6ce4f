"""Which architectures each engine runs with the student's weights: the table of docs/models.md.

    python -m benchmarks.speed.architectures                 all, with both engines
    python -m benchmarks.speed.architectures --only mixtral qwen3_moe

For each architecture: make a tiny random model, change the student's weights and sync them to an engine that started
without weights, twice, and compare the log-probabilities of the engine's sampled tokens with the student's.
"""

from __future__ import annotations

import argparse
import atexit
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ENGINES = ("hf", "vllm")
SYNCS = 2
TOGETHER = 6
"""Architectures of one process."""


def difference(name: str, engine_name: str, dtype: str) -> float:
    """The largest difference of any token's log-probability after any sync, in nats."""
    import torch

    from ovd_lightning.engines.hf import HFEngine
    from ovd_lightning.engines.vllm import VLLMEngine
    from ovd_lightning.round.sync import distances, sample
    from ovd_lightning.student import Student
    from tests.architectures import save_architecture

    with tempfile.TemporaryDirectory() as folder:
        path = save_architecture(name, Path(folder))
        engine = HFEngine(path, dtype=dtype) if engine_name == "hf" else VLLMEngine(path, dtype=dtype)
        engine.start_empty()
        atexit.register(id, engine)  # kept until the process ends
        student, draw, numbers = Student(path), torch.Generator().manual_seed(0), random.Random(0)
        prompts = [[numbers.randrange(3, 80) for _ in range(3 + 5 * i)] for i in range(8)]
        largest = 0.0
        for version in range(SYNCS):
            with torch.no_grad():
                for _, weight in student.hf.named_parameters():
                    weight.add_(torch.randn(weight.shape, generator=draw) * 0.02)
            engine.sync(student.named_weights(checkpoint=engine.checkpoint_names), version)
            largest = max(largest, float(distances(sample(engine, prompts, 1.0), student, prompts, 1.0).max()))
    return largest


def report(engine: str, dtype: str, names: list[str]) -> None:
    """Print one JSON line per architecture. vLLM engines stay in this process; a failing one does not stop the next."""
    for name in names:
        try:
            result = f"{difference(name, engine, dtype):.1e}"
        except Exception as error:
            result = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        print(json.dumps([name, result]), flush=True)


def measured(engine: str, dtype: str, names: list[str]) -> dict[str, str]:
    """The output of :func:`report` from another process. Names that it did not reach are run in a process each."""
    command = [sys.executable, "-m", "benchmarks.speed.architectures", "--report", engine, dtype, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
    for name in names:
        if name not in found:
            lost = {name: f"the process ended with {done.returncode}"}
            found |= measured(engine, dtype, [name]) if len(names) > 1 else lost
    return found


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[first : first + size] for first in range(0, len(names), size)]


def main() -> None:
    from tests.architectures import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=sorted(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--dtype", default="float32", help="of the engine")
    parser.add_argument("--report", nargs="+", metavar="ENGINE DTYPE NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.report:
        engine, dtype, *names = args.report
        report(engine, dtype, names)
        return
    print("| architecture | " + " | ".join(args.engines) + " |")
    print("| --- |" + " --- |" * len(args.engines))
    # vLLM cannot start a mixture of experts in a process whose first model was none.
    mixtures = [name for name in args.only if any("experts" in setting for setting in ARCHITECTURES[name])]
    dense = [name for name in args.only if name not in mixtures]
    for names in batched(mixtures, TOGETHER) + batched(dense, TOGETHER):
        results = [measured(engine, args.dtype, names) for engine in args.engines]
        for name in names:
            print(f"| {name} | " + " | ".join(result[name] for result in results) + " |", flush=True)


if __name__ == "__main__":
    main()
