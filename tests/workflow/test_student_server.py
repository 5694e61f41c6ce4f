"""A run whose student is sampled on vLLM's own server, started by the command that the documents give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import serve_student
from tests.workflow import cli

FSDP2 = ["--config=configs/strategy/fsdp2.yaml", "--trainer.strategy.init_args.data_parallel_size=2"]

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Settings of a run that samples there."""
    with serve_student("ovd_lightning/assets/student", tmp_path_factory.mktemp("served") / "log") as url:
        yield ["--engine=configs/engine/vllm_server.yaml", f"--engine.init_args.base_urls=[{url}]"]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_process")
    cli.fit(folder)
    return folder


@pytest.mark.parametrize(
    "ranks",
    [[], ["--trainer.strategy=ddp", "--trainer.devices=2"], [*FSDP2, "--trainer.devices=2"]],
    ids=["one rank", "ddp", "fsdp2"],
)
def test_it_trains_as_the_engine_in_process(
    ranks: list[str], served: list[str], in_process: Path, tmp_path: Path
) -> None:
    """Same tokens in every round, so the weights that arrive there are those of the trainer, sharded or not."""
    cli.fit(tmp_path, *served, *ranks)
    here, there = (sorted(cli.transcripts(folder), key=place) for folder in (in_process, tmp_path))
    assert [y["text"] for y in here] == [y["text"] for y in there]
    a, b = cli.rounds(in_process), cli.rounds(tmp_path)
    assert [row["round"] for row in b] == [0, 1, 2]
    for x, y in zip(a, b, strict=True):
        assert y["mismatch/logprob_abs_max"] < 1e-3
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-4)
        assert x["reward/student"] == y["reward/student"]


def place(y: dict[str, object]) -> tuple[object, ...]:
    return y["round"], y["group"], y["sample"], y["source"]
