"""The endpoint engine's other ways of asking a real vLLM server."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError

from .tiny import DIGITS, VOCABULARY, Reference

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

USER = {"role": "user", "content": "ab"}
TOKENS = {word: index for index, word in enumerate(VOCABULARY)}
RENDERED = [TOKENS["<user>"], TOKENS["a"], TOKENS["b"], TOKENS["<model>"]]
TEXTS = [VOCABULARY[token] for token in DIGITS]


@pytest.fixture
def ask(server: str) -> Any:
    return lambda **settings: OpenAIEngine(server, "tiny", **{"timeout_s": 60, "max_retries": 1, **settings})


def test_chat(ask: Any, reference: Reference) -> None:
    engine = ask(api="chat", processed_logprobs=True)
    requests = [Request(prompt=[USER], seed=s) for s in (1, 2, 1)]
    completions = engine.generate(requests, Sampling(max_tokens=8, temperature=0.7))
    assert completions[0] == completions[2]
    assert completions[0] != completions[1]
    for c in completions:
        assert (c.prompt_tokens, c.completion_tokens) == (len(RENDERED), len(c.token_ids))
        assert c.text == "".join(VOCABULARY[t] for t in c.token_ids if t > 5)
        difference = torch.tensor(c.logprobs) - reference.of(RENDERED, c.token_ids, 0.7)
        assert float(difference.abs().max()) < 1e-4


def test_chat_candidates(ask: Any, reference: Reference, tied_path: str) -> None:
    """The assistant's last message is continued; a text is the user's message."""
    prompts = [[USER], [USER, {"role": "assistant", "content": "c"}], "ab"]
    rendered = [RENDERED, [*RENDERED, TOKENS["c"]], RENDERED]
    expected = torch.stack([reference.logprobs(ids)[-1, DIGITS] for ids in rendered])
    for engine in (ask(api="chat"), ask(api="chat", tokenizer=tied_path)):
        assert torch.allclose(engine.next_token_logprobs(prompts, DIGITS), expected, atol=1e-4)
    assert torch.allclose(engine.next_text_logprobs(prompts, TEXTS), expected, atol=1e-4)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_hidden_vocabulary(ask: Any, reference: Reference, api: str) -> None:
    """Of the twenty likeliest tokens only: the others are reported as impossible."""
    ids = RENDERED if api == "chat" else RENDERED[1:3]
    expected = reference.logprobs(ids)[-1]
    # the model's own top_k of 2 would cut what this server, in processed mode, reports
    engine = ask(api=api, vllm_extensions=False, extra_body={"top_k": 0})
    actual = engine.next_text_logprobs(["ab"], TEXTS)[0]
    likely = expected[DIGITS] >= expected.topk(20).values[-1]
    assert likely.any()
    assert not likely.all()
    assert torch.allclose(actual[likely], expected[DIGITS][likely], atol=1e-4)
    assert actual[~likely].isneginf().all()


def test_text_without_tokenizer(ask: Any) -> None:
    engine = ask()
    completions = engine.generate([Request(prompt="ab"), Request(prompt="b")], Sampling(max_tokens=5, temperature=0))
    assert engine.usage.requests == 1
    for c in completions:
        assert c.token_ids
        assert c.logprobs
        assert c.text == "".join(VOCABULARY[t] for t in c.token_ids if t > 5)
    assert engine.generate([Request(prompt="ab")], Sampling(max_tokens=5, temperature=0.7))[0].logprobs is None, (
        "a server in raw mode would report another distribution's"
    )


def test_refusals(ask: Any, server: str) -> None:
    long, short = ask().generate([Request(prompt=[9] * 300), Request(prompt=[9])], Sampling(max_tokens=2))
    assert "status 400" in (long.error or "")
    assert short.error is None
    stranger = OpenAIEngine(server, "nobody")
    assert "status 404" in (stranger.generate([Request(prompt="a")], Sampling())[0].error or "")
    with pytest.raises(ConfigError, match="It serves tiny"):
        stranger.check()
    with pytest.raises(RuntimeError, match="could not score pair 0: status 400"):
        ask().score([[9] * 300], [[9, 9]])
    assert ask().next_token_logprobs([[9] * 300, [9]], DIGITS).isnan().all(dim=1).tolist() == [True, False]
