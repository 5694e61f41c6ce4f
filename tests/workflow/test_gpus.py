"""Which GPU each rank's engine takes, by vLLM's own configuration, on GPUs that are only said to be there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chat_model import save_chat_model
from tests.workflow import cli
from tests.workflow.test_math import write_data

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """configs/math.yaml with a tiny student and problems on the disk; nothing else of it is changed."""
    folder = tmp_path_factory.mktemp("math")
    write_data(folder)
    student = save_chat_model(folder / "student", seed=0, positions=8192)
    data = {
        "data": folder / "train.jsonl", "split": "train", "question_field": "question", "answers_field": "answers",
        "id_field": "null", "exclude": "null",
    }  # fmt: skip
    return [
        "--config=configs/math.yaml", "--method=configs/method/grpo.yaml", f"--model.student={student}",
        f"--data.benchmarks.init_args.folder={folder}", "--run.wandb=disabled", "--benchmark.rejection=null",
        *(f"--task.init_args.{name}={value}" for name, value in data.items()),
    ]  # fmt: skip


def ranks(folder: Path, *args: str, **env: str) -> dict[int, dict[str, Any]]:
    """What every rank of a ``fit`` wrote."""
    found = folder / "found"
    found.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflow.four_gpus", "fit", f"--trainer.default_root_dir={folder}/run", *args],
        cwd=cli.ROOT, env=cli.environment(FOUND=str(found), VLLM_CACHE_ROOT=str(folder / "cache"), **env),
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {int(file.stem): json.loads(file.read_text()) for file in found.iterdir()}


def test_four_ranks_have_four_engines_on_four_gpus(local: list[str], tmp_path: Path) -> None:
    found = ranks(tmp_path, *local, "--trainer.devices=4", "--trainer.accumulate_grad_batches=64")
    assert sorted(found) == [0, 1, 2, 3]
    for rank, of in found.items():
        assert (of["assigned"], of["visible"], of["current"]) == ([rank], rank, rank)
        assert of["root_device"] == f"cuda:{rank}"
        assert of["precision"] == "highest"
        assert of["sleep"] is True
        assert of["dtype"] == "torch.bfloat16"
    folders = [found[rank]["cache"] for rank in range(4)]
    assert folders == [f"{tmp_path}/cache", *(f"{tmp_path}/cache/rank-{rank}" for rank in (1, 2, 3))]


def test_ranks_that_share_an_engine_are_each_on_their_own_gpu(local: list[str], tmp_path: Path) -> None:
    found = ranks(
        tmp_path, *local, "--trainer.devices=4", "--trainer.accumulate_grad_batches=64",
        "--engine.init_args.tensor_parallel_size=2",
    )  # fmt: skip
    assert sorted(found) == [0, 1, 2, 3]
    for rank, of in found.items():
        assert (of["rank"], of["visible"], of["current"], of["parts"]) == (rank, rank, rank, 2)
        assert of["sleep"] is True


def test_one_rank_on_the_fourth_of_the_visible_gpus(local: list[str], tmp_path: Path) -> None:
    (found,) = ranks(tmp_path, *local, "--trainer.devices=[3]", CUDA_VISIBLE_DEVICES="4,6,5,7").values()
    assert (found["assigned"], found["visible"], found["current"]) == ([7], 3, 3)
    assert found["cache"] == f"{tmp_path}/cache"
