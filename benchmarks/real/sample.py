"""Sample answers of a model to the training problems of configs/real_small.yaml, in the order of a run.

python -m benchmarks.real.sample HuggingFaceTB/SmolLM2-135M-Instruct student.jsonl
python -m benchmarks.real.sample Qwen/Qwen2.5-Coder-0.5B-Instruct teacher.jsonl --temperature 0.7

Answers are appended as a batch is complete, and what the file has is not sampled again.
"""

from __future__ import annotations

import time
from pathlib import Path

from jsonargparse import auto_cli

from benchmarks.real.answers import Answer, append, config, read, training_task
from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.seeds import seed_of
from ovd_lightning.tokens import encode_prompt


def sample(
    model: str,
    file: Path,
    problems: int = 200,
    samples: int = 1,
    temperature: float | None = None,
    prompt: Path | None = None,
    folder: str | None = None,
    batch: int = 32,
) -> None:
    """Sample answers and print how many are right.

    Args:
        model: a folder or a hub id.
        file: JSONL that answers are appended to.
        problems: how many.
        samples: answers a problem.
        temperature: of sampling; null: the config's.
        prompt: file of another prompt than the config's, with {question} in it.
        folder: with local copies of the sets; null: from the hub.
        batch: answers between two writes.
    """
    task, rollout = training_task(folder), config()["rollout"]
    if prompt is not None:
        task.template = prompt.read_text(encoding="utf-8")
    chosen = [(p, i) for p in task.ordered(0, problems, 0) for i in range(samples)]
    done = {(a.problem, a.sample) for a in read(file)}
    missing = [(p, i) for p, i in chosen if (p.id, i) not in done]
    engine = VLLMEngine(model, max_model_len=config()["engine"]["init_args"]["max_model_len"])
    if missing:
        engine.start()
    sampling = Sampling(
        max_tokens=rollout["max_tokens"], temperature=rollout["temperature"] if temperature is None else temperature
    )
    for start in range(0, len(missing), batch):
        part, began = missing[start : start + batch], time.perf_counter()
        prompts = [encode_prompt(task.prompt(p), engine.tokenizer, True, task.system) for p, _ in part]
        requests = [
            Request(prompt=ids, seed=seed_of("sample", p.id, i)) for ids, (p, i) in zip(prompts, part, strict=True)
        ]
        written = engine.generate(requests, sampling)
        grades = task.grade_many([c.text for c in written], [p for p, _ in part])
        rows = [
            Answer(
                problem=p.id,
                sample=i,
                question=p.question,
                gold=list(p.answers),
                model=model,
                prompt=str(engine.tokenizer.decode(ids)),
                token_ids=list(c.token_ids or ()),
                text=c.text,
                truncated=c.truncated,
                correct=grade.correct,
                found=grade.answer,
                how=grade.how,
            )
            for (p, i), ids, c, grade in zip(part, prompts, written, grades, strict=True)
        ]
        append(file, rows)
        seconds = time.perf_counter() - began
        tokens = sum(c.completion_tokens for c in written)
        print(f"{start + len(part)} of {len(missing)}: {tokens} tokens in {seconds:.0f} s", flush=True)
    answers = read(file)
    print(f"{sum(a.correct for a in answers)} of {len(answers)} answers are correct")


if __name__ == "__main__":
    auto_cli(sample)
