"""The shapes of the two models, and their checkpoints; the training loop is that of ``benchmarks/pretrain``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from benchmarks.pretrain_search.vocabulary import EOS, IDS, PAD, TOKENS, save_tokenizer

STUDENT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
}
TEACHER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}


def new_model(shape: dict[str, Any], seed: int) -> Qwen2ForCausalLM:
    """A random Qwen2 of ``shape``; heads of 32, which vLLM's CPU attention supports."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
        **shape,
    )
    return Qwen2ForCausalLM(config)


def save_checkpoint(model: Qwen2ForCausalLM, directory: Path, facts: dict[str, object]) -> None:
    """Write weights in float16, configuration and tokenizer beside ``directory``, then move them into place."""
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    half: Any = Qwen2ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(eos_token_id=IDS[EOS], pad_token_id=IDS[PAD], do_sample=True)
    half.to(torch.float16).save_pretrained(fresh)
    save_tokenizer(fresh)
    (fresh / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    (fresh / "model.safetensors").chmod(0o644)
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)


def load(directory: Path) -> Qwen2ForCausalLM:
    model: Any = Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    loaded: Qwen2ForCausalLM = model
    return loaded
