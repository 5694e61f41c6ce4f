"""The command line on a machine of four GPUs that are only said to be there, up to where vLLM would load a model.

Lightning starts the ranks, and vLLM's own platform and configuration classes decide about devices. What a GPU's driver
would answer is answered here; in the place of the engine stands what its worker does with its device. Every rank writes
what came out of it to ``$FOUND/<rank>.json``.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

GPUS = 4
current = 0


def set_device(device: Any) -> None:
    global current
    index = device.index if isinstance(device, torch.device) else device
    assert 0 <= index < GPUS
    current = index


def driver() -> None:
    """What the CUDA runtime of four H100 would say."""
    properties = types.SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: GPUS,
        "current_device": lambda: current,
        "set_device": set_device,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "get_rng_state_all": list,
        "set_rng_state_all": lambda states: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    started = dist.init_process_group

    def gloo(backend: str | None = None, device_id: Any = None, **settings: Any) -> None:
        started("gloo", **settings)

    dist.init_process_group = gloo


def platform() -> None:
    """vLLM's platform of NVIDIA GPUs in the place of the CPU's; of its kernels only the name is there."""
    sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")
    import vllm.device_allocator.cumem as allocator
    import vllm.engine.arg_utils  # imports what the CPU's build has; afterwards all of it is told of the other platform
    import vllm.platforms
    import vllm.v1.executor.uniproc_executor
    from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.platforms.cuda import NonNvmlCudaPlatform

    ModelRegistry.register_model("Qwen2ForCausalLM", Qwen2ForCausalLM)  # known without a process that looks at it
    cpu, gpu = vllm.platforms.current_platform, NonNvmlCudaPlatform()
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm") and vars(module).get("current_platform") is cpu:
            vars(module)["current_platform"] = gpu
    vllm.platforms._current_platform = gpu
    allocator.cumem_available = True


class Worker:
    """In the place of ``vllm.LLM``: its configuration, and what its executor and its worker make of the device."""

    def __init__(self, **arguments: Any) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.platforms.interface import set_assigned_physical_gpu_ids
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.executor.abstract import Executor
        from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher, UniProcExecutor

        config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        kind = UniProcExecutor if config.parallel_config.tensor_parallel_size == 1 else ExecutorWithExternalLauncher
        assert Executor.get_class(config) is kind
        executor = object.__new__(kind)
        executor.vllm_config = config
        _, rank, local_rank = executor._distributed_args()
        assigned = config.parallel_config.assigned_physical_gpu_ids
        if assigned is not None:
            set_assigned_physical_gpu_ids(assigned)
        visible = current_platform.logical_device_id_to_visible_device_id(local_rank)
        self.found = {
            "assigned": assigned,
            "visible": visible,
            "rank": rank,
            "parts": config.parallel_config.tensor_parallel_size,
            "sleep": config.model_config.enable_sleep_mode,
            "head_dtype": str(config.model_config.head_dtype),
            "dtype": str(config.model_config.dtype),
            "batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "sequences": config.scheduler_config.max_num_seqs,
            "graphs": len(config.compilation_config.cudagraph_capture_sizes or []),
        }
        torch.cuda.set_device(0)  # whatever is left behind must not be what the trainer works with
        torch.set_float32_matmul_precision("high")

    def sleep(self, level: int) -> None:
        self.found["level"] = level


def main() -> None:
    driver()
    platform()
    import vllm

    from ovd_lightning import cli
    from ovd_lightning.callbacks.rollout import RolloutCallback
    from ovd_lightning.engines.vllm import VLLMEngine

    vllm.LLM = Worker
    VLLMEngine.installed = staticmethod(lambda: ("vllm", "0.32.0"))
    setup = RolloutCallback.setup

    def record(self: RolloutCallback, trainer: Any, module: Any, stage: str) -> None:
        setup(self, trainer, module, stage)
        engine: Any = self.engine
        found = {
            **engine.llm.found,
            "root_device": str(trainer.strategy.root_device),
            "current": torch.cuda.current_device(),
            "precision": torch.get_float32_matmul_precision(),
            "cache": os.environ.get("VLLM_CACHE_ROOT"),
        }
        (Path(os.environ["FOUND"]) / f"{trainer.global_rank}.json").write_text(json.dumps(found))
        trainer.strategy.barrier()
        os._exit(0)

    with mock.patch.object(RolloutCallback, "setup", record):
        cli.main()


if __name__ == "__main__":
    main()
