"""The saved view and the report for W&B, as the specifications that would be sent: there is no W&B here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.report.compare import main
from ovd_lightning.report.wandb_view import Drawn, checked, comparison_report, workspace

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")

GROUP = "method.value.init_args.threshold"
"""The setting as W&B names it: nested in the value of "method"."""
DRAWN = Drawn(accuracies=["eval/x/accuracy"], metrics=["policy/kl"])


def found(tree: Any, name: str) -> Iterator[Any]:
    """Every value called ``name`` in a tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from found(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from found(value, name)


def spec(model: Any) -> dict[str, Any]:
    return dict(json.loads(model.model_dump_json(by_alias=True, exclude_none=True)))


def check_panels(panels: list[dict[str, Any]]) -> None:
    lines = {panel["config"]["metrics"][0]: panel["config"] for panel in panels if "metrics" in panel["config"]}
    assert set(lines) == {
        "reward/student", "reward/judge", "ovd/acceptance_rate", "ovd/replaced_fraction", "score/mean",
        "score/histogram", "eval/x/accuracy", "teacher/total_tokens", "policy/kl",
    }  # fmt: skip
    grouped = [config for name, config in lines.items() if name != "score/histogram"]
    assert {(c["groupBy"], c["groupAgg"], c["groupArea"]) for c in grouped} == {(GROUP, "mean", "minmax")}
    assert lines["reward/student"]["xAxis"] == "round"
    assert lines["eval/x/accuracy"]["xAxis"] == "trainer/global_step"  # an evaluation has no round in its row
    (scatter,) = (panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:teacher/total_tokens", "summary:eval/x/accuracy")


def test_the_view() -> None:
    tree = spec(workspace("me", "mine", DRAWN)._to_model().spec)
    sections = next(found(tree, "sections"))
    assert [section["name"] for section in sections] == [
        "Rewards", "Scores", "Evaluations", "Tokens of the teacher", "Further",
    ]  # fmt: skip
    check_panels([panel for section in sections for panel in section["panels"]])
    assert list(found(tree, "grouping")) == [[{"section": "config", "name": GROUP}]]


def test_the_view_is_grouped_by_several_settings() -> None:
    drawn = Drawn(by=["method.init_args.threshold", "model.learning_rate"])
    (grouping,) = found(spec(workspace("me", "mine", drawn)._to_model().spec), "grouping")
    assert [key["name"] for key in grouping] == [GROUP, "model.value.learning_rate"]


def test_the_report() -> None:
    report = comparison_report("me", "mine", DRAWN)
    for runset in {id(r): r for block in report.blocks for r in getattr(block, "runsets", [])}.values():
        assert (runset.entity, runset.project) == ("me", "mine")
        runset.entity = runset.project = ""  # W&B would be asked for the project's number
    tree = spec(report._to_model())
    assert tree["project"] == {"name": "mine", "entityName": "me"}
    banks = list(found(tree, "panelBankSectionConfig"))
    *drawn, rollouts = [bank["panels"] for bank in banks]
    check_panels([panel for panels in drawn for panel in panels])
    assert "rollouts" in json.dumps(rollouts)
    assert all(keys == [{"section": "config", "name": GROUP}] for keys in found(tree, "grouping"))


@pytest.mark.parametrize("where", ["me", "me/", "/mine", "me/mine/runs"])
def test_a_project_is_named_with_its_entity(where: str) -> None:
    with pytest.raises(ConfigError, match="Write ENTITY/PROJECT"):
        checked(where)


def test_without_a_key_or_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["--wandb", "me/mine"]) == 2
    assert "needs a key of W&B, and none is configured. wandb login, or WANDB_API_KEY." in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    assert main(["--wandb", "me/mine"]) == 2
    assert "pip install wandb-workspaces" in capsys.readouterr().err
