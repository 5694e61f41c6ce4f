"""Every architecture: what trains is what sampled and what is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.student import Student
from ovd_lightning.weights import fingerprint
from tests.architectures import ARCHITECTURES, save_architecture
from tests.test_student import batch_of, naive, ragged

PROMPTS = [[5, 9, 30], [12], [7, 8, 9, 10, 11, 12, 13], [40, 41, 5, 6], [9, 9, 9, 9, 9], [3]]


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_architecture(request.param, tmp_path_factory.mktemp(request.param))


def changed(path: str) -> Student:
    """A student whose every weight and every saved buffer is another than the checkpoint's."""
    student = Student(path)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in student.named_weights():
            if weight.is_floating_point():
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.02)
    return student


def logits(model: Any) -> Tensor:
    ids = torch.tensor([[5, 9, 30, 12, 7, 7, 41, 3]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_the_first_ratios_are_one(path: str) -> None:
    """Old log-probabilities are computed without a graph and new ones in training, where dropout or jitter may be."""
    student = Student(path)
    batch = batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask, batch.temperature)
    student.eval()
    with torch.no_grad():
        old, _ = student(*inputs)
    student.train()  # what Lightning does before every epoch
    batch.old_logprobs = old
    output = GRPO(kl_coefficient=0.0).loss(student, batch)
    ratios = output.maxima["policy/ratio_max"]
    assert (ratios - 1).abs().max() < 1e-6
    expected, _ = naive(student.hf, batch, 1.0)
    torch.testing.assert_close(old, expected, atol=2e-5, rtol=0)


def test_export_and_sync_give_the_same_model(path: str, tmp_path: Path) -> None:
    student = changed(path)
    student.export(tmp_path / "student", path)
    again = Student(str(tmp_path / "student"))
    assert torch.equal(logits(again.hf), logits(student.hf))
    assert fingerprint(again.named_weights()) == fingerprint(student.named_weights())
    assert not torch.equal(logits(student.hf), logits(AutoModelForCausalLM.from_pretrained(path).eval()))

    engine = HFEngine(path)
    engine.start()
    engine.sync(student.named_weights(), 1)
    assert torch.equal(logits(engine.network), logits(student.hf))


def test_a_batch_answers_as_each_prompt_alone(path: str) -> None:
    """Prompts of several lengths, and sequences that leave the batch one after another."""
    engine = HFEngine(path)
    engine.start()
    sampling = Sampling(max_tokens=12, temperature=1.0)
    requests = [
        Request(prompt=prompt, seed=seed, max_tokens=2 + 3 * (seed % 4))
        for seed, prompt in enumerate([*PROMPTS, *PROMPTS])
    ]
    together = engine.generate(requests, sampling)
    assert len({len(c.token_ids or ()) for c in together}) > 2
    for request, completion in zip(requests, together, strict=True):
        ids = torch.tensor([[*request.prompt, *(completion.token_ids or ())]])
        with torch.no_grad():
            expected = torch.log_softmax(engine.network(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
        at = torch.arange(len(request.prompt) - 1, ids.shape[1] - 1)
        values = expected[at, ids[0, at + 1]]
        torch.testing.assert_close(torch.tensor(completion.logprobs), values, atol=1e-4, rtol=0)
        scored = engine.score([list(request.prompt)], [completion.token_ids or []])[0]
        torch.testing.assert_close(scored, values, atol=1e-4, rtol=0)


def test_gradient_checkpointing_recomputes_and_changes_nothing(path: str) -> None:
    batch = batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask)
    gradients, calls = [], []
    for recompute in (False, True):
        student = Student(path, gradient_checkpointing=recompute).train()
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        for module in student.blocks()[0].modules():
            module.register_forward_hook(counted)
        student(*inputs)[0].sum().backward()
        calls.append(count)
        gradients.append({name: p.grad for name, p in student.hf.named_parameters() if p.grad is not None})
    assert calls[1] > calls[0] > 0
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_padding_on_the_right_needs_no_mask(path: str) -> None:
    """Log-probabilities and gradients with and without the mask, of rows that are padded to several lengths."""
    batch = batch_of(ragged())
    values, gradients = [], []
    for needs_mask in (True, False):
        student = Student(path)
        assert not student._head.needs_mask, "none of these models looks ahead"
        assert len(student.slices(batch.attention_mask)) == 1, "a tiny model's rows are padded to one length"
        student._head.needs_mask = needs_mask
        logprobs, _ = student(batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
        (logprobs * batch.advantages).sum().backward()
        values.append(logprobs)
        gradients.append(gradient_of(student))
    torch.testing.assert_close(values[1], values[0], atol=2e-5, rtol=0)
    assert (gradients[1] - gradients[0]).abs().max() <= 1e-5 * gradients[0].norm()


def test_slices_of_similar_length_change_nothing(path: str) -> None:
    batch = batch_of(sorted(ragged(), key=lambda y: -len(y.prompt_ids) - len(y.completion_ids)))
    values, gradients = [], []
    for cost, passes in ((math.inf, 1), (3, 4)):
        student = Student(path)
        student.pass_cost = cost
        assert len(student.slices(batch.attention_mask)) == passes
        logprobs, entropies = student(batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
        (logprobs * batch.advantages + 0.1 * entropies).sum().backward()
        values.append(torch.stack([logprobs, entropies]))
        gradients.append(gradient_of(student))
    torch.testing.assert_close(values[1], values[0], atol=2e-5, rtol=0)
    assert (gradients[1] - gradients[0]).abs().max() <= 1e-5 * gradients[0].norm()


def gradient_of(student: Student) -> Tensor:
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
