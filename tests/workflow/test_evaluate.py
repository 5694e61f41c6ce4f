"""validate, test and predict: denominators, sampled decoding, tables, and interrupted evaluations that go on."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflow import cli
from tests.workflow.wandb_file import records

LIMITS = ["--data.validation_limit=7", "--data.test_limit=5", "--data.eval_batch_size=3"]
QUICKSTART = ["--config=configs/quickstart.yaml", *cli.HF, *cli.GRPO]
TASK = "ovd_lightning.tasks.arithmetic.ArithmeticTask"
TWO = f"""
data:
  benchmarks:
    short: {{class_path: {TASK}, init_args: {{operations: [2, 2]}}}}
    long: {{class_path: {TASK}, init_args: {{operations: [3, 3]}}}}
"""
TEACHER = [
    *cli.HF,
    "--method.init_args.teacher.init_args.engine=configs/engine/hf.yaml",
    "--method.init_args.teacher.init_args.engine.init_args.model=ovd_lightning/assets/teacher",
]


def answers(folder: Path, stem: str) -> list[dict[str, Any]]:
    """Of all ranks."""
    paths = sorted((folder / "evaluations").glob(f"{stem}*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def table(folder: Path, stem: str) -> dict[str, Any]:
    return json.loads((folder / "evaluations" / f"{stem}.json").read_text())


def share(rows: list[dict[str, Any]], **fields: Any) -> float:
    chosen = [row["correct"] for row in rows if all(row[name] == value for name, value in fields.items())]
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize(("verb", "split", "count"), [("validate", "validation", 7), ("predict", "predict", 5)])
def test_every_problem_is_answered_once(verb: str, split: str, count: int, tmp_path: Path) -> None:
    args = [*QUICKSTART, *LIMITS, "--benchmark.samples=2", f"--trainer.default_root_dir={tmp_path}"]
    done = cli.run(verb, *args)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = answers(tmp_path, f"{split}-000000")
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    assert len({row["id"] for row in greedy}) == len(greedy) == count
    assert len(rows) == 3 * count
    if verb == "validate":
        last = cli.metrics(tmp_path)[-1]
        assert last["eval/arithmetic/accuracy"] == pytest.approx(share(greedy))
        sampled = share(rows, decoding="sample")
        for name in ("sampled_accuracy", "avg@2", "pass@1"):
            assert last[f"eval/arithmetic/{name}"] == pytest.approx(sampled)
        solved = {row["id"] for row in rows if row["decoding"] == "sample" and row["correct"]}
        assert last["eval/arithmetic/pass@2"] == pytest.approx(len(solved) / count)
        assert last["time/eval"] > 0
        assert "greedy accuracy" in done.stdout
        assert "pass@2" in done.stdout


def test_several_benchmarks_end_in_a_row_with_their_average_everywhere(tmp_path: Path) -> None:
    """Printed, JSON, CSV, metrics, W&B; the numbers are those of the answers."""
    overlay = tmp_path / "two.yaml"
    overlay.write_text(TWO)
    args = [*QUICKSTART, f"--config={overlay}", "--data.test_limit=9", "--benchmark.wandb_rows=4"]
    done = cli.run("test", *args, "--benchmark.samples=0", f"--trainer.default_root_dir={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    rows, saved = answers(tmp_path, "test-000000"), table(tmp_path, "test-000000")
    assert Counter(row["benchmark"] for row in rows) == {"short": 9, "long": 9}
    expected = {name: share(rows, benchmark=name) for name in ("short", "long")}
    average = sum(expected.values()) / 2
    assert saved["table"]["columns"] == ["", "short", "long", "Avg."]
    assert saved["table"]["rows"][0] == [
        "greedy accuracy",
        *(pytest.approx(100 * v) for v in (*expected.values(), average)),
    ]
    assert saved["settings"]["model"] == "ovd_lightning/assets/student"
    assert [saved["settings"][name] for name in ("checkpoint", "greedy", "samples")] == [None, True, 0]
    with (tmp_path / "evaluations/test-000000.csv").open() as file:
        lines = {line["benchmark"]: line for line in csv.DictReader(file)}
    assert float(lines["average"]["accuracy"]) == pytest.approx(average, abs=1e-6)
    last = cli.metrics(tmp_path)[-1]
    assert last["test/short/accuracy"] == pytest.approx(expected["short"])
    assert last["test/average/accuracy"] == pytest.approx(average)
    assert f"{100 * average:.1f}" in next(line for line in done.stdout.splitlines() if "greedy accuracy" in line)
    assert "Test metric" not in done.stdout  # Lightning's own table
    assert "8 of 18 answers" in done.stderr  # the cap of W&B's table is said
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = {item.key or "/".join(item.nested_key) for record in records(path) for item in record.history.item}
    assert any(name.startswith("test/table") for name in logged)
    media = {p.name.split("_")[0]: json.loads(p.read_text()) for p in path.parent.rglob("*.table.json")}
    assert media["table"]["columns"] == ["", "short", "long", "Avg."]
    assert media["table"]["data"][0][1:] == pytest.approx([100 * v for v in (*expected.values(), average)])
    shown = [dict(zip(media["answers"]["columns"], line, strict=True)) for line in media["answers"]["data"]]
    assert Counter(line["benchmark"] for line in shown) == {"short": 4, "long": 4}
    by_id = {(row["benchmark"], row["id"]): row for row in rows}
    for line in shown:
        row = by_id[line["benchmark"], line["id"]]
        assert (line["response"], line["correct"]) == (row["response"], row["correct"])


def test_testing_rejection_reports_the_teachers_share(tmp_path: Path) -> None:
    args = ["--config=configs/quickstart.yaml", *TEACHER, "--data.test_limit=12", "--benchmark.samples=0"]
    done = cli.run("test", *args, "--benchmark.rejection.threshold=7", f"--trainer.default_root_dir={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "teacher's steps" in done.stdout
    assert "testing rejection under 7 (argmax) by hf:" in done.stdout
    last, rows = cli.metrics(tmp_path)[-1], answers(tmp_path, "test-000000")
    steps = [sum(s["source"] == "teacher" for s in row["steps"]) / len(row["steps"]) for row in rows]
    assert 0 < sum(steps) < 12
    assert last["test/arithmetic/teacher_step_share"] == pytest.approx(sum(steps) / 12)
    tokens = [sum(s["tokens"] for s in row["steps"] if s["source"] == "teacher") / row["tokens"] for row in rows]
    assert last["test/arithmetic/teacher_token_share"] == pytest.approx(sum(tokens) / 12)
    saved = table(tmp_path, "test-000000")
    assert saved["settings"]["rejection"]["threshold"] == 7
    assert saved["benchmarks"]["arithmetic"]["rejection"]["wasted_tokens"] > 0


# --- interrupted ------------------------------------------------------------------------------------------------


def interrupt(folder: Path, args: list[str], stop: Callable[[cli.Process], None], lines: int) -> str:
    """Run until ``lines`` answers are on the disk, then stop; what was printed to stderr."""
    process = cli.start(*args, stdout=subprocess.DEVNULL)
    try:
        while len(answers_so_far(folder)) < lines:
            assert process.poll() is None, "the evaluation ended by itself"
            time.sleep(0.02)
        stop(process)
        _, stderr = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return stderr


def answers_so_far(folder: Path) -> list[bytes]:
    files = (folder / "evaluations").glob("*.jsonl")
    return [line for path in files for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.slow
def test_an_interrupted_evaluation_says_how_it_goes_on_and_does(tmp_path: Path) -> None:
    args = ["test", *QUICKSTART, "--data.test_limit=80", "--data.eval_batch_size=1", "--benchmark.samples=7",
            "--run.wandb=disabled", "--trainer.default_root_dir", str(tmp_path)]  # fmt: skip
    stderr = interrupt(tmp_path, args, lambda process: process.send_signal(signal.SIGINT), lines=8)
    kept = len(answers_so_far(tmp_path))
    assert 8 <= kept < 640
    assert f"{kept} answers are kept" in stderr
    command = stderr[stderr.index("python -m ovd_lightning") :].splitlines()[0]
    done = cli.run(*shlex.split(command)[3:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{kept} of 640 answers were found" in done.stderr
    result = table(tmp_path, "test-000000")["benchmarks"]["arithmetic"]
    assert (result["answered"], result["reused"], result["generated"]) == (80, kept, 640 - kept)
    rows = answers(tmp_path, "test-000000")
    assert len(rows) == len({row["key"] for row in rows}) == 640
    assert result["scores"]["accuracy"]["value"] == pytest.approx(share(rows, decoding="greedy"))


@pytest.mark.slow
def test_thirty_problems_are_thirty_answers_on_two_ranks_also_after_an_interruption(tmp_path: Path) -> None:
    """Killed on two ranks in the middle of a line, gone on with on one, repeated with the weights sharded over two:
    they are the same weights, so nothing is asked again."""
    args = ["test", *QUICKSTART, "--data.test_limit=30", "--data.eval_batch_size=1", "--benchmark.samples=7",
            "--run.wandb=disabled", f"--trainer.default_root_dir={tmp_path}"]  # fmt: skip
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    sharded = ["--config=configs/strategy/fsdp2.yaml", "--trainer.devices=2",
               "--trainer.strategy.init_args.data_parallel_size=2"]  # fmt: skip
    interrupt(tmp_path, [*args, *ranks], lambda process: os.killpg(process.pid, signal.SIGKILL), lines=60)
    files = [tmp_path / "evaluations" / f"test-000000{rank}.jsonl" for rank in ("", "-rank1")]
    assert all(file.stat().st_size for file in files)
    for file in files:
        with file.open("a") as stream:
            stream.write('{"benchmark": "arith')
    kept = len(answers_so_far(tmp_path))
    for more, reused in (([], kept), (sharded, 240)):
        done = cli.run(*args, *more)
        assert done.returncode == 0, done.stderr[-3000:]
        rows, result = answers(tmp_path, "test-000000"), table(tmp_path, "test-000000")["benchmarks"]["arithmetic"]
        assert (result["answered"], result["problems"]) == (30, 30)
        assert (result["reused"], result["generated"]) == (reused, 240 - reused)
        assert len(rows) == len({row["key"] for row in rows}) == 240
        assert set(Counter(row["id"] for row in rows).values()) == {8}
        scores = {kind: score["value"] for kind, score in result["scores"].items()}
        assert scores["accuracy"] == pytest.approx(share(rows, decoding="greedy"))
        assert scores["avg@7"] == pytest.approx(share(rows, decoding="sample"))
        solved = {row["id"] for row in rows if row["decoding"] == "sample" and row["correct"]}
        assert scores["pass@7"] == pytest.approx(len(solved) / 30)


@pytest.mark.slow
def test_a_run_evaluates_what_it_was_told_to_and_its_checkpoint_is_recognised(tmp_path: Path) -> None:
    """before_training and after_training take splits; a test of the last checkpoint knows its updates and weights."""
    fit = tmp_path / "fit"
    cli.fit(
        fit, *cli.HF, *cli.GRPO, "--data.rounds=1", "--benchmark.every_n_rounds=0", "--benchmark.samples=0",
        "--benchmark.before_training=[validation]", "--benchmark.after_training=[test]",
        f"--benchmark.folder={tmp_path}/elsewhere",
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "elsewhere").glob("*.json")) == [
        "test-000002.json",
        "validation-000000.json",
    ]
    assert not (fit / "evaluations").exists()
    rows = cli.metrics(fit)
    assert ["eval/arithmetic/accuracy" in row for row in rows].count(True) == 1
    assert ["test/arithmetic/accuracy" in row for row in rows].count(True) == 1
    during = json.loads((tmp_path / "elsewhere/test-000002.json").read_text())
    after = tmp_path / "after"
    done = cli.run(
        "test", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO, "--benchmark.samples=0",
        f"--ckpt_path={fit}/checkpoints/last.ckpt", f"--trainer.default_root_dir={after}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tested = table(after, "test-000000")
    assert tested["settings"]["updates"] == during["settings"]["updates"] == 2
    assert tested["settings"]["weights"] == during["settings"]["weights"]
    assert tested["settings"]["checkpoint"].endswith("last.ckpt")
    assert tested["benchmarks"]["arithmetic"]["scores"] == during["benchmarks"]["arithmetic"]["scores"]
    before = json.loads((tmp_path / "elsewhere/validation-000000.json").read_text())
    assert before["settings"]["weights"] != during["settings"]["weights"]
