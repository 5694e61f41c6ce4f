"""Runs side by side: two thresholds, two seeds each, trained by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.metrics_file import read_rows, write_rows
from ovd_lightning.report.compare import compare, main
from ovd_lightning.report.comparison import figures, final_table, tokens
from ovd_lightning.report.groups import Group, Member, differing, find_runs, group_by
from ovd_lightning.report.read import Run
from ovd_lightning.report.spread import against, curve, final, running_total
from tests.workflow import cli

THRESHOLD = "method.init_args.threshold"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of three rounds, named by threshold and seed."""
    root = tmp_path_factory.mktemp("compare")
    for threshold in (0, 10):
        for seed in (0, 1):
            args = (f"--{THRESHOLD}={threshold}", "--method.init_args.replace_when=score", f"--seed_everything={seed}",
                    "--method.init_args.judged=all")  # fmt: skip
            cli.fit(root / f"theta-{threshold}" / f"seed-{seed}", *cli.HF, *args, "--run.wandb=disabled")
    return root


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    """To change: configs and numbers alone."""
    target = tmp_path / "runs"
    shutil.copytree(runs, target, ignore=shutil.ignore_patterns("checkpoints", "student", "transcripts", "*.html"))
    return target


def cut(run: Path, step: int, *, finished: bool) -> None:
    """The run as if it had come so far."""
    columns, rows = read_rows(run / "metrics.csv")
    write_rows(run / "metrics.csv", columns, [row for row in rows if float(row["step"]) <= step])
    (run / "run.json").write_text(json.dumps({"finished": step // 2 if finished else -1}))


def named(groups: list[Group]) -> dict[str, list[str]]:
    return {group.label: [member.seed for member in group.members] for group in groups}


def member(settings: dict[str, Any], **metrics: Any) -> Member:
    return Member(
        run=Run(path=Path("x"), metrics=metrics), name="x", settings=settings, metrics=metrics, axis="round", state=""
    )


# --- which runs, which groups ---------------------------------------------------------------------------------


def test_runs_that_differ_in_the_threshold_make_groups_of_seeds(runs: Path) -> None:
    members, left_out = find_runs([str(runs)])
    groups, by, within = group_by(members)
    assert (by, within, left_out) == ([THRESHOLD], [], [])
    assert named(groups) == {"threshold 0": ["0", "1"], "threshold 10": ["0", "1"]}
    assert [m.name for m in members] == [f"theta-{t}/seed-{s}" for t in (0, 10) for s in (0, 1)]


def test_folders_patterns_and_runs_are_taken_once(runs: Path) -> None:
    given = [str(runs / "theta-*"), str(runs / "theta-0/seed-1"), str(runs / "theta-1*/seed-[01]")]
    members, _ = find_runs(given)
    assert len(members) == 4


def test_by_chooses_and_what_else_differs_is_said(runs: Path) -> None:
    members, _ = find_runs([str(runs)])
    groups, _, within = group_by(members, ["seed_everything"])
    assert named(groups) == {"seed_everything 0": ["0", "0"], "seed_everything 1": ["1", "1"]}
    assert within == [THRESHOLD]
    assert group_by(members, ["threshold"])[1] == [THRESHOLD]
    with pytest.raises(
        ConfigError, match=r"no run has a setting treshold\. Did you mean method\.init_args\.threshold\?"
    ):
        group_by(members, ["treshold"])
    with pytest.raises(ConfigError, match="seed is the end of"):
        group_by(members, ["seed"])


def test_a_setting_that_one_class_has_is_no_difference_between_classes() -> None:
    ovd = {"method.class_path": "ovd_lightning.methods.ovd.OVD", THRESHOLD: 7}
    grpo = {"method.class_path": "ovd_lightning.methods.grpo.GRPO"}
    members = [member(ovd), member(grpo), member(ovd | {THRESHOLD: 0})]
    assert differing(members[:2]) == ["method.class_path"]
    assert list(named(group_by(members[:2])[0])) == ["method GRPO", "method OVD"]
    assert list(named(group_by(members)[0])) == ["method GRPO", "method OVD, threshold 0", "method OVD, threshold 7"]


def test_wrong_folders_are_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, text in (
        ([str(tmp_path / "nothing")], "is no folder. Give runs"),
        ([str(tmp_path)], "holds no run. Give runs"),
        ([str(tmp_path / "*")], "matches no run. Give runs"),
        ([], "no run is given"),
        ([str(runs), "--metric", "reward/studen"], "no run logged reward/studen"),
        ([str(runs), "--wandb", "me/project"], "takes the runs of its project"),
        (["--wandb", "me"], "Write ENTITY/PROJECT"),
    ):
        assert main([*given, "--out", str(tmp_path / "page.html")]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert text in printed.err
    assert not (tmp_path / "page.html").exists()


# --- numbers ----------------------------------------------------------------------------------------------------


def test_a_mean_ends_with_the_shortest_run_and_the_others_go_on() -> None:
    found = curve([[(0, 1.0), (1, 3.0)], [(0, 2.0), (1, 5.0), (2, 7.0), (3, 9.0)], []])
    assert (found.x, found.mean, found.runs) == ([0, 1], [1.5, 4.0], 2)
    assert (found.low, found.high) == ([1.0, 3.0], [2.0, 5.0])
    assert found.further == [[(1, 5.0), (2, 7.0), (3, 9.0)]]
    apart = curve([[(0, 1.0), (2, 2.0)], [(1, 3.0)]])
    assert (apart.x, apart.further) == ([], [[(0, 1.0), (2, 2.0)], [(1, 3.0)]])
    assert curve([]).runs == 0


def test_tokens_are_what_had_been_spent_when_an_evaluation_was_made() -> None:
    totals = running_total([(0, 10.0), (1, 20.0)], [(0, 1.0), (1, 2.0)])
    assert totals == [(0, 11.0), (1, 33.0)]
    assert against([(0, 0.3), (1, 0.4), (2, 0.5)], totals) == [(0, 0.0, 0.3), (1, 11.0, 0.4), (2, 33.0, 0.5)]
    assert final([(0, 1.0), (1, 2.0), (2, 4.0)], last=2) == 3.0


def test_figures_show_what_the_files_hold(runs: Path) -> None:
    groups, _, _ = group_by(find_runs([str(runs)])[0])
    drawn = {entry["title"]: entry for entry in figures(groups, ["policy/kl"])}
    assert list(drawn) == [
        "Reward of the student",
        "Acceptance",
        "Replaced by the teacher",
        "policy/kl",
        "Verbal scores of the last 5 rounds",
        "Arithmetic, validation, greedy accuracy",
        "Arithmetic, validation, sampled accuracy",
        "Arithmetic, test, greedy accuracy",
        "Arithmetic, test, sampled accuracy",
        "Tokens of the teacher",
        "Arithmetic, validation, greedy accuracy, against tokens of the teacher",
        "Arithmetic, validation, sampled accuracy, against tokens of the teacher",
    ]
    assert all(entry["figure"] and not entry["missing"] for entry in drawn.values())
    by_seed = [[row["reward/student"] for row in cli.rounds(runs / f"theta-10/seed-{s}")] for s in (0, 1)]
    high, low, mean = [
        trace for trace in drawn["Reward of the student"]["figure"]["data"] if trace["meta"]["slot"] == 1
    ]
    assert list(mean["y"]) == pytest.approx([(a + b) / 2 for a, b in zip(*by_seed, strict=True)], abs=1e-4)
    assert list(high["y"]) == pytest.approx([max(pair) for pair in zip(*by_seed, strict=True)], abs=1e-4)
    assert list(low["y"]) == pytest.approx([min(pair) for pair in zip(*by_seed, strict=True)], abs=1e-4)
    assert mean["line"]["dash"] != "solid"
    acceptance = {trace["name"]: trace["y"] for trace in drawn["Acceptance"]["figure"]["data"] if "name" in trace}
    assert set(acceptance["threshold 0"]) == {1.0}
    assert set(acceptance["threshold 10"]) == {0.0}
    for bars in drawn["Verbal scores of the last 5 rounds"]["figure"]["data"]:
        assert sum(bars["y"]) == pytest.approx(1, abs=1e-3)


def test_a_run_that_judged_nothing_has_no_bars(copies: Path) -> None:
    """As with the default `judged: needed` at a threshold that no score decides."""
    for seed in (0, 1):
        file = copies / f"theta-0/seed-{seed}/metrics.csv"
        columns, rows = read_rows(file)
        zero = {name: "0.0" for name in columns if name.startswith("score/histogram/")}
        write_rows(file, columns, [{**row, **{n: v for n, v in zero.items() if row[n]}} for row in rows])
    groups, _, _ = group_by(find_runs([str(copies)])[0])
    (entry,) = [entry for entry in figures(groups) if entry["title"].startswith("Verbal scores")]
    assert [bars["name"] for bars in entry["figure"]["data"]] == ["threshold 10"]
    assert entry["missing"] == ["threshold 0 (no run logged scores)"]


def test_the_table_holds_final_numbers(runs: Path) -> None:
    groups, _, _ = group_by(find_runs([str(runs)])[0])
    columns, rows = final_table(groups)
    assert columns[:2] == ["runs", "rounds"]
    assert [row[:3] for row in rows] == [["threshold 0", "2", "3"], ["threshold 10", "2", "3"]]
    acceptance = columns.index("acceptance") + 1
    assert [row[acceptance] for row in rows] == ["1.000 ± 0.000", "0.000 ± 0.000"]
    totals = [tokens(m)[-1][1] for m in groups[1].members]
    for m, total in zip(groups[1].members, totals, strict=True):
        assert m.run.metrics["teacher/total_tokens"][-1][1] == total
    assert rows[1][-1].startswith(f"{sum(totals) / 2:,.0f} ± ")


def test_runs_that_go_on_ended_earlier_or_were_resumed(copies: Path, tmp_path: Path) -> None:
    cut(copies / "theta-0/seed-0", 4, finished=False)
    resumed = copies / "theta-0/seed-1"
    columns, rows = read_rows(resumed / "metrics.csv")
    early = [row for row in rows if float(row["step"]) <= 4]
    write_rows(resumed / "metrics-1.csv", columns, early)
    write_rows(resumed / "metrics.csv", columns, [row for row in rows if float(row["step"]) > 2])
    shutil.rmtree(copies / "theta-10/seed-1")
    (copies / "theta-10/seed-2").mkdir()
    shutil.copy(copies / "theta-10/seed-0/config.yaml", copies / "theta-10/seed-2")
    notes = compare([str(copies)], tmp_path / "page.html")
    assert notes == ["theta-10/seed-2: it has logged nothing yet", "not finished: theta-0/seed-0 (2 rounds)"]
    groups, _, _ = group_by(find_runs([str(copies)])[0])
    first = figures(groups)[0]["figure"]["data"]
    assert [list(trace["x"]) for trace in first if trace["meta"]["slot"] == 0] == [[0, 1]] * 3 + [[1, 2]]
    assert [list(trace["x"]) for trace in first if trace["meta"]["slot"] == 1] == [[0, 1, 2]]  # one seed: no band
    row = final_table(groups)[1]
    assert [cells[1:3] for cells in row] == [["2", "2 to 3"], ["1", "3"]]
    assert "±" not in row[1][3]


def test_a_metric_that_some_never_logged_is_said_to_be_missing(copies: Path) -> None:
    for seed in (0, 1):
        file = copies / f"theta-10/seed-{seed}/metrics.csv"
        columns, rows = read_rows(file)
        kept = [name for name in columns if not name.startswith("teacher/") or seed == 0]
        write_rows(file, kept, [{name: row[name] for name in kept} for row in rows])
    groups, _, _ = group_by(find_runs([str(copies)])[0])
    (entry,) = [entry for entry in figures(groups) if entry["title"] == "Tokens of the teacher"]
    assert entry["missing"] == ["threshold 10, seed 1 (logged no teacher tokens yet)"]


# --- the command and its page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "runs compared.html"
    done = cli.run("compare", str(runs / "theta-0"), str(runs / "theta-10"), f"--out={out}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    return out


def test_the_page_is_one_file_with_every_run(page: Path) -> None:
    text = page.read_text()
    assert "http" not in text.partition('<script type="text/plain"')[0]
    for words in ("4 runs, 2 groups", f"<strong>{THRESHOLD}</strong>", "theta-10/seed-1", "threshold 10"):
        assert words in text
    assert page.stat().st_size < 3_000_000


def test_it_loads_no_heavy_library(runs: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from ovd_lightning.report.compare import main; "
        f"main([{str(runs)!r}, '--out', {str(tmp_path / 'page.html')!r}]); "
        "print({name for name in ('torch', 'lightning', 'transformers', 'wandb') if name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cli.ROOT)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_browser_draws_every_figure(open_page: Any, page: Path, width: int, scheme: str) -> None:
    opened = open_page(page, width, scheme)
    opened.wait_for_function("document.querySelectorAll('.curve .cartesianlayer > .subplot').length >= 11")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    strokes = opened.evaluate(
        "[...document.querySelectorAll('#plot-figure-0 .js-line')].map(e => getComputedStyle(e).stroke)"
    )
    first = "rgb(0, 114, 178)" if scheme == "light" else "rgb(79, 168, 232)"
    assert first in strokes
    assert opened.locator("#numbers tbody tr").count() == 2


@pytest.mark.browser
def test_browser_groups_are_chosen_by_keyboard(open_page: Any, page: Path) -> None:
    opened = open_page(page)
    opened.wait_for_selector("#groups input >> nth=1")
    lines = opened.locator("#plot-figure-0 .scatterlayer .trace")
    opened.wait_for_function("document.querySelectorAll('#plot-figure-0 .scatterlayer .trace').length === 6")
    box = opened.get_by_label("threshold 10 (n = 2)")
    box.focus()
    opened.keyboard.press("Space")
    opened.wait_for_function("document.querySelectorAll('#plot-figure-0 .scatterlayer .trace').length === 3")
    opened.keyboard.press("Space")
    opened.wait_for_function("document.querySelectorAll('#plot-figure-0 .scatterlayer .trace').length === 6")
    assert lines.count() == 6
    summary = opened.locator("#curves summary").first
    summary.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("#curves details[open] tbody tr").count() == 3
