"""A run of which a part fails ends soon, as a whole, and with its last finished round saved."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.workflow import cli

ROUNDS = [
    "--config=configs/quickstart.yaml", "--data.rounds=3", "--data.problems_per_round=4", "--data.validation_limit=8",
    "--benchmark.every_n_rounds=0", "--benchmark.before_training=false", "--benchmark.after_training=false",
    "--checkpoint.every_n_rounds=50", "--summary.report=false",
]  # fmt: skip


def failed(folder: Path, *args: str, **env: str) -> tuple[str, float]:
    """What a run that fails in its second round says, and how long it goes on after the first; none of it is left."""
    process = cli.start("fit", *ROUNDS, f"--trainer.default_root_dir={folder}", *args, **env)
    rounds = folder / "transcripts/round-000001.jsonl.gz"
    first = folder / "transcripts/round-000000.jsonl.gz"
    assert not rounds.exists()
    while not first.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    others = psutil.Process(process.pid).children(recursive=True)
    start = time.monotonic()
    out, err = process.communicate()
    seconds = time.monotonic() - start
    assert process.returncode == 1, out[-2000:] + err[-3000:]
    left = [p for p in psutil.wait_procs(others, timeout=10)[1] if p.status() != psutil.STATUS_ZOMBIE]
    assert not left
    assert f"1 of 3 rounds are finished and saved in {folder}/checkpoints." in err
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=False)
    assert last["global_step"] > 0
    return err, seconds


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_fails_ends_all_of_them(rank: str, tmp_path: Path) -> None:
    """The other one waits for it in a collective, whose own limit is half an hour."""
    method = tmp_path / "method.yaml"
    method.write_text("class_path: tests.workflow.failing.FailingGRPO\ninit_args: {group_size: 4}\n")
    run = tmp_path / "run"
    said, seconds = failed(
        run, *cli.HF, f"--method={method}", "--trainer.devices=2", "--trainer.strategy=ddp", FAILS=rank
    )
    assert seconds < 180  # half a minute on an idle machine; without this it is half an hour
    assert "LookupError: no luck on this rank" in said
    if rank == "1":
        assert "rank 1 ended by LookupError: no luck on this rank" in said
        assert "in annotate" in (run / "rank-1.error").read_text()


@pytest.mark.slow
@pytest.mark.vllm
def test_an_engine_that_dies_ends_the_run(tmp_path: Path) -> None:
    said, seconds = failed(
        tmp_path, "--method=configs/method/grpo.yaml", "--engine=tests.workflow.failing.DyingEngine",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )  # fmt: skip
    assert seconds < 180  # half a minute on an idle machine; without this it is half an hour
    assert "error: vllm:" in said
    assert "the engine's process has ended" in said
    assert "Traceback" not in said[said.rindex("1 of 3 rounds") :]


@pytest.mark.slow
def test_an_engine_sleeps_while_the_trainer_works_and_not_within_an_evaluation(tmp_path: Path) -> None:
    cli.fit(
        tmp_path, "--engine=tests.workflow.failing.AwakeEngine", *cli.GRPO,
        "--trainer.callbacks+=tests.workflow.failing.AsleepCallback", "--data.rounds=2",
    )  # fmt: skip
    assert len(list((tmp_path / "checkpoints").glob("step-*.ckpt"))) == 2
