"""Runs in the workers of vLLM's server, not in the trainer: the student's weights arrive as files.

vLLM's own protocol of a weight update (``/start_weight_update``, ``/update_weights``, ``/finish_weight_update``) has
backends for GPUs only. This one, ``filesystem``, reads safetensors files from a folder that trainer and server share.
vLLM imports this module by ``--worker-extension-cls``, before it creates the backend that its
``--weight-transfer-config`` names. Written against vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

from ovd_lightning.engines.vllm_weights import pack_heads, unpack_experts

DESCRIBED = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
"""Of a model's configuration: what tells a wrong model from the right one."""


@dataclass
class FilesystemInit(WeightTransferInitInfo):
    """Nothing has to be set up."""


@dataclass
class FilesystemUpdate(WeightTransferUpdateInfo):
    """The files of one update, which together hold every weight."""

    paths: list[str]


class FilesystemWeightTransfer(WeightTransferEngine[FilesystemInit, FilesystemUpdate]):
    """Weights under their Hugging Face names; vLLM's loader fuses layers and takes this worker's part of each."""

    init_info_cls = FilesystemInit
    update_info_cls = FilesystemUpdate

    def init_transfer_engine(self, init_info: FilesystemInit) -> None:
        pass

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        if self.device.type == "cpu":
            unpack_experts(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        if self.device.type == "cpu":  # vLLM would wait for an accelerator
            self.receive_weights(self.parse_update_info(update_info))
        else:
            super().update_weights(update_info)

    def receive_weights(self, update_info: FilesystemUpdate) -> None:
        model: Any = self.model
        model.load_weights(_read(update_info.paths))

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            pack_heads(self.model)

    def shutdown(self) -> None:
        pass


def _read(paths: list[str]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                yield name, file.get_tensor(name)


class StudentWorker:
    """Mixed into vLLM's worker."""

    def describe_student(self, path: str) -> dict[str, Any]:
        """What is served and how, for the trainer to compare; ``sees_folder``: whether this worker sees a file."""
        vllm: Any = self.vllm_config  # type: ignore[attr-defined]
        transfer, scheduler = vllm.weight_transfer_config, vllm.scheduler_config
        return {
            "model": vllm.model_config.model,
            "config": {name: getattr(vllm.model_config.hf_text_config, name, None) for name in DESCRIBED},
            "dtype": str(vllm.model_config.dtype).removeprefix("torch."),
            "max_model_len": vllm.model_config.max_model_len,
            "logprobs_mode": vllm.model_config.logprobs_mode,
            "weight_transfer": None if transfer is None else transfer.backend,
            # there a seeded request with a chunked prompt raises, and the next call hangs
            "chunked_prefill_on_cpu": scheduler.enable_chunked_prefill and vllm.device_config.device_type == "cpu",
            "workers": vllm.parallel_config.world_size_across_dp,
            "sees_folder": Path(path).is_file(),
        }


WeightTransferEngineFactory.register_engine("filesystem", FilesystemWeightTransfer)
