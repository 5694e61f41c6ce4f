"""``--ckpt_path last``: a run continues in its folder as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workflow import cli
from tests.workflow.wandb_file import records

BASE = ["fit", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO, "--benchmark.after_training=[test]"]


def last(root: Path, *args: str) -> tuple[str, Path]:
    """Continue the newest run under a root; (what was printed, the one folder that is there)."""
    done = cli.run(*BASE, f"--run.root={root}", "--ckpt_path=last", *args)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder,) = (root / "quickstart").iterdir()
    return done.stdout + done.stderr, folder


def points(rows: list[dict[str, float]]) -> Counter[tuple[str, float]]:
    """How often each metric was logged at each step; the two splits of one step share the name of their time."""
    return Counter((name, row["step"]) for row in rows for name in row if name not in ("step", "time/eval"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds, never stopped."""
    root = tmp_path_factory.mktemp("whole")
    done = cli.run(*BASE, f"--run.root={root}")
    assert done.returncode == 0, done.stderr[-4000:]
    (folder,) = (root / "quickstart").iterdir()
    return folder


def killed(whole: Path, root: Path) -> Path:
    """The same run as a SIGKILL in its third round would have left it, with the checkpoint of its first round."""
    folder = root / "quickstart" / whole.name
    shutil.copytree(whole, folder, symlinks=True)
    for name in ("step-000004", "step-000006", "last"):
        (folder / f"checkpoints/{name}.ckpt").unlink()
    shutil.copy(folder / "checkpoints/step-000002.ckpt", folder / "checkpoints/last.ckpt")
    for name in ("report.html", "evaluations/test-000006.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "student")
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "finished": -1}))
    lines = (folder / "metrics.csv").read_text().splitlines()
    rounds = next(i for i, row in enumerate(cli.metrics(folder), start=1) if row.get("round") == 1)
    (folder / "metrics.csv").write_text("\n".join(lines[: rounds + 1]) + "\n0.5,0.25,")
    return folder


@pytest.fixture(scope="module")
def continued(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("continued")
    killed(whole, root)
    return last(root)


def test_a_killed_run_continues_in_its_folder(whole: Path, continued: tuple[str, Path]) -> None:
    """One metrics.csv without gaps or doubles; every number, transcript and weight is that of the run that went on."""
    text, folder = continued
    assert "after 1 of 3 rounds" in text
    # every start compares the engine with the student once
    rows, expected = ([r for r in cli.metrics(f) if "mismatch/first_sync_abs_max" not in r] for f in (folder, whole))
    assert len(cli.metrics(folder)) - len(rows) == 2
    assert [cli.timeless(row) for row in rows] == [cli.timeless(row) for row in expected]
    assert points(rows) == points(expected)
    assert set(points(rows).values()) == {1}
    assert not list(folder.glob("metrics-*.csv"))
    for index in range(3):
        name = f"transcripts/round-{index:06d}.jsonl.gz"
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    x, y = (torch.load(f / "checkpoints/last.ckpt")["state_dict"] for f in (whole, folder))
    assert all(torch.equal(x[name], y[name]) for name in x)
    assert (folder / "student/config.json").is_file()
    assert (folder / "report.html").is_file()


def test_its_table_and_page_cover_the_whole_run(whole: Path, continued: tuple[str, Path]) -> None:
    text, _ = continued
    first, final = (cli.rounds(whole)[i]["reward/student"] for i in (0, -1))
    line = next(line for line in text.splitlines() if "reward of the student" in line)
    assert [float(cell) for cell in line.split("│")[2:4]] == pytest.approx([first, final], abs=1e-3)
    assert "The time of 3 rounds" in text
    before = next(row["eval/arithmetic/accuracy"] for row in cli.metrics(whole) if "eval/arithmetic/accuracy" in row)
    line = next(line for line in text.splitlines() if line.startswith("│ arithmetic, validation, greedy accuracy"))
    assert float(line.split("│")[2].strip(" %")) == pytest.approx(100 * before, abs=0.1)


def test_what_is_repeated_is_kept_aside_and_never_mixed_in(continued: tuple[str, Path]) -> None:
    _, folder = continued
    aside = folder / "superseded-1"
    kept = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
    assert [name for name in kept if name.startswith(("metrics", "transcripts"))] == [
        "metrics.csv", "transcripts/round-000001.jsonl.gz", "transcripts/round-000002.jsonl.gz",
    ]  # fmt: skip
    assert {row["step"] for row in cli.metrics(aside)} == {4}


def test_wandb_has_one_run(continued: tuple[str, Path]) -> None:
    """Two offline files with one id, which `wandb sync` joins."""
    text, folder = continued
    paths = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    ids = [{record.run.run_id for record in records(path) if record.HasField("run")} for path in paths]
    assert len(paths) == 2
    assert ids == [{json.loads((folder / "run.json").read_text())["wandb_id"]}] * 2
    assert f"offline-run-*-{ids[0].pop()}" in text


@pytest.mark.slow
def test_the_command_line_wins_where_it_can(continued: tuple[str, Path]) -> None:
    """A finished run goes on with more rounds, other settings of optimiser and schedule, smaller micro-batches."""
    root = continued[1].parents[1]
    text, folder = last(
        root, "--data.rounds=5", "--model.learning_rate=1e-4", "--model.weight_decay=0.1", "--model.betas=[0.8,0.9]",
        "--model.lr_scheduler=linear", "--trainer.accumulate_grad_batches=2", "--run.wandb=disabled",
    )  # fmt: skip
    assert "model.learning_rate 0.0003 -> 0.0001" in text
    saved = torch.load(folder / "checkpoints/step-000008.ckpt")
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.1, (0.8, 0.9))
    assert group["initial_lr"] == 1e-4
    assert group["lr"] == pytest.approx(1e-4 * (1 - 8 / 10))  # linear over the new run's ten updates
    rows = cli.metrics(folder)
    assert [row["round"] for row in rows if "round" in row] == [0, 1, 2, 3, 4]
    assert set(points(rows).values()) == {1}
    assert torch.load(folder / "checkpoints/last.ckpt")["global_step"] == 10


def refused(root: Path, *args: str, verb: str = "fit") -> str:
    """The one line of an error; nothing was made under the root."""
    before = sorted(root.rglob("*"))
    done = cli.run(verb, *BASE[1:], f"--run.root={root}", *args)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert sorted(root.rglob("*")) == before
    return next(line for line in done.stderr.splitlines() if line.startswith("error:"))


def test_a_finished_run_says_so(whole: Path) -> None:
    error = refused(whole.parents[1], "--ckpt_path=last")
    assert error.startswith("error: data.rounds: is 3, and all of them are trained.")


def test_rounds_of_another_length_are_refused(whole: Path) -> None:
    error = refused(whole.parents[1], "--ckpt_path=last", "--data.epochs_per_round=1", "--data.rounds=6")
    assert error.startswith("error: data.epochs_per_round: is 1, and the checkpoint was trained with 2")


def test_no_run_to_continue_is_an_error(tmp_path: Path) -> None:
    assert f"there is no checkpoint in {tmp_path}/quickstart/*/checkpoints" in refused(tmp_path, "--ckpt_path=last")


def test_a_damaged_checkpoint_is_refused_and_a_whole_one_named(whole: Path, tmp_path: Path) -> None:
    """40 flipped bits, on which training would go on."""
    folder = tmp_path / "quickstart" / "x"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("step-000004", "last"):
        shutil.copy(whole / f"checkpoints/{name}.ckpt", folder / f"checkpoints/{name}.ckpt")
    path = folder / "checkpoints/last.ckpt"
    data = bytearray(path.read_bytes())
    for k in range(40):
        data[len(data) // 3 + 997 * k] ^= 1 << (k % 8)
    path.write_bytes(data)
    torch.load(path)  # does not notice
    for verb in ("fit", "test"):
        error = refused(tmp_path, "--ckpt_path=last", verb=verb)
        assert f"{path} is damaged" in error
        assert f"{folder}/checkpoints/step-000004.ckpt" in error


@pytest.mark.slow
def test_a_run_that_max_steps_ended_goes_on(tmp_path: Path) -> None:
    """It ends before its first periodic checkpoint, and is saved nevertheless."""
    done = cli.run(*BASE, f"--run.root={tmp_path}", "--trainer.max_steps=2", "--checkpoint.every_n_rounds=10")
    assert done.returncode == 0, done.stderr[-3000:]
    error = refused(tmp_path, "--ckpt_path=last", "--trainer.max_steps=2")
    assert error.startswith("error: trainer.max_steps: is 2, and the checkpoint has 2 updates behind it")
    _, folder = last(tmp_path)
    assert [row["round"] for row in cli.rounds(folder)] == [0, 1, 2]


@pytest.mark.slow
def test_two_ranks_continue_in_one_folder(whole: Path, tmp_path: Path) -> None:
    killed(whole, tmp_path)
    _, folder = last(tmp_path, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.rounds=2")
    assert [row["round"] for row in cli.rounds(folder)] == [0, 1]
    assert set(points(cli.metrics(folder)).values()) == {1}


@pytest.mark.slow
def test_an_evaluation_of_the_last_run_leaves_it_alone(whole: Path) -> None:
    """In a folder of its own; told to use the run's folder, it writes its numbers beside the run's."""
    metrics = (whole / "metrics.csv").read_bytes()
    args = [*BASE[1:], f"--run.root={whole.parents[1]}", "--ckpt_path=last", f"--trainer.default_root_dir={whole}"]
    done = cli.run("test", *args)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (whole / "metrics.csv").read_bytes() == metrics
    with (whole / "test-metrics.csv").open() as file:
        assert "test/arithmetic/accuracy" in file.readline()
    table: dict[str, Any] = json.loads((whole / "evaluations/test-000000.json").read_text())
    assert table["settings"]["checkpoint"] == f"{whole}/checkpoints/last.ckpt"
    assert table["settings"]["updates"] == 6
