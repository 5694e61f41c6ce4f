"""A student with an adapter: against peft's own merge, against the student without one, and against its files."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.lora import LoRA, base_name, empty_model, linear_layers, lora_errors
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.student import Student
from ovd_lightning.weights import checkpoint_weights, fingerprint
from tests.architectures import save_architecture
from tests.test_student import batch_of, ragged

pytest.importorskip("peft")
SMALL = LoRA(r=4, alpha=6.0)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ARCHITECTURES = {
    "qwen2": "all-linear",
    "gpt2": "all-linear",
    "phi3": "all-linear",
    "mixtral": ATTENTION,
    "deepseek_v3": ["q_a_proj", "q_b_proj", "kv_b_proj", "o_proj"],
}
"""Plain; transposed matrices; several in one; experts that a checkpoint has apart; a buffer that is saved."""


def with_adapter(path: str, seed: int = 0, lora: LoRA = SMALL, **settings: Any) -> Student:
    """As if it had trained: no part of the adapter is zero."""
    student = Student(path, lora=lora, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(student).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return student


def trained(student: Student) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in student.hf.named_parameters() if p.requires_grad}


def base(student: Student) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in student.hf.named_parameters() if base_name(n) is not None}


def of_peft(student: Student) -> Any:
    """The model that peft's own merge makes of it: the student is of no use afterwards."""
    assert student.adapter is not None
    return student.adapter._peft.merge_and_unload()


# ------------------------------------------------------------------ base and adapter as one


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_weights_as_one_are_those_of_pefts_merge_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    lora = replace(SMALL, targets=ARCHITECTURES[name])
    student = with_adapter(save_architecture(name, tmp_path), dtype=dtype, lora=lora)
    before = base(student)
    found = {kind: dict(student.named_weights(checkpoint=kind)) for kind in (False, True)}
    assert all(torch.equal(value, before[n]) for n, value in base(student).items()), "the base is as it was"
    initial = dict(checkpoint_weights(Student(save_architecture(name, tmp_path / "plain"), dtype).hf))
    kinds = [{n: (t.shape, t.dtype) for n, t in weights.items()} for weights in (found[True], initial)]
    assert kinds[0] == kinds[1]
    merged = of_peft(student)
    expected = {False: dict(merged.named_parameters()), True: dict(checkpoint_weights(merged))}
    for kind, weights in found.items():
        assert weights.keys() >= expected[kind].keys()
        assert all(torch.equal(weights[n], value) for n, value in expected[kind].items()), kind
    assert sum(not torch.equal(found[True][n], value) for n, value in initial.items()) >= 6


def test_one_layer_exists_twice_at_a_time(tiny_untied_model: str) -> None:
    student = with_adapter(tiny_untied_model)
    own = {p.data_ptr() for p in student.parameters()}
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    for _, tensor in student.named_weights(checkpoint=True):
        if tensor.data_ptr() not in own:
            alive.append(weakref.ref(tensor))
        del tensor
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == 2 * 7
    assert most <= 7, "the linear layers of one block"


def test_rows_of_both_ways_agree(tiny_model: str, tmp_path: Path) -> None:
    """What samples, base and adapter as one, has the log-probabilities of what trains."""
    student = with_adapter(tiny_model)
    student.export(tmp_path / "student", tiny_model)
    batch = batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask)
    as_one = Student(str(tmp_path / "student"))
    assert torch.allclose(student(*inputs)[0], as_one(*inputs)[0], atol=1e-4)
    assert not torch.allclose(student(*inputs)[0], Student(tiny_model)(*inputs)[0], atol=0.1)


# ------------------------------------------------------------------ the adapter switched off


def test_switched_off_it_is_the_initial_student_bit_for_bit(tiny_model: str) -> None:
    student, initial = with_adapter(tiny_model), Student(tiny_model)
    batch = batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask)
    with torch.no_grad():
        on = student(*inputs)[0]
        with student.initial():
            assert torch.equal(student(*inputs)[0], initial(*inputs)[0])
            assert len(trained(student)) == 2 * 7 * 2, "nothing was frozen"
        with pytest.raises(ValueError, match="an error"), student.initial():
            raise ValueError("an error")
        assert torch.equal(student(*inputs)[0], on), "it is on again, also after an error"
        assert (on - initial(*inputs)[0]).abs().max() > 0.1
    assert len(trained(student)) == 2 * 7 * 2
    with pytest.raises(ValueError, match="without an adapter"), initial.initial():
        pass


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_of_the_adapter_alone_and_those_of_the_model_as_one(checkpointing: bool, tiny_model: str) -> None:
    """With W = W0 + s B A: dB = s dW A^T and dA = s B^T dW, where dW is from training everything."""
    student = with_adapter(tiny_model, gradient_checkpointing=checkpointing)
    whole = Student(tiny_model)
    whole.hf.load_state_dict(dict(student.named_weights()), strict=False)
    batch = batch_of(ragged())
    for each in (student, whole):
        GRPO(kl_coefficient=0).loss(each, batch).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in student.parameters())
    of_whole = {name: p.grad for name, p in whole.hf.named_parameters()}
    for name, parameter in trained(student).items():
        layer, part = name.split(".lora_")
        other = student.hf.get_parameter(f"{layer}.lora_{'B' if part[0] == 'A' else 'A'}.default.weight").detach()
        gradient = of_whole[f"{layer}.weight"] * SMALL.alpha / SMALL.r
        expected = other.T @ gradient if part[0] == "A" else gradient @ other.T
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())), name


def test_it_begins_as_the_student_and_alike_in_every_process(tiny_model: str) -> None:
    torch.manual_seed(3)
    one = Student(tiny_model, lora=SMALL)
    torch.rand(17)  # whatever was drawn before
    other = Student(tiny_model, lora=SMALL)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert fingerprint(one.named_weights()) == fingerprint(Student(tiny_model).named_weights())
    torch.manual_seed(4)
    another = Student(tiny_model, lora=SMALL)
    assert any(not torch.equal(p, q) for p, q in zip(one.parameters(), another.parameters(), strict=True))
    assert all(p.dtype == torch.float32 for p in trained(Student(tiny_model, "bfloat16", lora=SMALL)).values())


def test_drawing_it_disturbs_nobodys_random_numbers(tiny_model: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Student(tiny_model, lora=SMALL)
    assert torch.equal(torch.rand(4), expected)


def test_the_digest_is_of_the_base(tiny_model: str, tiny_untied_model: str) -> None:
    one, two = Student(tiny_model, lora=SMALL), with_adapter(tiny_model, lora=replace(SMALL, r=2))
    assert one.base_digest == two.base_digest != Student(tiny_untied_model, lora=SMALL).base_digest


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_peft_loads_the_exported_adapter_and_transformers_both_as_one(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    path = save_architecture(name, tmp_path / "base")
    student = with_adapter(path)
    student.export(tmp_path / "student", path)
    ids = torch.tensor([[5, 9, 30, 12, 7]])
    with torch.no_grad():
        wanted = student.hf(ids).logits
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        beside = PeftModel.from_pretrained(model, str(tmp_path / "student" / "adapter"))
        assert torch.equal(beside(ids).logits, wanted)
        as_one = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32).eval()
        assert torch.allclose(as_one(ids).logits, wanted, atol=1e-3)
    assert all(base_name(n) == n for n, _ in as_one.named_parameters()), "transformers has found no adapter to add"


# ------------------------------------------------------------------ checks


def refused(lora: LoRA, path: str, sharded: bool = False) -> str:
    with pytest.raises(ConfigError) as error:
        raise_errors(lora_errors(lora, empty_model(path), sharded))
    return str(error.value)


def test_targets_that_are_not_there(tiny_model: str) -> None:
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    for targets, lost in ((["q_proj", "c_attn"], "c_attn"), (r"layers\.9\..*", r"layers\.9\..*"),
                          (["lm_head"], "lm_head"), (["proj"], "proj")):  # fmt: skip
        said = refused(LoRA(targets=targets), tiny_model)
        assert f"model.lora.targets: names {lost}, which" in said
        assert known in said
    assert "SiLUActivation() is not supported" in refused(LoRA(targets=r".*\.mlp\..*"), tiny_model), "peft's own"
    assert "is empty" in refused(LoRA(targets=[]), tiny_model)
    assert "no regular expression" in refused(LoRA(targets="("), tiny_model)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [("all-linear", 14), (["q_proj"], 2), (["self_attn.q_proj", "v_proj"], 4), (r".*\.1\.mlp\..*_proj", 3)],
)
def test_targets_that_are_there_are_what_peft_adapts(targets: Any, adapted: int, tiny_untied_model: str) -> None:
    lora = LoRA(targets=targets)
    model = empty_model(tiny_untied_model)
    assert len(linear_layers(model)) == 14
    assert not list(lora_errors(lora, model, sharded=False))
    assert len(trained(Student(tiny_untied_model, lora=lora))) == 2 * adapted


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_experts_are_refused_and_their_attention_is_not(name: str, tmp_path: Path) -> None:
    """peft would adapt their one parameter as a whole, at twice the rank."""
    path = save_architecture(name, tmp_path)
    assert "takes in experts" in refused(LoRA(), path)
    assert not list(lora_errors(LoRA(targets=ARCHITECTURES[name]), empty_model(path), sharded=False))


def test_packed_weights_are_not_sharded(tiny_model: str) -> None:
    assert "FSDP2 cannot shard" in refused(LoRA(quantize="4bit"), tiny_model, sharded=True)


# ------------------------------------------------------------------ a quantised base


@pytest.mark.extras
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_base_is_given_away_dequantised(bits: Any, tmp_path: Path) -> None:
    """By bitsandbytes, on the CPU: names and shapes are the plain model's, values near its, and what the student
    computes is what they give."""
    pytest.importorskip("bitsandbytes")
    path = save_architecture("qwen2", tmp_path / "initial", intermediate_size=128)  # multiples of 64
    lora = replace(SMALL, quantize=bits)
    student, plain = with_adapter(path, lora=lora), with_adapter(path)
    before = {n: p.detach().clone() for n, p in student.hf.named_parameters()}
    found, wanted = (dict(s.named_weights(checkpoint=True)) for s in (student, plain))
    assert all(torch.equal(p, before[n]) for n, p in student.hf.named_parameters())
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
    gaps = [float((found[n] - t).norm() / t.norm()) for n, t in wanted.items()]
    assert 0.001 < max(gaps) < (0.15 if bits == "4bit" else 0.02)
    student.export(tmp_path / "student", path)
    as_one, batch = Student(str(tmp_path / "student")), batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask)
    gap = (student(*inputs)[0] - as_one(*inputs)[0]).abs().max()
    assert gap < (1e-4 if bits == "4bit" else 0.2)  # LLM.int8 rounds activations as well
    GRPO(kl_coefficient=0).loss(student, batch).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained(student).values())
