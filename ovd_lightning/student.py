"""The student: a causal language model that answers with log-probabilities, never with logits.

No [B, L, V] tensor exists: the language-model head runs over the trained positions only, a chunk at a
time, and a chunk's logits are recomputed in the backward pass instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.functional import generalised_jsd, token_entropy

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
        self.hf: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).train()
        for attribute in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(self.hf.config, attribute, None) not in (None, 1, 1.0):
                raise ConfigError(
                    "model.student",
                    f"{path} rescales its logits ({attribute}), which the chunked log-probabilities do not do.",
                    "Use a model without it.",
                )
        if gradient_checkpointing:
            self.hf.gradient_checkpointing_enable({"use_reentrant": False})

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

    def rows(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        """[M, d]: the hidden state that predicts each of the M trained tokens, row by row."""
        hidden = self.hf.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return hidden.last_hidden_state[:, :-1][mask]

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
        return self.hf.get_output_embeddings()(rows).float() / temperature

    def _chunk(self, rows: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[c, d], [c] -> ([c], [c])."""
        logits = self._logits(rows, temperature)  # [c, V]
        log_z = torch.logsumexp(logits, dim=-1)
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - log_z
        return logprobs, token_entropy(logits, log_z)

    def hf_named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor). Collective under a sharding strategy: every rank must enter."""
        for name, parameter in self.hf.named_parameters():
            value = parameter.detach()
            yield name, value.full_tensor() if hasattr(value, "full_tensor") else value

    def export(self, folder: Path, tokenizer_path: str, write: bool = True) -> None:
        """Write a checkpoint that transformers and vLLM load: safetensors, config, tokenizer.

        Args:
            write: False on all ranks but one; gathering sharded parameters is collective, so every rank calls this.
        """
        state = {name: value.cpu() for name, value in self.hf_named_parameters()}
        if not write:
            return
        from transformers import AutoTokenizer

        self.hf.save_pretrained(folder, state_dict=state)
        AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(folder)
