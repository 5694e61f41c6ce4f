"""Table 3's runner: every row is a configuration, differs from its neighbours where it should, and is rendered beside
what the paper prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.paper import table3
from benchmarks.paper.grid import claim, read_csv
from benchmarks.paper.table3 import FIGURE_4A, ROWS, Grid, Quickstart, Row, chosen, finished, ovd
from benchmarks.paper.table3_render import curves, draw, figure_numbers, key_of, read_paper, write_results
from ovd_lightning.tasks.web_benchmarks import TABLE_3
from tests.workflow.cli import ROOT, rounds
from tests.workflow.test_configs import flat, parse

OVERLAYS = {path.stem for path in (ROOT / "configs/web").glob("*.yaml")}
EVERY = [*ROWS, *FIGURE_4A]
SEARCH = "environment.init_args.search"


def settings(monkeypatch: pytest.MonkeyPatch, flags: Sequence[str], verb: str = "test") -> dict[str, Any]:
    """Dotted name -> value."""
    found = flat(parse(monkeypatch, *flags, verb=verb))
    return {name: value for name, value in found.items() if name != "config"}


# ------------------------------------------------------------------ rows are configurations


def test_every_row_and_every_training_has_its_overlay_and_no_overlay_is_left() -> None:
    needed = {row.name for row in EVERY if row.method != "untrained"} | {row.trained for row in EVERY if row.trained}
    assert needed | {"search_r1_bm25"} == OVERLAYS


def test_the_rows_are_the_papers() -> None:
    paper = read_paper()
    for student, count in (("qwen", 19), ("llama", 16)):
        theirs = [key for key in paper if key[0] == student]
        assert len(theirs) == count
        ours = [key_of(student, row) for row in ROWS if Grid().skipped(row, student) is None]
        assert not [key for key in theirs if key not in ours]
        assert {key[1] for key in ours if key not in paper} == {"untrained"}
    assert not [row for row in FIGURE_4A if key_of("qwen", row) in paper], "the figure alone has them"


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.name)
def test_a_row_parses_and_is_what_its_name_says(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, Grid().test_flags("qwen", row))
    train, test = "task.init_args", "data.benchmarks.init_args"
    assert found["model.student"] == "Qwen/Qwen2.5-3B"
    assert found["method.init_args.group_size"] == 5
    templates = {name: name for name in ("direct", "cot", "rag", "ra_agent", "search_o1")} | {"r1": "cot"}
    template = templates.get(row.method, "search")
    assert found[f"{train}.template"] == found[f"{test}.template"] == template
    if row.method in ("direct", "cot", "r1"):
        assert found[f"{train}.environment"] is found[f"{test}.environment"] is None
    else:
        engine = "http.HTTPSearch" if row.method in table3.RETRIEVING else "simulated.SimulatedSearch"
        documents = {"search_o1": 10}.get(row.method, 3 if row.method in table3.RETRIEVING else 5)
        for place in (train, test):
            where = table3.ENGINE.get(row.method, SEARCH)
            assert found[f"{place}.{where}.class_path"] == f"ovd_lightning.search.{engine}"
            assert found[f"{place}.environment.init_args.top_k"] == documents
            agent = row.method in ("ra_agent", "search_o1")
            assert found[f"{place}.environment.class_path"].endswith("AgenticSearchEnvironment") is agent
    assert found[f"{train}.reward"] == ("em" if row.method == "search_r1" else "f1")
    if row.method != "ovd":
        assert found["method.class_path"].endswith("GRPO")
        assert found["benchmark.rejection"] is None
        return
    model = {"": "sunhaonlp/Simulation_LLM_google_7B-V2", "14b": "sunhaonlp/Simulation_LLM_google_14B-V2"}.get(
        row.agent, "Qwen/Qwen2.5-7B-Instruct"
    )
    teacher = "method.init_args.teacher.init_args"
    assert found["method.init_args.threshold"] == row.train
    assert found["benchmark.rejection.init_args.threshold"] == row.test
    assert found["benchmark.rejection.init_args.score_reading"] == ("sample" if row.sampled else "argmax")
    assert found["benchmark.rejection.init_args.score_temperature"] == 0.7
    for place in (train, test):
        assert found[f"{place}.{SEARCH}.init_args.engine.init_args.model"] == model
        assert (found[f"{place}.{SEARCH}.init_args.prompt"] is None) is (row.agent == "prompted")
    assert found[f"{teacher}.engine.init_args.model"] == model, "searches and judges"
    assert (
        found[f"{teacher}.engine.init_args.base_url"] == found[f"{train}.{SEARCH}.init_args.engine.init_args.base_url"]
    )
    assert found[f"{teacher}.judge.init_args.scale"] == "zero_to_nine", "10 rejects everything"


def test_rows_differ_in_their_method_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    base = settings(monkeypatch, ["--config=configs/web_qa_qwen.yaml"], "fit")
    groups = {"run", "method", "benchmark"}
    for name, more in (
        ("ovd_train5", ()),
        ("zerosearch", ()),
        ("search_r1", ("task", "data")),
        ("r1", ("task", "data")),
    ):
        flags = Grid().flags("qwen", name)
        other = settings(monkeypatch, flags, "fit")
        changed = {key for key in base | other if base.get(key, 0) != other.get(key, 0)}
        assert {key.split(".")[0] for key in changed} <= groups | {*more}, name
        kept = [key for key in changed if key.startswith(("task", "data")) and "environment" not in key]
        assert {key.split(".")[-1] for key in kept} <= {"reward", "template"}, name
    for shared in ("clip", "kl_coefficient", "entropy_coefficient", "aggregation", "ratio"):
        assert other[f"method.init_args.{shared}"] == base[f"method.init_args.{shared}"]


def test_the_other_student_differs_in_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (settings(monkeypatch, [f"--config=configs/web_qa_{s}.yaml"], "fit") for s in ("qwen", "llama"))
    changed = {name: two.get(name) for name in one | two if one.get(name) != two.get(name)}
    student = "meta-llama/Llama-3.2-3B"
    assert changed == {
        "run.name": "web_qa_llama",
        "model.student": student,
        "engine.init_args.model": student,
        "rollout.chat": False,
    }


def test_the_hyperparameters_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A.6.2, by name, so that no edit of the file changes one unseen."""
    config = parse(monkeypatch, "--config=configs/web_qa_qwen.yaml")
    method, data = config.method.init_args, config.data
    assert (data.problems_per_round, data.mini_batches, data.rounds, data.eval_batch_size) == (64, 2, 203, 512)
    per_update = data.problems_per_round * method.group_size / data.mini_batches
    assert per_update / config.trainer.accumulate_grad_batches == 16, "micro-batch, over all GPUs"
    assert config.trainer.strategy.init_args.data_parallel_size == config.trainer.devices == 4
    assert (config.model.learning_rate, config.model.lr_scheduler) == (1e-6, "constant_with_warmup")
    assert config.model.warmup_fraction == 0.95
    assert (method.kl_coefficient, method.threshold, method.scoring.temperature) == (0.001, 7, 0.7)
    environment = config.task.init_args.environment.init_args
    assert (environment.max_turn_tokens, environment.max_turns, environment.top_k) == (500, 5, 5)
    assert config.engine.init_args.max_model_len == 4096 + environment.max_turn_tokens
    assert config.rollout.max_tokens == 4096
    assert config.rollout.temperature == 1.0
    assert config.task.init_args.reward == "f1"
    assert data.benchmarks.init_args.validation == ["nq_dev"]
    assert data.rounds % config.checkpoint.every_n_rounds == 0


def test_a_corpus_takes_the_place_of_a_server_where_there_is_a_real_search(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(corpus="wiki.jsonl")
    for row in (Row(method=name) for name in table3.RETRIEVING):
        found = settings(monkeypatch, grid.test_flags("qwen", row))
        where = table3.ENGINE.get(row.method, SEARCH)
        for place in ("task", "data.benchmarks"):
            assert found[f"{place}.init_args.{where}.class_path"].endswith("BM25Search")
            assert found[f"{place}.init_args.{where}.init_args.corpus"] == "wiki.jsonl"
    assert grid.flags("qwen", "zerosearch") == Grid().flags("qwen", "zerosearch")


def test_searching_rows_can_be_measured_by_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(measure_with="configs/search/http.yaml")
    found = settings(monkeypatch, grid.test_flags("qwen", ovd(5, 5)))
    assert found[f"data.benchmarks.init_args.{SEARCH}.class_path"].endswith("HTTPSearch")
    assert found[f"task.init_args.{SEARCH}.class_path"].endswith("SimulatedSearch"), "as trained"
    other = Grid(measure_with="configs/search/api.yaml")
    for name, where in table3.ENGINE.items():
        found = settings(monkeypatch, other.test_flags("qwen", Row(method=name)))
        assert found[f"data.benchmarks.init_args.{where}.class_path"].endswith("BraveSearch")
        assert found["data.benchmarks.init_args.environment.class_path"].endswith("AgenticSearchEnvironment")
    assert grid.test_flags("qwen", Row(method="direct")) == Grid().test_flags("qwen", Row(method="direct"))
    assert grid.test_name("qwen", ovd(5, 5)) != Grid().test_name("qwen", ovd(5, 5)), "both can be kept"


@pytest.mark.parametrize(
    "row",
    [*(Row(method=m) for m in ("direct", "rag", "search_o1", "search_r1")), ovd(10, 5, sampled=True)],
    ids=lambda row: row.name,
)
def test_a_row_of_the_quickstart_parses(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, Quickstart().test_flags("small", row))
    assert found["method.class_path"].endswith("OVD" if row.method == "ovd" else "GRPO")
    if row.method == "ovd":
        assert (found["method.init_args.threshold"], found["benchmark.rejection.init_args.threshold"]) == (
            row.train, row.test,
        )  # fmt: skip
    else:
        assert found["benchmark.rejection"] is None
    assert (found.get("task.init_args.environment", 1) is None) is (row.method == "direct")
    assert ("{documents}" in found["task.init_args.template"]) is (row.method == "rag")
    search = "" if row.method == "direct" else found["task.init_args.environment.init_args.search.class_path"]
    assert search.endswith("ReasonInDocuments") is (row.method == "search_o1")
    if row.method == "search_o1":
        asked = yaml.safe_load((ROOT / "benchmarks/paper/table3_search_o1.yaml").read_text())
        assert {**found, **flat(asked)} == found
        assert found["task.init_args.environment.init_args.observation_prefix"] == "\n<information>", "as before"


def test_trainings_are_shared_between_testing_thresholds() -> None:
    trained = {row.trained for row in ROWS}
    assert trained == {None, "r1", "search_r1", "zerosearch", "ovd_train5", "ovd_train10", "ovd_train10_14b"}
    assert {row.method for row in ROWS if row.trained is None} == {*table3.UNTRAINED}


def test_rows_are_chosen_by_name() -> None:
    assert [row.name for row in chosen(ROWS, ["ovd_train5_test*"])] == [
        "ovd_train5_test0", "ovd_train5_test5", "ovd_train5_test10", "ovd_train5_test5_sampled",
    ]  # fmt: skip
    assert chosen(ROWS, None) == list(ROWS)
    with pytest.raises(SystemExit, match="ovd_train7"):
        chosen(ROWS, ["ovd_train7*"])


# ------------------------------------------------------------------ the paper's numbers


def test_the_papers_inconsistencies_are_marked() -> None:
    paper = read_paper()
    marked = {(*key, name): cell.mark for key, cells in paper.items() for name, cell in cells.items() if cell.mark}
    assert marked["qwen", "zerosearch", "", "", "", "", "bamboogle"] == "a"
    assert marked["qwen", "search_r1", "", "", "", "", "gaia"] == "a"
    assert marked["qwen", "ovd", "10", "5", "", "", "2wikimultihopqa"] == "b"
    assert sum(mark == "c" for mark in marked.values()) == 7
    assert {place[0] for place, mark in marked.items() if mark == "c"} == {"llama"}
    assert str(paper["qwen", "zerosearch", "", "", "", ""]["bamboogle"]) == "13.89^a"


# ------------------------------------------------------------------ rendering


def evaluation(em: float, names: Sequence[str] = TABLE_3, told: bool = True, teacher: float | None = None) -> dict:
    """What `test` writes, as far as it is looked at."""

    def scores(i: int) -> dict[str, dict[str, float]]:
        values = {"em": em + i / 100, "sub_em": em + 0.1, "f1": em + 0.05, "truncated_fraction": 0.0}
        if teacher is not None:
            values |= {"teacher_step_share": teacher, "teacher_token_share": teacher / 2}
        return {kind: {"value": value, "standard_error": 0.02} for kind, value in values.items()}

    return {
        "benchmarks": {
            name: {"title": name.upper(), "answered": 125, "tells_answer": told, "scores": scores(i)}
            for i, name in enumerate(names)
        }
    }


def test_the_table_stands_beside_the_papers(tmp_path: Path) -> None:
    results = {
        "qwen": [
            (Row(method="direct"), evaluation(0.1, told=False)),
            (ovd(10, 5), evaluation(0.5, teacher=0.4)),
            (ovd(10, 5, sampled=True), evaluation(0.2, teacher=0.5)),
        ],
        "llama": [(Row(method="zerosearch"), evaluation(0.25))],
    }
    text = write_results(results, tmp_path, beside=True, notes=["R1: no time"])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 10.0 (12.40) | 11.0 (30.60) |" in text, "measured (paper's)"
    assert lines["Direct Answer"].endswith("| no | 1000 |")
    assert "54.0 (43.70^b)" in lines["OVD (Training Rej=10, Testing Rej=5)*"], "told, and a cell that cannot be"
    assert lines["OVD (Training Rej=10, Testing Rej=5)*"].endswith("| 53.5 (42.79) |")
    assert "40.0 | 20.0 | yes | 1000 |" in lines["OVD (Training Rej=10, Testing Rej=5)"]
    assert lines["ZeroSearch*"].endswith("| 28.5 (18.69^c) |")
    for part in (
        "^a: ",
        "^b: ",
        "^c: ",
        "*: the search engine was told",
        "†: scores are drawn",
        "Not run: R1: no time.",
    ):
        assert part in text, part
    rows = read_csv(tmp_path / "table3.csv")
    assert len(rows) == 4 * 8
    one = next(row for row in rows if row["row"] == "ovd_train10_test5" and row["benchmark"] == "bamboogle")
    assert (one["em"], one["em_standard_error"], one["paper_em"]) == ("56.0000", "2.0000", "32.00")
    assert (one["tells_answer"], one["teacher_step_share"], one["sub_em"]) == ("yes", "40.0000", "60.0000")
    assert (tmp_path / "table3.md").read_text() == text


def test_figure_4_has_the_seven_sets_of_the_deterministic_rows(tmp_path: Path) -> None:
    rows = [
        (ovd(10, 10), evaluation(0.5)),
        (ovd(5, 10, "prompted"), evaluation(0.2)),
        (ovd(10, 10, "14b"), evaluation(0.3)),
        (ovd(5, 5, sampled=True), evaluation(0.3)),
        (Row(method="zerosearch"), evaluation(0.3)),
    ]
    found = curves({"qwen": rows})
    assert [(c.panel, c.train, c.test) for c in found] == [("tuned", 10, 10), ("prompted", 5, 10)]
    assert all(list(c.values) == list(TABLE_3[:-1]) for c in found)
    heads, lines = figure_numbers(found)
    tuned = [dict(zip(heads, line, strict=True)) for line in lines if line[0] == "tuned"]
    assert tuned[-1]["benchmark"] == "average"
    assert tuned[-1]["em"] == "53.0000"
    assert float(tuned[-1]["paper_em"]) == pytest.approx(48.6, abs=0.05), "the 0.486 of section 4.3"
    assert not any(line[6] for line in lines if line[0] == "prompted"), "the paper prints none of 4a's points"
    pytest.importorskip("matplotlib")
    assert draw(found, tmp_path / "figure4.svg")
    drawn = (tmp_path / "figure4.svg").read_text()
    assert drawn.count("<svg") == 1
    one_set = curves({"small": [(ovd(5, t), evaluation(0.1 * t, ["small_world"])) for t in (0, 5)]})
    assert draw(one_set, tmp_path / "small.svg")


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    assert "Nothing is finished" in write_results({}, tmp_path, beside=True)
    assert read_csv(tmp_path / "table3.csv") == read_csv(tmp_path / "figure4.csv") == []


# ------------------------------------------------------------------ running


def test_a_folder_is_for_the_flags_that_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path / "row", ["--a=1"])
    claim(tmp_path / "row", ["--a=1"])
    with pytest.raises(SystemExit):
        claim(tmp_path / "row", ["--a=2"])
    said = capsys.readouterr().err
    assert "--a=1" in said
    assert "--a=2" in said


def test_what_is_finished_is_shown_and_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ovd(5, 5)
    path = tmp_path / Grid().test_name("qwen", row) / "evaluations" / "test-000000.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(evaluation(0.5)))
    assert finished(Grid(), "qwen", row, tmp_path) is not None
    arguments = ["--out", str(tmp_path), "--students", "qwen", "--only", "ovd_train5_test*"]
    table3.main([*arguments, "--list"])
    listed = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert listed["ovd_train5_test5"].endswith("finished")
    assert "fit ovd_train5, test" in listed["ovd_train5_test0"]
    table3.main([*arguments, "--show"])
    assert "50.0 (47.00)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.vllm
def test_the_quickstart_trains_once_and_tests_two_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of one round and two testing thresholds, then nothing but reading."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    arguments = ["--quickstart", "--out", str(tmp_path), "--only", "ovd_train5_test0", "ovd_train5_test10", "--"]
    arguments += ["--data.rounds=1", "--data.problems_per_round=4", "--data.test_limit=12"]
    table3.main(arguments)
    said = capsys.readouterr().out
    assert len(rounds(tmp_path / "train-small-ovd_train5")) == 1
    config = yaml.safe_load((tmp_path / "train-small-ovd_train5/config.yaml").read_text())
    assert config["method"]["init_args"]["threshold"] == 5
    rows = {row["row"]: row for row in read_csv(tmp_path / "table3.csv")}
    assert [row["answered"] for row in rows.values()] == ["12", "12"]
    assert float(rows["ovd_train5_test0"]["teacher_step_share"]) == 0
    assert float(rows["ovd_train5_test10"]["teacher_step_share"]) > 50
    assert float(rows["ovd_train5_test10"]["em"]) > 50, "the embedded teacher searches and reads rightly"
    assert {row["tells_answer"] for row in rows.values()} == {"no"}
    assert "Not run" not in said
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    table3.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == before
    with pytest.raises(SystemExit):
        table3.main([*arguments[:-1], "--data.test_limit=13"])
