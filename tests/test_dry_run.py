"""The dry run's account against really built models, real optimisers, PyTorch's allocator, and numbers of the paper."""

from __future__ import annotations

import gc
import json
import random
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from benchmarks.speed.allocator import peak_bytes
from ovd_lightning.dry_run import memory
from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.beside import beside_student
from ovd_lightning.dry_run.calls import calls_of_round, token_level
from ovd_lightning.dry_run.command import arguments, main, plan_of
from ovd_lightning.dry_run.memory import EngineMemory, Setup, account, optimizer_state
from ovd_lightning.dry_run.plan import largest_rows
from ovd_lightning.dry_run.render import as_json
from ovd_lightning.dry_run.shape import ModelShape, shape_of
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.contrast import ContrastJudge
from ovd_lightning.judges.rubric import RubricJudge
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.loss_head import BLOCK
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound, TeacherCalls, demonstrating, scoring
from ovd_lightning.methods.discriminator import Discriminator
from ovd_lightning.methods.gad import GAD
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.methods.luffy import LUFFY
from ovd_lightning.methods.opd import OPD
from ovd_lightning.methods.opsd import OPSD
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.ropd import ROPD
from ovd_lightning.methods.rules import Added, Capped, Soft, StepScores, Suffix
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.methods.seqkd import SeqKD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.methods.sod import SOD
from ovd_lightning.round.collate import collate
from ovd_lightning.round.context import Round
from ovd_lightning.student import Student
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Batch, Group, Problem, Trajectory
from tests.helpers import ScriptedEngine, make_group, make_round, plain, save_tiny_model
from tests.limits import measured
from tests.workflow import cli

GIB = 2**30
MATH_1_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
"""What the config.json of Qwen/Qwen2.5-Math-1.5B says of its size."""


def qwen(**sizes: Any) -> Qwen2Config:
    small = {
        "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 4096,
    }  # fmt: skip
    return Qwen2Config(**{**small, **sizes})


def setup(**changes: Any) -> Setup:
    plain: dict[str, Any] = {
        "parameter_bytes": 4, "autocast": False, "gradient_checkpointing": False, "chunk": 64, "rows": 1, "length": 64,
        "reference": False, "sharding": "none", "ranks": 1,
    }  # fmt: skip
    return Setup(**{**plain, **changes})


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


# ------------------------------------------------------------------ the teacher's part


def verbal(**settings: Any) -> VerbalTeacher:
    return VerbalTeacher(ScriptedEngine(), **settings)


@pytest.mark.parametrize(
    ("settings", "scores"),
    [({"judged": "all"}, 18), ({"replace_when": "score", "judged": "all"}, 18), ({}, 12), ({"threshold": 0}, 0)],
)
def test_calls_are_those_that_a_round_makes(tokenizer: Any, settings: dict[str, Any], scores: int) -> None:
    """Two groups of three; what says 3 is wrong, and the scripted judge rejects it, so that acceptance is known."""
    judge = ScriptedEngine(
        judge=lambda prompt: 1 if "=3" in prompt else 9, write=lambda prompt, request: "2\n", tokenizer=tokenizer
    )
    method = OVD(VerbalTeacher(judge), group_size=3, **settings)
    round = make_round(tokenizer)
    texts = ["1+1=2\n2+0=2\n\\boxed{2}", "1+1=3\n3+0=3\n\\boxed{3}", "1+1=2\n2+0=2\n\\boxed{2}"]
    groups = [make_group(round, [f"{g}{t}" for t in texts], group=g) for g in range(2)]
    method.consult(groups, round)
    method.annotate(groups, round)
    assumed = Assumptions(steps=3, acceptance=2 / 3)
    calls = calls_of_round(method, problems=2, max_tokens=64, assumed=assumed, bound=False)
    asked = {name: round.metrics.sums[name] for name in ("teacher/scores", "teacher/demonstrations")}
    assert asked == {"teacher/scores": calls.scores, "teacher/demonstrations": calls.demonstrations}
    assert (calls.scores, calls.demonstrations, calls.requests) == (scores, 2, 0)
    bound = calls_of_round(method, problems=2, max_tokens=64, assumed=assumed, bound=True)
    assert (bound.scores, bound.demonstrations) == (18 if scores else 0, 6)
    assert bound.tokens_in > calls.tokens_in
    assert bound.tokens_out == bound.scores + 6 * 64


def test_tokens_of_scoring_grow_with_the_steps_before() -> None:
    """K = 4 steps of 25 tokens: the k-th prompt shows the problem, k steps, and the words of A.4."""
    method = OVD(verbal(), group_size=2, judged="all")
    assumed = Assumptions(steps=4, acceptance=1, prompt_tokens=40, response_tokens=100)
    words = len(step_prompt("", [], "", method.teacher.scale)) // 4
    calls = calls_of_round(method, problems=3, max_tokens=300, assumed=assumed, bound=False)
    assert calls.tokens_in == 3 * 2 * sum(words + 40 + 25 * k for k in (1, 2, 3, 4))
    assert calls.tokens_out == calls.scores == 24


def test_tokens_of_a_round_by_setting(tmp_path: Path) -> None:
    assumed = Assumptions(steps=4, acceptance=0.5, prompt_tokens=40, response_tokens=100)

    def calls(assumed: Assumptions = assumed, bound: bool = False, **settings: Any) -> Any:
        judge = VerbalJudge(**{k: settings.pop(k) for k in list(settings) if k in ("read", "score_tokens", "scale")})
        teacher = verbal(judge=judge, **{k: settings.pop(k) for k in list(settings) if k.startswith("demonstration")})
        settings = {"judged": "all", **settings}
        return calls_of_round(OVD(teacher, group_size=2, **settings), 3, 300, assumed, bound)

    plain = calls()
    assert (plain.scores, plain.demonstrations, plain.tokens_out) == (24, 3, 24 + 3 * 100)
    assert calls(read="text", score_tokens=8).tokens_out == 24 * 8 + 3 * 100
    assert calls(scoring=Scoring(level="trajectory")).scores == 6
    assert calls(credit=StepScores()).scores == 24 + 3 * 4, "the teacher's own steps are scored as well"
    assert calls(replacement=Capped(0)).demonstrations == 0
    assert (calls(replacement=Added()).added, calls(replacement=Capped(2, Added())).added, plain.added) == (3, 3, 0)
    assert calls(replacement=Suffix()).tokens_in == plain.tokens_in + 3 * 50, "half of a trajectory stays"
    rewarded = JudgeReward(verbal(), group_size=2)
    assert calls_of_round(rewarded, 3, 300, assumed, False).scores == 6
    (tmp_path / "rubric.json").write_text('["is short", "is right"]')
    rubric = VerbalTeacher(ScriptedEngine(), RubricJudge(str(tmp_path / "rubric.json")))
    assert calls_of_round(JudgeReward(rubric, group_size=2), 3, 300, assumed, False).tokens_out == 6 * 2
    mixed = calls_of_round(LUFFY(Demonstrator(ScriptedEngine()), 2, group_size=2), 3, 300, assumed, False)
    assert (mixed.demonstrations, mixed.added, mixed.tokens_out) == (6, 6, 6 * 100)
    gad = calls_of_round(GAD(Demonstrator(ScriptedEngine()), 3, group_size=2), 3, 300, assumed, False)
    assert (gad.demonstrations, gad.added, gad.tokens_out) == (9, 3, 9 * 100), "three a group of two in the warm-up"
    contrast = VerbalTeacher(ScriptedEngine(), ContrastJudge(rubric_tokens=512))
    ropd = calls_of_round(ROPD(contrast, group_size=2), 3, 300, assumed, False)
    assert (ropd.scores, ropd.demonstrations, ropd.added) == (6, 3, 0)
    assert ropd.tokens_out == 6 * 6 + 3 * 100 + 3 * 512, "six criteria an answer, a demonstration and a rubric a group"
    thinking = calls(demonstration_thinking="strip", demonstration_tokens=16000)
    assert thinking.tokens_out == 24 + 3 * 8000
    assert calls(demonstration_thinking="strip", demonstration_tokens=16000, bound=True).tokens_out == 24 + 6 * 16000
    assert calls(Assumptions(steps=4, demonstration_tokens=500)).tokens_out == 24 + 3 * 300, "no more than the limit"
    two = calls(scale="one_to_ten", threshold=8)
    assert two.tokens_out - 3 * 100 == 2 * 24, "10 is two tokens: two questions a score"
    assert calls_of_round(GRPO(group_size=2), 3, 300, assumed, False).tokens_in == 0


@pytest.mark.parametrize(
    ("settings", "scores", "at_most"),
    [
        ({}, 12, 24),  # the accepted half; the other half is taken to be wrong
        ({"replace_when": "score"}, 12 + 6, 24),  # the rejected ones up to their middle
        ({"replace_when": "score", "scoring": Scoring(aggregation="mean")}, 24, 24),
        ({"replace_when": "incorrect"}, 0, 0),
        ({"threshold": 0}, 0, 0),
        ({"threshold": 10}, 0, 0),
        ({"threshold": 10, "acceptance": Soft()}, 12, 24),
        ({"replacement": Suffix()}, 12 + 6, 24),
        ({"replacement": Suffix(), "replace_when": "incorrect"}, 6, 24),
        ({"replacement": Capped(1)}, 24, 24),
        ({"credit": StepScores()}, 24 + 12, 24 + 24),
    ],
    ids=plain,
)
def test_scores_of_what_is_needed(settings: dict[str, Any], scores: int, at_most: int) -> None:
    assumed = Assumptions(steps=4, acceptance=0.5)
    method = OVD(verbal(), group_size=2, **settings)
    assert calls_of_round(method, 3, 300, assumed, False).scores == scores
    assert calls_of_round(method, 3, 300, assumed, True).scores == at_most


def test_what_a_token_level_teacher_reads_and_its_demonstrator_writes() -> None:
    assumed = Assumptions(prompt_tokens=40, response_tokens=100)
    reader = TokenTeacher("m", demonstrator=verbal())
    for method, read, demonstrations in (
        (OPD(reader, group_size=2), 6, 0), (SOD(reader, group_size=2), 6, 0), (SeqKD(verbal(), group_size=2), 0, 6),
        (GKD(reader, student_share=0.5, group_size=2), 6, 3), (SGOPD(reader, group_size=2), 6, 0),
        (GKD(reader, student_share=0.5, outputs="dataset", group_size=2), 6, 0), (OPSD(group_size=2), 0, 0),
    ):  # fmt: skip
        calls = calls_of_round(method, 3, 300, assumed, False)
        assert (calls.scores, calls.read, calls.demonstrations) == (0, read, demonstrations), type(method)
        assert (calls.tokens_in, calls.tokens_out) == (read * 140 + demonstrations * 40, demonstrations * 100)
    assert calls_of_round(SGOPD(reader, group_size=2), 3, 300, assumed, True).demonstrations == 3, "at the start"
    served = OPD(TokenTeacher(engine=OpenAIEngine(base_url="http://localhost:1/v1", model="m")), group_size=2)
    assert calls_of_round(served, 3, 300, assumed, False).requests == 1


class Ranking(Method):
    """A method of somebody else's: the teacher scores each trajectory as a whole and demonstrates each problem once."""

    def __init__(self, teacher: VerbalTeacher, **objective: Any) -> None:
        super().__init__(**objective)
        self.teacher = teacher

    def annotate(self, groups: list[Group], round: Round) -> None:
        raise NotImplementedError

    def teacher_calls(self, expected: ExpectedRound) -> TeacherCalls:
        teacher, problems = self.teacher, expected.problems
        calls = scoring(teacher, problems * self.group_size, expected, by_step=False)
        return replace(calls + demonstrating(teacher, problems, expected), added=problems, notes=("Ranks.",))


class Silent(Ranking):
    """Does not tell."""

    teacher_calls = Method.teacher_calls


def test_a_method_from_outside_tells_what_it_asks() -> None:
    teacher = VerbalTeacher(OpenAIEngine(base_url="http://localhost:1/v1", model="m", api="chat"))
    assumed = Assumptions(prompt_tokens=40, response_tokens=100)
    calls = calls_of_round(Ranking(teacher, group_size=2), 3, 300, assumed, False)
    assert (calls.scores, calls.read, calls.demonstrations, calls.requests) == (6, 0, 3, 6 + 3)
    words = len(response_prompt("", "", teacher.scale)) // 4
    assert calls.tokens_in == 6 * (words + 40 + 100) + 3 * 40
    assert calls.tokens_out == 6 + 3 * 100
    assert calls_of_round(Ranking(teacher, group_size=2), 3, 300, assumed, True).tokens_out == 6 + 3 * 300
    with pytest.raises(ConfigError, match="Silent has a teacher and no teacher_calls"):
        calls_of_round(Silent(teacher, group_size=2), 3, 300, assumed, False)


def test_the_command_counts_a_method_from_outside(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    own = json.dumps({"class_path": f"{__name__}.Ranking", "init_args": {"teacher": "configs/teacher/quickstart.yaml"}})
    counted = plan(*quickstart, f"--method={own}")
    problems, group = counted["calls"]["demonstrations"], 8
    assert counted["calls"]["scores"] == counted["trajectories"] == problems * group
    assert counted["calls_of_run"]["scores"] == counted["rounds"] * problems * group
    assert "Ranks." in counted["notes"]
    assert counted["setup"]["rows"] == problems * (group + 1), "what trains beside the sampled ones counts"


def test_requests_and_cost() -> None:
    server = {"base_url": "http://localhost:1/v1", "model": "m"}
    teacher = VerbalTeacher(OpenAIEngine(**server), demonstrator=OpenAIEngine(**server, api="chat"))
    assumed = Assumptions(steps=10, acceptance=0.5, input_price=2.0, output_price=10.0)
    calls = calls_of_round(OVD(teacher, group_size=8, judged="all"), 16, 300, assumed, False)
    assert calls.requests == 1280 / 64 + 64, "64 prompts a request of completions, one of chat"
    assert calls.cost(assumed) == pytest.approx((2 * calls.tokens_in + 10 * calls.tokens_out) / 1e6)
    assert calls.times(3).cost(assumed) == pytest.approx(3 * calls.cost(assumed))  # type: ignore[operator]
    assert calls.cost(Assumptions()) is None


# ------------------------------------------------------------------ a teacher of tokens


def test_eq_1() -> None:
    """Section 2: one sequence of 8192 tokens over 152,064 words, and 8 x 4 of them."""
    one, batch = token_level(1, 8192, 152_064, 10), token_level(32, 8192, 152_064, 10)
    assert one.single == 4_982_833_152  # "5.0 GB"
    assert one.half == 2_491_416_576  # "2.5 GB"
    assert batch.single / 1e9 == pytest.approx(159.5, abs=0.05)  # "around 160 GB": float32 alone
    assert batch.total / 1e9 == pytest.approx(239.2, abs=0.05)  # figure 2's "240 GB": eq. 1
    assert batch.total == 1.5 * batch.single
    assert batch.verbal == 32 * 10 * 10 * 4
    assert batch.ratio == one.ratio == pytest.approx(8192 * 152_064 * 6 / (10 * 10 * 4))


# ------------------------------------------------------------------ the command


def plan(*args: str) -> dict[str, Any]:
    """What ``--json`` prints, in this process."""
    options, rest = arguments().parse_known_args(args)
    values = vars(options)
    values.pop("json"), values.pop("token_level")
    gpu_memory = values.pop("gpu_memory")
    return json.loads(json.dumps(as_json(plan_of(rest, Assumptions(**values), gpu_memory))))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with nothing but the config.json of the paper's student."""
    folder = tmp_path_factory.mktemp("student")
    (folder / "config.json").write_text(json.dumps(MATH_1_5B))
    return str(folder)


def test_the_quickstart_without_a_weight(tmp_path: Path) -> None:
    shutil.copy(cli.ROOT / "ovd_lightning/assets/student/config.json", tmp_path)
    before = sorted(cli.ROOT.glob("runs/*/*"))
    done = cli.run("dry_run", "--config=configs/quickstart.yaml", f"--model.student={tmp_path}", "--steps=3")
    assert done.returncode == 0, done.stderr[-3000:]
    for words in (
        "336,384", "1,138,560", "AdamW state", "loss: chunk x V", "activations", "keys, values", "sequences",
        "scoring prompts", "9,600", "demonstrations", "token", "Disk: 2 checkpoints of 4.0 MB", "Time: not estimated",
    ):  # fmt: skip
        assert words in done.stdout, words
    assert "it fits" in done.stdout.split("Disk")[0], "the verdict comes first"
    assert "eq. 1" not in done.stdout
    assert sorted(cli.ROOT.glob("runs/*/*")) == before, "it leaves nothing behind"


def test_the_papers_configuration(student: str, tmp_path: Path) -> None:
    answers = tmp_path / "answers.sqlite"
    args = (
        "--config=configs/math.yaml", f"--model.student={student}",
        f"--method.init_args.teacher.init_args.cache={answers}",
    )  # fmt: skip
    done = cli.run("dry_run", *args, "--gpu_memory=80", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    size = 4 * 1_543_714_304
    assert printed["shapes"]["model.student"]["parameters"] == 1_543_714_304
    static = {part["name"]: part["bytes"] for part in printed["memory"]["static"]}
    assert static["parameters"] == static["gradients"] == static["reference model"] == size
    assert static["AdamW state"] == 2 * size + 4 * 338
    assert printed["setup"]["rows"] * printed["setup"]["length"] == 4 * 4096, "1024 trajectories in 256 micro-batches"
    (own,) = printed["memory"]["engines"]
    assert own["weights"] == 2 * 1_543_714_304
    assert own["weights"] + own["cache"] + own["activations"] + own["graphs"] == 40 * GIB
    assert printed["disk"]["checkpoint"] == 3 * size
    assert printed["disk"]["files"] == 8
    assert 10 < printed["hours"] < 100
    assert own["sleeps"]
    assert printed["sequences"]["engine"] == pytest.approx(own["cache"] / (28_672 * 4096))
    assert printed["calls"]["scores"] == 128 * 8 * 10 / 2, "of those that are not taken to be wrong"
    assert printed["calls_of_run"]["scores"] == 800 * 128 * 8 * 10 / 2
    assert printed["token_level"]["total"] == 1024 * 4096 * 151_936 * 6
    assert printed["fits"]
    assert not answers.exists(), "the teacher's file of answers is not made"
    less = plan(*args, "--gpu_memory=48")  # 24 GiB for the engine, beside 28.8 that stay
    assert less["fits"] is False
    assert less["peak"] == 24 * GIB + GIB // 2 + 5 * size + 4 * 338


def test_several_gpus(student: str) -> None:
    args = ["--config=configs/math.yaml", f"--model.student={student}", "--gpu_memory=80"]
    sharded = plan(*args, "--config=configs/strategy/fsdp2.yaml", "--trainer.accumulate_grad_batches=32")
    assert (sharded["ranks"], sharded["setup"]["sharding"], sharded["setup"]["rows"]) == (8, "fsdp2", 4)
    assert sharded["memory"]["static"][0]["bytes"] == 4 * 1_543_714_304 / 8
    ddp = plan(*args, "--trainer.devices=4", "--trainer.accumulate_grad_batches=64")
    assert (ddp["ranks"], ddp["setup"]["sharding"], ddp["setup"]["rows"]) == (4, "ddp", 4)


def test_a_teacher_of_its_own_on_the_same_gpu(student: str) -> None:
    """configs/math_small.yaml is for one GPU of 24 GB."""
    model = f"--method.init_args.teacher.init_args.engine.init_args.model={student}"
    small = plan("--config=configs/math_small.yaml", f"--model.student={student}", model, "--gpu_memory=24")
    own, teacher = small["memory"]["engines"]
    assert teacher["role"] == "method.init_args.teacher.init_args.engine"
    assert teacher["cache"] == 2 * GIB
    assert (own["sleeps"], teacher["sleeps"]) == (True, False)
    assert small["calls"]["requests"] == 0


def test_a_token_level_teacher_is_on_the_training_device(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    ovd, gkd = (plan(*quickstart, f"--method=configs/method/{name}.yaml") for name in ("ovd", "gkd"))
    parts = {name: {p["name"]: p["bytes"] for p in of["memory"]["static"] + of["memory"]["step"]}
             for name, of in (("ovd", ovd), ("gkd", gkd))}  # fmt: skip
    assert parts["gkd"]["token-level teacher"] == 4 * 1_138_560
    assert "token-level teacher" not in parts["ovd"]
    assert parts["gkd"]["loss: chunk x V"] == 2 * parts["ovd"]["loss: chunk x V"]
    assert gkd["calls"]["demonstrations"] == gkd["calls"]["read"] / 2


def test_a_discriminator_is_counted_on_the_device_and_on_the_disk(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    gad = plan(*quickstart, "--method=configs/method/gad.yaml")
    size = 1_543_714_304
    assert {p["name"]: p["bytes"] for p in gad["memory"]["static"]}["discriminator"] == 16 * (size + 1536 + 1)
    assert gad["disk"]["checkpoint"] == 3 * 4 * size + 3 * 4 * (size + 1536 + 1)
    phases = gad["memory"]["phases"]
    assert phases["discriminator's update"] > phases["update"] - 4 * size, "what is always there, and its activations"
    assert gad["calls"]["demonstrations"] == 16
    other = plan(*quickstart, "--method=configs/method/gad.yaml",
                 "--method.init_args.discriminator=ovd_lightning/assets/student")  # fmt: skip
    assert other["shapes"]["method.init_args.discriminator"]["parameters"] == 336_384


def test_a_price_and_other_assumptions(student: str) -> None:
    hosted = plan(
        "--config=configs/math.yaml", f"--model.student={student}", "--gpu_memory=80", "--steps=5", "--acceptance=0.75",
        "--method.init_args.teacher=configs/teacher/hosted.yaml", "--input_price=0.4", "--output_price=1.6",
    )  # fmt: skip
    assert hosted["calls"]["demonstrations"] == 256
    assert hosted["calls"]["requests"] == 768 * 5 + 256, "one each: the endpoint takes chats only"
    run = hosted["calls_of_run"]
    assert hosted["cost_of_run"] == pytest.approx((0.4 * run["tokens_in"] + 1.6 * run["tokens_out"]) / 1e6)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.student=nowhere/at/all"], ("model.student", "is not there")),
        (["--engine.init_args.gpu_memory_utilization=0.03", "--gpu_memory=80"], ("gpu_memory_utilization", "weights")),
        (["--rollout.max_tokens=4096"], ("rollout.max_tokens", "has 4096 positions")),
        (["--acceptance=2"], ("--acceptance", "share")),
        (["--no_such_option=2"], ("no_such_option",)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_clear_error(
    args: list[str], words: tuple[str, ...], student: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config=configs/math.yaml", f"--model.student={student}", *args])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed


def test_a_config_that_cannot_be_had_ends_the_command() -> None:
    done = cli.run("dry_run", "--config=configs/math.yaml")
    assert done.returncode == 2
    assert "error: model.student: the config.json of Qwen/Qwen2.5-Math-1.5B cannot be read" in done.stderr
    assert "A folder that holds nothing but that file is enough" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick() -> None:
    with measured() as used:
        done = cli.run("dry_run", "--help")
    assert done.returncode == 0
    assert used.seconds < 5
    assert all(
        option in done.stdout for option in ("--gpu_memory", "--steps", "--acceptance", "--input_price", "--json")
    )
    assert "dry_run" in cli.run("--help").stdout


def test_a_config_is_enough(tmp_path: Path) -> None:
    """The same numbers with and without weights beside it."""
    whole = save_tiny_model(tmp_path / "whole", tied=True)
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(whole) / "config.json", tmp_path / "bare")
    args = ("--config=configs/quickstart.yaml", *cli.HF, *cli.GRPO)
    one, two = (plan(*args, f"--model.student={folder}") for folder in (whole, tmp_path / "bare"))
    assert one["memory"]["static"] == two["memory"]["static"]
    assert one["peak"] == two["peak"]
