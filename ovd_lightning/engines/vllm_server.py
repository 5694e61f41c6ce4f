"""The student on vLLM's own servers, on other GPUs or machines than the trainer's.

A server is started by ``ovd-lightning serve`` (`ovd_lightning.engines.serve`), which is ``vllm serve`` with what this
engine needs. Every completion says by which version of the weights each of its tokens was sampled; one that is not of
the weights that were sent last is never returned.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from ovd_lightning.engines.base import Poll, ignore
from ovd_lightning.engines.endpoint import key_errors
from ovd_lightning.engines.local import CheckedWeights
from ovd_lightning.engines.vllm_client import UNTRAINED, VLLMServer
from ovd_lightning.engines.vllm_sampling import Arrived, Sampled, VLLMSampling
from ovd_lightning.engines.vllm_server_check import SHARED, server_misfits
from ovd_lightning.engines.vllm_transfer import (
    PREFIX,
    Transfer,
    from_rank_0,
    ranks,
    replacing,
    shared_memory,
    transfer_by,
)
from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.service import send_together
from ovd_lightning.settings.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

PASSES = 3
"""Requests are repeated so often because their server did not hold the weights."""


class VLLMServerEngine(VLLMSampling):
    """Samples and scores on one or several vLLM servers, and sends them the student's weights after every update.

    Requests are divided among the servers by their prompts, in order, so that a group of samples shares a server's
    prefix cache. With several ranks, every rank asks for its own groups, and rank 0 sends the weights.

    Args:
        model: Directory of a checkpoint, or a hub id ``org/name``: the one that the servers were started with.
        base_urls: Of the servers, ``http://gpu-1:8001``. Their development endpoints let anyone who reaches them
            replace the weights and call functions: keep them inside a private network.
        weight_transfer: ``filesystem``: rank 0 writes files that the servers read. ``nccl``: from GPU to GPU, which has
            not run yet.
        weights_folder: For ``filesystem``, on a file system that rank 0 and the servers mount at the same path; the
            weights need their size in float32. None: this machine's shared memory, for servers on this machine.
        nccl_address: For ``nccl``, of rank 0's machine as the servers reach it. None: ``MASTER_ADDR`` of the
            environment, which torchrun and SLURM scripts set, else this machine's name.
        max_model_len: Longest prompt plus completion, in tokens; None: the model's own maximum.
        seed: Of requests without one.
        trust_remote_code: Run model code from the checkpoint.
        tokenizer: Directory or hub id of the tokenizer; None: the model's.
        api_key_env: Environment variable with the key of servers that were started with ``--api-key``.
        timeout_s: For one completion, or for one server to load the weights.
        max_retries: Of one request, while others of its server succeed.
        patience_s: While no request of a server succeeds, all are retried for this long: its restart takes minutes.
            A server that comes back without the weights gets them again from ``weights_folder``.
        backoff_s: Wait before the first retry; doubles with each, up to 30 s.
        max_concurrency: Requests in flight, of each rank at each server.
    """

    most_candidates = 19  # of the 20 log-probabilities of a position that vLLM reports without ``--max-logprobs``

    def __init__(
        self,
        model: str,
        base_urls: list[str],
        weight_transfer: Literal["filesystem", "nccl"] = "filesystem",
        weights_folder: str | None = None,
        nccl_address: str | None = None,
        max_model_len: PositiveInt | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
        tokenizer: str | None = None,
        api_key_env: str = "VLLM_API_KEY",
        timeout_s: PositiveFloat = 1800.0,
        max_retries: NonNegativeInt = 4,
        patience_s: NonNegativeFloat = 600.0,
        backoff_s: NonNegativeFloat = 1.0,
        max_concurrency: PositiveInt = 256,
    ) -> None:
        super().__init__(model, tokenizer, max_model_len, seed, trust_remote_code)
        raise_errors(error for url in base_urls for error in key_errors(url, api_key_env, "base_urls"))
        self.base_urls = list(base_urls)
        self.weight_transfer = weight_transfer
        self.weights_folder = weights_folder
        self.nccl_address = nccl_address
        self.servers = [
            VLLMServer(
                url,
                (os.environ.get(api_key_env) or "EMPTY").strip(),
                timeout_s=timeout_s,
                max_retries=max_retries,
                patience_s=patience_s,
                backoff_s=backoff_s,
                max_concurrency=max_concurrency,
                max_failures=1,
            )
            for url in self.base_urls
        ]
        self._transfer: Transfer | None = None
        self._files: list[str] = []
        """Of the weights that were sent last, for a server that was restarted."""
        self._version: str | None = None
        """Of the weights that must answer; None: none yet."""
        self._run = secrets.token_hex(4)
        self._sends = 0
        self._dtype: str | None = None
        self._started = self._closed = False

    @property
    def kind(self) -> str:
        return "vllm_server"

    @property
    def dtype_name(self) -> str | None:
        return self._dtype

    # -- life

    def misfits(self) -> Iterator[ConfigError]:
        yield from super().misfits()
        if not self.base_urls:
            yield ConfigError("base_urls", "names no server.", "Give one, e.g. ['http://localhost:8001'].")
        if len({server.root for server in self.servers}) < len(self.servers):
            yield ConfigError("base_urls", "names a server twice.", "Give each once.")
        if self.weight_transfer == "nccl":
            import torch

            if not torch.cuda.is_available():
                yield ConfigError("weight_transfer", "nccl needs a GPU on the trainer's side.", "Set filesystem.")
                return
        elif self.weights_folder is None and not all(server.local for server in self.servers):
            yield ConfigError("weights_folder", "is needed for servers on other machines.", SHARED)
            return
        elif not self.folder.is_dir() or not os.access(self.folder, os.W_OK):
            yield ConfigError("weights_folder", f"{self.folder} is no folder that can be written to.", "Make it.")
            return
        with tempfile.NamedTemporaryFile(prefix=PREFIX, dir=self.folder) as marker:  # servers must see it
            for server in self.servers:
                found = server.describe(marker.name)
                yield from server_misfits(
                    server,
                    found,
                    model=self.model,
                    config=self.config,
                    tokenizer=self.tokenizer,
                    max_model_len=self.max_model_len,
                    context=self.max_context,
                    weight_transfer=self.weight_transfer,
                    folder=self.folder,
                )
                if isinstance(found, dict):
                    self._dtype, server.workers = found["dtype"], found["workers"]

    @property
    def folder(self) -> Path:
        """For the weights."""
        return shared_memory() if self.weights_folder is None else Path(self.weights_folder).expanduser()

    def start(self) -> None:
        """Raises: RunError where a server holds weights that were sent to it: they are not the checkpoint's."""
        if self._started:
            return
        self.start_empty()
        for server in self.servers:
            if (version := server.version()) != UNTRAINED:
                raise RunError(
                    f"the vLLM server at {server.root} holds trained weights ({version}), not those of {self.model}: "
                    "restart it"
                )
        self._version = UNTRAINED

    def start_empty(self) -> None:
        if not self._started:
            self.check()
            self._started = True

    def close(self) -> None:
        if self._transfer is not None:
            self._transfer.close()
        self._closed = True

    # -- weights

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Every rank enters, since weights may be sharded; what keeps rank 0 from sending them is raised on each."""
        rank, world_size = ranks()
        problem: Exception | None = None
        if rank == 0:
            self._sends += 1
            name = f"{self._run}-{self._sends}-step-{version}"
            try:
                self._send(named_weights, name)
            except Exception as error:
                problem = error
                for _ in named_weights:  # the others gather the rest with this rank
                    pass
        else:
            name = ""
            for _ in named_weights:
                pass
        if world_size > 1:
            name, self._files, told = from_rank_0([name, self._files, problem and f"{problem}"])
            if rank > 0 and told is not None:
                raise RunError(f"rank 0 could not send the weights: {told}")
        if problem is not None:
            raise problem
        self._version = name
        self.version = version

    def _send(self, named_weights: Iterable[tuple[str, Tensor]], version: str) -> None:
        if self._transfer is None:
            settings = self.weight_transfer, self.folder, self.nccl_address
            self._transfer = transfer_by(*settings, self.servers, self._layout[1])
        self._transfer.send(CheckedWeights(self.name, named_weights, *self._layout), version)
        self._files = self._transfer.files
        for server in self.servers:
            if (held := server.version()) != version:
                raise RunError(f"the vLLM server at {server.root} holds {held} after it was sent {version}")

    def _restore(self, server: VLLMServer, version: str) -> None:
        """A server has not answered by the weights of this version: give them again to one that was restarted.

        Raises: RunError where it was not, and where that is not possible.
        """
        files = self._files
        with FileLock(Path(files[0]).with_name("restore.lock")) if files else nullcontext():  # one rank at a time
            held = server.version()
            if held == version:
                return
            if held != UNTRAINED:
                raise RunError(f"the vLLM server at {server.root} was given other weights ({held}): by another run?")
            if not files:
                raise RunError(
                    f"the vLLM server at {server.root} was restarted and has lost the student's weights: continue the "
                    "run with --ckpt_path last"
                )
            warnings.warn(f"{server.root} was restarted: the student's weights are sent again", stacklevel=2)
            server.done(server.send([replacing(server, files, version)])[0])

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        with super().unrecorded():
            yield
        for server in self.servers:
            server.control("reset_prefix_cache")

    # -- work

    def _sample(
        self,
        prompts: list[list[int]],
        parameters: list[dict[str, Any]],
        arrived: Arrived = ignore,
        poll: Poll = ignore,
    ) -> list[Sampled]:
        """The completions, in order, all of the weights that were sent last. ``arrived`` runs in another thread.

        Raises: RunError for a request that failed after its retries, and when a server does not keep the weights.
        """
        if self._closed:
            raise RuntimeError(f"{self.name} is closed")
        if self._version is None:
            raise RuntimeError(f"{self.name} has not been given any weights")
        found: dict[int, Sampled] = {}
        waiting, version = list(range(len(prompts))), self._version
        for _ in range(PASSES):
            stale: list[int] = []

            def ready(share: list[int], place: int, sampled: Any, stale: list[int] = stale) -> None:
                index = share[place]
                if not isinstance(sampled, Sampled):
                    raise RunError(f"{self.name} could not sample: {sampled.reason}")
                if sampled.versions != {version}:
                    stale.append(index)
                    return
                found[index] = sampled
                poll()
                arrived(index, sampled)

            shares = self._shares(waiting, prompts)
            batches = []
            for server, share in shares:
                calls = [server.sampling(prompts[i], parameters[i]) for i in share]
                batches.append(server.batch(calls, ready=partial(ready, share)))
            send_together(batches)
            if not stale:
                return [found[index] for index in range(len(prompts))]
            for server, share in shares:
                if not set(share).isdisjoint(stale):
                    self._restore(server, version)
            waiting = sorted(stale)
        raise RunError(f"{self.name}: {len(waiting)} requests were answered {PASSES} times by other weights")

    def _candidates(self, token_ids: list[int]) -> dict[str, Any]:
        """vLLM's server lists the sampled token and then them, and cuts the list to their number: the last is asked for
        twice."""
        return {"logprobs": len(token_ids) + 1, "logprob_token_ids": [*token_ids, token_ids[-1]]}

    def _shares(self, waiting: list[int], prompts: list[list[int]]) -> list[tuple[VLLMServer, list[int]]]:
        """Which requests go to which server: equal prompts to the same one."""
        rank, _ = ranks()
        places: dict[tuple[int, ...], int] = {}
        shares: list[list[int]] = [[] for _ in self.servers]
        for index in waiting:
            place = places.setdefault(tuple(prompts[index]), len(places))
            shares[(place + rank) % len(shares)].append(index)
        return [(server, share) for server, share in zip(self.servers, shares, strict=True) if share]
