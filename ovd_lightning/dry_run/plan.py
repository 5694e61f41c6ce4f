"""From a parsed configuration to a :class:`Plan`: reads config.json of student and teacher, loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from ovd_lightning.callbacks.checkpoint import RoundCheckpoint
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.beside import beside_student
from ovd_lightning.dry_run.calls import Calls, TokenLevel, calls_of_round, token_level
from ovd_lightning.dry_run.cost import Disk, Times, disk_of, times_of
from ovd_lightning.dry_run.memory import (
    Account,
    Adapted,
    EngineMemory,
    Part,
    Setup,
    Sharding,
    account,
    gib,
)
from ovd_lightning.dry_run.shape import HALF, SINGLE, ModelShape, read_config, shape_of
from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.local import LocalEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.lora import empty_model, lora_errors
from ovd_lightning.module import OVDModule
from ovd_lightning.packing import is_flash
from ovd_lightning.preflight import engine_settings, length_errors
from ovd_lightning.pretrained import check_path, is_hub_id
from ovd_lightning.teachers.token import TokenTeacher

TEACHER = "method.init_args.teacher"
CONTEXT, GRAPHS = 1 << 29, 5 << 27
"""Of a process on a GPU, 0.5 GiB, and of vLLM's captured graphs, 0.6 GiB. Assumed."""
STEP, SMALL_STEP = (16384, 1024), (8192, 256)
"""Tokens and sequences that vLLM 0.32 computes at a time on a GPU of 70 GiB or more, and on a smaller one."""
LARGE = 70 << 30


@dataclass(slots=True, kw_only=True, frozen=True)
class Plan:
    """What a run needs."""

    device: Literal["gpu", "cpu"]
    ranks: int
    device_memory: int | None
    """Bytes of one GPU, or of the machine where the CPU trains; None: unknown."""
    shapes: dict[str, ModelShape]
    """Setting -> model."""
    setup: Setup
    memory: Account
    rounds: int
    trajectories: int
    """B x N of a round, over all ranks."""
    assumed: Assumptions
    response_tokens: int
    """As assumed."""
    calls: Calls
    """Of the teacher, a round."""
    calls_at_most: Calls
    """... with every trajectory of full length, and every one replaced."""
    token_level: TokenLevel
    disk: Disk
    times: Times | None
    """None: not estimated, as on a CPU."""
    notes: list[str]

    @property
    def fits(self) -> bool | None:
        """Whether the largest phase is within the device's memory; None: the memory is not known."""
        return None if self.device_memory is None else self.memory.peak <= self.device_memory


def make_plan(
    *,
    module: OVDModule,
    data: OVDDataModule,
    rollout: RolloutCallback,
    checkpoint: RoundCheckpoint,
    trainer: Mapping[str, Any],
    assumed: Assumptions,
    gpu_memory: float | None,
) -> Plan:
    """Raises: ConfigError where a config.json cannot be read.

    Args:
        trainer: the Trainer's arguments as configured.
        gpu_memory: of one GPU in GiB; None: what is visible here.
    """
    notes: list[str] = []
    device = _device(trainer, gpu_memory)
    ranks = _ranks(trainer, device, notes)
    memory = _device_memory(device, gpu_memory)
    method, sampling = module.method, rollout.sampling

    check_path("model.student", module.student_path)
    trust = getattr(rollout.engine, "trust_remote_code", False)
    config = read_config("model.student", module.student_path, trust)
    student = shape_of(module.student_path, config, trust)
    raise_errors(length_errors(student.name, student.positions, sampling.max_tokens))
    held = rollout.engine.max_model_len if isinstance(rollout.engine, LocalEngine) else None
    length = min(student.positions or 1 << 30, held or 1 << 30, assumed.longest_prompt + sampling.max_tokens)
    if data.task.environment is not None:
        notes.append(
            "The task has an environment: its own models and calls are not counted, and a demonstration, which takes "
            "several turns, is counted as one request."
        )

    sizes = (method, data.problems_per_round, sampling.max_tokens, assumed)
    calls, calls_at_most = (calls_of_round(*sizes, bound=bound, shares=data.task.shares) for bound in (False, True))
    trajectories = data.problems_per_round * method.group_size
    notes += calls.notes
    setup = _setup(module, data, trainer, ranks, length, trajectories + calls_at_most.added, device)
    if setup.sharding == "ddp" and str(trainer.get("strategy")).startswith(("fsdp", "deepspeed")):
        notes.append(f"trainer.strategy {trainer['strategy']} is counted as ddp, without sharding.")
    shapes = {"model.student": student}
    engines = [_engine_memory("engine", rollout.engine, student, device, memory, length)]
    teachers = []
    served: dict[str, str] = {}
    for setting, engine in () if method.teacher is None else engine_settings(method.teacher, TEACHER):
        if isinstance(engine, LocalEngine):
            found = read_config(f"{setting}.init_args.model", engine.model, engine.trust_remote_code)
            shapes[setting] = shape_of(engine.model, found, engine.trust_remote_code)
            teachers.append(_engine_memory(setting, engine, shapes[setting], device, memory, length))
        elif isinstance(engine, OpenAIEngine):
            served[engine.name] = engine.model
    for name, model in served.items():
        notes.append(_served(name, model, student, search_hub=not Path(module.student_path).is_dir()))
    frozen: list[Part] = []
    if isinstance(method.teacher, TokenTeacher) and method.teacher.path is not None:
        setting, path = f"{TEACHER}.init_args.model", method.teacher.path
        check_path(setting, path)
        shapes[setting] = shape_of(path, read_config(setting, path))
        each = _bytes(method.teacher.dtype)
        frozen.append(
            Part(
                name="token-level teacher",
                bytes=shapes[setting].parameters * each,
                how=f"{shapes[setting].parameters:,} x {each} B, whole on every rank",
            )
        )
        notes.append("The activations of the token-level teacher's forward pass are not counted.")
    beside = beside_student(method, student, setup, length)
    others: tuple[list[Part], list[Part]] = (frozen, [])
    if beside is not None:
        shapes[beside.setting] = beside.shape
        others = ([*frozen, beside.held], [beside.update])
        size, how = gib(beside.update.bytes), beside.update.how
        notes.append(f"The {beside.update.name} takes {size} ({how}); its time is not counted.")
    for one in (*engines, *teachers):
        if one.cache is None:
            notes.append(f"{one.role} takes a share of the GPU's memory, which is not known: give --gpu_memory.")

    updates = data.mini_batches * data.epochs_per_round
    response = assumed.response_tokens or max(sampling.max_tokens // 3, 1)
    return Plan(
        device=device,
        ranks=ranks,
        device_memory=memory,
        shapes=shapes,
        setup=setup,
        memory=account(student, setup, [e for e in engines if e.weights], teachers, *others),
        rounds=data.rounds,
        trajectories=trajectories,
        assumed=assumed,
        response_tokens=response,
        calls=calls,
        calls_at_most=calls_at_most,
        token_level=token_level(trajectories, length, student.vocabulary, assumed.steps),
        disk=disk_of(student, setup, data.rounds, checkpoint, trainer, 0 if beside is None else beside.saved),
        times=times_of(student, setup, engines[0] if engines else None, trajectories, updates, response, assumed),
        notes=notes,
    )


def _served(name: str, model: str, student: ModelShape, search_hub: bool) -> str:
    """What is known of a model behind an endpoint: more than its name only where that is a model's id."""
    where = f"The teacher {name} needs no memory here"
    if not is_hub_id(model) and not Path(model).is_dir():
        return f"{where}."
    try:
        shape = shape_of(model, read_config("model", model, local=not search_hub))
    except ConfigError:
        return f"{where}; its config.json is not at hand."
    vocabulary = ""
    if shape.vocabulary != student.vocabulary:
        vocabulary = (
            f" Its head has {shape.vocabulary:,} rows, the student's {student.vocabulary:,}: token by token the two "
            "could not be compared as they are."
        )
    return f"{where}; there, {shape.parameters:,} parameters, {gib(HALF * shape.parameters)} in bfloat16.{vocabulary}"


def _device(trainer: Mapping[str, Any], gpu_memory: float | None) -> Literal["gpu", "cpu"]:
    import torch

    accelerator = trainer.get("accelerator", "auto")
    if accelerator == "auto":
        return "gpu" if gpu_memory is not None or torch.cuda.is_available() else "cpu"
    return "cpu" if accelerator == "cpu" else "gpu"


def _device_memory(device: str, gpu_memory: float | None) -> int | None:
    import psutil
    import torch

    if gpu_memory is not None:
        return round(gpu_memory * 2**30)
    if device == "cpu":
        return int(psutil.virtual_memory().total)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _ranks(trainer: Mapping[str, Any], device: str, notes: list[str]) -> int:
    import torch

    devices, nodes = trainer.get("devices", "auto"), int(trainer.get("num_nodes") or 1)
    if isinstance(devices, list):
        return len(devices) * nodes
    text = str(devices)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()]) * nodes
    if text.isdigit() and int(text) > 0:
        return int(text) * nodes
    visible = torch.cuda.device_count() if device == "gpu" else 1
    if device == "gpu" and visible == 0:
        notes.append("trainer.devices is auto and no GPU is visible here: one is assumed.")
    return max(visible, 1) * nodes


def _setup(
    module: OVDModule,
    data: OVDDataModule,
    trainer: Mapping[str, Any],
    ranks: int,
    length: int,
    mixture: int,
    device: str,
) -> Setup:
    """``mixture``: trajectories that a round trains on at most."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    precision = str(trainer.get("precision") or "32-true")
    strategy = trainer.get("strategy", "auto")
    sharding: Sharding = "none"
    if isinstance(strategy, ModelParallelStrategy):
        sharding = "fsdp2"
    elif ranks > 1:
        sharding = "ddp"
    accumulate = int(trainer.get("accumulate_grad_batches") or 1)
    rows = largest_rows(data.problems_per_round, mixture, ranks, data.mini_batches, accumulate)
    budget = module.micro_batch_tokens
    cut = budget is not None and rows * length > budget
    return Setup(
        parameter_bytes=HALF if precision.endswith("-true") and "16" in precision else _bytes(module.dtype_name),
        autocast=precision in ("bf16-mixed", "16-mixed", "bf16", "16"),
        gradient_checkpointing=module.gradient_checkpointing,
        chunk=module.chunk_size,
        rows=max(budget // length, 1) if budget is not None and cut else rows,
        length=length,
        reference=module.method.needs_reference and module.lora is None,
        sharding=sharding,
        ranks=ranks,
        accumulates=accumulate > 1 and not module.reduce_every_micro_batch,
        context=CONTEXT if device == "gpu" else 0,
        loss_copies=module.method.loss_copies,
        gradient_copies=(2 if accumulate > 1 else 1) if cut else 0,
        adapter=_adapted(module),
        moment_bytes=1 if module.optimizer_name == "adamw_8bit" else None,
        budget=budget if cut else None,
        masked=module.packing and not is_flash(module.attn_implementation),
    )


def largest_rows(problems: int, mixture: int, ranks: int, mini_batches: int, accumulate: int) -> int:
    """Rows of full length that the costliest micro-batch of a rank comes to at most, in tokens that are computed.

    An optimiser step has whole groups. Cut into ``accumulate`` parts of equally many rows, longest first, no part costs
    more than its rows at full length; `split_by_length` finds a cut whose costliest part costs no more. Nor does one of
    `split_by_tokens`: when a row is added to the emptiest part, that has at most its share of the rows before.

    Args:
        problems: of a round; ``mixture``: trajectories that they train on at most.
    """
    groups = ceil(ceil(problems / ranks) / mini_batches)
    return ceil(groups * ceil(mixture / problems) / accumulate)


def _adapted(module: OVDModule) -> Adapted | None:
    """Raises: ConfigError for an adapter that the student cannot have."""
    if module.lora is None:
        return None
    model = empty_model(module.student_path)
    raise_errors(lora_errors(module.lora, model, sharded=False))  # puts the adapter in
    sizes = [p.numel() for p in model.parameters() if p.requires_grad] if model is not None else []
    return Adapted(parameters=sum(sizes), tensors=len(sizes), quantize=module.lora.quantize)


def _bytes(dtype: str) -> int:
    return SINGLE if dtype in ("float32", "torch.float32") else HALF


def _engine_memory(
    role: str, engine: Engine, shape: ModelShape, device: str, device_memory: int | None, length: int
) -> EngineMemory:
    """Weights, keys and values of an engine in this process.

    Raises: ConfigError when the share of memory that an engine may take does not hold its weights.
    """
    cpu = device == "cpu"
    if isinstance(engine, VLLMEngine):
        parts = engine.tensor_parallel_size
        size = _bytes(engine.dtype) if engine.dtype not in (None, "auto") else SINGLE if cpu else HALF
        weights = -(-shape.parameters * size // parts)
        per_token = -(-shape.kv_values_per_token * size // parts)
        length = min(length, engine.max_model_len or length)
        cache: int | None
        if engine.kv_cache_memory_bytes is not None:
            cache, how = engine.kv_cache_memory_bytes, "kv_cache_memory_bytes"
        elif cpu:
            cache, how = engine.cpu_cache_bytes(), "room for 32 sequences, 64 MiB to 4 GiB"
        elif device_memory is None:
            cache, how = None, f"gpu_memory_utilization {engine.gpu_memory_utilization:g} less weights"
        else:
            share = round(engine.gpu_memory_utilization * device_memory)
            rest = _vllm_activations(shape, size, device_memory) + (0 if engine.enforce_eager else GRAPHS)
            cache = share - weights - rest
            how = f"gpu_memory_utilization {engine.gpu_memory_utilization:g} less weights, activations and graphs"
            if cache < per_token * length:
                raise ConfigError(
                    f"{role}.init_args.gpu_memory_utilization",
                    f"{engine.gpu_memory_utilization:g} of {gib(device_memory)} does not hold the weights of "
                    f"{engine.name}, {gib(weights)}, and one sequence of {length} tokens.",
                    "Raise it, or use a smaller model.",
                )
        sleeps = engine.sleep and not cpu
        graphs = 0 if cpu or engine.enforce_eager else GRAPHS
        activations = 0 if cpu else _vllm_activations(shape, size, device_memory)
    elif isinstance(engine, HFEngine):
        size = (
            _bytes(engine.dtype) if engine.dtype not in (None, "auto") else SINGLE if cpu else shape.bytes_per_parameter
        )
        weights, per_token, sleeps = shape.parameters * size, shape.kv_values_per_token * size, False
        graphs = activations = 0
        cache, how = engine.batch_size * length * per_token, f"batch_size {engine.batch_size}, at most"
    else:  # an engine of somebody else's
        return EngineMemory(
            role=role,
            name=engine.name,
            weights=0,
            cache=0,
            cache_per_token=1,
            length=length,
            sleeps=False,
            how="unknown",
        )
    return EngineMemory(
        role=role,
        name=engine.name,
        weights=weights,
        cache=cache,
        cache_per_token=per_token,
        length=length,
        sleeps=sleeps,
        how=how,
        activations=activations,
        graphs=graphs,
    )


def _vllm_activations(shape: ModelShape, size: int, device_memory: int | None) -> int:
    """Of vLLM's largest step, by which it measures at the start: a block's inputs, or the logits and their copies."""
    tokens, sequences = STEP if device_memory is None or device_memory >= LARGE else SMALL_STEP
    block = tokens * size * (2 * shape.hidden + 3 * shape.intermediate)
    return max(block, sequences * shape.vocabulary * (size + 2 * SINGLE))
