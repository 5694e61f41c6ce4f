"""The student: a causal language model that answers with log-probabilities, never with logits.

No [B, L, V] tensor exists: the language-model head runs over the trained positions only, a chunk at a
time, and a chunk's logits are recomputed in the backward pass instead of being kept.

What trains is the deterministic policy that sampled: the model in here is always in evaluation mode, so that dropout of
any kind, router jitter and whatever else a model does in training mode only cannot come between old and new
log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from ovd_lightning.errors import ConfigError
from ovd_lightning.export import export
from ovd_lightning.functional import generalised_jsd, token_entropy
from ovd_lightning.head import Head, UnknownHead
from ovd_lightning.weights import checkpoint_weights, named_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _spread(mask: Tensor, values: list[Tensor]) -> Any:
    """A tuple of [B, L-1], 0 outside the mask, from as many of [M]."""
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return tuple(zeros.masked_scatter(mask, v) for v in values)


class Student(nn.Module):
    """Wraps a Hugging Face causal LM. ``forward`` and ``divergence`` are the only ways in, so that sharding strategies
    that gather parameters around them (FSDP2, to which the module names both) see every use of the head.

    Args:
        path: checkpoint folder or hub id.
        dtype: dtype of the parameters.
        chunk_size: trained positions whose logits exist at a time; a chunk costs chunk_size x V x 4 bytes.
        gradient_checkpointing: recompute the transformer's activations in the backward pass.
    """

    def __init__(
        self, path: str, dtype: str = "float32", chunk_size: int = 1024, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.hf: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).eval()
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

    def train(self, mode: bool = True) -> Student:
        """Marks the student itself; the model inside stays in evaluation mode."""
        self.training = mode
        return self

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks, in order: what is sharded, or recomputed, as one."""
        found = {n: m for n, m in self.hf.named_modules() if isinstance(m, GradientCheckpointingLayer)}
        return [m for n, m in found.items() if not any(n.startswith(f"{outer}.") for outer in found)]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each trained token, and the policy's entropy there.

        Args:
            input_ids, attention_mask: [B, L], right-padded.
            mask: [B, L-1] bool; position j stands for the prediction of token j+1.
            temperature: of softmax(logits / temperature).
        Returns:
            (log-probabilities [B, L-1], entropies in nats [B, L-1]), float32, 0 outside the mask.
        """
        rows = self.rows(input_ids, attention_mask, mask)
        targets = input_ids[:, 1:][mask]  # [M]
        return _spread(mask, self._in_chunks(self._chunk, (rows, targets), temperature))

    def divergence(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float,
        beta: float,
        teacher: Student,
        teacher_inputs: tuple[Tensor, Tensor, Tensor] | None = None,
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
        Returns:
            (divergences [B, L-1], log-probabilities [B, L-1], entropies [B, L-1]), float32, 0 outside the mask. Let go
            of the last two, or detach them, before the backward pass: held, they keep every chunk's tensors.
        Raises: ValueError when teacher and student have different numbers of trained tokens.
        """
        with torch.no_grad():
            taught = teacher.rows(*(teacher_inputs or (input_ids, attention_mask, mask)))  # [M, d_T]
        rows = self.rows(input_ids, attention_mask, mask)  # [M, d]
        if len(rows) != len(taught):
            raise ValueError(f"the teacher reads {len(taught)} trained tokens, the student {len(rows)}")
        targets = input_ids[:, 1:][mask]

        def chunk(rows: Tensor, taught: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
            logits = self._logits(rows, temperature)  # [c, V]
            with torch.no_grad():
                wanted = teacher._logits(taught, temperature)
            log_z = torch.logsumexp(logits, dim=-1)
            logprobs = logits.gather(-1, targets[:, None])[:, 0] - log_z
            common = min(logits.shape[-1], wanted.shape[-1])
            own = torch.log_softmax(logits[:, :common], dim=-1)
            value = generalised_jsd(own, torch.log_softmax(wanted[:, :common], dim=-1), beta)
            return value, logprobs, token_entropy(logits, log_z)

        return _spread(mask, self._in_chunks(chunk, (rows, taught, targets), temperature))

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
        values, _ = self(ids, (at < ends).long(), mask, temperature)
        return [row[trained].cpu() for row, trained in zip(values, mask, strict=True)]

    def rows(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        """[M, d]: the hidden state that predicts each of the M trained tokens, row by row."""
        if any(module.training for module in self.hf.modules()):
            raise RuntimeError("the student's model is in training mode: its dropout would train another policy")
        return self._head.hidden(input_ids, attention_mask)[:, :-1][mask]

    def _in_chunks(
        self, chunk: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], *settings: float
    ) -> list[Tensor]:
        """``chunk`` over spans of [M, ...] tensors, its insides made again in the backward pass; [M] a result."""
        parts: list[tuple[Tensor, ...]] = []
        # One pass even when nothing is trained keeps every parameter, the head's too, in the graph, as DDP demands.
        for start in range(0, max(tensors[0].shape[0], 1), self.chunk_size):
            span = [t[start : start + self.chunk_size] for t in tensors]
            if torch.is_grad_enabled():
                parts.append(checkpoint(chunk, *span, *settings, use_reentrant=False))
            else:
                parts.append(chunk(*span, *settings))
        return [torch.cat(values) for values in zip(*parts, strict=True)]

    def _logits(self, rows: Tensor, temperature: float) -> Tensor:
        """[c, d] -> [c, V] float32, divided by the temperature."""
        return self._head.logits(rows).float() / temperature

    def _chunk(self, rows: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[c, d], [c] -> ([c], [c])."""
        logits = self._logits(rows, temperature)  # [c, V]
        log_z = torch.logsumexp(logits, dim=-1)
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - log_z
        return logprobs, token_entropy(logits, log_z)

    def named_weights(self, checkpoint: bool = False) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter and every buffer that a checkpoint holds.

        Collective under a sharding strategy: every rank must take them all.

        Args:
            checkpoint: names and shapes as ``save_pretrained`` writes them; otherwise as transformers holds them.
        """
        return checkpoint_weights(self.hf) if checkpoint else named_weights(self.hf)

    def export(self, folder: Path, tokenizer: str | PreTrainedTokenizerBase, write: bool = True) -> None:
        """Write a checkpoint that transformers and vLLM load: safetensors, config, generation settings, tokenizer.

        Args:
            tokenizer: or the path of one.
            write: False on all ranks but one; gathering sharded parameters is collective, so every rank calls this.
        Raises: OSError where the weights cannot be written. What else cannot is a warning.
        """
        export(self.hf, folder, tokenizer, write)


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
