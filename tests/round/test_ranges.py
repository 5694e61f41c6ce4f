"""Ranges of the settings of rounds, of evaluations and of the module, as the command line's parser checks them."""

from __future__ import annotations

import pytest

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError
from ovd_lightning.module import OVDModule
from ovd_lightning.settings.parser import RunParser

CLASSES = {"rollout": RolloutCallback, "benchmark": BenchmarkCallback, "data": OVDDataModule, "model": OVDModule}


@pytest.fixture(scope="module")
def parser() -> RunParser:
    parser = RunParser()
    for name, cls in CLASSES.items():
        parser.add_class_arguments(cls, name, skip={"engine", "task", "benchmarks", "method"})
    return parser


@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("rollout.max_tokens", "0 -1", "1"),
        ("rollout.temperature", "0 -0.5", "0.6"),
        ("rollout.top_p", "0 1.1", "1 0.95"),
        ("benchmark.every_n_rounds", "-1", "0"),
        ("benchmark.max_tokens", "0", "1 null"),
        ("benchmark.samples", "-1", "0"),
        ("benchmark.temperature", "0", "1 null"),
        ("benchmark.top_p", "0 1.5", "1 null"),
        ("benchmark.wandb_rows", "-1", "0"),
        ("data.problems_per_round", "0", "1"),
        ("data.rounds", "0", "1"),
        ("data.epochs_per_round", "0", "1"),
        ("data.mini_batches", "0", "1"),
        ("data.validation_limit", "-1", "0 null"),
        ("data.eval_batch_size", "0", "1"),
        ("model.learning_rate", "-1e-6", "0"),
        ("model.warmup_fraction", "-0.1 1.1", "0 1"),
        ("model.chunk_size", "0", "1"),
        ("model.micro_batch_tokens", "0", "1 null"),
    ],
)
def test_a_number_outside_its_range(
    setting: str, wrong: str, right: str, parser: RunParser, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in wrong.split():
        with pytest.raises(SystemExit):
            parser.parse_args([f"--{setting}={value}", "--model.student=x"])
        assert capsys.readouterr().err.startswith(f"error: {setting}: is {value}. Use ")
    for value in right.split():
        parser.parse_args([f"--{setting}={value}", "--model.student=x"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("benchmark.before_training", "[train]"),
        ("benchmark.after_training", "[tests]"),
        ("model.dtype", "float8"),
    ],
)
def test_a_value_that_is_no_choice(
    setting: str, value: str, parser: RunParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{setting}={value}", "--model.student=x"])
    assert capsys.readouterr().err.startswith(f"error: {setting}: is ")


def test_what_a_range_cannot_say() -> None:
    with pytest.raises(ConfigError) as error:
        BenchmarkCallback(greedy=False)
    assert error.value.setting == "benchmark.greedy"
