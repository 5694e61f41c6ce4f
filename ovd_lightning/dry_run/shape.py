"""What a model measures, from its config.json alone: exact counts on the meta device, without a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovd_lightning.errors import ConfigError

HALF, SINGLE = 2, 4
"""Bytes of bfloat16 or float16, and of float32."""


@dataclass(slots=True, kw_only=True, frozen=True)
class ModelShape:
    """Sizes of a decoder; a tied head is counted once."""

    name: str
    parameters: int
    matrix_parameters: int
    """Those of the linear layers, the head's included: what automatic precision copies to half precision."""
    tensors: int
    """Parameter tensors, e.g. 338 of Qwen2.5-1.5B."""
    block_parameters: int
    """Of the largest decoder block: what FSDP2 gathers at a time."""
    outer_parameters: int
    """Of what is in no block (embeddings, head, last norm)."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    """Rows of the head, padding included."""
    tied: bool
    positions: int | None
    """Longest sequence that the model was made for."""
    bytes_per_parameter: int
    """As the checkpoint says that it was saved."""

    @property
    def kv_values_per_token(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def read_config(setting: str, path: str, trust_remote_code: bool = False, local: bool = False) -> Any:
    """config.json of a folder, of the hub's cache, or of the hub.

    Args:
        local: do not ask the hub.
    Raises: ConfigError saying what to give instead.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=local)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            setting,
            f"the config.json of {path} cannot be read ({reason})",
            "A folder that holds nothing but that file is enough for a dry run; give its path.",
        ) from error


def shape_of(name: str, config: Any, trust_remote_code: bool = False) -> ModelShape:
    """Builds the model without memory and counts."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from ovd_lightning.engines.local import untouched

    with untouched(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    matrices = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)}
    blocks = [sum(p.numel() for p in block.parameters()) for block in getattr(model.base_model, "layers", [])]
    total = sum(p.numel() for p in model.parameters())
    saved_as = getattr(text, "dtype", None) or getattr(config, "dtype", None)
    return ModelShape(
        name=name,
        parameters=total,
        matrix_parameters=sum(matrices.values()),
        tensors=sum(1 for _ in model.parameters()),
        block_parameters=max(blocks, default=0),
        outer_parameters=total - sum(blocks),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=head.weight.shape[0],
        tied=head.weight is embeddings.weight,
        positions=getattr(text, "max_position_embeddings", None),
        bytes_per_parameter=HALF if str(saved_as).endswith("float16") else SINGLE,
    )
