"""What vLLM is asked to do, and spared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.vllm import VLLMEngine

pytestmark = pytest.mark.vllm


def test_vllm_decodes_only_where_a_stop_text_needs_it(
    start_engine: Callable[..., VLLMEngine], tied_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts, tokens and log-probabilities are the same either way: texts are decoded here."""
    engine = start_engine("vllm", tied_path)
    run, asked, decode = engine._run, [], False

    def recorded(prompts: Any, parameters: Any, *more: Any) -> Any:
        asked.extend(one.detokenize for one in parameters)
        assert all(one.flat_logprobs for one in parameters)  # no objects for every token
        for one in parameters:
            one.detokenize = one.detokenize or decode
        return run(prompts, parameters, *more)

    monkeypatch.setattr(engine, "_run", recorded)
    requests = [Request(prompt=[10, 20, 30 + i], seed=i) for i in range(8)]
    found = engine.generate(requests, Sampling(max_tokens=24))
    decode = True
    assert engine.generate(requests, Sampling(max_tokens=24)) == found
    assert asked == [False] * 16
    asked.clear()
    decode = False
    text = found[0].text
    stopped = engine.generate(requests[:1], Sampling(max_tokens=24, stop=(text[4],)))[0]
    assert asked == [True]
    assert stopped.text == text[: text.index(text[4]) + 1]
    asked.clear()
    engine.next_token_logprobs([[10, 20]], [6, 7])
    engine.score([[10, 20]], [[6, 7]])
    assert not any(asked)


@pytest.mark.slow
def test_heads_that_are_not_rounded_agree_better_in_bfloat16(tied_path: str) -> None:
    """Engine and trainer in bfloat16, with logits in float32 on both sides, and on neither."""
    from ovd_lightning.round.sync import distances
    from ovd_lightning.student import Student

    prompts = [[10, 20, 30 + i] for i in range(16)]
    means = []
    for head in (None, "float32"):
        engine = VLLMEngine(tied_path, dtype="bfloat16", kv_cache_memory_bytes=64 << 20, head_dtype=head)
        engine.start()
        student = Student(tied_path, "bfloat16")
        if head is not None:
            student.unround_logits()
        found = engine.generate([Request(prompt=p, seed=i) for i, p in enumerate(prompts)], Sampling(max_tokens=32))
        means.append(float(distances(found, student, prompts, 1.0).mean()))
    rounded, unrounded = means
    print(means)
    assert unrounded < rounded
    assert unrounded < 0.03
