"""One vLLM engine in the processes of two ranks: what each of them asks comes out as from an engine of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.vllm import VLLMEngine
from tests.engines.tiny import save_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SAMPLING = Sampling(max_tokens=12, temperature=0.8)


def asked(rank: int) -> list[list[Request]]:
    """Of rank 0 three calls, of rank 1 one; 13 to 16 requests together."""
    counts = [[5, 1, 3], [4]][rank]
    return [
        [Request(prompt=[7 + rank, 9, 10 + i, 11 + call], seed=100 * rank + 10 * call + i) for i in range(count)]
        for call, count in enumerate(counts)
    ]


def answers(engine: VLLMEngine, rank: int) -> list[Any]:
    """Of one rank: samples, then the scores of its first call's, then the probabilities of a next token."""
    with engine.awake():
        found = [engine.generate(requests, SAMPLING) for requests in asked(rank)]
        prompts = [list(request.prompt) for request in asked(rank)[0]]
        scores = engine.score(prompts, [completion.token_ids or [] for completion in found[0]])
        digits = engine.next_token_logprobs(prompts[:1], [6, 7, 8])
    return [
        [(c.token_ids, c.logprobs) for call in found for c in call],
        [score.tolist() for score in scores],
        digits.tolist(),
    ]


def run(number: int, folder: str, parts: int) -> None:
    """Twice: with the weights of the checkpoint that the engine was started on, and with another's."""
    os.environ |= {"LOCAL_RANK": str(number), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{parts}", rank=number, world_size=parts)
    from ovd_lightning.student import Student

    engine = VLLMEngine(f"{folder}/engine", kv_cache_memory_bytes=64 << 20, tensor_parallel_size=parts)
    engine.start()
    found: dict[int, list[Any]] = {rank: [] for rank in (range(2) if parts == 1 else [number])}
    for version, model in enumerate(("engine", "student")):
        engine.sync(Student(f"{folder}/{model}").named_weights(checkpoint=True), version)
        for rank, of in found.items():
            of.append(answers(engine, rank))
    for rank, of in found.items():
        (Path(folder) / f"{parts}-{rank}.json").write_text(json.dumps(of))
    dist.barrier()
    if parts > 1:  # what vLLM would remove if it were freed
        from vllm.distributed.parallel_state import get_tp_group

        name = get_tp_group().device_communicator.dist_module.group_name
        Path(f"/dev/shm/{name}_{number}").unlink(missing_ok=True)
    os._exit(0)  # an engine that is freed breaks the others


def close(one: Any, other: Any) -> bool:
    """Numbers to 1e-4; what is a whole number, exactly."""
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other, strict=True))
    return one == other if isinstance(one, int) else one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_two_ranks_share_an_engine(tied: bool, tmp_path: Path) -> None:
    for name, seed in (("engine", 0), ("student", 1)):
        save_tiny_model(tmp_path / name, tied=tied, seed=seed)
    for parts in (1, 2):
        torch.multiprocessing.spawn(run, (str(tmp_path), parts), nprocs=parts)
    for rank in range(2):
        own, shared = (json.loads((tmp_path / f"{parts}-{rank}.json").read_text()) for parts in (1, 2))
        assert own[0] != own[1], "other weights"
        assert close(own, shared)
