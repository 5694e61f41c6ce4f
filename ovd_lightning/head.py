"""What a causal language model does between its last hidden state and its logits, for chosen positions only.

Models scale their logits, cap them softly or multiply them by a constant, each under a name of its own. None of these
names is known here: the model's own ``forward`` runs, with hidden states put in the place of its transformer.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ovd_lightning.packing import by_sequence, layout

PROBE_TOKENS = 12
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Of a logit, relative to the largest: the two ways differ in the shape of one matrix product."""


class UnknownHead(ValueError):
    """A model whose logits are no function of what its transformer returns."""


class MixedSequences(ValueError):
    """A model in which the sequences of one row see one another, or are not where they would be alone."""


class _Answered:
    """A transformer's output of which only the hidden state exists; whatever else is asked for is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]


class _Given(nn.Module):
    """Stands where the transformer stood: returns what it is given as ``inputs_embeds``; otherwise looks like it."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.__dict__["transformer"] = transformer  # no submodule: its parameters are not this one's

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["transformer"], name)

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        assert inputs_embeds is not None
        return _Answered(inputs_embeds)


class Head:
    """The two halves of a model: ``logits(hidden(ids, mask))`` is what it answers, checked on a few tokens.

    Args:
        model: in evaluation mode. Its parameters may be moved, loaded, and sharded afterwards.
    Raises: UnknownHead where the halves do not make the whole.
    """

    needs_mask: bool
    """The model must be told where rows are padded on the right: what it computes before depends on it."""
    linear: bool
    """The logits are rows W^T + b and nothing else."""
    flash = False
    """Packed rows are told to flash attention's kernels: see `check_packing`."""
    unrounded = False
    """Logits are float32 sums of products in the dtype of the computation, as vLLM's with ``head_dtype: float32``. Set
    where the head is linear; otherwise they are rounded to that dtype (bfloat16: by up to 0.4 % of each logit)."""

    def __init__(self, model: PreTrainedModel) -> None:
        embeddings = model.get_output_embeddings()
        if embeddings is None:
            raise UnknownHead(f"{type(model).__name__} has no language-model head")
        largest = float("inf")
        self.needs_mask = True
        for transformer in dict.fromkeys([model.base_model, model.get_decoder()]):
            self._transformer = transformer
            self._rest = _with(model, transformer, _Given(transformer))
            try:
                largest = min(largest, self._difference(model))
            except (AttributeError, TypeError, AssertionError, IndexError) as error:
                found: Exception | None = error
                continue
            if largest <= TOLERANCE.get(model.dtype, 0.1):
                self.linear = self._is_linear(model)
                self.needs_mask = self._reads_padding(model)
                return
            found = None
        raise UnknownHead(
            f"the logits of {type(model).__name__} are not those of its head over its last hidden state"
            + (f" ({type(found).__name__}: {found})" if found else f" (off by {largest:.2g} of the largest)")
        )

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, d] from [B, L], right-padded; what stands at the padding is arbitrary.

        A causal model never looks ahead, so padding on the right needs no mask; one would keep attention from its fast
        kernels.
        """
        mask = attention_mask if self.needs_mask else None
        return self._transformer(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state

    def packed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[T, d] from [B, L]: of the T tokens that are no padding, row by row, which are computed as a single row."""
        ids = input_ids[attention_mask.bool()][None]
        where = layout(attention_mask.sum(dim=-1).tolist(), ids.device, self.flash)
        return self._transformer(input_ids=ids, attention_mask=None, use_cache=False, **where).last_hidden_state[0]

    @torch.no_grad()
    def check_packing(self, model: PreTrainedModel, flash: bool) -> None:
        """That hidden states of packed sequences are those of each alone, and do not change with their neighbours'
        tokens. With flash attention a stand-in for its kernels is told what these will be told, on any device.

        Args:
            model: whose halves these are.
        Raises: MixedSequences.
        """
        self.flash = flash
        lengths = [5, 1, PROBE_TOKENS - 6]
        draw = torch.Generator().manual_seed(2)
        size = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
        ids, others = torch.randint(size, (2, len(lengths), max(lengths)), generator=draw).to(model.device)
        real = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(model.device, torch.long)
        others[-1] = ids[-1]
        try:
            with by_sequence(model) if flash else nullcontext():
                rows = [row[None, :length] for row, length in zip(ids, lengths, strict=True)]
                alone = torch.cat([self.hidden(row, torch.ones_like(row))[0] for row in rows]).float()
                packed, other = (self.packed(tokens, real).float() for tokens in (ids, others))
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise MixedSequences(f"cannot be given several sequences in a row ({error})") from error
        largest = alone.abs().max() * TOLERANCE.get(model.dtype, 0.1)
        last = slice(-lengths[-1], None)
        if (packed - alone).abs().max() > largest or (packed[last] - other[last]).abs().max() > largest / 5:
            raise MixedSequences("computes something else for several sequences in a row than for each alone")

    def logits(self, rows: Tensor) -> Tensor:
        """[M, d] -> [M, V] in the model's own dtype, or float32 where ``unrounded``: its answer at these positions."""
        if self.unrounded:
            return self._product(rows)
        return self._rest.forward(inputs_embeds=rows[None]).logits[0]

    def _product(self, rows: Tensor) -> Tensor:
        own, *bias = self.parameters()
        dtype = product_dtype(own)
        rows, weight = rows.to(dtype), own.to(dtype)
        with torch.autocast(rows.device.type, enabled=False):
            if rows.is_cuda and dtype != torch.float32:
                logits = torch.mm(rows, weight.t(), out_dtype=torch.float32)
            else:
                logits = rows.float() @ weight.float().t()
            return logits + bias[0].float() if bias else logits

    def parameters(self) -> list[nn.Parameter]:
        """What ``logits`` depends on besides its rows: (weight, bias) where the head is linear."""
        if self.linear:
            return list(self._output.parameters(recurse=False))
        return list(self._rest.parameters())

    @torch.no_grad()
    def _is_linear(self, model: PreTrainedModel) -> bool:
        """Whether logits are a matrix product, and perhaps a bias, and nothing else: neither scaled nor capped."""
        self._output = model.get_output_embeddings()
        if type(self._output) is not nn.Linear:
            return False
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(PROBE_TOKENS, self._output.in_features, generator=draw).to(model.device, model.dtype)
        return torch.equal(self.logits(rows), self._output(rows))

    @torch.no_grad()
    def _reads_padding(self, model: PreTrainedModel) -> bool:
        """Whether hidden states before the padding depend on what stands there, or on the mask that tells where."""
        draw = torch.Generator().manual_seed(1)
        size = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
        ids, others = torch.randint(size, (2, 2, PROBE_TOKENS), generator=draw).to(model.device)
        real = torch.ones_like(ids)
        real[1, PROBE_TOKENS // 2 :] = 0
        others = torch.where(real.bool(), ids, others)
        found = []
        for needs_mask, tokens in ((True, ids), (False, ids), (False, others)):
            self.needs_mask = needs_mask
            try:
                found.append(self.hidden(tokens, real)[real.bool()].float())
            except (AttributeError, TypeError, ValueError, RuntimeError):
                if needs_mask:
                    raise
                return True
        masked, plain, other = found
        largest = masked.abs().max() * TOLERANCE.get(model.dtype, 0.1)
        return bool((plain - masked).abs().max() > largest or (plain - other).abs().max() > largest / 5)

    @torch.no_grad()
    def _difference(self, model: PreTrainedModel) -> float:
        """Largest difference between the model's logits and the two halves', relative to the largest logit."""
        draw = torch.Generator().manual_seed(0)
        size = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
        ids = torch.randint(size, (1, PROBE_TOKENS), generator=draw).to(model.device)
        mask = torch.ones_like(ids)
        whole = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
        halves = self.logits(self.hidden(ids, mask)[0]).float()
        if whole.shape != halves.shape:
            return float("inf")
        return float((whole - halves).abs().max() / whole.abs().max().clamp(min=1e-6))


def product_dtype(weight: Tensor) -> torch.dtype:
    """In which a product with it is computed: automatic precision's, or its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _with(model: nn.Module, part: nn.Module, other: nn.Module) -> Any:
    """The model with another module in the place of ``part``. Copies only what stands above it: the rest, parameters
    included, is shared."""
    path = next(name for name, module in model.named_modules() if module is part).split(".")
    top = node = _shallow(model)
    for name in path[:-1]:
        node._modules[name] = _shallow(node._modules[name])
        node = node._modules[name]
    node._modules[path[-1]] = other
    return top


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
