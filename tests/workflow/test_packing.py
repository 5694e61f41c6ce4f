"""A run whose rows are packed, against one whose rows are padded."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.workflow import cli


@pytest.mark.slow
def test_packed_runs_are_those_of_padded_rows(tmp_path: Path) -> None:
    """Two rounds with a KL term to a reference: the metrics of both and the exported student, on one rank with
    micro-batches in pieces, and on two with DDP and with FSDP2. AdamW makes much of the rounding of small gradients."""
    args = [
        *cli.HF, *cli.GRPO, "--data.rounds=2", "--method.init_args.kl_coefficient=0.1",
        "--trainer.accumulate_grad_batches=4",
    ]  # fmt: skip
    padded = tmp_path / "padded"
    cli.fit(padded, *args)
    rows, weights = cli.rounds(padded), load_file(padded / "student/model.safetensors")
    assert all(row["throughput/padding"] > 1 for row in rows)
    sharded = ["--config=configs/strategy/fsdp2.yaml", "--trainer.strategy.init_args.data_parallel_size=2"]
    for name, more in {
        "pieces": ["--model.micro_batch_tokens=40"],
        "ddp": ["--trainer.strategy=ddp", "--trainer.devices=2"],
        "fsdp2": [*sharded, "--trainer.devices=2"],
    }.items():
        cli.fit(tmp_path / name, *args, *more, "--model.packing=true")
        for row, expected in zip(cli.rounds(tmp_path / name), rows, strict=True):
            assert row["throughput/padding"] == 1
            assert cli.timeless(row) == pytest.approx(cli.timeless(expected), rel=1e-3, abs=1e-4), name
        found = load_file(tmp_path / name / "student/model.safetensors")
        assert max(float((found[n] - weights[n]).abs().max()) for n in weights) < 2e-4, name
