"""Every shipped config parses as the command line would take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.cli import OVDCLI, is_student
from ovd_lightning.errors import ConfigError
from ovd_lightning.resume.find import find
from tests.workflow.cli import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted(p for kind in ("method", "engine") for p in (ROOT / "configs" / kind).glob("*.yaml"))
TEACHERS = sorted((ROOT / "configs" / "teacher").glob("*.yaml"))
STRATEGIES = sorted((ROOT / "configs" / "strategy").glob("*.yaml"))
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
SCALES = sorted((ROOT / "configs" / "overlays").glob("*.yaml"))


OVD = "ovd_lightning.methods.ovd.OVD"


def parse(monkeypatch: pytest.MonkeyPatch, *args: str, verb: str = "fit"):
    """The parsed configuration of a command; nothing is instantiated."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(OVDCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(OVDCLI, "_run_subcommand", lambda self, name: None)
    monkeypatch.setattr("sys.argv", ["ovd_lightning"])
    return OVDCLI([verb, *args]).config[verb]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, f"--config={path}")
    assert config.run.name != "ovd"
    assert config.model.student


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_overlay_parses_on_the_quickstart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--{path.parent.name}={path}")
    overlay = yaml.safe_load(path.read_text())
    assert config[path.parent.name].class_path == overlay.get("class_path", OVD)  # without one, it changes OVD
    if "class_path" not in overlay:
        assert config.method.init_args.teacher.class_path.endswith("VerbalTeacher")
        assert config.method.init_args.threshold == overlay["init_args"].get("threshold", 7)


@pytest.mark.parametrize("path", TEACHERS, ids=lambda p: p.stem)
def test_a_teacher_parses_on_the_quickstart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--method.init_args.teacher={path}")
    assert config.method.init_args.teacher.class_path == yaml.safe_load(path.read_text())["class_path"]


@pytest.mark.parametrize("path", TEACHERS, ids=lambda p: p.stem)
def test_nothing_stays_of_the_teacher_that_another_takes_the_place_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming a class starts from its own defaults, whatever teacher was there."""
    flag = f"--method.init_args.teacher={path}"
    one, two = (parse(monkeypatch, f"--config=configs/{config}.yaml", flag) for config in ("quickstart", "math"))
    assert flat(one.method.init_args.teacher) == flat(two.method.init_args.teacher)


@pytest.mark.parametrize("path", SCALES, ids=lambda p: p.stem)
def test_an_overlay_of_several_groups_parses_on_the_mathematics(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = flat(parse(monkeypatch, "--config=configs/math.yaml", f"--config={path}"))
    for name, value in flat(yaml.safe_load(path.read_text())).items():
        assert config[name] == value, name


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
    assert config.method.init_args.credit.class_path.endswith("MixedGroup")
    assert config.method.init_args.threshold == 5
    assert config.method.init_args.teacher.class_path.endswith("VerbalTeacher")  # kept from the first


# ------------------------------------------------------------------ variants of the mathematics experiment


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; lists are values."""
    items = config.items() if isinstance(config, dict) else vars(config).items()
    found: dict[str, Any] = {}
    for name, value in items:
        nested = isinstance(value, dict) or hasattr(value, "as_dict")
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def differences(monkeypatch: pytest.MonkeyPatch, variant: str, base: str) -> dict[str, Any]:
    """Setting -> the variant's value, of those that are not the base's."""
    one, two = (flat(parse(monkeypatch, f"--config=configs/{name}.yaml")) for name in (base, variant))
    missing = object()
    changed = {name for name in one | two if one.get(name, missing) != two.get(name, missing)}
    return {name: two.get(name) for name in changed - {"config"}}


def test_the_variants_differ_where_they_should_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    task = "task.init_args"
    assert differences(monkeypatch, "math_one_example", "math") == {
        "run.name": "math_one_example",
        "method.init_args.teacher.init_args.pool.init_args.size": 1024,
        f"{task}.data": "configs/data/paper_examples.jsonl",
        f"{task}.split": "train",
        f"{task}.ids": ["problem-1"],
        f"{task}.question_field": "question",
        f"{task}.answers_field": "answers",
        f"{task}.id_field": None,
        f"{task}.exclude": None,
    }
    assert differences(monkeypatch, "math_two_examples", "math_one_example") == {
        "run.name": "math_two_examples",
        f"{task}.ids": ["problem-1", "problem-2"],
    }


def test_the_baseline_differs_in_its_method_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = differences(monkeypatch, "math_rlvr", "math_one_example")
    assert {name.split(".")[0] for name in changed} == {"run", "method", "benchmark"}
    assert all(name.startswith("benchmark.rejection") for name in changed if name.startswith("benchmark."))
    assert changed["benchmark.rejection"] is None
    method = parse(monkeypatch, "--config=configs/math_rlvr.yaml").method
    assert method.class_path.endswith("GRPO")
    shared = ("group_size", "clip", "clip_high", "kl_coefficient", "entropy_coefficient", "ratio", "aggregation")
    assert not [name for name in changed if name.removeprefix("method.init_args.") in shared]


def test_the_hyperparameters_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A.6.2, and Table 4's thresholds; by name, so that no edit of the file changes one unseen."""
    config = parse(monkeypatch, "--config=configs/math.yaml")
    method, teacher = config.method.init_args, config.method.init_args.teacher.init_args
    assert config.model.student == "Qwen/Qwen2.5-Math-1.5B"
    assert teacher.engine.init_args.model == teacher.demonstrator.init_args.model == "Qwen/QwQ-32B"
    assert (config.data.problems_per_round, method.group_size) == (128, 8)
    assert (config.model.learning_rate, config.model.lr_scheduler) == (1e-6, "constant")
    assert (config.rollout.max_tokens, config.rollout.temperature) == (3072, 0.6)
    assert (method.kl_coefficient, method.clip) == (0.001, 0.2)
    assert (teacher.judge.init_args.scale, method.scoring.temperature) == ("zero_to_nine", 0.7)
    assert (method.threshold, config.benchmark.rejection.init_args.threshold) == (7, 0)
    assert config.data.epochs_per_round * config.data.mini_batches == 1
    assert config.trainer.gradient_clip_val == 1.0
    rounds = config.data.rounds
    written = range(config.checkpoint.every_n_rounds, rounds + 1, config.checkpoint.every_n_rounds)
    assert {300, 500, 600, 800} <= {*written}
    assert config.checkpoint.keep == -1


def test_the_papers_two_problems_are_as_printed() -> None:
    rows = [json.loads(line) for line in (ROOT / "configs/data/paper_examples.jsonl").read_text().splitlines()]
    assert [row["answers"] for row in rows] == [["124"], ["\\frac{2\\sqrt{462}}{5}"]]
    # x^2 / 88/25 + y^2 / 22 = 1 about its centre: the foci are 2 sqrt(22 - 88/25) apart.
    apart = 2 * (22 - 88 / 25) ** 0.5
    assert apart == pytest.approx(2 * 462**0.5 / 5)
    # 5^3 codes of three digits out of five, the last of which opened.
    assert 5**3 - 1 == 124


# ------------------------------------------------------------------ config files with a base


def test_a_base_is_what_several_configs_would_merge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variant = "run:\n  name: variant\nmethod:\n  init_args:\n    threshold: 5\n"
    (tmp_path / "alone.yaml").write_text(variant)
    (tmp_path / "below").mkdir()
    (tmp_path / "below/one.yaml").write_text(
        f"# a comment\nbase: {ROOT}/configs/quickstart.yaml  # absolute\n{variant}"
    )
    (tmp_path / "two.yaml").write_text("base: below/one.yaml\ndata:\n  rounds: 3\n")
    merged = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--config={tmp_path}/alone.yaml")
    one = parse(monkeypatch, f"--config={tmp_path}/below/one.yaml")
    two = parse(monkeypatch, f"--config={tmp_path}/two.yaml", "--seed_everything=4")
    without = [{k: v for k, v in flat(c).items() if k != "config"} for c in (merged, one, two)]
    assert without[0] == without[1]
    assert without[2] == {**without[0], "data.rounds": 3, "data.seed": 4, "seed_everything": 4}
    assert two.method.init_args.teacher.class_path.endswith("VerbalTeacher"), "relative to the base's own folder"


@pytest.mark.parametrize(
    ("base", "problem"), [("nowhere.yaml", "is not there"), ("me.yaml", "among the files"), ("other.yaml", "among")]
)
def test_a_base_that_cannot_be(
    base: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "me.yaml").write_text(f"base: {base}\n")
    (tmp_path / "other.yaml").write_text("base: me.yaml\n")
    with pytest.raises((SystemExit, ConfigError)) as ended:
        parse(monkeypatch, f"--config={tmp_path}/me.yaml")
    assert problem in capsys.readouterr().err + str(ended.value)


# ------------------------------------------------------------------ what an evaluation is given


def test_a_students_folder_or_hub_id_takes_the_students_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = OVDCLI.before_instantiate_classes
    for verb in ("validate", "test", "predict"):
        for given in (str(tmp_path), "Qwen/Qwen2.5-Math-1.5B"):
            config = parse(monkeypatch, "--config=configs/quickstart.yaml", f"--ckpt_path={given}", verb=verb)
            assert OVDCLI.before_instantiate_classes is before
            assert (config.model.student, config.ckpt_path) == (given, None)
            assert config.engine.init_args.model == given
    for given, said in ((str(tmp_path), "is a student"), ("Qwen/Qwen2.5-Math-1.5B", "is not there")):
        with pytest.raises(ConfigError, match=said):  # training continues from a checkpoint of a run alone
            parse(monkeypatch, "--config=configs/quickstart.yaml", f"--ckpt_path={given}", verb="fit")


def test_what_else_an_evaluation_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded/.metadata").touch()
    (tmp_path / "runs").mkdir()
    for lightning in ("last.ckpt", "sharded", "best", "last", "registry:name", "https://host/last.ckpt"):
        assert is_student(lightning) is False
    for neither, problem in (("runs", "is a folder without"), ("runs/last.ckpt", "is not there"),
                             ("a/b/c", "is not there"), ("./student", "is not there"),
                             ("Qwen/model.ckpt", "is not there")):  # fmt: skip
        assert is_student(neither) is False
        with pytest.raises(ConfigError, match=problem) as error:
            find(neither, runs=tmp_path, folder=None, fitting=False)
        assert error.value.setting == "ckpt_path"
        assert "hub id" in error.value.hint
