"""Common parts of the engines that load a checkpoint in this process: checks, prompts, names of weights."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Engine, Prompt, Request
from ovd_lightning.engines.encoding import decode, encode_many
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.pretrained import check_checkpoint, load_config, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@contextmanager
def untouched() -> Iterator[None]:
    """Restores the random state of torch, CUDA, numpy and Python, the current GPU, the precision of float32 products
    and torch's number of threads, on exit.

    Also restores ``torch.set_num_threads``, which vLLM on the CPU replaces by a function that does nothing.
    """
    import numpy as np
    import torch

    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.is_available()
    cuda_states, current = (torch.cuda.get_rng_state_all(), torch.cuda.current_device()) if cuda else ([], 0)
    products = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.set_float32_matmul_precision(products)
        if cuda:
            torch.cuda.set_device(current)
            torch.cuda.set_rng_state_all(cuda_states)


class CheckedWeights:
    """A stream of weights, passed on one by one: it ends at the first that does not fit.

    Nothing is kept, so that a sharded student's tensors, which are gathered as they are asked for, can be freed as they
    are loaded. A stream that ends loads what came before; :meth:`finish` says what was wrong.

    Args:
        engine: its name.
        shapes: of every weight of the engine.
        tied: names that may be missing.
    """

    def __init__(
        self,
        engine: str,
        given: Iterable[tuple[str, torch.Tensor]],
        shapes: dict[str, tuple[int, ...]],
        tied: Iterable[str],
    ) -> None:
        self.engine, self.shapes = engine, shapes
        self._given = given
        self._missing = dict.fromkeys(sorted(set(shapes) - set(tied)))
        self._problem: str | None = None

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._given:
            if name not in self.shapes:
                self._problem = f"cannot synchronise unknown parameter {name!r}"
                return
            if tuple(tensor.shape) != self.shapes[name]:
                self._problem = (
                    f"parameter {name!r} has shape {tuple(tensor.shape)}, the engine's has {self.shapes[name]}"
                )
                return
            self._missing.pop(name, None)
            yield name, tensor.detach()

    def finish(self) -> None:
        """Raises: RuntimeError unless every weight has come, in its shape."""
        if self._problem is None and self._missing:
            more = f" and {len(self._missing) - 1} more" if len(self._missing) > 1 else ""
            self._problem = f"cannot synchronise, parameter {next(iter(self._missing))!r} is missing{more}"
        if self._problem is not None:
            raise RuntimeError(f"{self.engine}: {self._problem}")


class LocalEngine(Engine):
    """A checkpoint in a directory or on the hub, with its tokenizer and its context length."""

    def __init__(
        self, model: str, tokenizer: str | None, max_model_len: int | None, seed: int, trust_remote_code: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.max_model_len = max_model_len
        self.seed = seed
        self.trust_remote_code = trust_remote_code
        self._tokenizer_path = tokenizer or model
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._config: PretrainedConfig | None = None
        self._draws = random.Random(seed)

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of the backend."""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.model}"

    def identity(self) -> dict[str, Any]:
        """With size and time of a local checkpoint's files, so that a checkpoint that replaces it is another model."""
        return {
            "name": self.name,
            "files": self._checkpoint_files,
            "tokenizer": self._tokenizer_path,
            "template": self.tokenizer.chat_template,
            "dtype": getattr(self, "dtype", None),
        }

    @cached_property
    def _checkpoint_files(self) -> list[list[Any]]:
        """[name, bytes, time] of each file of a local checkpoint, as it was when it was first asked for."""
        folder = Path(self.model).expanduser()
        files = sorted(f for f in folder.glob("*") if f.is_file()) if folder.is_dir() else []
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]

    @property
    def config(self) -> PretrainedConfig:
        """The checkpoint's configuration; of a multimodal model, that of the text part."""
        if self._config is None:
            self._config = load_config("model", self.model, self.trust_remote_code).get_text_config()
        return self._config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            setting = "model" if self._tokenizer_path == self.model else "tokenizer"
            self._tokenizer = load_tokenizer(setting, self._tokenizer_path, self.trust_remote_code)
        return self._tokenizer

    @cached_property
    def max_context(self) -> int | None:
        return self.max_model_len or getattr(self.config, "max_position_embeddings", None)

    def check(self) -> None:
        check_checkpoint("model", self.model, self.trust_remote_code)
        _ = self.tokenizer
        raise_errors(self.misfits())

    def misfits(self) -> Iterator[ConfigError]:
        """Settings that do not fit the checkpoint or this machine, once the checkpoint is known to be there."""
        trained = getattr(self.config, "max_position_embeddings", None)
        if self.max_model_len is not None and trained is not None and self.max_model_len > trained:
            yield ConfigError(
                "max_model_len",
                f"{self.max_model_len} exceeds the {trained} positions of {self.model!r}.",
                f"Set at most {trained}.",
            )

    def decode(self, ids: list[int]) -> str:
        """A completion's text, without special tokens."""
        return decode(self.tokenizer, ids)

    def encode_requests(self, prompts: Iterable[Prompt]) -> list[list[int]]:
        """Token ids of each prompt.

        Raises: ValueError naming the request whose prompt is empty or leaves no room in the context.
        """
        encoded = encode_many(self.tokenizer, list(prompts))
        for index, ids in enumerate(encoded):
            if not ids:
                raise ValueError(f"{self.name}: request {index} has an empty prompt")
            if self.max_context is not None and len(ids) >= self.max_context:
                raise ValueError(
                    f"{self.name}: request {index} has a prompt of {len(ids)} tokens, "
                    f"which leaves no room in the context of {self.max_context}"
                )
        return encoded

    def check_pairs(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> None:
        """Raises: ValueError naming the pair that cannot be scored."""
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if not prompt:
                raise ValueError(f"{self.name}: pair {index} has an empty prompt")
            if self.max_context is not None and len(prompt) + len(completion) > self.max_context:
                raise ValueError(
                    f"{self.name}: pair {index} has {len(prompt)} + {len(completion)} tokens, "
                    f"more than the context of {self.max_context}"
                )

    def seeds(self, requests: Sequence[Request]) -> list[int]:
        """Each request's seed; drawn from the engine's ``seed``, not from global state, where it has none."""
        return [self._draws.getrandbits(31) if r.seed is None else r.seed for r in requests]

    def limits(self, requests: Sequence[Request], prompts: Sequence[list[int]], default: int) -> list[int]:
        """Most tokens of each completion: the request's limit or the default, within the context.

        Raises: ValueError naming the request whose limit is below 1.
        """
        wanted = [default if r.max_tokens is None else r.max_tokens for r in requests]
        for index, limit in enumerate(wanted):
            if limit < 1:
                raise ValueError(f"{self.name}: request {index} asks for {limit} tokens")
        if self.max_context is None:
            return wanted
        return [min(limit, self.max_context - len(ids)) for limit, ids in zip(wanted, prompts, strict=True)]
