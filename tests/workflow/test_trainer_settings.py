"""Every argument of Lightning's Trainer works as its users expect, or is one line before anything loads."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from ovd_lightning.callbacks.endings import RoundTimer
from ovd_lightning.cli import round_timer, run_loggers
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.run_folder import RunConfig, loggers
from ovd_lightning.settings.trainer import OBEYED, REFUSED, step_errors, trainer_errors
from tests.workflow import cli

ARGUMENTS = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
OURS = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
DEFAULTS = {
    name: parameter.default for name, parameter in inspect.signature(L.Trainer.__init__).parameters.items()
} | OURS  # fmt: skip
WRONG: dict[str, list[tuple[Any, str]]] = {
    "max_epochs": [(3, "--data.rounds 3"), (-1, "--data.rounds"), (None, "--data.rounds")],
    "min_epochs": [(2, "--data.rounds")],
    "limit_train_batches": [(2, "--data.rounds"), (0.5, "--data.rounds"), (1, "--data.rounds")],
    "overfit_batches": [(2, "train_size"), (0.1, "train_size")],
    "limit_val_batches": [(0, "--benchmark.every_n_rounds 0"), (2, "--data.validation_limit")],
    "val_check_interval": [(0.5, "--benchmark.every_n_rounds"), (10, "--benchmark.every_n_rounds")],
    "check_val_every_n_epoch": [(2, "--benchmark.every_n_rounds")],
    "num_sanity_val_steps": [(2, "--benchmark.before_training"), (-1, "--benchmark.before_training")],
    "log_every_n_steps": [(50, "Leave it out")],
    "use_distributed_sampler": [(True, "Leave it out")],
    "barebones": [(True, "enable_checkpointing false")],
    "reload_dataloaders_every_n_epochs": [(1, "leave it out")],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_obeyed_or_refused(name: str) -> None:
    assert (name in OBEYED) != (name in REFUSED)
    assert (name in REFUSED) == (name in WRONG)
    raise_errors(trainer_errors({}, "fit"))
    raise_errors(trainer_errors(DEFAULTS, "fit"))
    for value, hint in WRONG.get(name, []):
        with pytest.raises(ConfigError) as error:
            raise_errors(trainer_errors({**DEFAULTS, name: value}, "fit"))
        assert error.value.setting == f"trainer.{name}"
        assert f"is {value}." in str(error.value)
        assert hint in error.value.hint


def test_an_evaluation_may_be_cut() -> None:
    assert list(trainer_errors({**DEFAULTS, "limit_val_batches": 2}, "validate")) == []
    assert len(list(trainer_errors({**DEFAULTS, "limit_train_batches": 2}, "fit"))) == 1


def test_steps_end_a_round() -> None:
    for steps in (-1, None, 2, 4):
        raise_errors(step_errors({"max_steps": steps, "min_steps": steps}, 2))
    for name in ("max_steps", "min_steps"):
        with pytest.raises(ConfigError, match=rf"trainer\.{name}: is 3, in the middle of a round of 2 .*data.rounds 2"):
            raise_errors(step_errors({name: 3}, 2))


def test_the_time_is_up_at_the_end_of_a_round() -> None:
    timer = RoundTimer("00:00:00:01")
    timer._offset = 5  # seconds that have passed
    trainer: Any = SimpleNamespace(should_stop=False, strategy=SimpleNamespace(broadcast=lambda value: value))
    trainer.strategy.broadcast = lambda value, src=0: value
    for last in (False, True):
        batch: Any = SimpleNamespace(last_in_round=last)
        timer.on_train_batch_end(trainer, None, None, batch, 0)  # type: ignore[arg-type]
        assert trainer.should_stop is last


def test_what_is_no_time() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_time: is soon\. Use days:hours:minutes:seconds"):
        round_timer("soon")


def test_a_users_logger_stands_beside_the_runs_own(tmp_path: Path) -> None:
    own = [CSVLogger(str(tmp_path / "run"), name="", version=""), WandbLogger(save_dir=str(tmp_path), offline=True)]
    users = CSVLogger(str(tmp_path / "theirs"))
    assert run_loggers(None, own) == run_loggers(True, own) == own
    assert run_loggers(False, own) is False
    assert run_loggers(users, own) == run_loggers([users], own) == [*own, users]
    theirs = WandbLogger(save_dir=str(tmp_path), offline=True, project="theirs")
    assert run_loggers(theirs, own) == [own[0], theirs]


def test_wandbs_environment_is_obeyed_where_no_setting_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PROJECT", "p"), ("RUN_GROUP", "g"), ("NAME", "n"), ("TAGS", "a,b"), ("ENTITY", "e"), ("MODE", "offline"),
    ):  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    _, wandb = loggers(RunConfig(name="r"), tmp_path)
    run = wandb.experiment
    assert (run.project, run.group, run.name, set(run.tags), run.entity) == ("p", "g", "n", {"a", "b"}, "e")
    run.finish()
    _, wandb = loggers(RunConfig(name="r", project="mine", group="ours", tags=["c"]), tmp_path)
    run = wandb.experiment
    assert (run.project, run.group, set(run.tags)) == ("mine", "ours", {"c"})
    run.finish()
    monkeypatch.delenv("WANDB_PROJECT")
    monkeypatch.delenv("WANDB_NAME")
    _, wandb = loggers(RunConfig(name="r"), tmp_path / "time")
    assert (wandb.name, wandb._wandb_init["name"]) == ("ovd_lightning", "r/time")


# ------------------------------------------------------------------ real runs


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small runs: one with what Lightning offers, and a fast_dev_run of the same and of another seed."""
    root = tmp_path_factory.mktemp("fits")
    common = [*cli.HF, *cli.GRPO, "--run.wandb=disabled", "--trainer.enable_progress_bar=false"]
    cli.fit(
        root / "first", *common, "--seed_everything=1", "--trainer.max_steps=2", "--trainer.enable_checkpointing=false",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={root / 'theirs'}",
        "--trainer.callbacks=lightning.pytorch.callbacks.LearningRateMonitor",
    )  # fmt: skip
    for seed in (1, 2):
        cli.fit(root / f"dev{seed}", *common, f"--seed_everything={seed}", "--trainer.fast_dev_run=true")
    return {path.name: path for path in root.iterdir()}


@pytest.mark.slow
def test_one_seed_is_that_of_every_sample(fits: dict[str, Path]) -> None:
    """Two seeds were the same run: only data.seed counted."""
    first, same, other = (
        [(t["problem_id"], t["text"]) for t in cli.transcripts(fits[name])] for name in ("first", "dev1", "dev2")
    )
    assert first == same
    assert first != other
    assert yaml.safe_load((fits["dev2"] / "config.yaml").read_text())["seed_everything"] == 2


@pytest.mark.slow
def test_steps_loggers_and_no_checkpoint(fits: dict[str, Path]) -> None:
    first = fits["first"]
    assert len(cli.rounds(first)) == 1, "two steps, one round"
    assert not (first / "checkpoints").exists()
    assert (first / "student/config.json").is_file()
    assert (first / "config.yaml").is_file(), "the run's record stays in its folder"
    (theirs,) = fits["theirs"].rglob("metrics.csv")
    assert "reward/student" in theirs.read_text()


@pytest.mark.slow
def test_a_fast_dev_run_is_a_whole_round_with_metrics(fits: dict[str, Path]) -> None:
    run = fits["dev1"]
    (row,) = cli.rounds(run)
    assert {"reward/student", "loss", "policy/kl"} <= {*row}
    evaluated = [row for row in cli.metrics(run) if any(name.startswith("eval/") for name in row)]
    assert len(evaluated) == 1
    assert not (run / "checkpoints").exists()
    assert not (run / "student").exists()


@pytest.mark.slow
def test_a_metric_of_every_round_can_be_monitored(tmp_path: Path) -> None:
    """EarlyStopping and the checkpoint fail where there is no such metric."""
    stop = "--trainer.callbacks.init_args"
    cli.fit(
        tmp_path, *cli.HF, *cli.GRPO, "--run.wandb=disabled", "--data.rounds=3", "--benchmark.every_n_rounds=1",
        "--checkpoint.every_n_rounds=1", "--checkpoint.monitor=reward/student",
        "--trainer.callbacks=lightning.pytorch.callbacks.EarlyStopping", f"{stop}.monitor=reward/student",
        f"{stop}.patience=1", f"{stop}.min_delta=2",
    )  # fmt: skip
    assert len(cli.rounds(tmp_path)) == 2, "no reward is better by 2"
    assert [*(tmp_path / "checkpoints").glob("step-*.ckpt")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max_epochs=3", "overfit_batches=1", "max_steps=3", "strategy=fsdpp"])
def test_a_refused_argument_is_one_line(name: str, tmp_path: Path) -> None:
    done = cli.run("fit", "--config=configs/quickstart.yaml", f"--trainer.{name}", f"--run.root={tmp_path}")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "Seed set" not in line]
    assert line.startswith(f"error: trainer.{name.split('=')[0]}: ")
    assert not [*tmp_path.glob("*/*")]
