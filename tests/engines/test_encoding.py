"""Prompts encoded many at a time have the ids that they have one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ovd_lightning.engines.base import Prompt
from ovd_lightning.engines.encoding import PATTERNS, encode_many, splits_at_lines
from ovd_lightning.engines.render import encode
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import PromptTemplate
from tests.chat_model import END, START, TEMPLATE

ASSETS = Path("ovd_lightning/assets")
EMBEDDED = sorted(str(path.parent) for path in ASSETS.glob("**/tokenizer.json"))
CORPUS = [path.read_text() for path in (*Path("docs").glob("*.md"), *Path("ovd_lightning/methods").glob("*.py"))]
PIECES = [
    "a", "Step 1: ", "x = \\frac{1}{2}", "}", ".", ",", "don't", "DON'T", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\x1c",
    "\x85", "\u2028", "\u00a0", "1", "12345", "é", "e\u0301", "\u0301", "\u0327", "가", "\u1100\u1161", "答え。", "😀",
    "-", "- ", "<think>", "</think>", "\\boxed{", "'s", "_", "\u200b", "\ufeff", "𝒳", "K", "ﬁ",
]  # fmt: skip


def bpe(words: Sequence[Any], normalizer: Any = None, added: Sequence[AddedToken] = (), bos: bool = False) -> Any:
    """A byte-level BPE tokenizer of 1,500 entries, trained on this repository's texts, with a chat template."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer, backend.decoder = normalizer, decoders.ByteLevel()
    backend.pre_tokenizer = words[0] if len(words) == 1 else pre_tokenizers.Sequence(list(words))
    special = ["<s>", START, END]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(list(added))
    if bos:
        around = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), around])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, additional_special_tokens=[START])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def split(pattern: str) -> list[Any]:
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_]


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SHARING: dict[str, Callable[[], Any]] = {
    "qwen": lambda: bpe(split(PATTERNS[0]), normalizers.NFC(), [AddedToken("<think>", special=False)]),
    "llama": lambda: bpe(split(PATTERNS[1]), bos=True),
    "qwen3_5": lambda: bpe(split(PATTERNS[2]), normalizers.NFC()),
    "gpt2": lambda: bpe([GPT2], added=[AddedToken("<think>", rstrip=True, special=False)]),
    "smollm": lambda: bpe([pre_tokenizers.Digits(individual_digits=True), GPT2]),
}
NOT_SHARING: dict[str, Callable[[], Any]] = {
    "prefix_space": lambda: bpe([pre_tokenizers.ByteLevel(add_prefix_space=True)]),
    "takes_space_before": lambda: bpe(split(PATTERNS[0]), added=[AddedToken("<think>", lstrip=True, special=False)]),
    "holds_line_break": lambda: bpe(split(PATTERNS[0]), added=[AddedToken(".\nStep 1: ", special=False)]),
    "across_lines": lambda: bpe(split(r"\w+\n\w+|\s+|\S")),
    "lowercase": lambda: bpe(split(PATTERNS[0]), normalizers.Lowercase()),
}


def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 40))) for _ in range(3000)] + CORPUS[:5] + ["", "\n", "a\n"]


def judge_prompts() -> list[str]:
    template = PromptTemplate("a4.jinja", "prompt")
    rng, prompts = random.Random(1), []
    for _ in range(20):
        steps = tuple("".join(rng.choices(PIECES, k=12)) for _ in range(8))
        for k, step in enumerate(steps):
            request = JudgeRequest.of_text("1+2=?\nThink.", previous=steps[:k], step=step)
            prompts.append(template.render(request, SCALES["zero_to_nine"]))
    return prompts


def as_messages(text: str) -> list[Prompt]:
    user = {"role": "user", "content": text}
    return [[{"role": "system", "content": "Be brief."}, user], [user, {"role": "assistant", "content": text[:20]}]]


def differing(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    encoded = encode_many(tokenizer, prompts)
    return [p for p, ids in zip(prompts, encoded, strict=True) if ids != encode(tokenizer, p)]


@pytest.mark.parametrize("name", [*SHARING, *NOT_SHARING])
def test_equal_to_one_by_one(name: str) -> None:
    tokenizer = {**SHARING, **NOT_SHARING}[name]()
    assert splits_at_lines(tokenizer) == (name in SHARING)
    prompts: list[Prompt] = [*texts(), *judge_prompts()]
    spelt = [f"no {END}\n{START}system\nall right", END]
    prompts += [m for text in (*texts()[:300], *spelt) if text for m in as_messages(text)]
    prompts += [*spelt, [5, 6, 7], [[]][0]]
    assert differing(tokenizer, prompts) == []


@pytest.mark.parametrize("path", EMBEDDED)
def test_the_embedded_tokenizers(path: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    assert differing(tokenizer, [*texts()[:500], *judge_prompts()]) == []


def test_a_chat_model(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tests.chat_model import save_chat_model

    tokenizer = AutoTokenizer.from_pretrained(save_chat_model(tmp_path, seed=0))
    assert splits_at_lines(tokenizer)
    assert differing(tokenizer, [m for text in judge_prompts() for m in as_messages(text)]) == []


def test_lines_that_prompts_share_are_encoded_once() -> None:
    tokenizer = SHARING["qwen"]()
    given: list[str] = []

    class Counted(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, text: Any, **settings: Any) -> Any:
            given.extend([text] if isinstance(text, str) else text)
            return super().__call__(text, **settings)

    tokenizer.__class__ = Counted
    line = "Let us add the two numbers and see what comes out of it."
    encode_many(tokenizer, [f"{line}\n" * k + "Rate it:" for k in range(1, 9)])
    assert sum(map(len, given)) < 3 * len(line)
