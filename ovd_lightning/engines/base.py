"""The interface of an engine, which runs a language model for sampling and scoring.

Tokens in, tokens out: prompts given as token ids are used as they are, and completions are the sampled ids. Text and
chat prompts (for teachers, which have their own vocabulary) are rendered with the engine's tokenizer and chat template.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from ovd_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""``{"role": ..., "content": ...}``"""
Prompt = str | list[int] | list[Message]


@dataclass(slots=True, kw_only=True, frozen=True)
class Sampling:
    """Sampling parameters."""

    max_tokens: int = 512
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Below 1 the engine's log-probabilities are no longer those of softmax(logits / temperature)."""
    stop: tuple[str, ...] = ()
    """Generation ends after the first of these texts, which is kept in the completion."""
    logprobs: bool = True
    """Whether somebody reads the completions' log-probabilities; False: an engine may leave them out, which is faster.
    """


@dataclass(slots=True, kw_only=True, frozen=True)
class Request:
    """One completion of one prompt."""

    prompt: Prompt
    seed: int | None = None
    """Of this request; ignored when greedy. The same seed gives the same tokens whatever else is in the batch, where
    the engine guarantees it (vLLM in float32 on the CPU; ``hf`` guarantees it per call). On a GPU a token's
    probabilities depend on the batch in their last bits (docs/gpu.md)."""
    max_tokens: int | None = None
    """Overrides ``Sampling.max_tokens``, e.g. for the continuation of a prefix."""


@dataclass(slots=True, kw_only=True)
class Completion:
    """The answer to a request."""

    text: str
    """Decoded, without special tokens."""
    token_ids: list[int] | None
    """[T] in the engine's vocabulary, the end-of-sequence token included; None from endpoints that hide it."""
    logprobs: list[float] | None
    """[T] log-probability of each sampled token under softmax(logits / temperature); None if unavailable, or not
    wanted."""
    truncated: bool
    """Stopped by ``max_tokens``."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    """Why this one request failed after its retries; ``text`` is then empty."""


Ready = Callable[[int, Completion], None]
"""(index of a request, its completion)"""
Poll = Callable[[], None]


def ignore(*_: object) -> None:
    """Where nobody waits for what is ready."""


class Troubles(NamedTuple):
    """Failed calls by kind, and the last reason of each kind, verbatim."""

    given_up: Counter[str]
    retried: Counter[str]
    reasons: dict[str, str]
    calls: int
    """All calls, successful ones included."""


class TokensUsed(NamedTuple):
    """Tokens that a model has read and written, as an endpoint bills them: a cached prompt counts like any other, and a
    score costs its prompt and one token."""

    prompt: int = 0
    completion: int = 0


class Engine(ABC):
    """Runs one model. Construction checks settings and is cheap; :meth:`start` loads."""

    trainable: ClassVar[bool] = True
    """Whether :meth:`sync` can work at all (an endpoint cannot be synchronised)."""

    checkpoint_names: ClassVar[bool] = True
    """Whether :meth:`sync` takes names and shapes of ``save_pretrained``'s checkpoints, or of transformers' modules."""

    concurrent: ClassVar[bool] = False
    """Whether its calls may run beside those of another engine of this process: it takes nothing from their devices."""

    keeps_stop: bool = True
    """Whether a stop text is kept in the completion, as it should be; OpenAI's protocol removes it."""

    def __init__(self) -> None:
        self.version: int = -1
        """``global_step`` of the weights last pushed by :meth:`sync`; -1: the checkpoint's."""
        self._used = TokensUsed()
        self._short: dict[str, list[int]] = {}

    @property
    def used(self) -> TokensUsed:
        """Tokens since the engine was created."""
        return self._used

    def count(self, prompt: int, completion: int) -> None:
        """Add to ``used``; called for every call of the model."""
        self._used = TokensUsed(self._used.prompt + prompt, self._used.completion + completion)

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies model and engine, e.g. for the run's record."""

    def identity(self) -> dict[str, Any]:
        """Everything besides a request that changes its answer, JSON-serializable: the engine's part of cache keys."""
        return {"name": self.name}

    def take_troubles(self) -> Troubles | None:
        """Failures since the last call; None for an engine whose calls cannot fail one by one."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Check everything that needs no loading: paths, versions, an endpoint's health.

        Raises: ConfigError naming the setting, with a hint.
        """

    @abstractmethod
    def start(self) -> None:
        """Load. A second call does nothing. Does not change the random state of torch, numpy and Python, nor torch's
        number of threads."""

    def start_empty(self) -> None:
        """As :meth:`start`, for an engine that is synchronised before its first use, so that it need not load weights:
        a weight that a sync fails to replace is then wrong from the start, and not only once the student has changed.
        """
        self.start()

    @property
    def dtype_name(self) -> str | None:
        """``float32``, ``bfloat16`` ... of the running model; None if unknown."""
        return None

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """None where the vocabulary is hidden; available before :meth:`start`."""

    @property
    @abstractmethod
    def max_context(self) -> int | None:
        """Prompt plus completion, in tokens; None if unknown; available before :meth:`start`."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion per request, in order. One batch for the whole list."""

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Ready, poll: Poll = ignore
    ) -> list[Completion]:
        """As :meth:`generate`; ``ready(index, completion)`` is called for each as soon as it is there, so that it can
        be saved or used whatever happens to the rest. ``poll`` may be called at any time in between. Both possibly in
        another thread, never in two at once; what they raise ends the call, and the engine can go on being used."""
        completions = self.generate(requests, sampling)
        for index, completion in enumerate(completions):
            ready(index, completion)
        return completions

    @abstractmethod
    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        """[P, C] float32: log-probability (temperature 1, full vocabulary) of each candidate as next token.

        From an endpoint, -inf for a candidate that it does not report, and a row of NaN for a request that failed after
        its retries; local engines return neither.
        """

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """[P, C] float32: as :meth:`next_token_logprobs`, for candidates given as text, each one token.

        Raises: ConfigError when the vocabulary is hidden or a text is not exactly one token of it.
        """
        return self.next_token_logprobs(prompts, self.single_tokens(texts))

    def next_text_logprobs_as_ready(
        self, prompts: Sequence[Prompt], texts: Sequence[str], ready: Callable[[int, list[float]], None]
    ) -> Tensor:
        """As :meth:`next_text_logprobs`; ``ready(index, row)`` as in :meth:`generate_as_ready`."""
        rows = self.next_text_logprobs(prompts, texts)
        for index, row in enumerate(rows.tolist()):
            ready(index, row)
        return rows

    def known_tokenizer(self) -> PreTrainedTokenizerBase:
        """Raises: ConfigError where the vocabulary is hidden."""
        if self.tokenizer is None:
            raise ConfigError("tokenizer", f"{self.name} has none between candidates and their tokens.", "Set it.")
        return self.tokenizer

    def short_ids(self, text: str) -> list[int]:
        """Ids of a text such as a score, without special tokens around them: encoded once.

        Raises: ConfigError where the vocabulary is hidden.
        """
        if text not in self._short:
            self._short[text] = self.known_tokenizer().encode(text, add_special_tokens=False)
        return self._short[text]

    def single_tokens(self, texts: Sequence[str]) -> list[int]:
        """The token of each text. Raises: ConfigError where the vocabulary is hidden or a text is not one token."""
        token_ids: list[int] = []
        for text in texts:
            ids = self.short_ids(text)
            if len(ids) != 1:
                problem = f"{text!r} is {len(ids)} tokens in the vocabulary of {self.name}."
                raise ConfigError("texts", problem, "Use candidates of exactly one token.")
            token_ids.append(ids[0])
        return token_ids

    @abstractmethod
    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        """Per pair, [T] float32: log-probability (temperature 1) of each given completion token."""

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace the weights, persistent buffers included, and drop all cached keys and values.

        The weights are a stream: each is taken once and may be freed before the next, which a sharded student gathers
        as it is asked for.

        Raises: RuntimeError on a frozen engine, and when a weight is missing or unknown; the ones before it are taken.
        """
        raise RuntimeError(f"{self.name} is frozen: only the student's engine is synchronised")

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Calls inside this block are not counted, and nothing of them stays cached."""
        used = self._used
        try:
            yield
        finally:
            self._used = used

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Inside this block calls fail soon, with few retries: for a test before a run, while the user waits."""
        yield

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Where the engine can free it, memory for generation is allocated inside this block only."""
        yield

    def close(self) -> None:  # noqa: B027 -- most engines have nothing to free
        """Free all resources. The engine cannot be used afterwards."""
