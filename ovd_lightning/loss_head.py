"""From hidden rows to quantities of each token's distribution, a chunk of logits at a time, with a gradient by hand.

Automatic differentiation keeps several tensors of a chunk's size [c, V] for the backward pass, and as many gradients.
Here a chunk's logits exist once, and are turned into their own gradient in place: at once, where the loss can say ahead
what its gradient with respect to the chunk's values will be, and otherwise when the backward pass has made them again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ovd_lightning import functional as F
from ovd_lightning.head import Head, product_dtype

BLOCK = 1 << 18
"""Entries of the logits that are exponentiated at a time: temporary tensors are of this size, or of one row."""
BLOCK_CUDA = 1 << 25

Expected = Callable[[slice, tuple[Tensor, ...]], Sequence[Tensor | None]]
"""(span of tokens, their values [c] each) -> the loss's gradient with respect to each value, up to a factor that all
tokens share. It is compared with the gradient that arrives: a wrong one costs time, nothing else."""


class Quantities(ABC):
    """Values of each token that are functions of its logits. One object serves one forward and backward pass.

    Logits are [c, V] float32 of a chunk, before the temperature; ``span`` says which of the M tokens they belong to.
    """

    outputs: int
    """How many values a token has."""
    trained: int
    """How many of them carry a gradient: the first ones."""

    @abstractmethod
    def values(self, logits: Tensor, span: slice, keep: bool) -> tuple[Tensor, ...]:
        """``outputs`` of [c]. May keep [M] tensors for the gradient; leaves the logits as they are.

        Args:
            keep: the same chunk's gradient is asked for next.
        """

    @abstractmethod
    def gradient(self, logits: Tensor, span: slice, gradients: Sequence[Tensor | None]) -> None:
        """Turn the logits into the loss's gradient with respect to them, in place.

        Args:
            gradients: [c] of each of the ``trained`` values; None where the loss does not depend on it.
        """


def blocks(logits: Tensor) -> Iterator[slice]:
    """Spans of rows of [c, V] of about ``BLOCK`` entries each."""
    entries = BLOCK_CUDA if logits.is_cuda else BLOCK
    step = max(1, entries // logits.shape[1])
    for start in range(0, logits.shape[0], step):
        yield slice(start, start + step)


class TokenLogprobs(Quantities):
    """Log-probability of each token, and its distribution's entropy.

    Args:
        targets: [M] token ids.
        temperature: of softmax(logits / temperature).
        entropy: False leaves the entropies out: NaN.
    """

    outputs = trained = 2

    def __init__(self, targets: Tensor, temperature: float, entropy: bool = True) -> None:
        self.targets, self.temperature, self.entropy = targets, temperature, entropy
        self.log_z = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
        self.entropies = torch.full_like(self.log_z, torch.nan)

    def values(self, logits: Tensor, span: slice, keep: bool) -> tuple[Tensor, ...]:
        log_z, entropies = self.log_z[span], self.entropies[span]
        for rows in blocks(logits):
            log_z[rows], found = F.log_partition(logits[rows], self.temperature, self.entropy)
            if found is not None:
                entropies[rows] = found
        chosen = logits.gather(-1, self.targets[span, None])[:, 0]
        return chosen / self.temperature - log_z, entropies

    def gradient(self, logits: Tensor, span: slice, gradients: Sequence[Tensor | None]) -> None:
        """d l / d z_j = 1[j = target] - p_j and d H / d z_j = -p_j (log p_j + H), over the temperature."""
        of_logprob, of_entropy = gradients
        for rows in blocks(logits):
            z = logits[rows].div_(self.temperature).sub_(self.log_z[span][rows, None])  # log p
            if of_entropy is None:
                z.exp_()
                if of_logprob is None:
                    z.zero_()
                else:
                    z.mul_(of_logprob[rows, None] / -self.temperature)
                continue
            p = z.exp()
            z.add_(self.entropies[span][rows, None]).mul_(of_entropy[rows, None])
            if of_logprob is not None:
                z.add_(of_logprob[rows, None])
            z.mul_(p).div_(-self.temperature)
        if of_logprob is not None:
            logits.scatter_add_(-1, self.targets[span, None], of_logprob[:, None] / self.temperature)


class Divergence(TokenLogprobs):
    """Generalised JSD of a teacher's and the student's distributions, and beside it the student's log-probability and
    entropy, which carry no gradient. Where one head has more rows than the other (padding of the embedding), both
    distributions are over the entries that both have.

    Args:
        targets, temperature: as for `TokenLogprobs`; the temperature is of both.
        beta: see `functional.generalised_jsd`.
        teacher: span -> the teacher's logits [c, V_T] float32.
    """

    outputs, trained = 3, 1

    def __init__(self, targets: Tensor, temperature: float, beta: float, teacher: Callable[[slice], Tensor]) -> None:
        super().__init__(targets, temperature)
        self.beta, self.teacher = beta, teacher
        self.kept: Tensor | None = None

    def values(self, logits: Tensor, span: slice, keep: bool) -> tuple[Tensor, ...]:
        taught = self.teacher(span)
        self.kept = taught if keep else None
        value = [F.generalised_jsd(*self._both(logits, taught, rows), self.beta) for rows in blocks(logits)]
        return torch.cat(value), *super().values(logits, span, keep)

    def gradient(self, logits: Tensor, span: slice, gradients: Sequence[Tensor | None]) -> None:
        (of_value,) = gradients
        kept, self.kept = self.kept, None
        if of_value is None:
            logits.zero_()
            return
        taught = self.teacher(span) if kept is None else kept
        for rows in blocks(logits):
            own, wanted = self._both(logits, taught, rows)
            slope = F.generalised_jsd_gradient(own, wanted, self.beta)
            logits[rows, : own.shape[1]] = slope.mul_(of_value[rows, None] / self.temperature)
            logits[rows, own.shape[1] :] = 0.0
            del own, wanted, slope  # before the next block's exist

    def _both(self, logits: Tensor, taught: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Log-probabilities of student and teacher, [b, V'] each."""
        common = min(logits.shape[-1], taught.shape[-1])
        own, wanted = (z[rows, :common] / self.temperature for z in (logits, taught))
        return own.log_softmax(dim=-1), wanted.log_softmax(dim=-1)


def quantities(
    wanted: Quantities, rows: Tensor, head: Head, chunk: int, expected: Expected | None = None
) -> tuple[Tensor, ...]:
    """``wanted`` of every row, [M] float32 each, with their gradient.

    Args:
        rows: [M, d] last hidden states.
        head: every parameter of it is in the graph even where M = 0, as DDP demands.
        chunk: c, rows whose logits exist at a time.
        expected: what saves the backward pass a second look at the logits. Not used with float16, whose gradients need
            the scale that the backward pass brings.
    """
    _, automatic, dtype = _autocast(rows.device.type)
    if torch.float16 in (rows.dtype, dtype if automatic else None):
        expected = None
    return _Chunked.apply(wanted, head, chunk, expected, rows, *head.parameters())


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        wanted: Quantities,
        head: Head,
        chunk: int,
        expected: Expected | None,
        rows: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        values = [torch.empty(len(rows), dtype=torch.float32, device=rows.device) for _ in range(wanted.outputs)]
        ctx.wanted, ctx.head, ctx.chunk, ctx.autocast = wanted, head, chunk, _autocast(rows.device.type)
        ctx.formed = None
        if expected is not None and any(ctx.needs_input_grad):
            ctx.formed = _Sums(ctx, rows, parameters)
            ctx.expected = [torch.zeros_like(values[0]) for _ in range(wanted.trained)]
        with _same(ctx.autocast):
            for span in _spans(len(rows), chunk):
                if ctx.formed is None or expected is None:
                    found = wanted.values(head.logits(rows[span]).float(), span, keep=False)
                else:
                    logits = ctx.formed.logits(span)
                    found = wanted.values(logits.detach(), span, keep=True)
                    gradients = expected(span, found)[: wanted.trained]
                    for whole, part in zip(ctx.expected, gradients, strict=True):
                        if part is not None:
                            whole[span] = part
                    ctx.formed.add(logits, span, gradients)
                    del logits
                for whole, part in zip(values, found, strict=True):
                    whole[span] = part
        ctx.save_for_backward(rows, *parameters)
        ctx.mark_non_differentiable(*values[wanted.trained :])
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients = gradients[: ctx.wanted.trained]
        formed, ctx.formed = ctx.formed, None  # is scaled in place, so it serves once
        factor = None if formed is None else _factor(gradients, ctx.expected)
        if formed is not None and factor is not None:
            return None, None, None, None, *formed.result(factor)
        del formed
        rows, *parameters = ctx.saved_tensors
        sums = _Sums(ctx, rows, parameters)
        with _same(ctx.autocast):
            for span in _spans(len(rows), ctx.chunk):
                logits = sums.logits(span)
                sums.add(logits, span, [None if g is None else g[span] for g in gradients])
                del logits
        return None, None, None, None, *sums.result()


def _factor(gradients: Sequence[Tensor | None], expected: Sequence[Tensor]) -> float | None:
    """c where ``gradients`` are c times what was expected, in all tokens; None where they are not."""
    found = torch.stack([torch.zeros_like(e) if g is None else g for g, e in zip(gradients, expected, strict=True)])
    wanted = torch.stack(list(expected))
    size = float(wanted.double().square().sum())
    factor = float((found.double() * wanted).sum()) / size if size else 1.0
    if torch.allclose(found, wanted * factor, rtol=1e-5, atol=1e-6 * float(found.abs().amax()) if len(found[0]) else 0):
        return factor
    return None


class _Sums:
    """Gradients with respect to rows and parameters, added up chunk by chunk."""

    def __init__(self, ctx: Any, rows: Tensor, parameters: Sequence[Tensor]) -> None:
        self.wanted, self.head, self.rows, self.parameters = ctx.wanted, ctx.head, rows, parameters
        self.needed, *needed = ctx.needs_input_grad[4:]
        self.in_place = ctx.head.linear and not ctx.autocast[1]
        self.by_hand = self.in_place or ctx.head.unrounded
        self.of_rows = torch.empty_like(rows)
        # One product after another is added up in place in the parameters' dtype; what is added to it, in float32.
        dtype = None if self.in_place else torch.float32
        self.sums = [
            torch.zeros_like(p, dtype=dtype) if need else None for p, need in zip(parameters, needed, strict=True)
        ]

    def logits(self, span: slice) -> Tensor:
        """[c, V] float32, with a graph of their own unless the head is one product."""
        rows = self.rows[span].detach()
        if self.by_hand:
            return self.head.logits(rows).float()
        self.leaf = rows.requires_grad_()
        with torch.enable_grad():
            return self.head.logits(rows).float()

    def add(self, logits: Tensor, span: slice, gradients: Sequence[Tensor | None]) -> None:
        """Overwrites the logits."""
        self.wanted.gradient(logits.detach(), span, gradients)
        if self.by_hand:
            add = self._add_product if self.in_place else self._add_mixed_product
            add(logits, self.rows[span].detach(), span)
            return
        trained = [(p, total) for p, total in zip(self.parameters, self.sums, strict=True) if total is not None]
        inputs = [self.leaf, *(p for p, _ in trained)]
        self.of_rows[span], *others = torch.autograd.grad(logits, inputs, logits.detach(), allow_unused=True)
        for (_, total), gradient in zip(trained, others, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def _add_product(self, gradient: Tensor, rows: Tensor, span: slice) -> None:
        """Of logits = rows W^T + b: W's is added up in place, so there is one tensor [V, d] of it instead of two."""
        weight, *bias = self.parameters
        gradient = gradient.to(rows.dtype)
        if self.needed:
            torch.mm(gradient, weight, out=self.of_rows[span])
        if self.sums[0] is not None:
            self.sums[0].addmm_(gradient.t(), rows)
        if bias and self.sums[1] is not None:
            self.sums[1].add_(gradient.sum(dim=0))

    def _add_mixed_product(self, gradient: Tensor, rows: Tensor, span: slice) -> None:
        """The same under automatic precision, as it differentiates a product: in half precision, added in float32."""
        weight, *bias = self.parameters
        dtype = product_dtype(weight)
        if bias and self.sums[1] is not None:
            self.sums[1].add_(gradient.sum(dim=0))
        gradient = gradient.to(dtype)
        if self.needed:
            self.of_rows[span] = gradient @ weight.to(dtype)
        if self.sums[0] is not None:
            self.sums[0].add_(gradient.t() @ rows.to(dtype))

    def result(self, factor: float = 1.0) -> list[Tensor | None]:
        found = [self.of_rows if self.needed else None, *self.sums]
        if factor != 1:
            found = [None if total is None else total.mul_(factor) for total in found]
        dtypes = [self.of_rows.dtype, *(p.dtype for p in self.parameters)]
        return [None if total is None else total.to(dtype) for total, dtype in zip(found, dtypes, strict=True)]


def _spans(count: int, chunk: int) -> Iterator[slice]:
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))


def _autocast(device: str) -> tuple[str, bool, torch.dtype]:
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _same(autocast: tuple[str, bool, torch.dtype]) -> torch.autocast:
    """The forward pass's automatic precision. Casts are not cached: one that is made without a graph would be found by
    whoever needs its gradient."""
    device, enabled, dtype = autocast
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
