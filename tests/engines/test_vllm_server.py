"""The student on vLLM's servers: what the contract does not ask of every engine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from filelock import FileLock

from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.engines.protocol import BadAnswer
from ovd_lightning.engines.vllm_client import read_sampled
from ovd_lightning.engines.vllm_server import VLLMServerEngine
from ovd_lightning.engines.vllm_server_check import server_misfits
from ovd_lightning.engines.vllm_transfer import OWNED, PREFIX, UNFINISHED, replacing, shards, sweep
from ovd_lightning.errors import ConfigError, RunError
from tests.served import free_port, serve_student

from .test_contract import PROMPTS, gap, ids, sample
from .tiny import CONTEXT, Reference, save_tiny_model

served = [pytest.mark.vllm, pytest.mark.slow]


def agree(completions: list[Completion], student: Reference, prompts: list[list[int]] = PROMPTS) -> bool:
    """Whether log-probabilities, at temperature 1, are the student's."""
    pairs = zip(prompts, completions, strict=True)
    return all(gap(c.logprobs, student.of(p, c.token_ids or [])) < 1e-4 for p, c in pairs)


class TestServed:
    pytestmark = served

    @pytest.fixture
    def urls(self, student_server: Callable[..., str], tied_path: str) -> list[str]:
        return [student_server(tied_path, use) for use in ("sync", "second")]

    def test_the_same_seeds_give_the_tokens_of_the_engine_in_process(
        self, start_engine: Callable[..., Engine], urls: list[str], tied_path: str
    ) -> None:
        """In float32, whatever the batch: from two servers, with weights that both were given."""
        local, remote, student = (
            start_engine("vllm", tied_path),
            VLLMServerEngine(tied_path, urls),
            Reference(tied_path),
        )
        remote.start_empty()
        student.perturb(0.1, seed=3)
        for engine in (local, remote):
            engine.sync(student.model.named_parameters(), 3)
        prompts, seeds = PROMPTS * 8, list(range(8 * len(PROMPTS)))
        for settings in ({}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}):
            here, there = (sample(engine, prompts, seeds, **settings) for engine in (local, remote))
            assert ids(here) == ids(there)
            assert [c.text for c in here] == [c.text for c in there]
        remote.close()

    def test_equal_prompts_go_to_one_server(self, urls: list[str], tied_path: str) -> None:
        engine = VLLMServerEngine(tied_path, urls)
        prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[1]]
        assert [share for _, share in engine._shares([0, 1, 2, 3, 4], prompts)] == [[0, 2, 3], [1, 4]]

    def test_what_is_sampled_while_weights_change_is_not_returned(self, urls: list[str], tied_path: str) -> None:
        """By another run: its update ends the requests in flight, and this run ends rather than mix weights."""
        mine, other = (VLLMServerEngine(tied_path, urls[:1], max_retries=0) for _ in range(2))
        student, stranger = Reference(tied_path), Reference(tied_path)
        stranger.perturb(0.1, seed=5)
        for engine in (mine, other):
            engine.start_empty()
        mine.sync(student.model.named_parameters(), 1)
        assert agree(sample(mine, PROMPTS, [0, 1, 2, 3]), student)
        requests = [Request(prompt=[9, 8, i % 60], seed=i) for i in range(2000)]
        arrived: list[int] = []
        begun = threading.Event()

        def ready(index: int, completion: Completion) -> None:
            arrived.append(index)
            assert agree([completion], student, [[9, 8, index % 60]])
            begun.set()

        def push() -> None:
            begun.wait()
            other.sync(stranger.model.named_parameters(), 1)

        thread = threading.Thread(target=push)
        thread.start()
        with pytest.raises(RunError, match="was given other weights"):
            mine.generate_as_ready(requests, Sampling(max_tokens=100), ready)
        thread.join()
        assert 0 < len(arrived) < len(requests)
        assert agree(sample(other, PROMPTS, [0, 1, 2, 3]), stranger)
        with pytest.raises(RunError, match="holds trained weights"):
            VLLMServerEngine(tied_path, urls[:1]).start()
        mine.sync(student.model.named_parameters(), 2)
        assert agree(sample(mine, PROMPTS, [0, 1, 2, 3]), student)
        for engine in (mine, other):
            engine.close()

    def test_an_update_that_a_trainer_left_unfinished(self, urls: list[str], tied_path: str) -> None:
        """It died in between: sampling is paused, and an update has begun."""
        for path in ("pause?mode=abort", "update_weight_version", "start_weight_update"):
            httpx.post(f"{urls[0]}/{path}", json={"new_version": "unfinished"}, timeout=30).raise_for_status()
        engine, student = VLLMServerEngine(tied_path, urls), Reference(tied_path)
        student.perturb(0.1, seed=6)
        engine.start_empty()
        with pytest.raises(RuntimeError, match="has not been given any weights"):
            sample(engine, PROMPTS, [0, 1, 2, 3])
        engine.sync(student.model.named_parameters(), 4)
        assert agree(sample(engine, PROMPTS, [0, 1, 2, 3]), student)
        engine.close()

    def test_an_update_that_the_server_cannot_make(self, urls: list[str], tied_path: str, tmp_path: Path) -> None:
        """It says so at once, however patient the run is, samples on, and takes the next update."""
        engine, student = VLLMServerEngine(tied_path, urls[:1], max_retries=1, backoff_s=0.1), Reference(tied_path)
        engine.start_empty()
        server = engine.servers[0]
        with pytest.raises(RunError, match="status 500"):
            server.done(server.send([replacing(server, [str(tmp_path / "nothing")], "x")])[0])
        assert server.version() == UNFINISHED
        assert not httpx.get(f"{server.root}/is_paused", timeout=30).json()["is_paused"]
        engine.sync(student.model.named_parameters(), 1)
        assert agree(sample(engine, PROMPTS, [0, 1, 2, 3]), student)
        engine.close()

    def test_old_keys_and_values_are_dropped(self, urls: list[str], tied_path: str) -> None:
        """A prompt of several cached blocks, asked again after an update."""
        engine, student = VLLMServerEngine(tied_path, urls[:1]), Reference(tied_path)
        engine.start_empty()
        for version in (1, 2):
            student.perturb(0.1, seed=version)
            engine.sync(student.model.named_parameters(), version)
            for _ in range(2):
                assert agree(sample(engine, [[7] * 100] * 2, [0, 1]), student, [[7] * 100] * 2)
        engine.close()

    def test_a_restarted_server_gets_the_weights_again(
        self, tied_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key, too: a server that was started with one refuses requests without."""
        port, student = free_port(), Reference(tied_path)
        student.perturb(0.1, seed=7)
        with serve_student(tied_path, tmp_path / "one", "--api-key", "sesame", port=port) as url:
            with pytest.raises(ConfigError, match="refuses the key of api_key_env"):
                VLLMServerEngine(tied_path, [url]).check()
            monkeypatch.setenv("VLLM_API_KEY", "sesame")
            engine = VLLMServerEngine(tied_path, [url], weights_folder=str(tmp_path), patience_s=300)
            engine.start_empty()
            engine.sync(student.model.named_parameters(), 1)
            assert agree(sample(engine, PROMPTS, [0, 1, 2, 3]), student)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(sample(engine, PROMPTS, [0, 1, 2, 3])))
        asking.start()  # while the server is away
        with serve_student(tied_path, tmp_path / "two", "--api-key", "sesame", port=port):
            with pytest.warns(UserWarning, match="sent again"):
                asking.join()
            assert agree(answers[0], student)
            assert engine.servers[0].version() == engine._version
        assert list(tmp_path.glob(f"{PREFIX}*/*.safetensors"))
        engine.close()
        assert not list(tmp_path.glob(f"{PREFIX}*"))

    def test_servers_that_cannot_be_used(self, server: str, urls: list[str], tied_path: str, tmp_path: Path) -> None:
        start = f"ovd-lightning serve {tied_path} --port"
        with pytest.raises(ConfigError, match=f"base_urls: .* does not answer .*{start} 9"):
            VLLMServerEngine(tied_path, ["http://localhost:9"]).check()
        with pytest.raises(ConfigError, match=f"is no vLLM server in development mode .*{start}"):
            VLLMServerEngine(tied_path, [server]).check()
        with pytest.raises(ConfigError, match="max_model_len: 256 exceeds the 128 positions"):
            VLLMServerEngine(tied_path, urls, max_model_len=256).check()
        wide = save_tiny_model(tmp_path / "wide", tied=True, seed=0, head_dim=64)
        with pytest.raises(ConfigError, match=r"base_urls: .* 'hidden_size': 64, .*not .* 'hidden_size': 128"):
            VLLMServerEngine(wide, urls[:1]).check()
        with pytest.raises(ConfigError, match=r"weights_folder: .*/nowhere is no folder"):
            VLLMServerEngine(tied_path, urls, weights_folder="/nowhere").check()
        VLLMServerEngine(tied_path, [f"{url}/v1" for url in urls], weights_folder=str(tmp_path)).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_urls": []}, "base_urls: names no server"),
        ({"base_urls": ["http://localhost:1", "http://localhost:1/v1/"]}, "base_urls: names a server twice"),
        ({"base_urls": ["http://me:secret@localhost:1"]}, "base_urls: holds a user name.* in api_key_env"),
        ({"base_urls": ["http://gpu-1:8001"]}, "weights_folder: is needed for servers on other machines"),
        ({"base_urls": ["http://localhost:1"], "weight_transfer": "nccl"}, "weight_transfer: nccl needs a GPU"),
    ],
)
def test_settings_that_need_no_server(settings: dict[str, Any], message: str, tied_path: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VLLMServerEngine(tied_path, **settings).check()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"logprobs_mode": "raw_logprobs"},
            "base_urls: .* logprobs_mode raw_logprobs. Start it with: ovd-l",
        ),
        (
            {"weight_transfer": None},
            "base_urls: .* weight_transfer None. Start it with: ovd-light",
        ),
        ({"chunked_prefill_on_cpu": True}, "base_urls: .* started with chunked_prefill_on_cpu True"),
        ({"sees_folder": False}, "weights_folder: http://localhost:9 does not see /shared"),
        ({"max_model_len": 64}, "max_model_len: http://localhost:9 takes 64 tokens, fewer than 128"),
    ],
)
def test_a_server_that_was_started_otherwise(said: dict[str, Any], message: str, tied_path: str) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tied_path)
    found = {
        "model": "other",
        "config": {"hidden_size": 64, "vocab_size": config.vocab_size},
        "dtype": "float32",
        "max_model_len": 128,
        "logprobs_mode": "processed_logprobs",
        "weight_transfer": "filesystem",
        "chunked_prefill_on_cpu": False,
        "sees_folder": True,
        **said,
    }
    engine = VLLMServerEngine(tied_path, ["http://localhost:9"])
    errors = server_misfits(
        engine.servers[0],
        found,
        model=tied_path,
        config=config,
        tokenizer=AutoTokenizer.from_pretrained(tied_path),
        max_model_len=None,
        context=CONTEXT,
        weight_transfer="filesystem",
        folder=Path("/shared"),
    )
    assert re.search(message, str(next(errors)))


def answer(**choice: Any) -> bytes:
    entry = {"token_id": 5, "logprob": -1.0, "top_logprobs": [{"token_id": 5, "logprob": -1.0}]}
    full = {
        "finish_reason": "length",
        "token_ids": [5],
        "logprobs": {"content": [entry]},
        "weight_versions": [{"version": "a", "start": 0, "end": 1}],
        **choice,
    }
    return json.dumps({"choices": [full]}).encode()


def test_answers_are_validated() -> None:
    asked = {"max_tokens": 1, "logprobs": 0}
    good = read_sampled(answer(), asked)
    assert (good.token_ids, good.logprobs, good.truncated, good.versions) == ([5], [{5: -1.0}], True, {"a"})
    aborted = read_sampled(answer(finish_reason="abort", token_ids=[], logprobs=None), asked)
    assert not aborted.versions
    assert read_sampled(answer(logprobs=None), {"max_tokens": 1}).logprobs == [], "nobody reads them"
    for data, problem in (
        (b"<html>", "no completion"),
        (b"{}", "no completion"),
        (answer(token_ids=[5, 6]), "2 tokens where 1 to 1"),
        (answer(token_ids=[]), "0 tokens"),
        (answer(token_ids=[6]), "log-probabilities of 1 positions"),
        (answer(weight_versions=None), "no version of the weights"),
        (answer(logprobs=None), "log-probabilities of 0 positions"),
    ):
        with pytest.raises(BadAnswer, match=problem):
            read_sampled(data, asked)


def test_shards_keep_the_order_and_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovd_lightning.engines.vllm_transfer.SHARD", 40)
    weights = [(str(i), torch.zeros(n)) for i, n in enumerate((4, 6, 1, 30, 2, 2))]
    assert [[name for name, _ in shard] for shard in shards(iter(weights))] == [["0", "1"], ["2"], ["3"], ["4", "5"]]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    for name in ("dead", "alive"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / OWNED).touch()
    with FileLock(tmp_path / f"{PREFIX}alive" / OWNED):
        sweep(tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == [f"{PREFIX}alive"]
