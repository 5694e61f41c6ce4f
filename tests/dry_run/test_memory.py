"""The account against really built models, real optimisers, PyTorch's allocator, and numbers of the paper."""

from __future__ import annotations

import gc
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from benchmarks.speed.allocator import peak_bytes
from ovd_lightning.dry_run import memory
from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.beside import beside_student
from ovd_lightning.dry_run.command import arguments, plan_of
from ovd_lightning.dry_run.memory import EngineMemory, account, optimizer_state
from ovd_lightning.dry_run.plan import largest_rows
from ovd_lightning.dry_run.shape import ModelShape, shape_of
from ovd_lightning.loss_head import BLOCK
from ovd_lightning.methods.discriminator import Discriminator
from ovd_lightning.methods.gad import GAD
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.collate import collate
from ovd_lightning.student import Student
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.types import Batch, Group, Problem, Trajectory
from tests.dry_run.parts import GIB, MATH_1_5B, qwen, setup
from tests.helpers import ScriptedEngine

# ------------------------------------------------------------------ parameters and optimiser


@pytest.mark.parametrize(
    "config",
    [
        qwen(tie_word_embeddings=True),
        qwen(tie_word_embeddings=False, num_hidden_layers=3),
        LlamaConfig(vocab_size=100, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4),
    ],
    ids=["tied", "untied", "llama"],
)
def test_counts_are_those_of_the_built_model(config: PretrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config)
    shape = shape_of("m", config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.tensors == len(list(model.parameters()))
    assert shape.vocabulary == model.lm_head.weight.shape[0]
    assert shape.tied is config.tie_word_embeddings
    blocks = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    assert shape.block_parameters == max(blocks)
    assert shape.outer_parameters == shape.parameters - sum(blocks)
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    values = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    assert shape.kv_values_per_token == values / 3


def test_the_papers_student_has_one_and_a_half_billion_parameters() -> None:
    shape = shape_of("student", Qwen2Config(**{k: v for k, v in MATH_1_5B.items() if k != "model_type"}))
    assert shape.parameters == 1_543_714_304
    assert shape.kv_values_per_token * 2 == 28_672  # bytes in bfloat16: 112 MiB for a sequence of 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_optimisers_state_is_adamws(dtype: torch.dtype) -> None:
    config = qwen(tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    real = sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    assert optimizer_state(shape_of("m", config), setup(parameter_bytes=dtype.itemsize)) == real


# ------------------------------------------------------------------ a training step, measured


def batch(rows: int, length: int, vocabulary: int) -> Batch:
    """Rows of nearly full length: one is padded, as in any real micro-batch."""
    mask = torch.ones(rows, length - 1, dtype=torch.bool)
    attention = torch.ones(rows, length, dtype=torch.long)
    mask[0, -3:], attention[0, -3:] = False, 0
    zeros = torch.zeros(rows, length - 1)
    return Batch(
        input_ids=torch.randint(0, vocabulary, (rows, length)),
        attention_mask=attention,
        completion_mask=mask,
        advantages=mask.float(),
        teacher_mask=mask & False,
        weights=mask.float(),
        behaviour_logprobs=zeros,
        reference_logprobs=zeros,
        temperature=0.6,
    )


LOSS: dict[str, Any] = {
    "num_key_value_heads": 2,
    "vocab_size": 16384,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
}
WIDE_HEAD: dict[str, Any] = {
    "vocab_size": 16384,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
}
BLOCKS: dict[str, Any] = {**LOSS, "vocab_size": 256, "num_hidden_layers": 4, "intermediate_size": 512}
WEIGHTS: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["all activations", "checkpointing"])
@pytest.mark.parametrize(
    ("sizes", "chunk", "rows", "length", "within"),
    [
        pytest.param({**LOSS, "tie_word_embeddings": True}, 128, 2, 256, 1.1, id="logits lead"),
        pytest.param({**LOSS, "tie_word_embeddings": False}, 128, 2, 256, 1.1, id="logits lead, untied"),
        pytest.param({**WIDE_HEAD, "tie_word_embeddings": True}, 32, 1, 128, 1.15, id="the head's gradient leads"),
        pytest.param({**BLOCKS, "tie_word_embeddings": True}, 256, 2, 512, 1.3, id="activations lead"),
        pytest.param({**WEIGHTS, "tie_word_embeddings": True}, 64, 1, 128, 1.25, id="weights lead"),
    ],
)
def test_the_step_takes_what_the_account_says(
    sizes: dict[str, Any], chunk: int, rows: int, length: int, within: float, checkpointing: bool, autocast: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Forward and backward pass of the real loss, every allocation counted: never more, and little less."""
    config = qwen(**sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    student, data = Student(str(tmp_path), "float32", chunk, checkpointing), batch(rows, length, config.vocab_size)
    for p in student.parameters():
        p.grad = torch.zeros_like(p)  # gradients are an entry of their own

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = GRPO(group_size=2).loss(student, data).loss
        loss.backward()

    step()
    gc.collect()  # an earlier case's model that is collected meanwhile would be counted as given back
    measured = peak_bytes(step)
    how = setup(autocast=autocast, gradient_checkpointing=checkpointing, chunk=chunk, rows=rows, length=length)
    estimate = account(shape_of("m", config), how, [], []).step_peak
    assert measured <= estimate * 1.01
    assert estimate <= measured * within, f"measured {measured:,}, estimated {estimate:,}"


@pytest.mark.parametrize("checkpointing", [False, True], ids=["all activations", "checkpointing"])
def test_the_mask_of_packed_rows_is_counted(checkpointing: bool, tmp_path: Path) -> None:
    config = qwen(**BLOCKS, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    student = Student(str(tmp_path), "float32", 256, checkpointing, packing=True)
    data = batch(2, 512, config.vocab_size)
    for p in student.parameters():
        p.grad = torch.zeros_like(p)
    gc.collect()
    measured = peak_bytes(lambda: GRPO(group_size=2).loss(student, data).loss.backward())
    how = setup(gradient_checkpointing=checkpointing, chunk=256, rows=2, length=512, masked=True)
    estimate = account(shape_of("m", config), how, [], []).step_peak
    assert measured <= estimate * 1.01
    assert estimate <= measured * 1.3, f"measured {measured:,}, estimated {estimate:,}"
    told = setup(gradient_checkpointing=checkpointing, chunk=256, rows=2, length=512)
    assert account(shape_of("m", config), told, [], []).step_peak < measured, "flash attention has none"


def test_the_loss_buffer_is_one_float_tensor_of_a_chunk(tmp_path: Path) -> None:
    """A longer chunk costs 4 bytes an entry, whatever else is alive."""
    config = qwen(**LOSS, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    data, peaks = batch(2, 514, config.vocab_size), {}
    for chunk in (128, 256):
        student = Student(str(tmp_path), "float32", chunk)
        for p in student.parameters():
            p.grad = torch.zeros_like(p)
        peaks[chunk] = peak_bytes(lambda student=student: GRPO(group_size=2).loss(student, data).loss.backward())
    assert (peaks[256] - peaks[128]) / (128 * config.vocab_size * 4) == pytest.approx(1, abs=0.1)
    parts = {
        part.name: part.bytes for part in account(shape_of("m", config), setup(chunk=128, length=512), [], []).step
    }
    assert parts["loss: chunk x V"] == 4 * (128 * 16384 + memory.BLOCKS * BLOCK)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_discriminator_takes_what_the_account_says(tied: bool, checkpointing: bool, tmp_path: Path) -> None:
    """Made and trained on a group of full length twice, every allocation counted."""
    config = qwen(**{**BLOCKS, "vocab_size": 2048, "tie_word_embeddings": tied})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    method = GAD(Demonstrator(ScriptedEngine()), group_size=3, discriminator_checkpointing=checkpointing)
    shape = shape_of("m", config)
    found = beside_student(method, shape, setup(autocast=True, rows=9), 256)
    assert found is not None
    rows, kept = [[1] * 256 for _ in range(4)], []

    def run() -> None:
        made = Discriminator(str(tmp_path), torch.device("cpu"), 1e-3, checkpointing)
        kept.append(made)
        for _ in range(2):
            made.update([(rows[:1], rows[1:])], lambda tensor: tensor)

    gc.collect()
    measured = peak_bytes(run)
    counted = found.held.bytes + found.update.bytes
    assert measured * 0.99 <= counted <= measured * 1.35, f"measured {measured:,}, counted {counted:,}"
    state = kept[0].state_dict()
    tensors = [*state["weights"].values(), *(t for p in state["optimizer"]["state"].values() for t in p.values())]
    assert sum(t.nbytes for t in tensors) == found.saved + 4 * len(state["weights"]), "and a step count a tensor"
    assert beside_student(GRPO(), shape, setup(), 256) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["--config=configs/quickstart.yaml"],
        ["--config=configs/quickstart_web.yaml"],
        ["--config=configs/math.yaml", "--config=configs/overlays/cpu.yaml", "--model.chunk_size=128"],
    ],
    ids=["quickstart", "quickstart_web", "math"],
)
def test_a_run_takes_what_the_plan_says(args: list[str], tmp_path: Path) -> None:
    """Within 10 %: the student, its optimiser and reference are made, and trained on the largest micro-batch twice."""
    if "math" in args[0]:  # a student that a test can train, in place of Qwen2.5-Math-1.5B
        config = qwen(vocab_size=16384, hidden_size=256, intermediate_size=768, num_hidden_layers=4)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        args = [*args, f"--model.student={tmp_path}", "--longest_prompt=256"]
    args = [*args, "--trainer.accelerator=cpu", "--data.problems_per_round=4"]
    options, rest = arguments().parse_known_args(args)
    found = plan_of(rest, Assumptions(longest_prompt=options.longest_prompt), None)
    how, shape = found.setup, found.shapes["model.student"]
    assert how.reference
    data, kept = batch(how.rows, how.length, shape.vocabulary), []

    def run() -> None:
        student = Student(shape.name, "float32", how.chunk, how.gradient_checkpointing)
        optimizer = torch.optim.AdamW(student.parameters())
        kept.extend([student, optimizer, Student(shape.name, "float32", how.chunk)])
        for _ in range(2):
            GRPO(group_size=2, kl_coefficient=0.1).loss(student, data).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    gc.collect()
    measured = peak_bytes(run)
    own = sum(part.bytes for part in found.memory.static) + max(found.memory.step_peak, found.memory.update.bytes)
    assert measured * 0.99 <= own <= measured * 1.1, f"measured {measured:,}, planned {own:,}"


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("seed", range(40))
def test_no_micro_batch_is_larger_than_the_plan_says(seed: int, packed: bool) -> None:
    """Computed tokens of the costliest one, by the splitter that a run uses, on rounds of every kind of lengths."""
    draw = random.Random(seed)
    problems, mini_batches = draw.choice([(4, 1), (8, 3), (12, 2), (5, 2)])
    group, most = draw.choice([2, 3, 8]), draw.choice([30, 200])
    added = draw.choice([0, problems, problems * group])
    ranks = draw.choice([1, 2]) if problems % 2 == 0 and problems // 2 >= mini_batches else 1
    accumulate = draw.randint(1, problems // ranks // mini_batches * group)
    extra = [added // problems] * problems
    draws = [
        lambda: draw.randint(2, most),
        lambda: most,
        lambda: draw.choice([2, most]),
        lambda: int(most ** draw.random()),
    ]
    length = draw.choice(draws)
    rows = largest_rows(problems, problems * group + added, ranks, mini_batches, accumulate)
    problem = Problem(id="p", question="?", answers=["1"])
    for rank in range(ranks):
        groups = []
        for number in range(rank, problems, ranks):
            members = [
                Trajectory(problem=problem, group=number, sample=i, prompt_ids=[1], completion_ids=[1] * (length() - 1),
                           completion_mask=[], advantages=[])
                for i in range(group + extra[number])
            ]  # fmt: skip
            for y in members:
                y.completion_mask, y.advantages = [True] * len(y.completion_ids), [0.0] * len(y.completion_ids)
            groups.append(Group(problem=problem, index=number, sampled=members, mixture=members))
        steps = collate(
            groups, mini_batches=mini_batches, accumulate=accumulate, aggregation="token_mean", max_tokens=most,
            pad_id=0, temperature=1.0, round=0, policy_version=0, packed=packed,
        )  # fmt: skip
        computed = [int(b.attention_mask.sum()) if packed else b.input_ids.numel() for step in steps for b in step]
        assert max(computed) <= rows * most


def test_pieces_of_a_budget_have_as_many_tokens() -> None:
    assert setup(rows=2, length=100).tokens == 200
    assert setup(rows=2, length=100, budget=250).tokens == 250, "of shorter rows"
    assert setup(rows=1, length=100, budget=80).tokens == 100, "a single row"


# ------------------------------------------------------------------ phases and ranks


def engine(role: str, sleeps: bool, weights: int = 3, cache: int = 4) -> EngineMemory:
    return EngineMemory(
        role=role, name=role, weights=weights * GIB, cache=cache * GIB, cache_per_token=1024, length=4096,
        sleeps=sleeps, how="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of("m", qwen())


def test_a_sleeping_engine_is_there_in_its_own_phase_only(shape: ModelShape) -> None:
    asleep = account(shape, setup(), [engine("engine", True)], [engine("teacher", False, 1, 1)])
    assert asleep.phases["generate"] - asleep.phases["score and demonstrate"] == 7 * GIB
    awake = account(shape, setup(), [engine("engine", False)], [engine("teacher", False, 1, 1)])
    assert {p: awake.phases[p] - asleep.phases[p] for p in awake.phases} == {
        "generate": 0, "train": 7 * GIB, "update": 7 * GIB, "score and demonstrate": 7 * GIB,
    }  # fmt: skip
    assert awake.peak == awake.phases["train"]
    assert engine("engine", True).sequences == 4 * GIB / (1024 * 4096)


def test_what_is_sharded_and_what_is_not(shape: ModelShape) -> None:
    size = 4 * shape.parameters

    def static(**changes: Any) -> dict[str, int]:
        return {part.name: part.bytes for part in account(shape, setup(reference=True, **changes), [], []).static}

    one = static()
    assert one == {
        "parameters": size, "gradients": size, "AdamW state": 2 * size + 4 * shape.tensors, "reference model": size,
    }  # fmt: skip
    assert static(sharding="ddp", ranks=4) == one, "DDP's buckets are the gradients"
    sharded = static(sharding="fsdp2", ranks=4)
    assert sharded["parameters"] == sharded["gradients"] == sharded["reference model"] == size // 4
    assert static(sharding="fsdp2", ranks=4, autocast=True)["reference model"] == size // 8
    gathered = account(shape, setup(sharding="fsdp2", ranks=4), [engine("engine", True)], []).gathered
    assert gathered is not None
    assert gathered.bytes == 2 * 4 * max(256, 2 * 96) * 64, "two layers at a time are whole, to be given to the engine"
    at_once, adding = (
        account(shape, setup(sharding="fsdp2", ranks=4, accumulates=more), [], []).step_peak for more in (False, True)
    )
    assert adding - at_once == size, "the gradient, until it is reduced"
