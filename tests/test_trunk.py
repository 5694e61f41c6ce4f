"""The transformer's other ways of computing the same: its attention, and compiled blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.pretrained import attention_errors
from ovd_lightning.student import Student
from ovd_lightning.types import Batch
from tests.test_lora import SMALL, with_adapter
from tests.test_student import batch_of, gradients, largest_gap, naive, ragged


def logprobs(student: Student, batch: Batch) -> Tensor:
    return student(batch.input_ids, batch.attention_mask, batch.completion_mask)[0]


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_is_the_one_that_was_asked_for(name: str, tiny_model: str) -> None:
    student, batch = Student(tiny_model, attn_implementation=name), batch_of(ragged())
    assert student.hf.config._attn_implementation == name
    assert torch.allclose(logprobs(student, batch), naive(Student(tiny_model).hf, batch, 1.0)[0], atol=1e-4)


def test_attention_that_cannot_be(tiny_model: str) -> None:
    def said(name: str | None, student: str = tiny_model, computes_in: str = "bfloat16") -> list[str]:
        return [str(error) for error in attention_errors(student, name, {computes_in})]

    assert not said(None)
    assert not said("sdpa")
    assert not said("eager", "nowhere/at-all"), "that there is no such student is said elsewhere"
    (wrong,) = said("sdpaa")
    assert wrong.startswith("model.attn_implementation: is sdpaa: ")
    assert "sdpa, eager, or null" in wrong
    if not torch.cuda.is_available():
        (wrong,) = said("flash_attention_2")
        assert "FlashAttention2" in wrong


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"lora": SMALL}], ids=str)
def test_compiled_blocks_compute_the_same_and_once_for_all_lengths(settings: dict[str, Any], tiny_model: str) -> None:
    make = with_adapter if "lora" in settings else Student
    torch._dynamo.reset()
    plain, compiled = make(tiny_model, **settings), make(tiny_model, compile=True, **settings)
    compiled.pass_cost = plain.pass_cost = float("inf")  # all rows as one
    for round, count in enumerate((8, 5, 6)):  # other rows, other lengths
        batch = batch_of(ragged(count, seed=round))
        with torch._dynamo.config.patch(error_on_recompile=round > 0):
            found = []
            for student in (plain, compiled):
                with torch.no_grad():
                    values = logprobs(student, batch)
                GRPO(kl_coefficient=0).loss(student, batch).loss.backward()
                found.append((values, gradients(student)))
        assert torch.allclose(found[0][0], found[1][0], atol=1e-4)
        assert largest_gap(found[0][1], found[1][1]) < 1e-5
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "it was compiled"
    assert {n for n, _ in compiled.named_parameters()} == {n for n, _ in plain.named_parameters()}
    if "lora" in settings:
        with torch.no_grad(), compiled.initial():
            assert torch.allclose(logprobs(compiled, batch), logprobs(Student(tiny_model), batch), atol=1e-4)
