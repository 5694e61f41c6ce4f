"""Which rounds the page of a run shows, and what it says of a trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.report import write_report
from ovd_lightning.report.read import Run
from ovd_lightning.report.rollouts import VIEWER_ROUNDS, failures, telling, verdict
from ovd_lightning.report.rounds import over_rounds

RUN = Path("run")


def ovd(**options: Any) -> Run:
    method = {"class_path": "ovd_lightning.methods.ovd.OVD", "init_args": {"threshold": 7} | options}
    return Run(path=RUN, config={"method": method})


def test_a_round_and_an_evaluation_of_the_weights_that_begin_it_stand_together() -> None:
    metrics = {
        "eval/x/accuracy": [(0.0, 0.1), (2.0, 0.2), (4.0, 0.3)],
        "round": [(2.0, 0.0), (4.0, 1.0)],
        "reward/student": [(2.0, 0.5), (4.0, 0.6)],
    }
    found, axis = over_rounds(metrics)
    assert axis == "round"
    assert found["reward/student"] == [(0.0, 0.5), (1.0, 0.6)]
    assert found["eval/x/accuracy"] == [(0.0, 0.1), (1.0, 0.2), (2.0, 0.3)]
    assert over_rounds({"a": [(3.0, 1.0)]}) == ({"a": [(3.0, 1.0)]}, "optimiser step")


def test_rounds_that_stand_out_are_shown() -> None:
    run = ovd()
    run.transcripts = {n: [] for n in range(100)}
    reward = [(float(n), 0.5) for n in range(100)]
    reward[41], reward[42], reward[77] = (41.0, 0.9), (42.0, 0.4), (77.0, 0.1)
    failed = [(float(n), float(n == 13)) for n in range(100)]
    run.metrics = {
        "round": [(float(n), float(n)) for n in range(100)],
        "reward/student": reward,
        "teacher/failed_calls": failed,
        "score/parse_failures": [(float(n), 0.0) for n in range(100)],
    }
    shown = telling(run)
    assert len(shown) == VIEWER_ROUNDS
    assert {n: why for n, why in shown.items() if why} == {
        0: "first",
        13: "most failed calls",
        41: "highest reward",
        42: "largest fall of the reward",
        77: "lowest reward",
        99: "last",
    }
    assert telling(ovd()) == {}


@pytest.mark.parametrize(
    ("record", "options", "text"),
    [
        ({"score": 8.0, "accepted": True, "correct": True}, {}, "kept: score 8 ≥ θ 7"),
        ({"score": 2.0, "accepted": False, "correct": False, "in_mixture": False}, {}, "not kept: score 2 < θ 7"),
        (
            {"score": 8.0, "accepted": True, "correct": False, "in_mixture": False},
            {"replace_when": "score_or_incorrect"},
            "not kept: score 8 ≥ θ 7, wrong",
        ),
        (
            {"score": 2.0, "accepted": False, "correct": False},  # the teacher wrote nothing
            {"replace_when": "score_or_incorrect"},
            "kept: score 2 < θ 7, wrong",
        ),
        ({"score": 2.0, "accepted": False, "correct": True}, {"replace_when": "incorrect"}, "kept: correct"),
        ({"score": 5.0, "accepted": True}, {"acceptance": {"class_path": "rules.Soft"}}, "kept: score 5 accepted"),
        ({"score": None, "accepted": True, "correct": True}, {}, "kept: accepted without a score"),
        ({"accepted": None, "correct": True}, {"replace_when": "incorrect"}, "kept: correct"),  # not judged
        ({"score": None, "accepted": None, "correct": True}, {}, ""),  # GRPO
        ({"score": None, "accepted": None, "in_mixture": False}, {}, "not kept"),
        ({"source": "teacher", "accepted": None}, {}, ""),
    ],
)
def test_a_verdict_says_why(record: dict[str, Any], options: dict[str, Any], text: str) -> None:
    assert verdict({"source": "student", "in_mixture": True} | record, ovd(**options)) == text


def test_failures_are_on_the_page_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "failures").mkdir()
    for number, text in (
        (2, "1 of 8 demonstrations failed: 1 x <b>refused</b>"),
        (10, "3 of 9 prompts got no score\n"),
    ):
        (tmp_path / f"failures/round-{number:06d}.txt").write_text(text)
    assert [number for number, _ in failures(Run(path=tmp_path))] == [10, 2]
    page = write_report(tmp_path).read_text()
    assert "2 rounds with failures; the newest: round 10" in page
    assert "1 x &lt;b&gt;refused&lt;/b&gt;" in page
