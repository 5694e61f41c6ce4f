"""The student: a causal language model that answers with log-probabilities, never with logits.

No [B, L, V] tensor exists: the language-model head runs over the trained positions only, a chunk at a
time, and a chunk's logits are recomputed in the backward pass instead of being kept.

What trains is the deterministic policy that sampled: the model in here is always in evaluation mode, so that dropout of
any kind, router jitter and whatever else a model does in training mode only cannot come between old and new
log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from ovd_lightning.errors import ConfigError
from ovd_lightning.export import export
from ovd_lightning.head import Head, MixedSequences, UnknownHead
from ovd_lightning.lengths import slices_by_length
from ovd_lightning.lora import Adapter, LoRA, base_name
from ovd_lightning.loss_head import Divergence, Expected, TokenLogprobs, quantities
from ovd_lightning.packing import is_flash
from ovd_lightning.weights import checkpoint_weights, fingerprint, named_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PASS_COST, PASS_COST_ACCELERATOR = 5e7, 5e11
"""What a pass through the transformer costs whatever it computes, in parameters x tokens (docs/speed.md)."""
WEIGHTS_COST = 16
"""What adding up the gradients of all weights costs, in tokens."""
_known_slices = lru_cache(maxsize=64)(slices_by_length)
"""The same rows are computed several times a round."""


def _spread(mask: Tensor, values: Sequence[Tensor]) -> Any:
    """A tuple of [B, L-1], 0 outside the mask, from as many of [M]."""
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return tuple(zeros.masked_scatter(mask, v) for v in values)


class Student(nn.Module):
    """Wraps a Hugging Face causal LM. ``forward``, ``divergence``, ``representations`` and ``last_states`` are the only
    ways in, so that sharding strategies that gather parameters around them (FSDP2, to which the module names all) see
    every use.

    Args:
        path: checkpoint folder or hub id.
        dtype: dtype of the parameters.
        chunk_size: trained positions whose logits exist at a time; a chunk costs chunk_size x V x 4 bytes.
        gradient_checkpointing: recompute the transformer's activations in the backward pass.
        attn_implementation: as transformers names them; None: its choice.
        compile: each block of the transformer, by torch.compile, for any length at once.
        lora: train an adapter; the checkpoint's own weights are frozen.
        packing: rows are computed as one, without their padding.
    Raises: ConfigError for a model that lacks what one of these takes.
    """

    pass_cost: float | None = None
    """What one more pass through the transformer costs, in tokens; None: as the model's size and its device have it.
    Infinite under FSDP2, whose ranks must enter each block equally often."""

    adapter: Adapter | None = None
    base_digest: str | None = None
    """With an adapter, of the frozen weights under it."""

    def __init__(
        self,
        path: str,
        dtype: str = "float32",
        chunk_size: int = 1024,
        gradient_checkpointing: bool = False,
        attn_implementation: str | None = None,
        compile: bool = False,
        lora: LoRA | None = None,
        packing: bool = False,
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.packing = packing
        settings = {} if lora is None else lora.loading(DTYPES[dtype])
        self.hf: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], **settings).eval()
        if lora is not None:
            self.adapter = Adapter(self.hf, lora)
            self.base_digest = fingerprint((n, p) for n, p in self.hf.named_parameters() if base_name(n) is not None)
        try:
            self._head = Head(self.hf)
        except UnknownHead as error:
            raise ConfigError("model.student", f"{path}: {error}.", "Use another model.") from error
        if gradient_checkpointing:
            if not self.blocks():
                raise ConfigError(
                    "model.gradient_checkpointing",
                    f"is true, but transformers cannot recompute the blocks of {type(self.hf).__name__}.",
                    "Set it to false.",
                )
            for block in self.blocks():
                _recompute(block)
        if attn_implementation is not None and not is_flash(attn_implementation):
            self.hf.set_attn_implementation(attn_implementation)
        if packing:
            self._check_packing(path, is_flash(attn_implementation))
        if is_flash(attn_implementation):  # now: all that was tried on the CPU, where it has no kernel
            self.hf.set_attn_implementation(attn_implementation)
        if compile:
            for block in self.blocks():
                block.compile(dynamic=True)

    def _check_packing(self, path: str, flash: bool) -> None:
        try:
            self._head.check_packing(self.hf, flash)
        except MixedSequences as error:
            problem = f"is true, but {type(self.hf).__name__} ({path}) {error}."
            raise ConfigError("model.packing", problem, "Set it to false, or use another attention.") from error

    def unround_logits(self) -> None:
        """Logits are sums in float32, whatever the products are computed in: see `Head.unrounded`.

        Raises: ConfigError where they are more than one product.
        """
        if not self._head.linear:
            raise ConfigError(
                "model.head_dtype",
                f"is float32, but the logits of {type(self.hf).__name__} are scaled or capped.",
                "Set it to null.",
            )
        self._head.unrounded = True

    def train(self, mode: bool = True) -> Student:
        """Marks the student itself; the model inside stays in evaluation mode."""
        self.training = mode
        return self

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks, in order: what is sharded, or recomputed, as one."""
        found = {n: m for n, m in self.hf.named_modules() if isinstance(m, GradientCheckpointingLayer)}
        return [m for n, m in found.items() if not any(n.startswith(f"{outer}.") for outer in found)]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        entropy: bool = True,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each trained token, and the policy's entropy there.

        Args:
            input_ids, attention_mask: [B, L], right-padded.
            mask: [B, L-1] bool; position j stands for the prediction of token j+1.
            temperature: of softmax(logits / temperature).
            entropy: False saves their computation; they are NaN.
            expected: the loss's gradient, ahead of the backward pass, which then is faster: see `Method.expected`.
        Returns:
            (log-probabilities [B, L-1], entropies in nats [B, L-1]), float32, 0 outside the mask.
        """
        rows = self.rows(input_ids, attention_mask, mask)  # [M, d]
        wanted = TokenLogprobs(input_ids[:, 1:][mask], temperature, entropy)
        return _spread(mask, quantities(wanted, rows, self._head, self.chunk_size, expected))

    def divergence(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float,
        beta: float,
        teacher: Student,
        teacher_inputs: tuple[Tensor, Tensor, Tensor] | None = None,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The generalised JSD of the teacher's and the student's whole distributions at each trained token.

        Neither model's [B, L, V] logits exist: of the teacher only hidden rows are kept, and a chunk's logits of both
        are made again in the backward pass. Where one head has more rows than the other (padding of the embedding),
        both distributions are over the entries that both have.

        Args:
            input_ids, attention_mask, mask, temperature: as for :meth:`forward`; the temperature is of both.
            beta: see `functional.generalised_jsd`.
            teacher: of the same vocabulary; gets no gradient. May be this student itself.
            teacher_inputs: (input_ids, attention_mask, mask) where the teacher has other prompts.
            expected: as for :meth:`forward`, of the divergences.
        Returns:
            (divergences [B, L-1], log-probabilities [B, L-1], entropies [B, L-1]), float32, 0 outside the mask. The
            last two carry no gradient.
        Raises: ValueError when teacher and student have different numbers of trained tokens.
        """
        with torch.no_grad():
            taught = teacher.rows(*(teacher_inputs or (input_ids, attention_mask, mask)))  # [M, d_T]
        rows = self.rows(input_ids, attention_mask, mask)  # [M, d]
        if len(rows) != len(taught):
            raise ValueError(f"the teacher reads {len(taught)} trained tokens, the student {len(rows)}")
        wanted = Divergence(
            input_ids[:, 1:][mask], temperature, beta, lambda span: teacher._head.logits(taught[span]).float()
        )
        return _spread(mask, quantities(wanted, rows, self._head, self.chunk_size, expected))

    def representations(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`rows`, for whoever needs no more of the model than its last hidden states: [M, d]."""
        return self.rows(input_ids, attention_mask, mask)

    def last_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, d]: the last hidden state of each row's last token."""
        ends = attention_mask.sum(dim=-1) - 1
        found = []
        for rows, longest in self.slices(attention_mask):
            hidden = self._head.hidden(input_ids[rows, :longest], attention_mask[rows, :longest])
            found.append(hidden[torch.arange(len(hidden), device=hidden.device), ends[rows]])
        return torch.cat(found)

    @torch.no_grad()
    def score(self, prompts: list[list[int]], completions: list[list[int]], temperature: float = 1.0) -> list[Tensor]:
        """Per pair, [T] float32 on the CPU: log-probability of each completion token. Collective under a sharding
        strategy."""
        device = self.hf.device
        pairs = [p + c for p, c in zip(prompts, completions, strict=True)]
        length = max(map(len, pairs))
        ids = torch.tensor([pair + [0] * (length - len(pair)) for pair in pairs], device=device)
        at = torch.arange(length, device=device)
        starts, ends = (torch.tensor([len(x) for x in of], device=device)[:, None] for of in (prompts, pairs))
        mask = ((at >= starts) & (at < ends))[:, 1:]
        values, _ = self(ids, (at < ends).long(), mask, temperature, entropy=False)
        return [row[trained].cpu() for row, trained in zip(values, mask, strict=True)]

    def rows(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        """[M, d]: the hidden state that predicts each of the M trained tokens, row by row."""
        if any(module.training for module in self.hf.modules()):
            raise RuntimeError("the student's model is in training mode: its dropout would train another policy")
        if self.packing:
            trained = torch.nn.functional.pad(mask, (0, 1))[attention_mask.bool()]  # [T]
            return self._head.packed(input_ids, attention_mask)[trained]
        found = []
        for rows, longest in self.slices(attention_mask):
            hidden = self._head.hidden(input_ids[rows, :longest], attention_mask[rows, :longest])
            found.append(hidden[:, :-1][mask[rows, : longest - 1]])
        return torch.cat(found)

    def slices(self, attention_mask: Tensor) -> list[tuple[slice, int]]:
        """Rows of [B, L] that the transformer computes together where they are not packed, and how many tokens of each:
        less padding, at the price of more passes."""
        lengths = attention_mask.sum(dim=-1).tolist()
        cost = self.pass_cost
        if cost is None:
            work = PASS_COST if self.hf.device.type == "cpu" else PASS_COST_ACCELERATOR
            cost = WEIGHTS_COST + work / sum(p.numel() for p in self.hf.parameters())
        return [(rows, max(lengths[rows])) for rows in _known_slices(tuple(lengths), cost)]

    def computed(self, attention_mask: Tensor) -> int:
        """Tokens that the transformer computes of rows [B, L], padding included."""
        if self.packing:
            return int(attention_mask.sum())
        return sum((rows.stop - rows.start) * longest for rows, longest in self.slices(attention_mask))

    def initial(self) -> AbstractContextManager[None]:
        """In it, the student with an adapter is what it was before training: the adapter is switched off.

        Raises: ValueError for a student without one.
        """
        if self.adapter is None:
            raise ValueError("a student without an adapter is only what it is now")
        return self.adapter.off()

    def named_weights(self, checkpoint: bool = False) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter and every buffer that a checkpoint holds.

        With an adapter, of base and adapter as one model, which exists a layer at a time; the base stays as it is.
        Collective under a sharding strategy: every rank must take them all.

        Args:
            checkpoint: names and shapes as ``save_pretrained`` writes them; otherwise as transformers holds them.
        """
        return checkpoint_weights(self.hf) if checkpoint else named_weights(self.hf)

    def export(self, folder: Path, tokenizer: str | PreTrainedTokenizerBase, write: bool = True) -> None:
        """Write a checkpoint that transformers and vLLM load: safetensors, config, generation settings, tokenizer.

        Of a student with an adapter it is of both as one model; the adapter alone, as peft writes it, is in ``adapter``
        of that folder.

        Args:
            tokenizer: or the path of one.
            write: False on all ranks but one; gathering sharded parameters is collective, so every rank calls this.
        Raises: OSError where the weights cannot be written. What else cannot is a warning.
        """
        export(self.hf, folder, tokenizer, write, self.adapter)


def _recompute(block: nn.Module) -> None:
    """Recompute what is inside in the backward pass. transformers does so in training mode only, which the model is
    never in."""
    forward = block.forward

    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed
