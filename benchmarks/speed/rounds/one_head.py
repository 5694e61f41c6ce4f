"""The worker of one form of the loss head: log-probabilities and entropies of tokens, and the gradient.

Arguments: FORM VOCABULARY TOKENS WIDTH. The model is a transformer without blocks, so that the head is nearly all there
is; it is the same for every form. Runs in TRL's environment for TRL's form.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.speed.allocator import peak_bytes
from benchmarks.speed.rounds.pace import Pace, take_stdout

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Token ids [1, L] -> log-probabilities and entropies [L - 1]."""


def naive(model: Any) -> Forward:
    """All logits at once."""

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=ids).logits[0, :-1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            entropies = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, ids[0, 1:, None])[:, 0], entropies

    return forward


def package(model: Any) -> Forward:
    """This project's Student."""
    from ovd_lightning.student import Student

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        student = Student(folder)

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.ones_like(ids)
        logprobs, entropies = student(ids, every, every[:, 1:].bool())
        return logprobs[0], entropies[0]

    return forward


def trl(model: Any) -> Forward:
    """As GRPOTrainer has it."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        out = model(input_ids=ids, labels=ids, fused_lm_head=True)
        return out.log_probs[0], out.entropy[0]

    return forward


FORMS: dict[str, Callable[[Any], Forward]] = {"naive": naive, "this project": package, "TRL": trl}


def main() -> None:
    form, vocabulary, tokens, width = sys.argv[1], *map(int, sys.argv[2:])
    pace = Pace(take_stdout())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=0,
        num_attention_heads=width // 64,
        max_position_embeddings=tokens + 1,
        tie_word_embeddings=False,
    )
    forward = FORMS[form](LlamaForCausalLM(config))
    ids = torch.randint(3, vocabulary, (1, tokens + 1))
    advantages = torch.randn(tokens)

    def step() -> None:
        logprobs, entropies = forward(ids)
        entropies.detach().mean().item()
        del entropies
        (-(logprobs * advantages).mean()).backward()

    step()  # gradients are there from now on
    peak = peak_bytes(step) / 2**20
    while True:
        pace.begin()
        step()
        pace.end({}, 1, tokens, peak_mib=peak)


if __name__ == "__main__":
    main()
