"""What several files about the dry run build."""

from __future__ import annotations

import json
from typing import Any

from transformers import Qwen2Config

from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.command import arguments, plan_of
from ovd_lightning.dry_run.memory import Setup
from ovd_lightning.dry_run.render import as_json

GIB = 2**30
MATH_1_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
"""What the config.json of Qwen/Qwen2.5-Math-1.5B says of its size."""


def qwen(**sizes: Any) -> Qwen2Config:
    small = {
        "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 4096,
    }  # fmt: skip
    return Qwen2Config(**{**small, **sizes})


def setup(**changes: Any) -> Setup:
    plain: dict[str, Any] = {
        "parameter_bytes": 4, "autocast": False, "gradient_checkpointing": False, "chunk": 64, "rows": 1, "length": 64,
        "reference": False, "sharding": "none", "ranks": 1,
    }  # fmt: skip
    return Setup(**{**plain, **changes})


def plan(*args: str) -> dict[str, Any]:
    """What ``--json`` prints, in this process."""
    options, rest = arguments().parse_known_args(args)
    values = vars(options)
    values.pop("json"), values.pop("token_level")
    gpu_memory = values.pop("gpu_memory")
    return json.loads(json.dumps(as_json(plan_of(rest, Assumptions(**values), gpu_memory))))
