"""The generation loop of the hf engine: its cache, its draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ovd_lightning.engines.base import Engine, Request, Sampling
from ovd_lightning.engines.hf import BLOCK, quantiles
from ovd_lightning.engines.hf_cache import GrowingLayer, places


def test_a_growing_layer_holds_what_transformers_layer_holds() -> None:
    from transformers.cache_utils import DynamicLayer

    def states(rows: int, length: int) -> torch.Tensor:
        return torch.randn(rows, 2, length, 4)

    known = DynamicLayer()
    known.update(states(6, 10), states(6, 10))
    layer = GrowingLayer(known)
    kept_rows = [[0, 1, 2, 3, 4, 5], [0, 2, 5], [1, 2], [1]]
    for kept in kept_rows:
        rows = places(kept)
        assert sorted(rows) == kept
        select = torch.tensor(rows)
        known.reorder_cache(select)
        layer.reorder_cache(select)
        for _ in range(90):  # across the end of the room
            key, value = states(len(rows), 1), states(len(rows), 1)
            for ours, theirs in zip(layer.update(key, value), known.update(key, value), strict=True):
                assert torch.equal(ours, theirs)
        assert layer.get_seq_length() == known.get_seq_length()
        assert layer.get_mask_sizes(1) == known.get_mask_sizes(1)


def test_appending_copies_nothing() -> None:
    from transformers.cache_utils import DynamicLayer

    known = DynamicLayer()
    known.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4))
    layer = GrowingLayer(known)
    first = layer.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4))[0]
    second = layer.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4))[0]
    assert first.data_ptr() == second.data_ptr()


def test_the_rows_that_stay_keep_their_places() -> None:
    assert places([0, 1, 2]) == [0, 1, 2]
    assert places([1, 2, 4, 6]) == [4, 1, 2, 6]
    assert places([5]) == [5]


@pytest.mark.parametrize("size", [7, BLOCK, BLOCK**2, BLOCK**2 + 1, 32_000])
def test_quantiles_are_those_of_the_distribution_function(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = 4 * torch.randn(64, size, generator=generator)
    logits[:, size // 2 :: 3] = -torch.inf  # as top_p leaves them
    logits[0] = -torch.inf
    logits[0, size - 1] = 0.0
    logprobs = logits.log_softmax(-1)
    u = torch.rand(64, generator=generator, dtype=torch.float64)
    u[1], u[2] = 0.0, 1 - 2.0**-53
    cumulative = logprobs.double().exp().cumsum(-1)
    expected = (cumulative <= u[:, None] * cumulative[:, -1:]).sum(-1)
    found = quantiles(logprobs, u)
    assert torch.equal(found[3:], expected[3:])
    assert found[0] == size - 1
    assert logprobs.gather(-1, found[:, None]).isfinite().all(), "a token without probability was drawn"


def test_tokens_do_not_depend_on_which_rows_end_before(start_engine: Callable[..., Engine], untied_path: str) -> None:
    engine = start_engine("hf", untied_path)
    requests = [
        Request(prompt=list(range(6, 10 + i % 30)), seed=i, max_tokens=1 + 7 * i % 90 if i % 3 else 90)
        for i in range(30)
    ]
    together = engine.generate(requests, Sampling(temperature=0.7))
    for request, completion in zip(requests, together, strict=True):
        alone = engine.generate([request], Sampling(temperature=0.7))[0]
        assert alone.token_ids == completion.token_ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
