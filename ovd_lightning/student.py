"""The student: a causal language model that answers with log-probabilities, never with logits.

No [B, L, V] tensor exists: the language-model head runs over the trained positions only, a chunk at a
time, and a chunk's logits are recomputed in the backward pass instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.functional import token_entropy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Student(nn.Module):
    """Wraps a Hugging Face causal LM. ``forward`` is the only way in, so that sharding strategies that
    gather parameters around ``forward`` (FSDP2) see every use of the head.

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
        hidden = self.hf.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        rows = hidden.last_hidden_state[:, :-1][mask]  # [M, d]
        targets = input_ids[:, 1:][mask]  # [M]
        logprobs, entropies = [], []
        # One pass even when nothing is trained keeps every parameter, the head's too, in the graph, as DDP demands.
        for start in range(0, max(rows.shape[0], 1), self.chunk_size):
            span = slice(start, start + self.chunk_size)
            if torch.is_grad_enabled():
                chunk = checkpoint(self._chunk, rows[span], targets[span], temperature, use_reentrant=False)
            else:
                chunk = self._chunk(rows[span], targets[span], temperature)
            logprobs.append(chunk[0])
            entropies.append(chunk[1])
        zeros = torch.zeros(mask.shape, dtype=torch.float32, device=rows.device)
        return zeros.masked_scatter(mask, torch.cat(logprobs)), zeros.masked_scatter(mask, torch.cat(entropies))

    def _chunk(self, rows: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[c, d], [c] -> ([c], [c])."""
        logits = self.hf.get_output_embeddings()(rows).float() / temperature  # [c, V]
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
