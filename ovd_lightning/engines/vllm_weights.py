"""The student's weights on their way to vLLM's workers: what a checkpoint has, the sending and the receiving side."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.local import CheckedWeights, untouched

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


def send_weights(llm: Any, weights: CheckedWeights, tied: Collection[str], in_process: bool) -> None:
    """Replace the weights of a ``vllm.LLM``, one by one as they come.

    Workers in other processes read them from files, in shared memory where the system has it, without the tied ones.

    Raises: RuntimeError where they are not all of the model's.
    """
    if in_process:
        llm.collective_rpc("receive_weights", kwargs={"weights": weights})
        weights.finish()
        return
    from safetensors.torch import save_file

    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for number, (name, tensor) in enumerate(weights):
            if name not in tied:
                save_file({name: tensor.contiguous().cpu()}, Path(folder) / f"{number:06d}.safetensors")
        weights.finish()
        llm.collective_rpc("receive_weights", kwargs={"folder": folder})


class WeightReceiver:
    """Mixed into vLLM's worker: receives new weights in the worker's process."""

    def receive_weights(self, weights: Iterable[tuple[str, Tensor]] | None = None, folder: str | None = None) -> None:
        """Weights under their Hugging Face names, as tensors or in safetensors files; vLLM's loader fuses layers."""
        from vllm.config import set_current_vllm_config
        from vllm.platforms import current_platform

        model = self.get_model()  # type: ignore[attr-defined]
        if current_platform.is_cpu():
            unpack_experts(model)
        with set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined] # some layers read it
            self.reload_weights(  # type: ignore[attr-defined]
                weights_iterator=iter(weights or ()) if folder is None else _read(Path(folder))
            )
        if current_platform.is_cpu():
            pack_heads(model)


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    for file in sorted(folder.iterdir()):
        yield from load_file(file).items()


def unpack_experts(model: Any) -> None:
    """Make a reload set up the kernel of mixtures of experts again.

    The CPU build packs the experts when it sets up their kernel, which a reload does not repeat while there is one: it
    would take unpacked weights for packed ones.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def pack_heads(model: Any) -> None:
    """Renew the packed copy of an embedding that is also the head: the CPU build uses it, a reload keeps the old."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


WEIGHT_RECEIVER = f"{WeightReceiver.__module__}.{WeightReceiver.__qualname__}"
"""As vLLM names the class that it mixes into its workers."""
