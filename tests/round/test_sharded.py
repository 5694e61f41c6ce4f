"""A sharded student's weights on their way to an engine, on two real ranks: how much of it is whole at a time."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.reductions import StorageWeakRef

from ovd_lightning.engines.base import Engine, Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.vllm import VLLMEngine

LAYERS = 6


class Whole:
    """Counts the tensors that were gathered and are still alive."""

    def __init__(self) -> None:
        from torch.distributed.tensor import DTensor

        self.alive: list[StorageWeakRef] = []
        self.most = self.gathered = 0
        gather = DTensor.full_tensor

        def full_tensor(tensor: DTensor) -> torch.Tensor:
            found = gather(tensor)
            self.alive = [ref for ref in self.alive if not ref.expired()] + [StorageWeakRef(found.untyped_storage())]
            self.gathered += 1
            self.most = max(self.most, len(self.alive))
            return found

        DTensor.full_tensor = full_tensor  # type: ignore[method-assign]


def rank(number: int, folder: str, kind: str) -> None:
    """Another model's weights, sharded, go to an engine, whose samples must then be that model's."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    from torch.distributed.device_mesh import init_device_mesh

    from ovd_lightning.parallel import data_parallel, shard
    from ovd_lightning.round.sync import distances, send_weights
    from ovd_lightning.student import Student

    engine: Engine = HFEngine(f"{folder}/engine")
    if kind == "vllm":
        engine = VLLMEngine(f"{folder}/engine", kv_cache_memory_bytes=64 << 20)
    engine.start()
    student = Student(f"{folder}/student")
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))
    shard(student, student.blocks(), data_parallel(mesh), half=None)
    whole = Whole()
    send_weights(engine, student, 7, first=False)
    most, gathered = whole.most, whole.gathered
    prompts = [[7, 8, 9, 10 + number], [11, 12 + number]]
    completions = engine.generate([Request(prompt=p, seed=1) for p in prompts], Sampling(max_tokens=6))
    found = {
        "most": most,
        "gathered": gathered,
        "version": engine.version,
        "gap": float(distances(completions, student, prompts, 1.0).max()),
    }
    (Path(folder) / f"{number}.json").write_text(json.dumps(found))
    with suppress(RuntimeError):  # where the other one has left it and is gone
        dist.barrier()
    os._exit(0)  # an engine that is freed breaks the others


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "at_most"), [("hf", 4), pytest.param("vllm", 7, marks=pytest.mark.vllm)], ids=["hf", "vllm"]
)
def test_few_tensors_are_whole_at_a_time(kind: str, at_most: int, tmp_path: Path) -> None:
    """Of 75: one that is sent, one that is being copied, and what is not freed yet; with vLLM, those of a fused layer
    (q, k, v and their biases)."""
    from tests.engines.tiny import save_tiny_model

    for name, seed in (("engine", 0), ("student", 1)):
        save_tiny_model(tmp_path / name, tied=False, seed=seed, layers=LAYERS)
    torch.multiprocessing.spawn(rank, (str(tmp_path), kind), nprocs=2)
    for number in range(2):
        found = json.loads((tmp_path / f"{number}.json").read_text())
        assert found["gathered"] == 12 * LAYERS + 3, "every tensor once"
        assert found["most"] <= at_most
        assert found["version"] == 7
        assert found["gap"] < 1e-4
