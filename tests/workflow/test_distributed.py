"""Two ranks on one machine, on Lightning's own strategies, against one rank on the same rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.workflow import cli


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=False)["state_dict"]


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Same groups, same samples, same loss denominators: the update is the same up to the order of float sums."""
    one, two = tmp_path / "one", tmp_path / "two"
    args = [*cli.HF, *cli.GRPO, "--data.rounds=1"]
    cli.fit(one, *args)
    cli.fit(two, *args, "--trainer.devices=2", "--trainer.strategy=ddp")
    a, b = ({(t["group"], t["sample"]): t for t in cli.transcripts(f)} for f in (one, two))
    assert len(a) == len(b) == 32
    assert [a[key]["text"] for key in sorted(a)] == [b[key]["text"] for key in sorted(b)]
    x, y = weights(one), weights(two)
    assert max(float((x[n] - y[n]).abs().max()) for n in x) < 5e-5
    row, other = cli.rounds(one)[0], cli.rounds(two)[0]
    for name in ("reward/student", "ovd/zero_advantage_groups", "completion/length_mean", "policy/kl", "loss"):
        assert row[name] == pytest.approx(other[name], abs=1e-5), name
    assert cli.metrics(one)[-1]["test/arithmetic/accuracy"] == cli.metrics(two)[-1]["test/arithmetic/accuracy"]
