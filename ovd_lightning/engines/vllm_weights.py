"""The student's weights on their way to vLLM's workers: what a checkpoint has, the sending and the receiving side."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.local import untouched

if TYPE_CHECKING:
    from torch import Tensor


def checkpoint_layout(model: str, trust_remote_code: bool) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """(shape of each weight by its name in a checkpoint, names of tied weights), without loading the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ovd_lightning.weights import checkpoint_shapes

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    with untouched(), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return checkpoint_shapes(skeleton)


def send_weights(llm: Any, weights: list[tuple[str, Tensor]], tied: Collection[str], in_process: bool) -> None:
    """Replace the weights of a ``vllm.LLM``.

    Workers in other processes read them from a file, in shared memory where the system has it, without the tied ones.
    """
    if in_process:
        llm.collective_rpc("receive_weights", kwargs={"weights": weights})
        return
    from safetensors.torch import save_file

    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        path = str(Path(folder) / "weights.safetensors")
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights if name not in tied}, path)
        llm.collective_rpc("receive_weights", kwargs={"path": path})


class WeightReceiver:
    """Mixed into vLLM's worker: receives new weights in the worker's process."""

    def receive_weights(self, weights: list[tuple[str, Tensor]] | None = None, path: str | None = None) -> None:
        """Weights under their Hugging Face names, as tensors or in a safetensors file; vLLM's loader fuses layers."""
        from vllm.config import set_current_vllm_config
        from vllm.platforms import current_platform

        if path is not None:
            from safetensors.torch import load_file

            weights = list(load_file(path).items())
        model = self.get_model()  # type: ignore[attr-defined]
        if current_platform.is_cpu():
            _unpack_experts(model)
        with set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined] # some layers read it
            self.reload_weights(weights_iterator=iter(weights or []))  # type: ignore[attr-defined]
        if current_platform.is_cpu():
            _pack_heads(model)


def _unpack_experts(model: Any) -> None:
    """Make a reload set up the kernel of mixtures of experts again.

    The CPU build packs the experts when it sets up their kernel, which a reload does not repeat while there is one: it
    would take unpacked weights for packed ones.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def _pack_heads(model: Any) -> None:
    """Renew the packed copy of an embedding that is also the head: the CPU build uses it, a reload keeps the old."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


WEIGHT_RECEIVER = f"{WeightReceiver.__module__}.{WeightReceiver.__qualname__}"
"""As vLLM names the class that it mixes into its workers."""
