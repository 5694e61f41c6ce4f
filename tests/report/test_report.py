"""The page of a run: from real file formats, in a real browser."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.report import write_report
from ovd_lightning.report.figures import PANELS, figures, step_scores
from ovd_lightning.report.page import method_options, tiles
from ovd_lightning.report.read import evenly, read_metrics, read_round, read_run
from ovd_lightning.report.rollouts import DATA_LIMIT, packed
from ovd_lightning.round.transcripts import TranscriptWriter

from .synthetic import HOSTILE, group, write_run

ALWAYS = [panel.id for panel in PANELS if not panel.optional]
PHASES = "sync generate environment grade score replace logprobs train checkpoint other".split()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("report") / "runs" / "tiny" / "2030-01-01_12-00-00")
    write_report(folder)
    return folder


# --- reading --------------------------------------------------------------------------------------------------


def test_reads_sparse_rows_and_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,a,b\n0,1,0.5,\n,2,,7\n0,3,nan,inf\n0,4,oops,8\n")
    run = read_run(tmp_path)
    assert run.metrics == {"a": [(1.0, 0.5)], "b": [(2.0, 7.0), (4.0, 8.0)]}


def test_a_resumed_runs_values_replace_those_it_trained_again(tmp_path: Path) -> None:
    (tmp_path / "metrics-1.csv").write_text("epoch,step,a\n0,1,0.1\n0,2,0.2\n0,3,0.3\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n0,3,0.9\n0,4,0.4\n")
    assert read_metrics(tmp_path) == {"a": [(1.0, 0.1), (2.0, 0.2), (3.0, 0.9), (4.0, 0.4)]}


def test_method_is_found_wherever_the_config_has_it(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.name == "tiny/2030-01-01_12-00-00"
    assert run.method_name == "OVD"
    assert run.score_low == 0
    assert ("threshold", "7") in method_options(run)


def test_of_a_cut_off_file_what_is_complete_is_read_and_ranks_are_joined(tmp_path: Path) -> None:
    rng = random.Random(0)
    first, second = (TranscriptWriter(tmp_path, rank).write(0, [group(rng, 0, rank, 40, 0.5)]) for rank in (0, 1))
    complete = read_round([first, second])
    assert [len(group) for group in complete] == [
        len(group) for n in (0, 1) for group in read_round([(first, second)[n]])
    ]
    first.write_bytes(first.read_bytes()[:-200])
    cut = read_round([first, second])
    assert cut[1] == complete[1]
    assert 0 < len(cut[0]) < len(complete[0])
    assert cut[0] == complete[0][: len(cut[0])]


def test_evenly_keeps_the_ends() -> None:
    assert evenly(range(5), 12) == [0, 1, 2, 3, 4]
    for size in range(13, 400, 7):
        chosen = evenly(range(size), 12)
        assert (len(set(chosen)), chosen[0], chosen[-1]) == (12, 0, size - 1)
    assert evenly([1, 2, 3], 1) == [3]


# --- figures and numbers --------------------------------------------------------------------------------------


def test_every_panel_is_drawn_from_the_documented_names(run_dir: Path) -> None:
    drawn = {entry["id"]: entry for entry in figures(read_run(run_dir))}
    assert set(drawn) == {*ALWAYS, "teacher-failures", "score-heatmap"}
    assert all(entry["figure"] and not entry["missing"] for entry in drawn.values())
    stacked = drawn["time"]["figure"]["data"]
    assert [trace["name"] for trace in stacked] == PHASES
    assert {trace["stackgroup"] for trace in stacked} == {"phases"}
    columns = zip(*drawn["score-heatmap"]["figure"]["data"][0]["z"], strict=True)
    assert all(sum(column) == pytest.approx(1, abs=1e-3) for column in columns)


def test_panels_of_some_methods_only_are_drawn_where_they_were_logged(run_dir: Path) -> None:
    run = read_run(run_dir)
    run.metrics |= {name: [(0, 1.0), (2, 1.1)] for name in ("teacher/prompt_tokens", "sod/step_weight_later")}
    drawn = {entry["id"]: entry for entry in figures(run)}
    assert set(drawn) == {*ALWAYS, "teacher", "teacher-failures", "step-weight", "score-heatmap"}
    assert [trace["name"] for trace in drawn["teacher"]["figure"]["data"]] == ["prompt_tokens"]
    assert drawn["teacher"]["missing"] == []


def test_step_scores_are_the_students() -> None:
    records: list[dict[str, Any]] = [
        {"source": "student", "score": 1.0, "steps": [{"score": 3.0}, {"score": None}]},
        {"source": "student", "score": 4.0, "steps": []},
        {"source": "teacher", "score": 9.0, "steps": []},
        {"source": "student", "score": None, "steps": []},
    ]
    assert step_scores(records) == [3.0, 4.0]


def test_tiles_show_first_and_last(run_dir: Path) -> None:
    found = {tile["label"]: tile for tile in tiles(read_run(run_dir))}
    accuracy = found["arithmetic, validation, accuracy"]
    assert (accuracy["value"], accuracy["note"]) == ("65.0%", "from 25.0%")
    assert found["rounds"]["value"] == "20"


# --- the page ---------------------------------------------------------------------------------------------------


def test_missing_files_are_named_not_fatal(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text()
    for sentence in ("metrics.csv is missing", "config.yaml is missing", "No rollouts", "Not logged: policy/kl"):
        assert sentence in page


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,reward/student\n0,1,0.5\n")
    page = write_report(tmp_path).read_text()
    assert "Not logged: reward/mixture." in page
    assert 'id="plot-reward"' in page


def test_page_is_bounded_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Twelve rounds of long, nearly incompressible text still make a page below 6 MB."""
    folder = write_run(tmp_path / "run", rounds=14, problems=2, samples=2)
    rng = random.Random(0)
    for file in sorted((folder / "transcripts").glob("*.jsonl.gz")):
        noise = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(15_000))
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        last = json.loads(lines[-1])
        last["text"] += noise
        last["steps"][-1]["characters"][1] = len(last["text"])
        copies = [json.dumps({**last, "group": g}, ensure_ascii=False) for g in range(2, 50)]
        file.write_bytes(gzip.compress("\n".join([*lines, *copies]).encode(), 1))
    run = read_run(folder)
    data, shown = packed({}, run)
    assert len(data) * 3 / 4 <= DATA_LIMIT
    assert "12 of 14 rounds" in shown
    assert "of the 600 groups" in shown
    assert write_report(folder).stat().st_size < 6_000_000


def test_model_text_is_not_markup_in_the_page(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text()
    assert HOSTILE not in page
    assert "<script>window.hacked" not in page
    assert "&lt;script&gt;window.hacked" in page  # the config's, escaped


def test_command_line(run_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ovd_lightning.report"]
    done = subprocess.run([*command, str(run_dir)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(run_dir.resolve() / "report.html"))
    absent = subprocess.run([*command, str(tmp_path / "nothing")], capture_output=True, text=True, check=False)
    assert absent.returncode == 1
    assert "is not a folder" in absent.stderr


# --- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture
def open_report(open_page: Any, run_dir: Path) -> Any:
    """Opens a run's page."""

    def open(width: int = 1200, scheme: str = "light", folder: Path = run_dir) -> Any:
        return open_page(folder / "report.html", width, scheme)

    return open


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_browser_draws_every_curve(open_report: Any, width: int, scheme: str) -> None:
    page = open_report(width, scheme)
    page.wait_for_selector("#viewer:not([hidden])", timeout=60_000)
    page.wait_for_function(
        f"document.querySelectorAll('.curve .cartesianlayer > .subplot').length >= {len(ALWAYS) + 2}"
    )
    assert page.locator("#plot-reward .scatterlayer .trace path.js-line").count() == 2
    assert page.locator("#plot-time .scatterlayer .trace").count() == len(PHASES)
    assert page.locator("#plot-score-heatmap .heatmaplayer image").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate("[...document.querySelectorAll('.curve')].map(e => e.getBoundingClientRect().width)")
    assert all(250 < box <= width for box in boxes)


@pytest.mark.browser
def test_browser_viewer_follows_the_choice(open_report: Any) -> None:
    page = open_report()
    page.wait_for_selector("#viewer:not([hidden])", timeout=60_000)
    assert page.locator("#round option").count() == 12
    seen = {page.inner_text("#group")}
    page.select_option("#problem", index=2)
    seen.add(page.inner_text("#group"))
    page.select_option("#round", label="19 (last, highest reward, highest acceptance)")
    seen.add(page.inner_text("#group"))
    assert page.evaluate("document.getElementById('problem').selectedIndex") == 2
    page.click("#next")
    seen.add(page.inner_text("#group"))
    assert len(seen) == 4
    page.click("#previous")
    assert page.inner_text("#group") in seen
    page.select_option("#problem", index=3)
    assert page.is_disabled("#next")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 400])
def test_browser_rejected_beside_replacement_with_scores(open_report: Any, width: int) -> None:
    page = open_report(width)
    page.wait_for_selector("#viewer:not([hidden])", timeout=60_000)
    pair = page.locator(".pair").first
    left, right = pair.locator("article").nth(0), pair.locator("article").nth(1)
    assert "not kept: score 2 < θ 7" in left.inner_text()
    assert "not trained on" in left.inner_text()
    assert "teacher" in right.inner_text()
    assert "advantage 1" in right.inner_text()
    a, b = left.bounding_box(), right.bounding_box()
    assert (a["x"] < b["x"] and a["y"] == b["y"]) if width == 1200 else (a["y"] + a["height"] <= b["y"])
    high, low = left.locator(".step").nth(0), left.locator(".step").nth(1)
    assert [step.locator(".digit").inner_text() for step in (high, low)] == ["9", "2"]
    backgrounds = [step.evaluate("e => getComputedStyle(e).backgroundColor") for step in (high, low)]
    assert backgrounds[0] != backgrounds[1]
    # By pointer and by keyboard: the distribution over the ten scores.
    high.hover()
    page.wait_for_selector("#tip:not([hidden])")
    low.focus()
    page.wait_for_function("document.getElementById('tip').innerText.includes('likeliest 2')")
    assert page.locator("#tip .bars i").count() == 10
    page.keyboard.press("Escape")
    assert not page.is_visible("#tip")


@pytest.mark.browser
def test_browser_model_text_is_inert(open_report: Any) -> None:
    page = open_report()
    page.wait_for_selector("#viewer:not([hidden])", timeout=60_000)
    assert HOSTILE in page.locator(".step .text").first.inner_text()
    page.click("#config summary")
    assert "</pre><script>" in page.locator("#config pre").inner_text()
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img").count() == 0


@pytest.mark.browser
def test_browser_empty_run(open_report: Any, tmp_path: Path) -> None:
    write_report(tmp_path)
    page = open_report(folder=tmp_path)
    assert page.locator("#rollouts .missing").count() == 1
    assert page.locator(".curve").count() == 0
