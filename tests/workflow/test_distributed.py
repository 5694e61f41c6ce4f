"""Two ranks on one machine, on Lightning's own strategies, against one rank on the same rounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.architectures import save_architecture
from tests.workflow import cli


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=False)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [[*cli.HF, *cli.GRPO], pytest.param([], marks=pytest.mark.vllm)],
    ids=["grpo-hf", "ovd-vllm"],
)
def test_two_ranks_train_as_one(method: list[str], tmp_path: Path) -> None:
    """Same groups, same samples, same loss denominators: the update is the same up to the order of float sums.

    With vLLM every rank has two engines in its own process, started after Lightning's process group.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    args = [*method, "--data.rounds=1"]
    cli.fit(one, *args)
    shown = cli.fit(two, *args, "--trainer.devices=2", "--trainer.strategy=ddp", "--run.progress_every_s=0.1").stdout
    assert "round 1/1 | " in shown
    assert set(re.findall(r"sampled \d+/(\d+)", shown)) <= {"16"}  # of rank 0, which is the only one that speaks
    a, b = ({(t["group"], t["sample"]): t for t in cli.transcripts(f)} for f in (one, two))
    assert len(a) == len(b) == 32  # a replacement has the key of what it replaces
    assert [a[key]["text"] for key in sorted(a)] == [b[key]["text"] for key in sorted(b)]
    x, y = weights(one), weights(two)
    assert max(float((x[n] - y[n]).abs().max()) for n in x) < 5e-5
    norms = [cli.rounds(f)[0]["policy/grad_norm"] for f in (one, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    row, other = cli.rounds(one)[0], cli.rounds(two)[0]
    for name in ("reward/student", "ovd/zero_advantage_groups", "completion/length_mean", "policy/kl", "loss"):
        assert row[name] == pytest.approx(other[name], abs=1e-5), name
    assert cli.metrics(one)[-1]["test/arithmetic/accuracy"] == cli.metrics(two)[-1]["test/arithmetic/accuracy"]


@pytest.mark.slow
def test_fsdp2_trains_as_one(tmp_path: Path) -> None:
    """Sharded over two ranks: the exported student is the one that a single rank trains, of a KL term to a sharded
    reference, whether gradients are reduced after every micro-batch or once an update."""
    from safetensors.torch import load_file

    one, two = tmp_path / "one", tmp_path / "two"
    args = [
        *cli.HF, *cli.GRPO, "--data.rounds=1", "--method.init_args.kl_coefficient=0.1",
        "--trainer.accumulate_grad_batches=4",
    ]  # fmt: skip
    sharded = [
        "--config=configs/strategy/fsdp2.yaml",
        "--trainer.devices=2",
        "--trainer.strategy.init_args.data_parallel_size=2",
    ]
    cli.fit(one, *args)
    cli.fit(two, *args, *sharded)
    norms = [cli.rounds(f)[0]["policy/grad_norm"] for f in (one, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    x, y = (load_file(f / "student/model.safetensors") for f in (one, two))
    assert x.keys() == y.keys()
    assert max(float((x[n] - y[n]).abs().max()) for n in x) < 5e-5
    once = tmp_path / "once"
    cli.fit(once, *args, *sharded, "--model.reduce_every_micro_batch=false")
    z = load_file(once / "student/model.safetensors")
    assert max(float((y[n] - z[n]).abs().max()) for n in y) < 5e-5
    resumed = tmp_path / "resumed"
    cli.fit(resumed, *args, *sharded, "--data.rounds=2", f"--ckpt_path={two}/checkpoints/last.ckpt")
    assert [row["round"] for row in cli.rounds(resumed)] == [1]


@pytest.mark.slow
def test_in_half_precision_a_sharded_student_starts_at_its_reference(tmp_path: Path) -> None:
    """FSDP2 gathers both in bfloat16, so that the KL term is none before the first update, where it would be of
    rounding with a reference in float32."""
    cli.fit(
        tmp_path, *cli.HF, *cli.GRPO, "--data.rounds=2", "--method.init_args.kl_coefficient=0.1",
        "--config=configs/strategy/fsdp2.yaml", "--trainer.devices=2", "--trainer.precision=bf16-mixed",
        "--trainer.strategy.init_args.data_parallel_size=2", "--trainer.accumulate_grad_batches=2",
        "--data.mini_batches=1", "--data.epochs_per_round=1",
    )  # fmt: skip
    first, second = cli.rounds(tmp_path)
    assert first["policy/kl"] == 0
    assert second["policy/kl"] > 0
    assert first["policy/grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.vllm
def test_ranks_that_share_an_engine_train_as_one(tmp_path: Path) -> None:
    """Sharded for training by FSDP2 and for sampling by vLLM's tensor parallelism. 7 and 6 problems of an evaluation in
    batches of 2 are 4 and 3 calls of the engine."""
    from safetensors.torch import load_file

    student = save_architecture("qwen2", tmp_path / "student")
    one, two = tmp_path / "one", tmp_path / "two"
    args = [
        *cli.GRPO, f"--model.student={student}", "--data.rounds=2", "--rollout.max_tokens=24",
        "--benchmark.max_tokens=24", "--data.eval_batch_size=2", "--data.test_limit=13",
    ]  # fmt: skip
    cli.fit(one, *args)
    cli.fit(
        two, *args, "--engine.init_args.tensor_parallel_size=2", "--config=configs/strategy/fsdp2.yaml",
        "--trainer.devices=2", "--trainer.strategy.init_args.data_parallel_size=2",
    )  # fmt: skip
    a, b = ({(t["round"], t["group"], t["sample"]): t["text"] for t in cli.transcripts(f)} for f in (one, two))
    assert len(a) == 64
    assert a == b
    x, y = (load_file(f / "student/model.safetensors") for f in (one, two))
    assert max(float((x[n] - y[n]).abs().max()) for n in x) < 2e-4
    assert cli.metrics(one)[-1]["test/arithmetic/accuracy"] == cli.metrics(two)[-1]["test/arithmetic/accuracy"]
    assert all(row["mismatch/logprob_abs_max"] < 1e-3 for row in cli.rounds(two))
