"""Tiny random models of many architectures, over the characters of the tests' own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers import EOS, PAD, V, save_tokenizer

COMMON: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "eos_token_id": EOS, "pad_token_id": PAD,
    "bos_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
          "n_shared_experts": 1}  # fmt: skip
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
          "linear_value_head_dim": 16, "num_hidden_layers": 4}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "bloom": {"n_layer": 3, "n_head": 2, "hidden_dropout": 0.1},
    "cohere": {},
    "deepseek_v3": {**ROUTED, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
                    "v_head_dim": 32, "head_dim": 16},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "falcon_h1": {"lm_head_multiplier": 0.25, "mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32,
                  "mamba_d_state": 16, "mamba_n_groups": 1},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 32},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 32},
    "glm4": {},
    "glm4_moe": ROUTED,
    "gpt2": {"n_embd": 64, "n_head": 2, "n_layer": 3, "n_positions": 256, "resid_pdrop": 0.1, "attn_pdrop": 0.1},
    "gpt_neox": {"hidden_dropout": 0.1},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "granite": {"logits_scaling": 8.0},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "llama": {"tie_word_embeddings": False, "attention_dropout": 0.1},
    "mamba2": {"num_heads": 4, "head_dim": 32, "state_size": 16, "expand": 2, "n_groups": 1},
    "mistral": {"sliding_window": 8, "tie_word_embeddings": False},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.1},
    "nanochat": {},
    "olmo2": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.1, "layerdrop": 0.1},
    "phi": {"resid_pdrop": 0.1, "embd_pdrop": 0.1},
    "phi3": {"original_max_position_embeddings": 256, "resid_pdrop": 0.1},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.1,
               "input_jitter_noise": 0.1},
    "qwen2": {"tie_word_embeddings": False},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
                  "mlp_only_layers": []},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_5_text": LINEAR,
    "qwen3_moe": {**EXPERTS, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "qwen3_next": {**LINEAR, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "smollm3": {},
    "stablelm": {"hidden_dropout": 0.1},
    "starcoder2": {"residual_dropout": 0.1, "embedding_dropout": 0.1},
}  # fmt: skip
"""model_type -> what its configuration has beside :data:`COMMON`."""


def save_architecture(name: str, path: Path, seed: int = 0, **settings: Any) -> str:
    """A random model with distributions that are neither flat nor sharp, in a checkpoint's folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = {**COMMON, **ARCHITECTURES[name]} if name in ARCHITECTURES else {}
    config = AutoConfig.for_model(name, **{**known, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.copy_(torch.randn_like(parameter) * 0.15)
            model.get_output_embeddings().weight.mul_(2.0)
            for weight, buffer in model.named_buffers():
                if weight in model.state_dict() and weight.endswith("bias"):
                    buffer.add_(torch.rand_like(buffer))  # a checkpoint's; other buffers are constants of the code
    model.save_pretrained(path)
    save_tokenizer(path)
    return str(path)
