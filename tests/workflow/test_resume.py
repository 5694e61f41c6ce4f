"""A run that is stopped and resumed is the run that was not; a killed one keeps what it had."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.workflow import cli

OVD_HF = [
    *cli.HF,
    "--method.init_args.teacher.init_args.engine=configs/engine/hf.yaml",
    "--method.init_args.teacher.init_args.engine.init_args.model=ovd_lightning/assets/teacher",
]


def assert_same_continuation(whole: Path, resumed: Path) -> None:
    for index in (1, 2):
        name = f"transcripts/round-{index:06d}.jsonl.gz"
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    a, b = cli.rounds(whole)[1:], cli.rounds(resumed)
    assert [cli.timeless(row) for row in a] == [cli.timeless(row) for row in b]
    x, y = (torch.load(f / "checkpoints/last.ckpt", weights_only=False) for f in (whole, resumed))
    assert x["global_step"] == y["global_step"] == 6
    assert all(torch.equal(x["state_dict"][name], y["state_dict"][name]) for name in x["state_dict"])
    moments = [s["optimizer_states"][0]["state"] for s in (x, y)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_resume_is_exact_bit_for_bit_with_the_hf_engine(tmp_path: Path) -> None:
    """Weights, optimiser state, every trajectory and every metric but the clock's, after OVD's own rounds."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    cli.fit(whole, *OVD_HF)
    cli.fit(resumed, *OVD_HF, f"--ckpt_path={whole}/checkpoints/step-000002.ckpt")
    assert_same_continuation(whole, resumed)


@pytest.mark.slow
def test_resume_is_exact_with_what_a_method_learns(tmp_path: Path) -> None:
    """GAD's discriminator and its optimiser, so that rewards are those of the run that was not stopped."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    args = ["--method=configs/method/gad.yaml", *OVD_HF, "--method.init_args.warmup=0.3"]
    cli.fit(whole, *args)
    cli.fit(resumed, *args, f"--ckpt_path={whole}/checkpoints/step-000002.ckpt")
    assert_same_continuation(whole, resumed)
    assert len({row["gad/student_value"] for row in cli.rounds(resumed)} - {0.0}) == 2
    x, y = (
        torch.load(f / "checkpoints/last.ckpt", weights_only=True)["ovd_lightning_method"]["state"]
        for f in (whole, resumed)
    )
    assert all(torch.equal(x["weights"][name], y["weights"][name]) for name in x["weights"])
    steps = [state["step"].item() for state in y["optimizer"]["state"].values()]
    assert set(steps) == {3.0}, "one a round"


@pytest.mark.vllm
@pytest.mark.slow
def test_resume_is_exact_with_vllm(tmp_path: Path) -> None:
    """vLLM in float32 on the CPU with seeded requests repeats itself, so the same holds for it there."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    cli.fit(whole)
    cli.fit(resumed, f"--ckpt_path={whole}/checkpoints/step-000002.ckpt")
    assert_same_continuation(whole, resumed)


def test_a_finished_run_goes_on_with_more_rounds(tmp_path: Path) -> None:
    """Three rounds, then two more, are five rounds: the last round is checkpointed whatever the interval."""
    whole, first, more = tmp_path / "whole", tmp_path / "first", tmp_path / "more"
    cli.fit(whole, *cli.HF, *cli.GRPO, "--data.rounds=5")
    cli.fit(first, *cli.HF, *cli.GRPO, "--data.rounds=3", "--checkpoint.every_n_rounds=2")
    cli.fit(more, *cli.HF, *cli.GRPO, "--data.rounds=5", f"--ckpt_path={first}/checkpoints/last.ckpt")
    assert [cli.timeless(r) for r in cli.rounds(whole)][3:] == [cli.timeless(r) for r in cli.rounds(more)]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_keeps_logs_transcripts_and_checkpoint_and_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "killed"
    args = [
        *cli.HF,
        *cli.GRPO,
        "--data.rounds=200",
        "--benchmark.every_n_rounds=0",
        "--benchmark.before_training=false",
    ]
    args = ["fit", "--config=configs/quickstart.yaml", *cli.SMALL, *args, f"--trainer.default_root_dir={folder}"]
    process = cli.start(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "transcripts/round-000005.jsonl.gz").exists():
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.05)
        process.send_signal(how)
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    finished = len(cli.rounds(folder))
    assert finished >= 5
    for line in cli.transcripts(folder):  # every line is whole JSON, every finished round is there
        assert line["round"] <= finished
    assert {line["round"] for line in cli.transcripts(folder)} >= set(range(finished))
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=False)
    assert checkpoint["global_step"] >= 2 * (finished - 1)
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    done = checkpoint["global_step"] // 2
    cli.fit(
        tmp_path / "on", *cli.HF, *cli.GRPO, f"--data.rounds={done + 1}", f"--ckpt_path={folder}/checkpoints/last.ckpt"
    )
    assert [int(row["round"]) for row in cli.rounds(tmp_path / "on")] == [done]


def test_a_run_goes_back_to_an_earlier_checkpoint_in_its_folder(tmp_path: Path) -> None:
    """What came after is kept aside, the numbers before are kept in place."""
    cli.fit(tmp_path, *cli.HF, *cli.GRPO)
    first = cli.rounds(tmp_path)
    cli.fit(tmp_path, *cli.HF, *cli.GRPO, f"--ckpt_path={tmp_path}/checkpoints/step-000002.ckpt")
    assert [cli.timeless(row) for row in cli.rounds(tmp_path)] == [cli.timeless(row) for row in first]
    aside = tmp_path / "superseded-1"
    assert cli.rounds(aside) == first[1:]
    assert sorted(p.name for p in (aside / "checkpoints").iterdir()) == [
        "last.ckpt", "step-000004.ckpt", "step-000006.ckpt",
    ]  # fmt: skip
    assert cli.transcripts(tmp_path)[0]["round"] == 0
