"""Numbers, files and tables of an evaluation."""

from __future__ import annotations

import csv
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ovd_lightning.evaluation.answering import Decoding
from ovd_lightning.evaluation.names import accuracies, label
from ovd_lightning.evaluation.results import BenchmarkResult, Evaluation, Score, caption, columns, lines, render
from ovd_lightning.evaluation.running import Tally
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Task

TABLE_4 = ["SVAMP", "ASDiv", "MAWPS", "TABMWP", "Minerva", "OlympiadBench", "SAT-Math", "MMLU", "Gaokao", "AIME24"]
SETTINGS: dict[str, Any] = {
    "greedy": True, "samples": 0, "temperature": None, "top_p": None, "max_tokens": 3072, "chat": True, "seed": 0,
    "rejection": None, "model": "a/student", "checkpoint": "runs/x/last.ckpt", "updates": 800, "weights": "w",
    "engine": "hf:a/student",
}  # fmt: skip


def benchmark(title: str, accuracy: float, n: int = 30, **fields: Any) -> BenchmarkResult:
    error = math.sqrt(accuracy * (1 - accuracy) / (n - 1))
    scores = {"accuracy": Score(accuracy, error), "truncated_fraction": Score(0.1, 0.01)}
    return BenchmarkResult(**{
        "name": title.lower(), "title": title, "problems": n, "answered": n, "reused": 0, "generated": n,
        "timeouts": 0, "grading": "qwen", "tells_answer": False, "rejection": {}, "scores": scores, **fields,
    })  # fmt: skip


def evaluation(benchmarks: list[BenchmarkResult], **fields: Any) -> Evaluation:
    given = {"split": "test", "step": 800, "settings": SETTINGS, "benchmarks": benchmarks, "seconds": 1.0}
    return Evaluation(**{**given, **fields})


def printed(of: Evaluation, width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(render(of, console))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture
def ten() -> Evaluation:
    accuracies = (0.758, 0.730, 0.797, 0.732, 0.188, 0.316, 0.906, 0.502, 0.429, 0.167)
    return evaluation([benchmark(t, a) for t, a in zip(TABLE_4, accuracies, strict=True)])


# --- from answers to numbers ------------------------------------------------------------------------------------


def line(correct: bool, truncated: bool = False, timed_out: bool = False, **fields: Any) -> dict[str, Any]:
    return {"correct": correct, "truncated": truncated, "timed_out": timed_out, "metrics": {}, **fields}


def tally(decoding: Decoding, task: Task | None = None, rejection: bool = False) -> Tally:
    return Tally(torch.device("cpu"), decoding, {"a": task or ArithmeticTask()}, rejection)


def decoding(greedy: bool, samples: int) -> Decoding:
    return Decoding(greedy=greedy, samples=samples, max_tokens=8, temperature=1.0, top_p=1.0, chat=False, seed=0)


def test_greedy_and_sampled_answers_are_counted_apart() -> None:
    running = tally(decoding(True, 4))
    yes, no = line(True), line(False)
    running.add("a", [[yes, yes, no, no, no], [no, no, no, no, line(False, truncated=True)]], reused=3, generated=7)
    running.add("a", [[line(False, truncated=True, timed_out=True), yes, yes, yes, yes]], reused=0, generated=5)
    (result,) = running.compute({"a": 3})
    values = {kind: score.value for kind, score in result.scores.items()}
    assert values == pytest.approx({
        "accuracy": 1 / 3, "truncated_fraction": 1 / 3,
        "sampled_accuracy": 5 / 12, "avg@4": 5 / 12, "sampled_truncated_fraction": 1 / 12,
        "pass@1": 5 / 12, "pass@2": (1 - 3 / 6 + 0 + 1) / 3, "pass@4": 2 / 3,
    })  # fmt: skip
    assert (result.answered, result.reused, result.generated, result.timeouts) == (3, 3, 12, 1)
    # avg@4 of the three problems: 1/4, 0, 1.
    assert result.scores["avg@4"].error == pytest.approx(torch.tensor([0.25, 0, 1]).std().item() / math.sqrt(3))


def test_without_greedy_answers_there_is_no_greedy_accuracy() -> None:
    running = tally(decoding(False, 2))
    running.add("a", [[line(True), line(False)]], 0, 2)
    (result,) = running.compute({"a": 1})
    assert "accuracy" not in result.scores
    assert result.scores["avg@2"].value == 0.5
    assert result.answered == 1


def test_a_tasks_further_metrics_and_the_teachers_shares_are_averaged() -> None:
    class Soft(ArithmeticTask):
        metrics = ("f1",)
        title = "Soft"
        tells_answer = True

    running = tally(decoding(True, 1), Soft(), rejection=True)
    shares = {"teacher_step_share": 0.5, "teacher_token_share": 0.25, "wasted_tokens": 7}
    first = line(True, metrics={"f1": 0.5}, **shares)
    running.add("a", [[first, line(False, metrics={"f1": 0.2})], [line(False, metrics={"f1": 1.0}), first]], 0, 4)
    (result,) = running.compute({"a": 2})
    assert result.scores["f1"].value == pytest.approx(0.75)
    assert result.scores["sampled_f1"].value == pytest.approx(0.35)
    assert result.scores["teacher_step_share"].value == pytest.approx(0.25)
    assert result.scores["teacher_token_share"].value == pytest.approx(0.125)
    assert result.rejection["wasted_tokens"] == 14
    assert (result.title, result.tells_answer) == ("Soft", True)


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_row_has_a_column_a_benchmark_in_order_and_the_unweighted_average(ten: Evaluation) -> None:
    assert columns(ten) == ["", *TABLE_4, "Avg."]
    row = lines(ten)[0]
    assert row.label == "greedy accuracy"
    assert [f"{cell:.1f}" for cell in row.values() if cell is not None] == (
        "75.8 73.0 79.7 73.2 18.8 31.6 90.6 50.2 42.9 16.7 55.2".split()  # the mean of the ten before
    )
    assert lines(ten)[-1].cells == [30.0] * 10
    text = printed(ten, 160)
    assert max(map(len, text.splitlines())) > 80
    heads = next(line for line in text.splitlines() if "SVAMP" in line)
    assert all(title in heads for title in [*TABLE_4, "Avg."])


def test_a_narrow_console_gets_a_row_a_benchmark(ten: Evaluation) -> None:
    text = printed(ten, 120)
    assert "75.8" in next(line for line in text.splitlines() if "SVAMP" in line)
    assert all(any(title in line for line in text.splitlines()) for title in TABLE_4)
    assert "…" not in text


def test_the_caption_says_how(ten: Evaluation) -> None:
    said = caption(ten)
    for words in ("Greedy", "at most 3072 tokens", "chat template", "grading qwen", "unweighted",
                  "runs/x/last.ckpt after 800 updates"):  # fmt: skip
        assert words in said
    sampled = {**SETTINGS, "greedy": False, "samples": 8, "temperature": 0.6, "top_p": 0.95}
    rejection = {"threshold": 7.0, "score_reading": "sample", "teacher": {"judge": {"engine": "vllm:t"}}}
    short = evaluation(
        [benchmark("A", 0.5, answered=7), benchmark("B", 0.5, tells_answer=True)],
        settings={**sampled, "rejection": rejection},
    )
    said = caption(short)
    for words in ("8 samples a problem at temperature 0.6, top-p 0.95", "testing rejection under 7 (sample) by vllm:t",
                  "told the answers", "7 of 30 A"):  # fmt: skip
        assert words in said
    assert columns(short) == ["", "A", "B*", "Avg."]


def test_averages_are_of_what_every_benchmark_has() -> None:
    web = benchmark("NQ", 0.2)
    web.scores["f1"] = Score(0.3, 0.02)
    both = evaluation([web, benchmark("SVAMP", 0.6)])
    assert set(both.averages()) == {"accuracy", "truncated_fraction"}
    assert both.averages()["accuracy"].value == pytest.approx(0.4)
    values = both.values("test")
    assert values["test/average/accuracy"] == pytest.approx(0.4)
    assert values["test/nq/f1"] == 0.3
    assert values["test/svamp/timeouts"] == 0
    assert not any("average" in name for name in evaluation([web]).values("test"))
    (f1,) = (row for row in lines(both) if row.label == "f1")
    assert f1.values() == [pytest.approx(30.0), None, None]


# --- files --------------------------------------------------------------------------------------------------------


def test_json_and_csv_hold_the_numbers_with_errors_and_settings(ten: Evaluation, tmp_path: Path) -> None:
    path = ten.save(tmp_path / "evaluations")
    assert path.name == "test-000800.json"
    saved = json.loads(path.read_text())
    assert saved["settings"] == SETTINGS
    assert list(saved["benchmarks"]) == [title.lower() for title in TABLE_4]
    assert saved["benchmarks"]["aime24"]["scores"]["accuracy"]["value"] == 0.167
    assert saved["benchmarks"]["aime24"]["scores"]["accuracy"]["standard_error"] == pytest.approx(0.0693, abs=1e-4)
    assert saved["average"]["accuracy"]["value"] == pytest.approx(0.5525)
    assert saved["table"]["columns"] == ["", *TABLE_4, "Avg."]
    assert all(len(row) == 12 for row in saved["table"]["rows"])
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["benchmark"] for row in rows] == [*(title.lower() for title in TABLE_4), "average"]
    assert float(rows[-1]["accuracy"]) == pytest.approx(0.5525)
    assert rows[0]["grading"] == "qwen"


def test_what_is_undefined_is_null(tmp_path: Path) -> None:
    one = benchmark("A", 1.0, scores={"accuracy": Score(1.0, math.nan)})
    path = evaluation([one]).save(tmp_path)
    text = path.read_text()
    assert "NaN" not in text
    assert json.loads(text)["benchmarks"]["a"]["scores"]["accuracy"]["standard_error"] is None


def test_a_table_of_other_weights_is_kept_and_the_same_is_replaced(ten: Evaluation, tmp_path: Path) -> None:
    def weights(path: Path) -> str:
        return json.loads(path.read_text())["settings"]["weights"]

    for name in ("w", "w", "v", "u"):
        path = evaluation(ten.benchmarks, settings={**SETTINGS, "weights": name}).save(tmp_path)
    assert weights(path) == "u"
    assert [weights(tmp_path / f"test-000800-{n}.json") for n in (1, 2)] == ["w", "v"]
    assert len(list(tmp_path.glob("*.csv"))) == 3
    assert len(list(tmp_path.iterdir())) == 6


# --- a run's own tables -------------------------------------------------------------------------------------------


def test_of_many_benchmarks_a_run_shows_the_average(ten: Evaluation) -> None:
    values = ten.values("test") | {"eval/math500/accuracy": 0.5, "eval/math500/truncated_fraction": 0.1}
    assert accuracies(values) == ["eval/math500/accuracy", "test/average/accuracy"]
    three = evaluation(ten.benchmarks[:3]).values("test")
    assert accuracies(three) == [f"test/{name}/accuracy" for name in ("asdiv", "average", "mawps", "svamp")]


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("test/arithmetic/accuracy", "arithmetic, test, greedy accuracy"),
        ("eval/arithmetic/sampled_accuracy", "arithmetic, validation, sampled accuracy"),
        ("test/average/accuracy", "average over benchmarks, test, greedy accuracy"),
        ("eval/svamp/avg@8", "svamp, validation, avg@8"),
        ("test/svamp/pass@8", "svamp, test, pass@8"),
        ("test/nq/f1", "nq, test, f1"),
        ("test/nq/teacher_token_share", "nq, test, teacher's tokens"),
    ],
)
def test_every_metric_has_a_label(metric: str, text: str) -> None:
    assert label(metric) == text


def test_the_runs_page_shows_evaluations_by_step_and_the_last_in_full(ten: Evaluation, tmp_path: Path) -> None:
    from ovd_lightning.report import write_report
    from ovd_lightning.report.figures import figures
    from ovd_lightning.report.page import evaluation_tables, tiles
    from ovd_lightning.report.read import read_run

    folder = tmp_path / "evaluations"
    hostile = benchmark("<script>alert(1)</script>", 0.5)
    for step, benchmarks in ((0, ten.benchmarks), (300, ten.benchmarks), (20, [hostile]), (800, ten.benchmarks)):
        evaluation(benchmarks, step=step).save(folder)
    evaluation([hostile], split="validation", step=800).save(folder)
    evaluation([benchmark("A", 0.1)], step=300, settings={**SETTINGS, "weights": "v"}).save(folder)  # sets one aside
    (folder / "test-000900.json").write_text('{"split": "te')  # being written
    run = read_run(tmp_path)
    validation, test = evaluation_tables(run)
    assert test["columns"] == [*TABLE_4, "Avg."]
    assert [step for step, _ in test["steps"]] == [0, 800]  # those of the same benchmarks
    assert test["steps"][-1][1][0] == "75.8"
    assert test["last"][0] == ("greedy accuracy", test["steps"][-1][1])
    assert test["last"][-1] == ("problems", ["30"] * 10 + [""])
    assert validation["columns"] == ["<script>alert(1)</script>"]
    values = {**ten.values("test"), "eval/a/accuracy": 0.5, "eval/a/timeouts": 3.0, "eval/a/f1": 0.5}
    (tmp_path / "metrics.csv").write_text(
        "step," + ",".join(values) + "\n800," + ",".join(str(v) for v in values.values()) + "\n"
    )
    run = read_run(tmp_path)
    drawn = {figure["id"]: figure["figure"]["data"] for figure in figures(run) if figure["figure"]}
    assert [curve["name"] for curve in drawn["test"]] == ["accuracy"]  # of ten benchmarks, the average
    assert [curve["name"] for curve in drawn["accuracy"]] == ["accuracy"]
    assert [tile["label"] for tile in tiles(run)] == [
        "average over benchmarks, test, accuracy",
        "a, validation, accuracy",
    ]
    page = write_report(tmp_path).read_text()
    assert "OlympiadBench" in page
    assert "unweighted mean" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
