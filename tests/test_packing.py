"""Sequences in one row without padding, against the padded rows: log-probabilities, gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from ovd_lightning.errors import ConfigError
from ovd_lightning.head import MixedSequences
from ovd_lightning.methods.distribution import DistributionMatching
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.packing import by_sequence, is_flash, layout
from ovd_lightning.pretrained import packing_errors
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Group
from tests.architectures import ARCHITECTURES, save_architecture
from tests.test_student import batch_of, gradients, largest_gap, ragged

MIXING = {"falcon_h1", "lfm2", "mamba2", "qwen3_5_text", "qwen3_next"}
"""Their convolutions and states run on from one sequence into the next."""

UNTOLD = {"bloom", "gpt_oss", "opt"}
"""Their masks are made without positions. Flash attention is told, where they have it."""


def inputs(batch: Batch) -> tuple[Any, ...]:
    return batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7


def compare(plain: Student, packed: Student, batch: Batch) -> None:
    """Log-probabilities and entropies of every token, and the gradient of a loss of both."""
    found = []
    for student in (plain, packed):
        logprobs, entropies = student(*inputs(batch))
        (logprobs * batch.advantages + 0.1 * entropies).sum().backward()
        found.append((torch.stack([logprobs, entropies]), gradients(student.hf)))
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-5, rtol=0)
    assert largest_gap(found[0][1], found[1][1]) < 1e-5


def test_layout_by_hand() -> None:
    found = layout([2, 1, 3], torch.device("cpu"), flash=True)
    assert found["position_ids"].tolist() == [[0, 1, 0, 0, 1, 2]]
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 2, 3, 6]
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert (found["max_length_q"], found["max_length_k"]) == (3, 3)
    assert set(layout([2, 1], torch.device("cpu"), flash=False)) == {"position_ids"}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_packs_or_is_refused(name: str, tmp_path: Any) -> None:
    """32 rows have more tokens together than the model has positions."""
    path = save_architecture(name, tmp_path)
    if name in MIXING | UNTOLD:
        with pytest.raises(ConfigError, match=r"model.packing: is true, but .* several sequences in a row"):
            Student(path, packing=True)
        return
    batch = batch_of(ragged(32))
    assert batch.attention_mask.sum() > 256
    packed = Student(path, packing=True)
    assert packed.computed(batch.attention_mask) == batch.attention_mask.sum() < batch.input_ids.numel()
    compare(Student(path), packed, batch)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_flash_attention_is_told_by_every_architecture_that_has_it(name: str, tmp_path: Any) -> None:
    """By the check at loading: the stand-in for its kernels sees whole sequences, each by itself."""
    student = Student(save_architecture(name, tmp_path))
    if not student.hf._supports_flash_attn or name in MIXING:
        return
    student._head.check_packing(student.hf, flash=True)
    assert student.hf.config._attn_implementation in ("sdpa", "eager"), "as it was"


@pytest.mark.parametrize("settings", [{"attn_implementation": "eager"}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("chunk_size", [1, 1000])
def test_packed_rows_are_computed_as_padded_ones(settings: dict[str, Any], chunk_size: int, tiny_model: str) -> None:
    make = partial(Student, tiny_model, chunk_size=chunk_size, **settings)
    compare(make(), make(packing=True), batch_of(ragged()))


def test_with_an_adapter(tiny_model: str) -> None:
    pytest.importorskip("peft")
    from tests.test_lora import with_adapter

    plain, packed, batch = with_adapter(tiny_model), with_adapter(tiny_model, packing=True), batch_of(ragged())
    compare(plain, packed, batch)
    with torch.no_grad(), packed.initial():
        torch.testing.assert_close(packed(*inputs(batch))[0], Student(tiny_model)(*inputs(batch))[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16-mixed"])
def test_losses_are_those_of_padded_rows(autocast: bool, tiny_model: str) -> None:
    """Formed in the forward pass, and of whole distributions beside a teacher that is not packed."""
    teacher, batch = Student(tiny_model).requires_grad_(False), batch_of(ragged())
    batch.old_logprobs = torch.full_like(batch.advantages, -3.0)

    class Matching(DistributionMatching):
        def annotate(self, groups: list[Group], round: Any) -> None:
            raise AssertionError("there is no round")

        def teacher_model(self, student: Student, batch: Batch) -> Student:
            return teacher

    for method in (GRPO(kl_coefficient=0.0), Matching(None, 0.5)):
        found = []
        for packing in (False, True):
            student = Student(tiny_model, chunk_size=7, packing=packing)
            with torch.no_grad():
                next(student.hf.parameters()).mul_(1.1)  # another than its teacher
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = method.loss(student, batch).loss
            loss.backward()
            found.append((loss.detach(), gradients(student.hf)))
        assert torch.allclose(found[0][0], found[1][0], atol=5e-3 if autocast else 1e-6)
        assert largest_gap(found[0][1], found[1][1]) < (2e-2 if autocast else 1e-5)


def test_a_row_without_trained_tokens_alone(tiny_model: str) -> None:
    """Every parameter is in the graph, as DDP demands."""
    batch = batch_of([y for y in ragged() if not y.completion_ids])
    student = Student(tiny_model, packing=True)
    student(*inputs(batch))[0].sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


# ------------------------------------------------------------------ flash attention, with other kernels


def kernels(seen: list[list[int]]) -> Callable[..., Any]:
    """What transformers finds where flash attention is installed, with plain attention in the place of its kernels."""

    def varlen(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
        """[T, heads, d]"""
        bounds = given["cu_seqlens_q"].tolist()
        seen.append(bounds)
        assert given["max_seqlen_q"] == max(b - a for a, b in pairwise(bounds))
        parts = []
        for a, b in pairwise(bounds):
            out = nn.functional.scaled_dot_product_attention(
                *(x[a:b].transpose(0, 1)[None] for x in (q, k, v)),
                is_causal=given["causal"],
                scale=given["softmax_scale"],
                enable_gqa=True,
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    takes = dict.fromkeys(
        ("dropout_p", "window_size", "deterministic", "softcap", "s_aux", "learnable_sink", "cache_seqlens"), False
    )
    process = partial(
        flash._process_flash_attention_kwargs, supports_mapping={**takes, "max_seqlen_q": True, "max_seqlen_k": True}
    )
    return lambda name: ((None, varlen, None, None, None), (process, None))


def test_the_kernels_of_flash_attention_get_each_sequence(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through transformers' own way to them."""
    seen: list[list[int]] = []
    monkeypatch.setattr(flash, "lazy_import_flash_attention", kernels(seen))
    plain, packed, batch = Student(tiny_model), Student(tiny_model, packing=True), batch_of(ragged())
    packed._head.check_packing(packed.hf, flash=True)
    packed.hf.config._attn_implementation_internal = "flash_attention_2"
    compare(plain, packed, batch)
    assert seen
    assert all(torch.tensor(bounds).diff().tolist() == batch.attention_mask.sum(-1).tolist() for bounds in seen)


@pytest.mark.parametrize("lost", ["cu_seq_lens_q", "position_ids"])
def test_a_model_that_loses_where_sequences_begin_is_refused(lost: str, tiny_model: str) -> None:
    """Of flash attention what it is told, of other attention the positions that its mask is made of."""
    student, attend = Student(tiny_model), Qwen2Attention.forward
    flash = lost == "cu_seq_lens_q"
    student._head.check_packing(student.hf, flash)

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("cu_seq_lens_q", None), kwargs.pop("position_ids", None)
        return attend(self, *args, **kwargs)

    trunk = type(student.hf.model)
    whole = trunk.forward

    def unplaced(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return whole(self, *args, **kwargs)

    target = (Qwen2Attention, forgetful) if flash else (trunk, unplaced)
    with (
        mock.patch.object(target[0], "forward", target[1]),
        pytest.raises(MixedSequences, match="something else for several sequences"),
    ):
        student._head.check_packing(student.hf, flash)


def test_the_stand_in_sees_one_sequence_where_it_is_told_of_none(tiny_model: str) -> None:
    student, ids = Student(tiny_model), torch.tensor([[5, 9, 30, 12]])
    with torch.no_grad():
        expected = student.hf(ids).logits
        with by_sequence(student.hf):
            torch.testing.assert_close(student.hf(ids).logits, expected, atol=1e-5, rtol=0)
            cut = student.hf(ids, **layout([2, 2], ids.device, flash=True)).logits
    assert (cut - expected)[:, 2:].abs().max() > 0.01


def test_attention_that_may_mix_sequences_is_refused() -> None:
    for name in (None, "sdpa", "eager", "flash_attention_2", "kernels-community/flash-attn2"):
        assert not list(packing_errors(name))
    for name in ("flex_attention", "paged|flash_attention_2"):
        (error,) = packing_errors(name)
        assert str(error).startswith("model.packing: ")
        assert name in str(error)
    assert is_flash("flash_attention_2")
    assert not is_flash(None)
