"""Processor time of encoding a round's scoring prompts, one by one and as engines do it: equal lines encoded once.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.tokens [--tokenizer FOLDER]

The default tokenizer is a byte-level BPE of 32,000 entries with Qwen's pattern, trained in seconds on the source of
sympy; one of Qwen's own costs about as much. Both ways in turn, `--repeats` times each; medians, as Markdown.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ovd_lightning.engines.base import Prompt
from ovd_lightning.engines.encoding import PATTERNS, encode_many, splits_at_lines
from ovd_lightning.engines.render import encode
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import PromptTemplate
from ovd_lightning.types import Problem

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def sources() -> list[str]:
    import sympy

    return [path.read_text(errors="replace") for path in sorted(Path(sympy.__file__).parent.glob("*/**/*.py"))[:600]]


def trained(texts: Sequence[str], size: int = 32_000) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERNS[0]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def scoring_prompts(words: Sequence[str], problems: int, group_size: int, steps: int, step_words: int) -> list[str]:
    """Prompts A.4 of every step of every trajectory, of words and formulas."""
    rng, template, prompts = random.Random(0), PromptTemplate("a4.jinja", "prompt"), []

    def step(k: int) -> str:
        a, b, c = (rng.randint(2, 999) for _ in range(3))
        return f"Step {k}: {' '.join(rng.choices(words, k=step_words))}, so that ${a} \\cdot {b} = \\frac{{{c}}}{{x}}$."

    for i in range(problems):
        problem = Problem(id=str(i), question=f"{' '.join(rng.choices(words, k=50))}?", answers=("1",))
        for _ in range(group_size):
            texts = tuple(step(k + 1) for k in range(steps))
            requests = [JudgeRequest(problem=problem, previous=texts[:k], step=texts[k]) for k in range(steps)]
            prompts += [template.render(request, SCALES["zero_to_nine"]) for request in requests]
    return prompts


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder; default: one that is trained here")
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-words", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = sources()
    if arguments.tokenizer is None:
        tokenizer = trained(texts)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    words = sorted(set(re.findall(r"[A-Za-z]{2,10}", texts[0] + texts[1])))
    prompts = scoring_prompts(words, arguments.problems, arguments.group_size, arguments.steps, arguments.step_words)
    count = arguments.problems * arguments.group_size
    way = "equal lines are encoded once" if splits_at_lines(tokenizer) else "this tokenizer encodes whole prompts"
    print(f"{count} trajectories of {arguments.steps} steps, {len(prompts)} prompts; {way}")
    print(
        "\n| prompts | tokens a prompt | one by one, CPU s | together, CPU s | ratio |\n| --- | --- | --- | --- | --- |"
    )
    kinds: dict[str, list[Prompt]] = {"text": [*prompts]}
    if tokenizer.chat_template:
        kinds["chat"] = [[{"role": "user", "content": text}] for text in prompts]
    for kind, asked in kinds.items():
        alone: list[float] = []
        together: list[float] = []
        ids: list[list[int]] = []
        for _ in range(arguments.repeats):
            spent, ids = seconds(lambda asked=asked: [encode(tokenizer, prompt) for prompt in asked])  # type: ignore[misc]
            alone.append(spent)
            spent, same = seconds(lambda asked=asked: encode_many(tokenizer, asked))  # type: ignore[misc]
            together.append(spent)
            assert same == ids
            del same
        a, b = median(alone), median(together)
        print(f"| {kind} | {sum(map(len, ids)) / len(ids):.0f} | {a:.2f} | {b:.2f} | {a / b:.1f} |", flush=True)


if __name__ == "__main__":
    main()
