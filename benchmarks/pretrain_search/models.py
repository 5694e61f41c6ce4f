"""The shapes of the two models; the training is that of ``benchmarks/pretrain``."""

from __future__ import annotations

from typing import Any

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
