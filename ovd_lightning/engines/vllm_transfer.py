"""The student's weights on their way to vLLM's servers: over a file system that both see, or over NCCL.

Both ways use vLLM's protocol of a weight update. Sampling is paused during it, which aborts requests in flight and
drops cached keys and values, and from its beginning to its end the server's weights have a version of their own, so
that nothing that it samples in between passes for the student's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ovd_lightning.engines.local import CheckedWeights
from ovd_lightning.engines.vllm_client import VLLMServer
from ovd_lightning.service import Call, send_together

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 2 << 30
"""Bytes of a file, or of one NCCL update: what is held besides the model while weights are sent."""
PREFIX, OWNED = "student-weights-", "owner.lock"
"""Of a run's folder, and the file in it that the run holds locked."""
UNFINISHED = "unfinished"
"""The version while weights are being replaced."""


class Transfer(ABC):
    """Sends weights to servers. Made, and used, by the rank that has the whole model.

    Args:
        tied: names that only repeat another weight, and are not sent.
    """

    def __init__(self, servers: Sequence[VLLMServer], tied: Collection[str]) -> None:
        self.servers = servers
        self.files: list[str] = []
        """That hold what was sent last, where the way leaves files."""
        self._tied = tied

    @abstractmethod
    def send(self, weights: CheckedWeights, version: str) -> None:
        """Every server holds them afterwards, under this version.

        Raises: RuntimeError where they are not all of the model's, before any server has changed where the way allows
            it; RunError.
        """

    def sent(self, weights: CheckedWeights) -> Iterator[tuple[str, Tensor]]:
        """What is sent of them. Raises: see :meth:`send`."""
        yield from ((name, tensor) for name, tensor in weights if name not in self._tied)
        weights.finish()

    def close(self) -> None:  # noqa: B027 -- not every way leaves something behind
        """Remove what lies about."""


class Filesystem(Transfer):
    """Through safetensors files, which stay until the next ones are written: a server that was restarted in between can
    be given them again.

    Args:
        folder: on a file system that the servers mount at the same path.
    """

    def __init__(self, servers: Sequence[VLLMServer], tied: Collection[str], folder: Path) -> None:
        super().__init__(servers, tied)
        sweep(folder)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        self._folder.chmod(0o755)  # a server may run as another user
        self._lock = FileLock(self._folder / OWNED)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
            self._lock.acquire()

    def send(self, weights: CheckedWeights, version: str) -> None:
        written: list[str] = []
        for old in self.files:
            Path(old).unlink(missing_ok=True)
        self.files = []
        for shard in shards(self.sent(weights)):
            written.append(str(self._folder / f"{version}-{len(written):05d}.safetensors"))
            write(shard, written[-1])
        self.files = written
        together(self.servers, [replacing(server, written, version) for server in self.servers])

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


def shared_memory() -> Path:
    """The folder of this machine's, or one for temporary files where it has none."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


def sweep(folder: Path) -> None:
    """Remove what runs left that were killed: as much memory as a model, where the folder is shared memory."""
    for left in folder.glob(f"{PREFIX}*/{OWNED}"):
        with contextlib.suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)


def write(shard: list[tuple[str, Tensor]], path: str) -> None:
    import torch
    from safetensors.torch import save_file

    # copies, since a file cannot have two tensors of one storage
    save_file({n: t.to("cpu", copy=True, memory_format=torch.contiguous_format) for n, t in shard}, path)
    Path(path).chmod(0o644)


def replacing(server: VLLMServer, files: Sequence[str], version: str) -> Call:
    """One update of a server's weights, from beginning to end, which may be repeated if it fails on the way."""

    async def send(client: Any) -> None:
        await server.ask(client, "pause", mode="abort", clear_cache="true")
        try:
            await server.ask(client, "update_weight_version", {"new_version": UNFINISHED})
            await begin(server, client)
            await server.ask(client, "update_weights", {"update_info": {"paths": list(files)}})
            await server.ask(client, "finish_weight_update", {"weight_version": version})
        finally:
            await server.ask(client, "resume")

    return send


async def begin(server: VLLMServer, client: Any) -> None:
    """Start an update. One that a trainer did not finish before it died is ended first: an update that vLLM cannot read
    ends it."""
    try:
        await server.ask(client, "start_weight_update")
    except Exception:
        with contextlib.suppress(Exception):
            await server.ask(client, "update_weights", {"update_info": {}})
        await server.ask(client, "start_weight_update")


def together(servers: Sequence[VLLMServer], calls: Sequence[Call], max_retries: int | None = None) -> list[Any]:
    """The answers to one call a server. Raises: RunError where one fails."""
    batches = [server.batch([call], max_retries) for server, call in zip(servers, calls, strict=True)]
    answers = send_together(batches)
    return [server.done(answer) for server, (answer,) in zip(servers, answers, strict=True)]


class NCCL(Transfer):
    """From GPU to GPU, by vLLM's own trainer side of this transfer: one group of this process and all workers of all
    servers. **Has not run yet**, since there was no GPU.

    Args:
        address: of this machine, as the servers reach it.
    """

    def __init__(self, servers: Sequence[VLLMServer], tied: Collection[str], address: str) -> None:
        super().__init__(servers, tied)
        self._address = address
        self._workers = [server.workers for server in servers]
        self._trainer: Any = None
        self._version: str | None = None
        """That the servers hold if none of them has left the group."""

    def send(self, weights: CheckedWeights, version: str) -> None:
        if self._trainer is None or any(server.version() != self._version for server in self.servers):
            self._connect()
        self._version = None
        self._each("pause", mode="abort", clear_cache="true")
        self._each("update_weight_version", {"new_version": UNFINISHED})
        together(self.servers, [partial(begin, server) for server in self.servers])
        for shard in shards(self.sent(weights)):
            self._trainer.source = _source(shard)
            self._trainer.send_weights()
        self._each("finish_weight_update", {"weight_version": version})
        self._each("resume")
        self._version = version

    def _connect(self) -> None:
        """A new group: one that a server has left cannot be used again, and whoever sends to it waits forever."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        if self._trainer is not None:
            self._trainer.shutdown()
            self._each("shutdown_weight_transfer_engine")
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        group = NCCLTrainerInitInfo(self._address, port, 1 + sum(self._workers), rank=0)
        self._trainer = NCCLTrainerWeightTransferEngine.trainer_init(group, client=self, source=_source([]))

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()

    # -- what vLLM's trainer side asks of the servers (its VLLMWeightSyncClient)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = [1 + sum(self._workers[:index]) for index in range(len(self.servers))]
        infos = [{"init_info": {**init_info, "rank_offset": offset}} for offset in offsets]
        self._each("init_weight_transfer_engine", *infos)

    def start_weight_update(self) -> None:
        """An update has several shards; it was started before the first."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._each("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """It is finished after the last."""

    def _each(self, path: str, *bodies: dict[str, Any], **query: str) -> None:
        """Without retries: what is repeated on one side only leaves the other waiting.

        Args:
            bodies: none, one for all servers, or one for each.
        """
        each = bodies if len(bodies) > 1 else [*bodies, {}][:1] * len(self.servers)
        pairs = zip(self.servers, each, strict=True)
        calls = [partial(server.ask, path=path, body=body, **query) for server, body in pairs]
        with contextlib.ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server.impatient())
            together(self.servers, calls, max_retries=0)


def transfer_by(
    way: str, folder: Path, address: str | None, servers: Sequence[VLLMServer], tied: Collection[str]
) -> Transfer:
    """The transfer that the settings of `VLLMServerEngine` ask for; what it leaves is removed when the process ends."""
    transfer: Transfer
    if way == "filesystem":
        transfer = Filesystem(servers, tied, folder)
    else:
        transfer = NCCL(servers, tied, address or os.environ.get("MASTER_ADDR") or socket.gethostname())
    atexit.register(transfer.close)
    return transfer


def _source(shard: list[tuple[str, Tensor]]) -> Any:
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class Shard(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in shard]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(shard)

    return Shard()


def shards(weights: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """In their order, at most `SHARD` bytes at a time, one tensor at least."""
    shard: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard, size = [], 0
        shard.append((name, tensor))
        size += tensor.nbytes
    if shard:
        yield shard


def ranks() -> tuple[int, int]:
    """(rank of this process, ranks of the trainer)"""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def from_rank_0(values: list[Any]) -> list[Any]:
    """Collective."""
    from torch import distributed

    distributed.broadcast_object_list(values, src=0)
    return values
