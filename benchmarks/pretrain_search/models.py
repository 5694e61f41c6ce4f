"""The shapes of the two models, and their checkpoints; the training loop is that of ``benchmarks/pretrain``."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.pretrain import training
from benchmarks.pretrain.training import load
from benchmarks.pretrain_search.vocabulary import VOCABULARY

__all__ = ["STUDENT", "TEACHER", "load", "new_model", "save_checkpoint"]

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
new_model = functools.partial(training.new_model, vocabulary=VOCABULARY)
save_checkpoint = functools.partial(training.save_checkpoint, vocabulary=VOCABULARY)
