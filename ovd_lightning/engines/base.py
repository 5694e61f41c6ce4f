"""The contract of an engine: what runs a language model for sampling and scoring.

Token in, token out: prompts given as token ids are used as they are, and completions come back as the
very ids that were sampled. Text and chat prompts (for teachers, which have their own vocabulary) are
rendered with the engine's own tokenizer and chat template.
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
    """How a completion is drawn."""

    max_tokens: int = 512
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Below 1 the engine's log-probabilities are no longer those of softmax(logits / temperature)."""
    stop: tuple[str, ...] = ()
    """Generation ends after the first of these texts, which stays part of the completion."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Request:
    """One completion of one prompt."""

    prompt: Prompt
    seed: int | None = None
    """A request's own random state; ignored when greedy. The same seed gives the same tokens whatever else
    is in the batch, where the engine can promise that (vLLM; ``hf`` promises it per call)."""
    max_tokens: int | None = None
    """Overrides ``Sampling.max_tokens``, e.g. for the continuation of a prefix."""


@dataclass(slots=True, kw_only=True)
class Completion:
    """What came back for a request."""

    text: str
    """Decoded, without special tokens."""
    token_ids: list[int] | None
    """[T] in the engine's vocabulary, the end-of-sequence token included; None from endpoints that hide it."""
    logprobs: list[float] | None
    """[T] log-probability of each sampled token under softmax(logits / temperature); None if unavailable."""
    truncated: bool
    """Stopped by ``max_tokens``."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    """Why this one request failed after its retries; ``text`` is then empty."""


class Troubles(NamedTuple):
    """Calls that brought no answer, by kind, and the last reason of each kind, as it was given."""

    given_up: Counter[str]
    retried: Counter[str]
    reasons: dict[str, str]
    calls: int
    """All calls, the good ones included."""


class TokensUsed(NamedTuple):
    """What a model has read and written, as an endpoint bills it: whether a prompt was in a cache makes no difference,
    and a score costs its prompt and one token."""

    prompt: int = 0
    completion: int = 0


class Engine(ABC):
    """Runs one model. Construction checks settings and is cheap; :meth:`start` loads."""

    trainable: ClassVar[bool] = True
    """Whether :meth:`sync` can work at all (an endpoint cannot be synchronised)."""

    checkpoint_names: ClassVar[bool] = True
    """Whether :meth:`sync` takes names and shapes as ``save_pretrained`` writes them, or as transformers holds them."""

    keeps_stop: bool = True
    """Whether a stop text stays in the completion, as the contract says; OpenAI's own protocol cuts it off."""

    def __init__(self) -> None:
        self.version: int = -1
        """``global_step`` of the weights last pushed by :meth:`sync`; -1: the checkpoint's own."""
        self._used = TokensUsed()

    @property
    def used(self) -> TokensUsed:
        """Tokens since the engine was made."""
        return self._used

    def count(self, prompt: int, completion: int) -> None:
        """Every call of the model says what it read and wrote; a teacher's cost is read off here."""
        self._used = TokensUsed(self._used.prompt + prompt, self._used.completion + completion)

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies model and engine, e.g. for the run's record."""

    def identity(self) -> dict[str, Any]:
        """Everything besides a request that changes its answer, as JSON can hold it: its part of cache keys."""
        return {"name": self.name}

    def take_troubles(self) -> Troubles | None:
        """What failed since the last call; None for an engine whose calls cannot fail one by one."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Everything that can be checked without loading: paths, versions, an endpoint's health.

        Raises: ConfigError naming the setting and the mend.
        """

    @abstractmethod
    def start(self) -> None:
        """Load. A second call does nothing. Leaves torch's, numpy's and Python's random state and torch's
        thread count as they were."""

    def start_empty(self) -> None:
        """As :meth:`start`, for an engine that is synchronised before its first use: it need not load weights. What a
        sync fails to replace is then visibly wrong, and not by accident right until the student has changed."""
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
        self, requests: Sequence[Request], sampling: Sampling, ready: Callable[[int, Completion], None]
    ) -> list[Completion]:
        """As :meth:`generate`; ``ready(index, completion)`` is called as soon as there is an answer, so that what was
        paid for can be kept whatever happens to the rest. Possibly in another thread, never in two at once."""
        completions = self.generate(requests, sampling)
        for index, completion in enumerate(completions):
            ready(index, completion)
        return completions

    @abstractmethod
    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        """[P, C] float32: log-probability (temperature 1, full vocabulary) of each candidate as next token.

        An endpoint gives -inf to a candidate outside the few it reports, and a row of NaN to a prompt whose
        request failed after its retries; local engines do neither.
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

    def single_tokens(self, texts: Sequence[str]) -> list[int]:
        """The token of each text. Raises: ConfigError where the vocabulary is hidden or a text is not one token."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise ConfigError("tokenizer", f"{self.name} has none to turn candidates into tokens with.", "Set it.")
        token_ids: list[int] = []
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise ConfigError(
                    "texts",
                    f"{text!r} is {len(ids)} tokens in the vocabulary of {self.name}.",
                    "Use candidates of exactly one token.",
                )
            token_ids.append(ids[0])
        return token_ids

    @abstractmethod
    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        """Per pair, [T] float32: log-probability (temperature 1) of each given completion token."""

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace the weights, saved buffers included, and drop every cached key and value.

        Raises: RuntimeError on a frozen engine, and when a weight is missing or unknown.
        """
        raise RuntimeError(f"{self.name} is frozen: only the student's engine is synchronised")

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What the model is asked inside this block is not counted, and nothing of it stays cached."""
        used = self._used
        try:
            yield
        finally:
            self._used = used

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """What fails inside this block fails soon: for a try before a run, whose user is watching."""
        yield

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Memory for generation is held inside this block only, where the engine can give it back."""
        yield

    def close(self) -> None:  # noqa: B027 -- most engines hold nothing that must be given back
        """Give everything back. The engine cannot be used afterwards."""
