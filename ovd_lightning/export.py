"""A trained model as a checkpoint's folder. The weights come first: nothing that fails later loses them."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ovd_lightning.files import move, partial, remove
from ovd_lightning.lora import ADAPTER, Adapter
from ovd_lightning.weights import checkpoint_weights


def export(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: str | PreTrainedTokenizerBase,
    write: bool = True,
    adapter: Adapter | None = None,
) -> None:
    """Write safetensors, config, generation settings and tokenizer into ``folder``, which appears when all is there.

    Generation settings are those that came with the model, also where transformers would refuse to save them: the
    trained model is sampled from as the initial one was.

    Args:
        tokenizer: or the path of one.
        write: False on all ranks but one; gathering sharded parameters is collective, so every rank calls this.
        adapter: of the model, which is written as one with it; also written alone, into ``folder``/adapter.
    Raises: OSError where the weights cannot be written. What else cannot is a warning that names it.
    """
    weights = {}
    for name, tensor in checkpoint_weights(model):
        if write:
            weights[name] = _alone(tensor.cpu())
    trained = adapter.state() if adapter is not None else {}
    if not write:
        return
    from huggingface_hub import save_torch_state_dict

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = partial(folder)
    remove(scratch)
    scratch.mkdir()
    try:
        save_torch_state_dict(weights, scratch, max_shard_size="50GB", metadata={"format": "pt"})
        if adapter is not None:
            adapter.save(scratch / ADAPTER, trained)
    except BaseException:
        remove(scratch)
        raise
    del weights

    def settings() -> None:
        config = copy(model.config)
        config.dtype = str(model.dtype).removeprefix("torch.")
        config.__dict__.pop("quantization_config", None)  # what is written is not quantised
        config.architectures = [type(model).__name__.removeprefix("FSDP")]
        config.to_json_file(scratch / "config.json", use_diff=True)  # save_pretrained would refuse some that load

    def generation() -> None:
        found = model.generation_config
        if model.can_generate() and found is not None:
            found.to_json_file(scratch / "generation_config.json", use_diff=True, keys_to_pop=["compile_config"])

    def vocabulary() -> None:
        loaded = AutoTokenizer.from_pretrained(tokenizer) if isinstance(tokenizer, str) else tokenizer
        loaded.save_pretrained(scratch)

    for what, step in (("config", settings), ("generation settings", generation), ("tokenizer", vocabulary)):
        try:
            step()
        except Exception as error:  # the weights are worth more than whatever went wrong here
            rank_zero_warn(f"{folder} has the student's weights, but its {what} could not be written: {error}")
    move(scratch, folder)


def generation_problem(path: str) -> str | None:
    """Why transformers would refuse to save the generation settings that come with a model; None where it would not."""
    try:
        GenerationConfig.from_pretrained(path).validate(strict=True)
    except OSError:
        return None  # it has none
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is a view of a larger one would be taken for a tied weight, and left out."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
