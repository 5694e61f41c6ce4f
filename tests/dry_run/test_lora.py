"""The dry run's account of a student with an adapter, against really built ones and PyTorch's allocator."""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.speed.allocator import peak_bytes
from ovd_lightning.dry_run.memory import Adapted, account
from ovd_lightning.dry_run.shape import shape_of
from ovd_lightning.lora import LoRA
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.student import Student
from tests.dry_run.parts import MATH_1_5B, qwen, setup
from tests.dry_run.test_memory import BLOCKS, LOSS, WEIGHTS, batch
from tests.workflow import cli

pytest.importorskip("peft")
RANK = LoRA(r=8)


def saved(sizes: dict[str, Any], folder: Path) -> Any:
    config = qwen(**sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return config


def adapted(student: Student, quantize: Any = None) -> Adapted:
    sizes = [p.numel() for p in student.parameters() if p.requires_grad]
    return Adapted(parameters=sum(sizes), tensors=len(sizes), quantize=quantize)


def static(**changes: Any) -> dict[str, int]:
    shape = changes.pop("shape")
    return {part.name: part.bytes for part in account(shape, setup(**changes), [], []).static}


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adamw_8bit", marks=pytest.mark.extras)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_always_there_is_what_is_built(dtype: str, optimizer: str, tmp_path: Path) -> None:
    config = saved({**WEIGHTS, "tie_word_embeddings": True}, tmp_path)
    student = Student(str(tmp_path), dtype, lora=RANK)
    trained = [p for p in student.parameters() if p.requires_grad]
    if optimizer == "adamw":
        made: Any = torch.optim.AdamW(trained)
    else:
        made = pytest.importorskip("bitsandbytes").optim.AdamW8bit(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    made.step()
    state = sum(v.nbytes for s in made.state.values() for k, v in s.items() if isinstance(v, torch.Tensor))
    found = static(
        shape=shape_of("m", config), parameter_bytes=2 if dtype == "bfloat16" else 4, adapter=adapted(student),
        moment_bytes=1 if optimizer == "adamw_8bit" else None,
    )  # fmt: skip
    assert found["frozen parameters"] == sum(p.nbytes for p in student.parameters() if not p.requires_grad)
    assert found["adapter"] == found["gradients"] == sum(p.nbytes for p in trained)
    assert found["AdamW state"] == pytest.approx(state, rel=0 if optimizer == "adamw" else 0.25)  # and tables of bytes


@pytest.mark.extras
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_packed_weights_take_what_is_said(bits: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = saved({**WEIGHTS, "tie_word_embeddings": True}, tmp_path)
    student = Student(str(tmp_path), "bfloat16", lora=LoRA(r=8, quantize=bits))
    real = sum(p.nbytes for p in student.parameters() if not p.requires_grad)
    for module in student.modules():
        quantised = getattr(getattr(module, "weight", None), "quant_state", None)
        if quantised is not None and not hasattr(module, "base_layer"):  # which has the same one
            real += quantised.absmax.nbytes + quantised.state2.absmax.nbytes
    found = static(shape=shape_of("m", config), parameter_bytes=2, adapter=adapted(student, bits))
    assert found["frozen parameters"] == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 under bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["all activations", "checkpointing"])
@pytest.mark.parametrize(
    ("sizes", "chunk", "rows", "length"),
    [
        pytest.param({**LOSS, "tie_word_embeddings": True}, 128, 2, 256, id="logits lead"),
        pytest.param({**BLOCKS, "tie_word_embeddings": True}, 256, 2, 512, id="activations lead"),
    ],
)
def test_the_step_takes_no_more_than_the_account_says(
    sizes: dict[str, Any], chunk: int, rows: int, length: int, checkpointing: bool, half: bool, tmp_path: Path
) -> None:
    config = saved(sizes, tmp_path)
    dtype = "bfloat16" if half else "float32"
    student = Student(str(tmp_path), dtype, chunk, checkpointing, lora=RANK)
    data = batch(rows, length, config.vocab_size)
    for p in student.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            loss = GRPO(group_size=2).loss(student, data).loss
        loss.backward()

    step()
    gc.collect()
    measured = peak_bytes(step)
    how = setup(
        autocast=half, gradient_checkpointing=checkpointing, chunk=chunk, rows=rows, length=length,
        parameter_bytes=2 if half else 4, adapter=adapted(student),
    )  # fmt: skip
    estimate = account(shape_of("m", config), how, [], []).step_peak
    assert measured <= estimate * 1.01
    assert estimate <= measured * 1.5, f"measured {measured:,}, estimated {estimate:,}"


def of_math_lora(folder: Path, *more: str) -> Any:
    """The plan of configs/math_lora.yaml on a GPU with 24 GB."""
    (folder / "config.json").write_text(json.dumps(MATH_1_5B))
    teacher = f"--method.init_args.teacher.init_args.engine.init_args.model={folder}"
    config = ["dry_run", "--config=configs/math_lora.yaml", f"--model.student={folder}", teacher]
    done = cli.run(*config, *more, "--gpu_memory=24", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_papers_student_on_24_gb(tmp_path: Path) -> None:
    plan = of_math_lora(tmp_path)
    parts = {part["name"]: part["bytes"] for part in plan["memory"]["static"]}
    assert parts["frozen parameters"] == 2 * 1_543_714_304
    assert parts["adapter"] == parts["gradients"] == 4 * 36_929_536
    assert "reference model" not in parts
    assert plan["fits"]
    assert not of_math_lora(tmp_path, "--model.lora=null")["fits"]


@pytest.mark.extras
def test_the_papers_student_in_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    plan = of_math_lora(tmp_path, "--model.lora.quantize=4bit")
    assert plan["fits"]
    assert plan["memory"]["static"][0]["bytes"] < 0.5 * 2 * 1_543_714_304
