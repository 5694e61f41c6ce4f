"""Memory of one device: what is always there, and what a phase of a round adds. Bytes everywhere.

What is exact: parameters, gradients, optimiser state, the loss buffer (tests hold them against PyTorch's allocator).
Activations are an estimate for a decoder of the Llama and Qwen kind, with scaled dot product attention, on rows of full
length. On a GPU, the context, vLLM's graphs and its activations are estimates that no GPU has confirmed yet
(`benchmarks/gpu_check.py` does). Not counted: fragmentation, and the round's token ids (40 bytes a token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_lightning.dry_run.shape import HALF, SINGLE, ModelShape
from ovd_lightning.loss_head import BLOCK
from ovd_lightning.methods.base import Method

Sharding = Literal["none", "ddp", "fsdp2"]
BLOCKS = 2
"""Float32 tensors of `loss_head.BLOCK` entries alive beside each model's chunk of logits."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Part:
    """One line of the account."""

    name: str
    bytes: int
    how: str
    """How it is computed."""


@dataclass(slots=True, kw_only=True, frozen=True)
class EngineMemory:
    """A model that generates in this process; an endpoint has none of this."""

    role: str
    """The setting that holds it."""
    name: str
    weights: int
    cache: int | None
    """Keys and values; None: depends on a device of unknown size."""
    cache_per_token: int
    length: int
    """Tokens of a full sequence."""
    sleeps: bool
    """Gives its memory back between rounds."""
    how: str
    activations: int = 0
    """Of its largest step."""
    graphs: int = 0
    """Captured graphs, which stay while it sleeps."""

    @property
    def sequences(self) -> float | None:
        """Full-length sequences that the cache holds."""
        return None if self.cache is None else self.cache / (self.cache_per_token * self.length)

    @property
    def total(self) -> int:
        return self.weights + (self.cache or 0) + self.activations + self.graphs


@dataclass(slots=True, kw_only=True, frozen=True)
class Setup:
    """What of the configuration the account depends on."""

    parameter_bytes: int
    """Of a parameter, its gradient and each of its two moments."""
    autocast: bool
    """The Trainer's precision is mixed: matrices are copied to half precision for use."""
    gradient_checkpointing: bool
    chunk: int
    """model.chunk_size"""
    rows: int
    """Trajectories of the largest micro-batch of a rank, or of a piece of it."""
    length: int
    """Tokens of a full row: prompt and completion."""
    reference: bool
    """A second, frozen student for the KL term."""
    sharding: Sharding
    ranks: int
    accumulates: bool = False
    """FSDP2: gradients of several micro-batches are added up before they are reduced."""
    context: int = 0
    """Of the process on its GPU."""
    loss_copies: int = Method.loss_copies
    gradient_copies: int = 0
    """Gradients of pieces of a micro-batch, beside the micro-batch's."""
    adapter: Adapted | None = None
    """Of a student whose own weights are frozen; None: everything is trained."""
    moment_bytes: int | None = None
    """Of each of AdamW's two moments; None: as a trained parameter."""
    budget: int | None = None
    """Tokens of a piece of a micro-batch, where that cuts the largest; None: it is computed as a whole."""
    masked: bool = False
    """Packed rows of an attention that takes a mask of all tokens against all."""

    @property
    def tokens(self) -> int:
        """That are computed together at most. Full rows have no padding: packing changes nothing about them."""
        return self.rows * self.length if self.budget is None else max(self.budget, self.length)

    @property
    def casts(self) -> bool:
        """Automatic precision copies weights. FSDP2 gathers them in half precision instead."""
        return self.autocast and self.sharding != "fsdp2"

    @property
    def gathered_bytes(self) -> int:
        """Of a parameter that FSDP2 has gathered, and of the reference's parameters."""
        return HALF if self.autocast and self.sharding == "fsdp2" else self.parameter_bytes


@dataclass(slots=True, kw_only=True, frozen=True)
class Adapted:
    """What model.lora trains, in float32."""

    parameters: int
    tensors: int
    quantize: Literal["4bit", "8bit"] | None = None


@dataclass(slots=True, kw_only=True, frozen=True)
class Account:
    """The memory of one device."""

    static: list[Part]
    """There from the first update to the end."""
    step: list[Part]
    """The largest parts of a training step; their peak is ``step_peak``, for not all are alive together."""
    step_peak: int
    update: Part
    """What the optimiser needs while it steps."""
    gathered: Part | None
    """FSDP2: full parameters for the engine's synchronisation."""
    engines: list[EngineMemory]
    phases: dict[str, int]
    """Phase of a round -> bytes."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def trained(shape: ModelShape, setup: Setup) -> tuple[int, int, int]:
    """(parameters, bytes of each, tensors) that have a gradient."""
    if setup.adapter is None:
        return shape.parameters, setup.parameter_bytes, shape.tensors
    return setup.adapter.parameters, SINGLE, setup.adapter.tensors


def weights(shape: ModelShape, setup: Setup) -> tuple[int, str]:
    """(bytes of the student's own weights, how): the linear layers packed where they are quantised, but for the head.

    A block of 64 weights of 4 bits has a scale of 8 bits, and 256 scales one of 32 (NF4, double quantisation).
    """
    bits = {"4bit": 4 + 8 / 64 + 32 / (64 * 256), "8bit": 8}
    quantize = setup.adapter.quantize if setup.adapter is not None else None
    if quantize is None:
        return shape.parameters * setup.parameter_bytes, f"{shape.parameters:,} x {setup.parameter_bytes} B"
    packed = shape.matrix_parameters - shape.vocabulary * shape.hidden
    plain = shape.parameters - packed
    total = round(packed * bits[quantize] / 8) + plain * setup.parameter_bytes
    return total, f"{packed:,} in {bits[quantize]:.3g} bits, {plain:,} x {setup.parameter_bytes} B"


def activations(shape: ModelShape, setup: Setup) -> tuple[int, int, int]:
    """(kept for the backward pass, needed on top while one block's gradient is made, kept of one block).

    With T tokens, hidden size h, q = heads x head_dim, intermediate size f and e bytes a value, a block keeps
    T (26 h + 8 q + 8 f) bytes under automatic precision, an adapter T (10 h + 2 q + 2 f) more, and without automatic
    precision T e/4 (24 h + 16 q + 16 f); attention has no padding mask to keep. With checkpointing it keeps its input,
    T e h, and the rest is recomputed. The last norm and the loss's rows add 20 T h, a block's backward pass three
    tensors of T f, or one and a matrix's gradient. The mask of packed rows is T^2 bytes, and in each block e T^2 more.
    """
    tokens = setup.tokens
    q, f, h = shape.heads * shape.head_dim, shape.intermediate, shape.hidden
    if setup.autocast:
        value, block = HALF, tokens * (26 * h + 8 * q + 8 * f)
        if setup.adapter is not None:  # each adapted layer keeps its input in half precision once more
            block += tokens * HALF * (5 * h + q + f)
    else:
        value = setup.parameter_bytes
        block = tokens * value // SINGLE * (24 * h + 16 * q + 16 * f)
    mask = tokens**2 if setup.masked else 0
    block += value * mask
    end = 20 * tokens * h + mask
    matrix = (setup.parameter_bytes + (HALF if setup.autocast else 0)) * f * h
    # When the last block's gradient is made, what the norm and the loss kept is gone, but for a gradient of T h.
    transient = max(max(3 * tokens * value * f, tokens * value * f + matrix) - 16 * tokens * h, 0)
    if setup.gradient_checkpointing:
        return shape.layers * tokens * setup.parameter_bytes * h + end, block + transient, block
    return shape.layers * block + end + half_copies(shape, setup), transient, block


def half_copies(shape: ModelShape, setup: Setup) -> int:
    """Automatic precision keeps weights in half precision for the backward pass, but for the head's: the loss makes its
    own. Those that are in half precision already, as under an adapter, have no copy."""
    if not setup.casts or setup.parameter_bytes == HALF:
        return 0
    return HALF * (shape.matrix_parameters - shape.vocabulary * shape.hidden)


def loss_buffer(shape: ModelShape, setup: Setup) -> tuple[int, int]:
    """(the chunk's [c, V] tensors, the head's gradient [V, h] and what is beside it while a chunk's part is added).

    In half precision, logits and their gradient have a copy of half the size. Under automatic precision the head's
    matrix and a chunk's part of its gradient are there in half precision, and that part then in single precision as
    well, when the copy of the logits is gone.
    """
    rows = min(setup.chunk, setup.tokens)
    entries, matrix = rows * shape.vocabulary, shape.vocabulary * shape.hidden
    chunk = setup.loss_copies * SINGLE * (entries + BLOCKS * max(min(BLOCK, entries), shape.vocabulary))
    half = HALF * entries if setup.autocast or setup.parameter_bytes == HALF else 0
    if setup.adapter is not None:  # the head has no gradient; the logits' has a copy beside theirs
        return max(chunk + half, setup.loss_copies * SINGLE * entries + 2 * half), 0
    if not setup.autocast:
        return chunk + half, matrix * setup.parameter_bytes
    pairs = ((chunk + half, matrix * (SINGLE + 2 * HALF)), (chunk, matrix * (2 * SINGLE + HALF)))
    return max(pairs, key=sum)


def account(
    shape: ModelShape,
    setup: Setup,
    engines: list[EngineMemory],
    teachers: list[EngineMemory],
    others: Sequence[Part] = (),
    passes: Sequence[Part] = (),
) -> Account:
    """Everything on the device of one rank.

    Args:
        others: other models that stay on it.
        passes: phases of theirs, by what these add.
    """
    shards = setup.ranks if setup.sharding == "fsdp2" else 1
    over = f" / {shards} ranks" if shards > 1 else ""
    size, how = weights(shape, setup)
    count, width, _ = trained(shape, setup)
    shard, each = -(-count * width // shards), f"{count:,} x {width} B{over}"
    frozen_or_not = "parameters" if setup.adapter is None else "frozen parameters"
    static = [Part(name=frozen_or_not, bytes=-(-size // shards), how=how + over)]
    if setup.adapter is not None:
        static.append(Part(name="adapter", bytes=shard, how=each))
    moments = f"two moments, each {each}" if setup.moment_bytes is None else f"two moments of {setup.moment_bytes} B"
    static += [
        Part(name="gradients", bytes=shard, how=each),
        Part(name="AdamW state", bytes=optimizer_state(shape, setup), how=moments),
    ]
    if setup.reference:
        held = -(-shape.parameters * setup.gathered_bytes // shards)
        how = f"{shape.parameters:,} x {setup.gathered_bytes} B" + (f" / {shards} ranks" if shards > 1 else "")
        static.append(Part(name="reference model", bytes=held, how=f"{how}, the initial student for the KL term"))
    if setup.context:
        static.append(Part(name="CUDA context", bytes=setup.context, how="assumed: kernels, and what libraries hold"))

    static += others

    kept, backward, block = activations(shape, setup)
    chunk, head = loss_buffer(shape, setup)
    rows = min(setup.chunk, setup.tokens)
    step = [
        Part(
            name="activations kept",
            bytes=kept,
            how=f"estimate: {_computed(setup)}, "
            + ("the input of each block" if setup.gradient_checkpointing else f"{gib(block)} a block"),
        ),
        Part(
            name="activations of one block",
            bytes=backward,
            how="estimate: " + ("recomputed, " if setup.gradient_checkpointing else "") + "while its gradient is made",
        ),
        Part(
            name="loss: chunk x V",
            bytes=chunk,
            how=f"{setup.loss_copies} x {rows:,} rows x {shape.vocabulary:,} x 4 B, and temporary tensors",
        ),
    ]
    if head:
        how = f"{shape.vocabulary:,} x {shape.hidden:,}, being added up"
        step.append(Part(name="loss: head's gradient", bytes=head, how=how))
    # The head's is made anew for every chunk.
    copies = half_copies(shape, setup)
    if copies and setup.gradient_checkpointing:  # otherwise among the activations
        step.append(Part(name="half-precision weights", bytes=copies, how="cached by autocast in the forward pass"))
    pieces = setup.gradient_copies * count * width
    if pieces:
        step.append(Part(name="gradients of pieces", bytes=pieces, how="of model.micro_batch_tokens, added up"))
    unsharded = 0
    if shards > 1:
        unsharded = (shape.outer_parameters + 2 * shape.block_parameters) * setup.gathered_bytes
        step.append(Part(name="FSDP2: unsharded", bytes=unsharded, how="embeddings and head, and two blocks"))
        if setup.accumulates:
            whole = SINGLE * count
            how = "of the micro-batches before the last; none with model.reduce_every_micro_batch"
            step.append(Part(name="FSDP2: whole gradient", bytes=whole, how=how))
            unsharded += whole
    forward = copies if setup.gradient_checkpointing else 0
    own = shape.vocabulary * shape.hidden * setup.parameter_bytes if setup.adapter is None else 0
    held = own if shape.tied else 0  # a tied head's gradient waits for the embedding's
    step_peak = pieces + unsharded + kept + max(forward + chunk + head, 2 * own, backward + held)

    update = Part(name="AdamW's step", bytes=shard, how="one tensor of their size (foreach)")
    gathered = None
    if shards > 1 and engines:
        largest = max(shape.vocabulary * shape.hidden, 2 * shape.intermediate * shape.hidden)
        gathered = Part(
            name="gathered weights",
            bytes=2 * largest * setup.parameter_bytes,
            how="the engine takes them one by one: the largest layer, and the next",
        )
    everyone = [*engines, *teachers]
    resident = sum(p.bytes for p in static) + sum(e.graphs if e.sleeps else e.total for e in everyone)
    awake = sum(e.total - e.graphs for e in engines if e.sleeps)
    sync = sum(e.weights for e in engines if e.sleeps) + (gathered.bytes if gathered else 0)
    phases = {
        "generate": resident + max(awake, sync),
        "train": resident + step_peak,
        "update": resident + update.bytes,
    }
    if teachers:
        phases["score and demonstrate"] = resident + sum(e.total - e.graphs for e in teachers if e.sleeps)
    phases |= {part.name: resident + part.bytes for part in passes}
    return Account(
        static=static,
        step=step,
        step_peak=step_peak,
        update=update,
        gathered=gathered,
        engines=everyone,
        phases=phases,
    )


def _computed(setup: Setup) -> str:
    if setup.budget is not None:
        return f"{setup.tokens:,} tokens of model.micro_batch_tokens"
    return f"{setup.rows} rows of {setup.length} tokens"


def optimizer_state(shape: ModelShape, setup: Setup) -> int:
    """AdamW's two moments in the parameters' dtype, and a float32 step count a tensor."""
    shards = setup.ranks if setup.sharding == "fsdp2" else 1
    count, width, tensors = trained(shape, setup)
    return 2 * -(-count * (setup.moment_bytes or width) // shards) + SINGLE * tensors


def gib(bytes: float) -> str:
    return f"{bytes / 2**30:,.2f} GiB"
