"""When a vLLM engine on a GPU sleeps, played on a stand-in that only notes what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ovd_lightning.engines.vllm import VLLMEngine

from .tiny import Reference


class Interrupted(Exception):
    """Nothing is generated here."""


class Stand:
    """Notes its calls; the cache is said to be dropped or not."""

    def __init__(self, drops: bool = True) -> None:
        self.calls: list[str] = []
        self.drops = drops

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def reset_prefix_cache(self) -> bool:
        self.calls.append("drop")
        return self.drops

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.calls.append(method)
        for _ in kwargs["weights"]:
            pass

    def enqueue(self, prompts: list[Any], parameters: list[Any], use_tqdm: bool) -> list[str]:
        self.calls.append("enqueue")
        raise Interrupted


@pytest.fixture
def make(tied_path: str) -> Callable[..., tuple[VLLMEngine, Stand]]:
    def build(sleep: bool = True, on_cpu: bool = False, **settings: Any) -> tuple[VLLMEngine, Stand]:
        engine, stand = VLLMEngine(tied_path, sleep=sleep), Stand(**settings)
        vars(engine).update(on_cpu=on_cpu, _llm=stand)
        return engine, stand

    return build


def run(engine: VLLMEngine) -> None:
    with pytest.raises(Interrupted):
        engine._run([[1]], [None])


def test_sleeps_outside_the_block_only(make: Callable[..., tuple[VLLMEngine, Stand]]) -> None:
    engine, stand = make()
    vars(stand)["llm_engine"] = None
    with engine.awake():
        with engine.awake():
            assert stand.calls == []
        assert stand.calls == []
    assert stand.calls == ["sleep 1"]
    with pytest.raises(KeyError), engine.awake():
        raise KeyError
    assert stand.calls == ["sleep 1"], "nothing was needed of it"
    run(engine)
    assert stand.calls == ["sleep 1", "wake weights", "wake kv_cache", "drop", "enqueue", "sleep 1"]


def test_keys_and_values_wake_after_new_weights(
    make: Callable[..., tuple[VLLMEngine, Stand]], reference: Reference
) -> None:
    """As TRL and verl do: what the trainer gathers and the cache are never there together."""
    engine, stand = make()
    vars(stand)["llm_engine"] = None
    with engine.awake():
        pass
    with engine.awake():
        engine.sync(reference.model.named_parameters(), 4)
        run(engine)
    assert stand.calls == [
        "sleep 1", "wake weights", "receive_weights", "drop", "wake kv_cache", "drop", "enqueue", "sleep 1",
    ]  # fmt: skip
    assert engine.version == 4


def test_only_weights_wake_for_weights(make: Callable[..., tuple[VLLMEngine, Stand]], reference: Reference) -> None:
    engine, stand = make()
    with engine.awake():
        pass
    engine.sync(reference.model.named_parameters(), 4)
    assert stand.calls == ["sleep 1", "wake weights", "receive_weights", "drop", "sleep 1"]
    with pytest.raises(RuntimeError, match="missing"):
        engine.sync(list(reference.model.named_parameters())[1:], 5)
    assert stand.calls[-1] == "sleep 1"
    assert engine.version == 4


def test_a_cache_that_stays_is_an_error(make: Callable[..., tuple[VLLMEngine, Stand]], reference: Reference) -> None:
    engine, _ = make(sleep=False, drops=False)
    with pytest.raises(RuntimeError, match="still cached"):
        engine.sync(reference.model.named_parameters(), 4)
    assert engine.version == -1


@pytest.mark.parametrize(("sleep", "on_cpu"), [(False, False), (True, True)])
def test_never_sleeps(make: Callable[..., tuple[VLLMEngine, Stand]], sleep: bool, on_cpu: bool) -> None:
    engine, stand = make(sleep=sleep, on_cpu=on_cpu)
    with engine.awake():
        pass
    engine.close()
    assert stand.calls == []


def test_closing_frees_the_device(make: Callable[..., tuple[VLLMEngine, Stand]]) -> None:
    engine, stand = make()
    engine.close()
    engine.close()
    assert stand.calls == ["sleep 2"]
    asleep, idle = make()
    with asleep.awake():
        pass
    asleep.close()
    assert idle.calls == ["sleep 1"], "its device's memory is free already"
    with pytest.raises(RuntimeError, match="closed"):
        engine.sync([], 1)


def test_arguments(make: Callable[..., tuple[VLLMEngine, Stand]], tied_path: str) -> None:
    """What differs between a GPU and the CPU, and that options have the last word."""
    gpu, cpu = make()[0]._arguments(), make(on_cpu=True)[0]._arguments()
    assert gpu["dtype"] == "auto"
    assert gpu["enable_sleep_mode"]
    assert not gpu["enforce_eager"]
    assert "enable_chunked_prefill" not in gpu
    assert cpu["dtype"] == "float32"
    assert cpu["enforce_eager"]
    assert cpu["enable_chunked_prefill"] is False
    assert cpu["kv_cache_memory_bytes"] == 64 << 20
    assert "enable_sleep_mode" not in cpu
    assert VLLMEngine(tied_path, head_dtype="float32")._arguments()["hf_overrides"] == {"head_dtype": "float32"}
    engine = VLLMEngine(tied_path, dtype="bfloat16", options={"dtype": "float16", "max_num_seqs": 3})
    assert (engine._arguments()["dtype"], engine._arguments()["max_num_seqs"]) == ("float16", 3)
    assert torch.cuda.is_available() or engine.on_cpu
