"""Whole runs on architectures that differ in training, in what they save, or in how an engine takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.architectures import save_architecture
from tests.workflow import cli

STUDENTS = {
    "gpt2": {},  # dropout
    "deepseek_v3": {"attention_dropout": 0.1},  # a buffer in its router that is saved
    "lfm2": {},  # states that are no keys and values
    "falcon_h1": {},  # logits times a constant
}


@pytest.fixture(scope="module", params=sorted(STUDENTS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds, one update each, of a student with generation settings that contradict themselves."""
    folder = tmp_path_factory.mktemp(request.param)
    path = Path(save_architecture(request.param, folder / "initial", **STUDENTS[request.param]))
    settings = {"do_sample": False, "temperature": 0.7, "eos_token_id": 1}
    (path / "generation_config.json").write_text(json.dumps(settings))
    done = cli.fit(
        folder / "run", *cli.HF, *cli.GRPO, f"--model.student={path}", "--data.epochs_per_round=1",
        "--model.weight_decay=1",  # a random student has no reward to learn from; this changes it
        "--rollout.max_tokens=24", "--benchmark.max_tokens=24",
    )  # fmt: skip
    assert "contradict themselves" in done.stderr, "said before training"
    return folder


@pytest.mark.slow
def test_what_trains_is_what_sampled(run: Path) -> None:
    rows = cli.rounds(run / "run")
    assert rows[0]["policy/kl"] < 1e-9, "the initial student is no distance from itself"
    assert all(row["policy/ratio_max"] == 1.0 for row in rows)
    assert all(row["mismatch/logprob_abs_max"] < 1e-4 for row in rows), "engine against training step"
    first = next(row for row in cli.metrics(run / "run") if "mismatch/first_sync_abs_max" in row)
    assert 0 < first["mismatch/first_sync_abs_mean"] <= first["mismatch/first_sync_abs_max"] < 1e-4


@pytest.mark.slow
def test_what_trained_is_what_is_saved(run: Path) -> None:
    exported = AutoModelForCausalLM.from_pretrained(run / "run" / "student", dtype=torch.float32).eval()
    initial = AutoModelForCausalLM.from_pretrained(run / "initial", dtype=torch.float32).eval()
    checkpoint = torch.load(run / "run" / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    own = exported.state_dict()
    assert {f"student.hf.{name}" for name in own} == set(checkpoint)
    assert all(torch.equal(value, checkpoint[f"student.hf.{name}"]) for name, value in own.items())
    ids = torch.tensor([[5, 9, 30, 12, 7]])
    assert not torch.equal(exported(ids).logits, initial(ids).logits), "it trained"
    assert json.loads((run / "run" / "student" / "generation_config.json").read_text())["temperature"] == 0.7
    AutoTokenizer.from_pretrained(run / "run" / "student")


WRONG = "--engine.class_path=tests.workflow.wrong_engine."


def refused(folder: Path, *args: str, command: str = "fit") -> str:
    """What a run says that stops before anything was sampled."""
    settings = [*cli.SMALL, *cli.GRPO, f"--trainer.default_root_dir={folder}"]
    done = cli.run(command, "--config=configs/quickstart.yaml", *settings, *args)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("transcripts/*"))
    return next(line for line in done.stderr.splitlines() if "engine" in line)


def test_an_engine_that_answers_otherwise_stops_the_run(tmp_path: Path) -> None:
    said = refused(tmp_path, f"{WRONG}KeepsItsHead")
    assert "does not answer as the student does" in said
    assert "Qwen2ForCausalLM differ by up to" in said
    assert "nats" in said
    assert "hf engine" in said


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test"])
def test_so_does_it_stop_an_evaluation(command: str, tmp_path: Path) -> None:
    assert "does not answer as the student does" in refused(tmp_path, f"{WRONG}KeepsItsHead", command=command)


@pytest.mark.slow
def test_so_do_two_ranks_stop(tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    assert "does not answer as the student does" in refused(tmp_path, f"{WRONG}KeepsItsHead", *two)


@pytest.mark.slow
def test_an_engine_that_cannot_take_the_weights_stops_the_run(tmp_path: Path) -> None:
    said = refused(tmp_path, f"{WRONG}KnowsNoHead")
    assert "cannot be given the weights of Qwen2ForCausalLM" in said
    assert "gate_up_proj" in said


@pytest.mark.slow
def test_a_resumed_run_is_compared_too(tmp_path: Path) -> None:
    cli.fit(tmp_path / "a", *cli.HF, *cli.GRPO, "--data.rounds=1")
    checkpoint = f"--ckpt_path={tmp_path}/a/checkpoints/last.ckpt"
    assert "does not answer" in refused(tmp_path / "b", f"{WRONG}KeepsItsHead", checkpoint)


@pytest.mark.slow
@pytest.mark.vllm
def test_mixtures_with_vllm() -> None:
    """Synchronised twice, into an engine that never had the weights. A process of its own: it ends with its engines."""
    from benchmarks.speed.architectures import measured

    for name, result in measured("vllm", "float32", ["mixtral", "qwen3_moe"]).items():
        assert float(result) < 1e-3, name
