"""transformers in this process: no extra installation, any model, exact; for small models and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Completion, Prompt, Request, Sampling
from ovd_lightning.engines.local import CheckedWeights, LocalEngine, untouched
from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import expect, finished
from ovd_lightning.settings.ranges import PositiveInt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ovd_lightning.head import Head

CACHES = ("past_key_values", "cache_params")
BLOCK = 64
"""Tokens of the vocabulary in one block of `quantiles`."""
LOGITS_AT_ONCE = 1 << 24
"""Entries of the largest [positions, vocabulary] tensor that scoring makes."""


class HFEngine(LocalEngine):
    """Samples with a key-value cache and scores with plain forward passes.

    A request draws from its own seed only, and padding changes its log-probabilities in the last digits only: the same
    list of requests gives the same tokens bit for bit, and a request in another batch almost surely does too.

    Args:
        model: Directory of a checkpoint, or a hub id ``org/name``.
        dtype: Of weights and activations. None: float32 on the CPU, the checkpoint's elsewhere.
        device: Such as ``cuda:0``; None: the first GPU if there is one.
        max_model_len: Longest prompt plus completion, in tokens; None: the model's own maximum.
        batch_size: Sequences generated in one batch.
        batch_tokens: Tokens, with padding, of one forward pass that scores.
        seed: Of requests without one.
        trust_remote_code: Run model code from the checkpoint.
        tokenizer: Directory or hub id of the tokenizer; None: the model's.
    """

    checkpoint_names = False  # the trainer's model has the same class, so tensors are copied as they are

    def __init__(
        self,
        model: str,
        dtype: str | None = None,
        device: str | None = None,
        max_model_len: PositiveInt | None = None,
        batch_size: PositiveInt = 128,
        batch_tokens: PositiveInt = 16384,
        seed: int = 0,
        trust_remote_code: bool = False,
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_model_len, seed, trust_remote_code)
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._network: PreTrainedModel | None = None
        self._head: Head | None = None

    @property
    def kind(self) -> str:
        return "hf"

    def misfits(self) -> Iterator[ConfigError]:
        import torch

        yield from super().misfits()
        if self.device is not None and self.device.startswith("cuda") and not torch.cuda.is_available():
            yield ConfigError("device", f"is {self.device!r}, but there is no GPU.", "Set cpu.")

    def start(self) -> None:
        if self._network is not None:
            return
        import torch
        from transformers import AutoModelForCausalLM

        from ovd_lightning.head import Head, UnknownHead

        self.check()
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with untouched():
            network = AutoModelForCausalLM.from_pretrained(
                self.model,
                dtype=self.dtype or ("float32" if device.type == "cpu" else "auto"),
                trust_remote_code=self.trust_remote_code,
            )
            network.to(device)  # type: ignore[arg-type]
            network.eval().requires_grad_(False)
            try:
                self._head = Head(network)
            except UnknownHead as error:
                raise ConfigError(
                    "model", f"{self.model}: {error}.", "Use another model or the vllm engine."
                ) from error
        self._network = network

    @property
    def network(self) -> PreTrainedModel:
        if self._network is None:
            raise RuntimeError(f"{self.name} is not running: start() it before use")
        return self._network

    @property
    def head(self) -> Head:
        assert self._head is not None
        return self._head

    @property
    def dtype_name(self) -> str | None:
        return str(self.network.dtype).removeprefix("torch.")

    def close(self) -> None:
        self._network = self._head = None

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        import torch

        own = self.network.state_dict(keep_vars=True)
        once = {name for name, _ in [*self.network.named_parameters(), *self.network.named_buffers()]}
        weights = CheckedWeights(self.name, named_weights, {n: tuple(t.shape) for n, t in own.items()}, set(own) - once)
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)
        weights.finish()
        self.version = version

    # -- sampling

    def ends(self) -> list[int]:
        """End-of-sequence ids, from the generation config and the tokenizer."""
        ids: set[int] = set()
        settings: Any = self.network.generation_config
        for found in (getattr(settings, "eos_token_id", None), self.tokenizer.eos_token_id):
            ids.update([found] if isinstance(found, int) else found or [])
        return sorted(ids)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Log-probabilities of a greedy completion are at temperature 1."""
        prompts = self.encode_requests(request.prompt for request in requests)
        limits = self.limits(requests, prompts, sampling.max_tokens)
        seeds = self.seeds(requests)
        expect(len(requests))
        done: dict[int, Completion] = {}
        order = sorted(range(len(requests)), key=lambda i: len(prompts[i]))
        with untouched():
            for first in range(0, len(order), self.batch_size):
                rows = order[first : first + self.batch_size]
                results = self._sample(
                    [prompts[i] for i in rows], [limits[i] for i in rows], [seeds[i] for i in rows], sampling
                )
                done.update(zip(rows, results, strict=True))
        self.count(sum(map(len, prompts)), sum(c.completion_tokens for c in done.values()))
        return [done[i] for i in range(len(requests))]

    def _sample(
        self, prompts: list[list[int]], limits: list[int], seeds: list[int], sampling: Sampling
    ) -> list[Completion]:
        """One batch, left-padded; finished sequences are removed from it."""
        import torch

        from ovd_lightning.engines.hf_cache import let_grow, places

        device, ends = self.network.device, set(self.ends())
        longest = max(map(len, prompts))
        uniforms = torch.zeros(len(prompts), max(limits), dtype=torch.float64)
        for row, n, s in zip(uniforms, limits, seeds, strict=True):  # drawn ahead: independent of the rest of the batch
            row[:n] = torch.rand(n, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        uniforms = uniforms.to(device)
        inputs = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
        mask = torch.ones(len(prompts), longest + max(limits), dtype=torch.long, device=device)
        for row, prompt in zip(mask, prompts, strict=True):
            row[: longest - len(prompt)] = 0
        positions = (mask[:, :longest].cumsum(-1) - 1).clamp(min=0)
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        truncated = [False] * len(prompts)
        live = list(range(len(prompts)))
        cache: dict[str, Any] = {}  # by the name under which the model takes and returns it
        with torch.no_grad():
            for step in range(max(limits)):
                output = self.network(
                    input_ids=inputs,
                    attention_mask=mask[:, : longest + step],
                    position_ids=positions,
                    use_cache=True,
                    logits_to_keep=1,
                    **cache,
                )
                cache = {name: output[name] for name in CACHES if name in output}
                if not cache:
                    raise RuntimeError(f"{self.name}: {type(self.network).__name__} keeps no cache")
                if step == 0:
                    for states in cache.values():
                        let_grow(states)
                chosen, chosen_logprobs = self._draw(output.logits[:, -1].float(), uniforms[:, step], sampling)
                kept = []
                for row, (i, token, logprob) in enumerate(
                    zip(live, chosen.tolist(), chosen_logprobs.tolist(), strict=True)
                ):
                    tokens[i].append(token)
                    logprobs[i].append(logprob)
                    ended = token in ends or self._stopped(tokens[i], sampling.stop)
                    truncated[i] = not ended and len(tokens[i]) == limits[i]
                    if not ended and not truncated[i]:
                        kept.append(row)
                if len(kept) < len(live):
                    finished(len(live) - len(kept))
                    if not kept:
                        break
                    rows = places(kept)
                    live = [live[row] for row in rows]
                    select = torch.tensor(rows, device=device)
                    chosen, positions, mask, uniforms = (x[select] for x in (chosen, positions, mask, uniforms))
                    for states in cache.values():
                        states.reorder_cache(select)  # the one way to select rows that every kind of cache has
                inputs = chosen[:, None]
                positions = positions[:, -1:] + 1
        return [
            Completion(
                text=self.decode(ids),
                token_ids=ids,
                logprobs=values,
                truncated=cut,
                prompt_tokens=len(prompt),
                completion_tokens=len(ids),
            )
            for prompt, ids, values, cut in zip(prompts, tokens, logprobs, truncated, strict=True)
        ]

    @staticmethod
    def _draw(logits_BV: Tensor, u_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Tokens [B] at the quantiles ``u_B`` of the distribution, and their log-probabilities [B]."""
        import torch

        if sampling.temperature == 0:
            chosen = logits_BV.argmax(-1)
            return chosen, logits_BV.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        logits_BV = logits_BV / sampling.temperature
        if sampling.top_p < 1:
            ranked, index = logits_BV.sort(dim=-1, descending=True)
            before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
            ranked = ranked.masked_fill(before >= sampling.top_p, -torch.inf)
            logits_BV = torch.empty_like(ranked).scatter_(-1, index, ranked)
        logprobs = logits_BV.log_softmax(-1)
        chosen = quantiles(logprobs, u_B)
        return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]

    def _stopped(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """A stop text of n characters lies within the last 4 n tokens: one is at least a byte."""
        if not stop:
            return False
        tail = self.decode(tokens[-4 * max(map(len, stop)) :])
        return any(text in tail for text in stop)

    # -- scoring

    def _batches(self, sequences: Sequence[list[int]]) -> Iterator[list[int]]:
        """Indices of sequences of similar length, a forward pass each."""
        batch: list[int] = []
        for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            if batch and (len(batch) + 1) * len(sequences[i]) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _score(self, sequences: Sequence[list[int]], wanted: Sequence[list[tuple[int, list[int]]]]) -> list[Tensor]:
        """Per sequence, [M, C] for its M pairs of a position and the C tokens that may follow it."""
        import torch

        results: list[Tensor] = [torch.empty(0, 0)] * len(sequences)
        expect(len(sequences))
        device = self.network.device
        with torch.no_grad():
            for batch in self._batches(sequences):
                longest = max(len(sequences[i]) for i in batch)
                padded = [sequences[i] + [0] * (longest - len(sequences[i])) for i in batch]
                mask = [[1] * len(sequences[i]) + [0] * (longest - len(sequences[i])) for i in batch]
                hidden_BLH = self.head.hidden(torch.tensor(padded, device=device), torch.tensor(mask, device=device))
                rows = [(row, at, ids) for row, i in enumerate(batch) for at, ids in wanted[i]]
                parts = []
                step = max(1, LOGITS_AT_ONCE // self.network.get_output_embeddings().weight.shape[0])
                for first in range(0, len(rows), step):
                    which, where, ids = zip(*rows[first : first + step], strict=True)
                    logits_MV = self.head.logits(hidden_BLH[list(which), list(where)]).float()
                    candidates_MC = torch.tensor(ids, device=device)
                    parts.append(logits_MV.log_softmax(-1).gather(-1, candidates_MC).cpu())
                if parts:
                    split = torch.cat(parts).split([len(wanted[i]) for i in batch])
                    for i, part in zip(batch, split, strict=True):
                        results[i] = part
                finished(len(batch))
        return results

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        import torch

        encoded = self.encode_requests(prompts)
        self.count(sum(map(len, encoded)), len(encoded))
        parts = self._score(encoded, [[(len(ids) - 1, list(token_ids))] for ids in encoded])
        return torch.cat(parts) if parts else torch.empty(0, len(token_ids))

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        self.check_pairs(prompts, completions)
        pairs = [(list(p), list(c)) for p, c in zip(prompts, completions, strict=True)]
        self.count(sum(len(p) + len(c) for p, c in pairs), 0)
        wanted = [[(len(p) + k - 1, [token]) for k, token in enumerate(c)] for p, c in pairs]
        return [part.reshape(-1) for part in self._score([p + c for p, c in pairs], wanted)]


def quantiles(logprobs_BV: Tensor, u_B: Tensor) -> Tensor:
    """[B]: the first token at which the distribution function of each row exceeds ``u_B`` (float64).

    A large vocabulary is searched in two levels, sums of blocks first, so that few numbers are needed in float64.
    """
    import torch

    rows, size = logprobs_BV.shape
    first = torch.zeros(rows, 1, dtype=torch.long, device=u_B.device)
    if size > BLOCK**2:
        probs = torch.nn.functional.pad(logprobs_BV.exp(), (0, -size % BLOCK)).view(rows, -1, BLOCK)
        ends = probs.sum(-1, dtype=torch.float64).cumsum(-1)
        target = u_B[:, None] * ends[:, -1:]
        block = _place(ends, target)
        first = block * BLOCK
        target = target - torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), 0.0)
        cumulative = probs.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(-1)
    else:
        cumulative = logprobs_BV.double().exp().cumsum(-1)
        target = u_B[:, None] * cumulative[:, -1:]
    return (first + _place(cumulative, target))[:, 0]


def _place(cumulative_BN: Tensor, target_B1: Tensor) -> Tensor:
    """[B, 1]: the first place that exceeds the target; at most where the sum ends, which rounding may not exceed."""
    import torch

    last = (cumulative_BN < cumulative_BN[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(cumulative_BN, target_B1, right=True), last)
