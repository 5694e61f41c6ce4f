"""What a batch of the quickstart's demonstrations costs in vLLM on the CPU, by what is asked of it.

    python -m benchmarks.speed.generation              # two minutes of one core
    python -m benchmarks.speed.generation --compile    # ... with a compiled model, too

Processor seconds of the process, medians over rounds in which the variants take turns; all but the one without seeds
give the same tokens.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

from benchmarks.speed.report import machine, table
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.tasks.arithmetic import ArithmeticTask

TEACHER = "ovd_lightning/assets/teacher"
PROBLEMS, EACH, TOKENS = 16, 7, 64
ENGINES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "without a prefix cache": {"options": {"enable_prefix_caching": False}},
    "blocks of 128 tokens": {"block_size": 128},
    "asynchronous scheduling": {"options": {"async_scheduling": True}},
}
COMPILED: dict[str, dict[str, Any]] = {"compiled": {"enforce_eager": False}}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "with log-probabilities": {"logprobs": 0},
    "with vLLM's text": {"detokenize": True},
    "without seeds": {"seed": None},
}


def generate(engine: VLLMEngine, **changed: Any) -> tuple[float, list[list[int]]]:
    """Processor seconds, and the tokens of every completion."""
    from vllm import SamplingParams

    task = ArithmeticTask()
    prompts = engine.encode_requests(task.prompt(p) for p in task.problems("train")[:PROBLEMS] for _ in range(EACH))
    plain = {"temperature": 1.0, "max_tokens": TOKENS, "logprobs": None, "detokenize": False, "skip_clone": True}
    start = time.process_time()
    parameters = [SamplingParams(**{**plain, "seed": i, **changed}) for i in range(len(prompts))]
    outputs = engine.llm.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
    return time.process_time() - start, [list(output.outputs[0].token_ids) for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="after one to warm up (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="a compiled model, too: half a minute more")
    options = parser.parse_args()
    engines = {}
    for name, settings in (ENGINES | (COMPILED if options.compile else {})).items():
        engines[name] = VLLMEngine(TEACHER, kv_cache_memory_bytes=64 << 20, **settings)
        engines[name].start()
    variants: dict[str, tuple[VLLMEngine, dict[str, Any]]] = {
        **{name: (engine, {}) for name, engine in engines.items()},
        **{name: (engines["as it is"], changed) for name, changed in SAMPLINGS.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    tokens: dict[str, list[list[int]]] = {}
    for index in range(options.rounds + 1):
        for name, (engine, changed) in variants.items():
            spent, tokens[name] = generate(engine, **changed)
            if index:
                seconds[name].append(spent)
    usual = median(seconds["as it is"])
    rows = [
        [name, f"{median(of):.3f}", f"{median(of) / usual:.2f}", "yes" if tokens[name] == tokens["as it is"] else "no"]
        for name, of in seconds.items()
    ]
    print(f"{PROBLEMS * EACH} completions of up to {TOKENS} tokens, {machine()}:\n")
    print(table(["variant", "CPU seconds", "/ as it is", "same tokens"], rows))


if __name__ == "__main__":
    main()
