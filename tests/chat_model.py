"""Tiny chat models over bytes: any text can be written, and one can be taught to answer in a fixed way in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_alphabet() -> list[str]:
    """How a byte-level vocabulary writes the 256 bytes: printable ones as themselves, the others moved elsewhere."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def save_chat_model(path: Path, seed: int, positions: int = 8192) -> str:
    """A random two-layer Qwen2 with one token a byte and Qwen's chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    vocabulary = {text: i for i, text in enumerate([*byte_alphabet(), START, END])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], eos_token=END, pad_token=END, unk_token=END, additional_special_tokens=[START]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


Lesson = Callable[[random.Random], tuple[str | list[dict[str, str]], str]]
"""One random (prompt, answer); a list of messages goes through the chat template, and its answer ends the turn."""


def teach(path: str, lessons: Sequence[Lesson], steps: int, seed: int = 0) -> float:
    """Train the checkpoint on its answers alone, in place; the loss at the end."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng, tokenizer = random.Random(seed), AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss = torch.tensor(0.0)
    for step in range(steps):
        rows = []
        for lesson in lessons:
            prompt, answer = lesson(rng)
            if isinstance(prompt, str):
                ids, end = tokenizer.encode(prompt, add_special_tokens=False), []
            else:
                ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
                end = [tokenizer.eos_token_id]
            rows.append((ids, [*tokenizer.encode(answer, add_special_tokens=False), *end]))
        length = max(len(p) + len(a) for p, a in rows)
        inputs = torch.full((len(rows), length), tokenizer.pad_token_id)
        labels, attention = torch.full_like(inputs, -100), torch.zeros_like(inputs)
        for i, (p, a) in enumerate(rows):
            inputs[i, : len(p) + len(a)] = torch.tensor([*p, *a])
            labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
            attention[i, : len(p) + len(a)] = 1
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        loss = model(input_ids=inputs, attention_mask=attention, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(path)
    return float(loss.detach())
