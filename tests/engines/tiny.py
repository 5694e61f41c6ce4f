"""Tiny random models over single characters, and transformers' own answers to compare with."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest

SPECIAL = ["<pad>", "<eos>", "<end>", "<unk>", "<user>", "<model>"]
VOCABULARY = [*SPECIAL, *string.digits, *string.ascii_lowercase, *" .,:;=+-*/()?!ABCDEF"]
DIGITS = [VOCABULARY.index(digit) for digit in string.digits]
TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<model>' }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
CONTEXT = 128


def save_tiny_model(path: Path, tied: bool, seed: int, head_dim: int = 32, layers: int = 2) -> str:
    """A random Qwen2 over single characters, with two ends of sequence: ``<eos>`` and ``<end>``."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<end>", "<user>", "<model>"],
        chat_template=TEMPLATE,
    )
    config = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=2 * head_dim,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    # top_k here is what a server applies to requests that do not say otherwise
    model.generation_config = GenerationConfig(eos_token_id=[1, 2], pad_token_id=0, do_sample=True, top_k=2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


class Reference:
    """transformers itself, one sequence at a time, without padding or cache."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()

    def logprobs(self, ids: list[int], temperature: float = 1.0) -> Any:
        """[L, V]"""
        import torch

        with torch.no_grad():
            return torch.log_softmax(self.model(torch.tensor([ids])).logits[0] / temperature, dim=-1)

    def of(self, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Any:
        """[T]"""
        rows = self.logprobs(prompt + completion, temperature)[len(prompt) - 1 : -1]
        return rows[range(len(completion)), completion]

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        ids = list(prompt)
        while len(ids) < len(prompt) + tokens:
            ids.append(int(self.logprobs(ids)[-1].argmax()))
            if ids[-1] in (1, 2):
                break
        return ids[len(prompt) :]

    def perturb(self, scale: float, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


KINDS = [
    "hf",
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("vllm_server", marks=[pytest.mark.vllm, pytest.mark.slow]),
    pytest.param("openai", marks=[pytest.mark.vllm, pytest.mark.slow]),
]
