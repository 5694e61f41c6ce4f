"""Every shipped config parses as the command line would take it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ovd_lightning.cli import OVDCLI
from tests.workflow.cli import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted(p for kind in ("method", "engine") for p in (ROOT / "configs" / kind).glob("*.yaml"))
TEACHERS = sorted((ROOT / "configs" / "teacher").glob("*.yaml"))
STRATEGIES = sorted((ROOT / "configs" / "strategy").glob("*.yaml"))
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def parse(monkeypatch: pytest.MonkeyPatch, *args: str):
    """The parsed ``fit`` configuration; nothing is instantiated."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(OVDCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(OVDCLI, "_run_subcommand", lambda self, name: None)
    monkeypatch.setattr("sys.argv", ["ovd_lightning"])
    return OVDCLI(["fit", *args]).config["fit"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, f"--config={path}")
    assert config.run.name != "ovd"
    assert config.model.student


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_overlay_parses_on_the_quickstart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--{path.parent.name}={path}")
    chosen = yaml.safe_load(path.read_text())["class_path"]
    assert config[path.parent.name].class_path == chosen


@pytest.mark.parametrize("path", TEACHERS, ids=lambda p: p.stem)
def test_a_teacher_parses_on_the_quickstart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--method.init_args.teacher={path}")
    assert config.method.init_args.teacher.class_path == yaml.safe_load(path.read_text())["class_path"]


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda p: p.stem)
def test_a_strategy_parses_on_the_quickstart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--config={path}")
    assert config.trainer.strategy.class_path == yaml.safe_load(path.read_text())["trainer"]["strategy"]["class_path"]
    assert config.trainer.strategy.init_args.data_parallel_size == config.trainer.devices


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_parameter_of_a_sweep_is_a_setting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load(path.read_text())
    for name, spec in sweep["parameters"].items():
        for value in spec.get("values", [spec.get("value")]):
            config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--{name}={value}")
            assert config[name] == value


def test_overlays_and_dotted_flags_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data:\n  rounds: 5\n")
    config = parse(
        monkeypatch, "--config=configs/quickstart.yaml", f"--config={overlay}",
        "--method=configs/method/ovd_literal.yaml", "--method.init_args.threshold=5",
    )  # fmt: skip
    assert config.data.rounds == 5
    assert config.data.problems_per_round == 16  # kept from the first
    assert config.method.init_args.advantage == "mixed_group"
    assert config.method.init_args.threshold == 5
    assert config.method.init_args.teacher.class_path.endswith("VerbalTeacher")  # kept from the first
