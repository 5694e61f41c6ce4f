"""The NCCL way of the student's weights, which needs GPUs: what servers are asked, in which order, and that vLLM's own
classes take it. The group itself, and the broadcast, are played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import torch

from ovd_lightning.engines.local import CheckedWeights
from ovd_lightning.engines.vllm_client import VLLMServer
from ovd_lightning.engines.vllm_transfer import NCCL

pytestmark = pytest.mark.vllm


class Recorded(ThreadingHTTPServer):
    """Notes what is asked of a server, and tells the version that it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.held = "default"


class Handler(BaseHTTPRequestHandler):
    server: Recorded

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        path = self.path.partition("?")[0].removeprefix("/")
        self.server.asked.append((path, body))
        self.server.held = body.get("new_version") or body.get("weight_version") or self.server.held
        self.reply({})

    def do_GET(self) -> None:
        self.reply({"weight_version": self.server.held})

    def reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorded() -> Iterator[list[Recorded]]:
    servers = [Recorded(), Recorded()]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def test_one_group_of_the_trainer_and_all_workers(recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    opened: list[Any] = []
    sent: list[list[str]] = []

    class Group:
        def destroy(self) -> None:
            opened.append("destroyed")

    monkeypatch.setattr(nccl, "open_trainer_endpoint", lambda info: opened.append(info) or Group())
    monkeypatch.setattr(
        nccl, "packed_nccl_broadcast_producer", lambda iterator, **_: sent.append([name for name, _ in iterator])
    )
    monkeypatch.setattr("ovd_lightning.engines.vllm_transfer.SHARD", 100)
    settings = {"timeout_s": 20, "max_retries": 0, "patience_s": 0, "backoff_s": 0, "max_concurrency": 4}
    servers = [VLLMServer(f"http://127.0.0.1:{r.server_port}", "EMPTY", max_failures=1, **settings) for r in recorded]
    servers[0].workers, servers[1].workers = 2, 4
    weights = [("a", torch.zeros(3, 4)), ("tied", torch.zeros(1)), ("b", torch.zeros(20, dtype=torch.bfloat16))]
    weights += [("c", torch.zeros(30))]
    transfer = NCCL(servers, {"tied"}, "gpu-1")

    def given() -> CheckedWeights:
        return CheckedWeights("engine", iter(weights), {n: tuple(t.shape) for n, t in weights}, {"tied"})

    transfer.send(given(), "first")
    assert sent == [["a", "b"], ["c"]]
    assert (opened[0].master_address, opened[0].world_size) == ("gpu-1", 1 + 2 + 4)
    for server, offset in zip(recorded, (1, 3), strict=True):
        paths = [path for path, _ in server.asked]
        update = ["start_weight_update", "update_weights", "update_weights", "finish_weight_update", "resume"]
        assert paths == ["init_weight_transfer_engine", "pause", "update_weight_version", *update]
        init = nccl.NCCLWeightTransferInitInfo(**server.asked[0][1]["init_info"])
        assert (init.rank_offset, init.world_size, init.packed) == (offset, 7, True)
        infos = [nccl.NCCLWeightTransferUpdateInfo(**b["update_info"]) for p, b in server.asked if p == paths[4]]
        assert [info.names for info in infos] == [["a", "b"], ["c"]]
        assert infos[0].dtype_names == ["float32", "bfloat16"]
        assert infos[0].shapes == [[3, 4], [20]]
        assert server.asked[2][1] == {"new_version": "unfinished"}
        assert server.held == "first"

    transfer.send(given(), "second")
    assert len(opened) == 1, "the group goes on"
    recorded[1].held = "default"  # it was restarted
    transfer.send(given(), "third")
    assert opened[1] == "destroyed"
    assert opened[2].world_size == 7
    assert [server.held for server in recorded] == ["third", "third"]
