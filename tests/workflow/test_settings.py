"""How settings are read: what replaces what, and a mistake in one line; in-process, by the command line's parser."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.cli import OVDCLI, plain_errors
from ovd_lightning.errors import ConfigError, raise_errors
from tests.workflow import cli
from tests.workflow.test_configs import flat
from tests.workflow.test_configs import parse as parse_alone

QUICKSTART = "--config=configs/quickstart.yaml"
TEACHER = "method.init_args.teacher"
VERBAL = "ovd_lightning.teachers.verbal.VerbalTeacher"
HF = "ovd_lightning.engines.hf.HFEngine"


# ------------------------------------------------------------------ naming a class starts from its own defaults


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_teacher_of_an_overlay_keeps_nothing_of_the_one_it_replaces(parse: Any, tmp_path: Path) -> None:
    """math.yaml's teacher had a tokenizer on the hub; an in-process engine of the same base class kept it."""
    engine = {"class_path": "ovd_lightning.engines.vllm.VLLMEngine", "init_args": {"model": "m"}}
    overlay = write(
        tmp_path / "o.yaml",
        {"method": {"init_args": {"teacher": {"class_path": VERBAL, "init_args": {"engine": engine}}}}},
    )
    teacher = parse("--config=configs/math.yaml", f"--config={overlay}").method.init_args.teacher.init_args
    assert teacher.engine.init_args.tokenizer is None
    assert (teacher.demonstrator, teacher.cache, teacher.demonstration_tokens) == (None, None, None)
    only_engine = write(tmp_path / "e.yaml", {"method": {"init_args": {"teacher": {"init_args": {"engine": engine}}}}})
    teacher = parse("--config=configs/math.yaml", f"--config={only_engine}").method.init_args.teacher.init_args
    assert teacher.engine.init_args.tokenizer is None, "the engine is new"
    assert teacher.demonstration_tokens == 16384, "the teacher is changed"


@pytest.mark.parametrize("way", ["config", "file", "name", "json", "class_path", "base"])
def test_the_same_class_named_again_starts_afresh(way: str, parse: Any, tmp_path: Path) -> None:
    before = ["--engine=configs/engine/hf.yaml", "--engine.init_args.max_model_len=77"]
    assert parse(QUICKSTART, *before).engine.init_args.max_model_len == 77
    inner = write(tmp_path / "engine.yaml", {"class_path": HF, "init_args": {"dtype": "float32"}})
    outer = {"engine": {"class_path": HF, "init_args": {"dtype": "float32"}}}
    if way == "base":
        changed = write(tmp_path / "first.yaml", {"engine": {"class_path": HF, "init_args": {"max_model_len": 77}}})
        top = write(tmp_path / "top.yaml", f"base: {changed}\n{yaml.safe_dump(outer)}")
        given = [QUICKSTART, f"--config={top}"]
    else:
        given = [QUICKSTART, *before, {
            "config": f"--config={write(tmp_path / 'outer.yaml', outer)}", "file": f"--engine={inner}",
            "name": f"--engine={HF}", "json": f"--engine={json.dumps(outer['engine'])}",
            "class_path": f"--engine.class_path={HF}",
        }[way]]  # fmt: skip
    found = parse(*given).engine
    assert (found.class_path, found.init_args.max_model_len) == (HF, None)
    assert found.init_args.dtype == ("float32" if way not in ("name", "class_path") else None)
    assert found.init_args.model == "ovd_lightning/assets/student", "one student, for the new engine too"


def test_without_a_class_the_present_object_is_changed(parse: Any, tmp_path: Path) -> None:
    overlay = write(tmp_path / "o.yaml", "method:\n  init_args:\n    teacher:\n      init_args:\n        cache: c\n")
    partial = write(tmp_path / "p.yaml", "init_args:\n  cache: c\n")
    for given in (f"--config={overlay}", f"--{TEACHER}={partial}", f"--{TEACHER}.init_args.cache=c"):
        method = parse("--config=configs/math.yaml", "--method.init_args.threshold=3", given).method.init_args
        assert method.teacher.init_args.cache == "c", given
        assert method.teacher.init_args.demonstration_tokens == 16384, given
        assert method.threshold == 3, given


def test_deep_in_the_command_line(parse: Any) -> None:
    """A flag before the class that it is about is the old object's; behind it, the new one's."""
    engine = f"{TEACHER}.init_args.engine"
    found = parse(
        "--config=configs/math.yaml", f"--{engine}.init_args.timeout_s=7", f"--{engine}={HF}",
        f"--{engine}.init_args.model=m", f"--{engine}.init_args.dtype=float32",
    ).method.init_args.teacher.init_args.engine  # fmt: skip
    assert (found.class_path, found.init_args.model, found.init_args.dtype) == (HF, "m", "float32")
    assert "timeout_s" not in found.init_args
    assert found.init_args.tokenizer is None


def test_callbacks_given_anew(parse: Any, tmp_path: Path) -> None:
    path = "lightning.pytorch.callbacks.LearningRateMonitor"
    one = write(
        tmp_path / "1.yaml", {"trainer": {"callbacks": [{"class_path": path, "init_args": {"log_momentum": True}}]}}
    )
    two = write(
        tmp_path / "2.yaml", {"trainer": {"callbacks": [{"class_path": path, "init_args": {"log_weight_decay": True}}]}}
    )
    (callback,) = parse(QUICKSTART, f"--config={one}", f"--config={two}").trainer.callbacks
    assert (callback.init_args.log_momentum, callback.init_args.log_weight_decay) == (False, True)


def test_a_saved_config_is_the_same_run(parse: Any, tmp_path: Path) -> None:
    """What a run records, with everything in it, parses to itself: alone, and on top of what it came from."""
    args = ["--config=configs/math_tools.yaml", "--method.init_args.delta=0.3", "--seed_everything=5"]
    first = parse(*args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ovd_lightning"])
        patch.setattr(OVDCLI, "instantiate_classes", lambda self: None)
        patch.setattr(OVDCLI, "_run_subcommand", lambda self, name: None)
        made = OVDCLI(["fit", *args])
    saved = tmp_path / "config.yaml"
    made._parser("fit").save(made.config["fit"], str(saved), skip_none=False, overwrite=True, multifile=False)
    for again in ([f"--config={saved}"], ["--config=configs/math.yaml", f"--config={saved}"]):
        second = parse(*again)
        one, two = (
            {k: v for k, v in flat(c).items() if k != "config" and "__path__" not in k} for c in (first, second)
        )
        assert one == two


# ------------------------------------------------------------------ the seed


def test_true_draws_a_seed_and_records_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for _ in range(2):
        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # of a process that has begun a run
        config = parse_alone(monkeypatch, QUICKSTART, "--seed_everything=true")
        assert config.seed_everything is not True
        assert config.seed_everything == config.data.seed
        drawn.append(config.seed_everything)
    assert drawn[0] != drawn[1]
    assert parse_alone(monkeypatch, QUICKSTART, "--seed_everything=7").data.seed == 7
    for wrong in ("false", "-1"):
        with pytest.raises(ConfigError, match=r"^seed_everything: is "):
            parse_alone(monkeypatch, QUICKSTART, f"--seed_everything={wrong}")


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.learning_rat=1e-3"], "model.learning_rat: is no setting. Did you mean --model.learning_rate?"),
        (["--modl.learning_rate", "1"], "Did you mean --model.learning_rate?"),
        (["--accumulate=4"], "accumulate: is no setting."),
        (["--rounds=4"], "rounds: is no setting. Did you mean --data.rounds?"),
        (["--threshold=4"], "Did you mean --method.init_args.threshold?"),
        (["--model.lr=1e-3"], "model has attn_implementation, betas, chunk_size, compile, dtype,"),
        (["--data.rounds=three"], "data.rounds: is three. It takes a whole number."),
        (["--data.rounds=2.5"], "data.rounds: is 2.5. It takes a whole number."),
        (["--data.rounds"], "data.rounds: has no value."),
        (["--run.wandb=of"], "run.wandb: is of. It takes one of auto, online, offline, disabled."),
        (["--method.init_args.treshold=3"], "OVD takes no treshold. Did you mean method.init_args.threshold?"),
        (["--method.init_args.threshold=high"], "method.init_args.threshold: is high. It takes a number"),
        (["--method.init_args.replace_when=scores"], "Did you mean score?"),
        (["--method.init_args.credit=Rewards"], "Did you mean ovd_lightning.methods.rules.Reward?"),
        ([f"--{TEACHER}.init_args.engine.init_args.modl=m"], f"mean {TEACHER}.init_args.engine.init_args.model?"),
        ([f"--{TEACHER}.init_args.engine={HF[:-1]}"], f"{TEACHER}.init_args.engine: {HF[:-1]} is no Engine"),
        ([f"--{TEACHER}.init_args.engine={HF[:-1]}"], f"Did you mean {HF}?"),
        ([f"--{TEACHER}=configs/teacher/qwg.yaml"], f"{TEACHER}: configs/teacher/qwg.yaml is not there. Did you mean"),
        (["--method=configs/method/ovdd.yaml"], "is not there. Did you mean configs/method/ovd.yaml?"),
        (["--method=OVVD"], "Did you mean ovd_lightning.methods.ovd.OVD?"),
        (["--method=ovd_lightning.methods.ovd.OVDD"], "Did you mean ovd_lightning.methods.ovd.OVD?"),
        ([f"--method={HF}"], f"method: {HF} is no Method"),
        (["--trainer.logger=TensorBoardLogger"], "TensorBoardLogger needs it. Add --trainer.logger.init_args.save_dir"),
        (["--trainer.callbacks+=EarlyStopping"], "trainer.callbacks.init_args.monitor: is not set, and EarlyStopping"),
        (["--method=ovd_lightning.methods.opd.OPD"], "method.init_args.teacher: is not set, and OPD needs it."),
        ([f"--{TEACHER}.init_args.engine=ovd_lightning.engines.openai.OpenAIEngine"],
         f"{TEACHER}.init_args.engine.init_args.model: are not set, and OpenAIEngine needs them."),
        (["--config=configs/quickstrat.yaml"], "is not there. Did you mean configs/quickstart.yaml?"),
        (["--config=configs"], "config: configs is a folder."),
        (["--trainer.precision=17"], "trainer.precision: is 17. It takes one of"),
        (["--seed_everything=x"], "seed_everything: is x. It takes true or false or a whole number."),
        (["stray"], "stray: belongs to no option."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)  # fmt: skip
def test_a_mistake_on_the_command_line(args: list[str], says: str, error: Callable[..., str]) -> None:
    assert says in error(QUICKSTART, *args)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data:\n  rouns: 3\n", "data.rouns: (in {file}) is no setting. Did you mean data.rounds?"),
        ("dataa:\n  rounds: 3\n", "dataa: (in {file}) is no setting."),
        ("trainer:\n  devics: 1\n", "trainer.devics: (in {file}) is no setting. Did you mean trainer.devices?"),
        ("run:\n  name: x\n data:\n", "config: {file}, line 3, column 2: "),
        ("base: nowhere.yaml\nrun: [\n", "nowhere.yaml"),
        ("- a\n- b\n", "config: {file} is not a mapping of settings."),
        ("method:\n  init_args:\n    treshold: 3\n", "method.init_args.treshold: OVD takes no treshold."),
        ("data:\n  rounds: many\n", "data.rounds: is many. It takes a whole number."),
        ("trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.EarlyStoping\n", "EarlyStopping?"),
        ("optimizer: torch.optim.SGD\n", "optimizer: (in {file}) the optimiser is AdamW."),
        ("engine:\n  init_args:\n    model: m\n", "engine.init_args.model: (in {file}) "),
        ("data:\n  seed: 3\n", "Use --seed_everything 3."),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file(text: str, says: str, error: Callable[..., str], tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", text)
    assert says.format(file=file) in error(QUICKSTART, f"--config={file}")


def test_what_is_missing_and_what_is_no_command(error: Callable[..., str]) -> None:
    assert "engine, method, task: are not set. Start from a config" in error("--model.student=x")
    assert error(verb="fitt").startswith("fitt is no command. Did you mean fit?")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--data.seed=3", "Use --seed_everything 3."),
        ("--engine.init_args.model=x", "Use --model.student x."),
        ("--optimizer=SGD", "Use --model.learning_rate"),
        ("--optimizer.lr=1", "Use --model.learning_rate"),
        ("--lr_scheduler=StepLR", "Use --model.lr_scheduler NAME"),
        ("--data.task=x", "Use --task x."),
    ],
)
def test_a_name_that_another_setting_determines(flag: str, says: str, error: Callable[..., str]) -> None:
    assert says in error(QUICKSTART, flag)
    assert says in error(QUICKSTART, *flag.split("=")) or "VALUE" in says


def test_help_and_print_config(parse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["--method.help", "ovd_lightning.methods.grpo.GRPO"], [QUICKSTART, "--print_config"]):
        with pytest.raises(SystemExit) as ended:
            parse(*args)
        assert not ended.value.code
        said = capsys.readouterr().out
        assert "--optimizer" not in said
        assert {"--help": "--model.learning_rate", "--method.help": "--method.group_size"}.get(
            args[0], "learning_rate: 0.0003"
        ) in said


def test_in_a_process_of_its_own() -> None:
    """The last lines, alone: no usage, no traceback."""
    done: subprocess.CompletedProcess[str] = cli.run("fit", QUICKSTART, "--method.init_args.treshold=3")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: method.init_args.treshold: OVD takes no treshold. Did you mean method.init_args.threshold?"
    ]


def test_each_mistake_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, plain_errors():
        raise_errors([ConfigError("a", "is 1.", "Use 2."), ConfigError("b", "is 3.", "Use 4.")])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: a: is 1. Use 2.\nerror: b: is 3. Use 4.\n"
