"""What a resumed run may change, what it may not, and whose the optimiser's settings are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.module import OVDModule
from ovd_lightning.resume.record import KEY, Progress, compare, make, student_errors
from ovd_lightning.resume.restore import apply_settings, optimizer_settings
from ovd_lightning.student import Student
from ovd_lightning.tasks.arithmetic import ArithmeticTask


def settings_of(student: str, group_size: int = 4, **settings: Any) -> dict[str, Any]:
    model = {k: settings.pop(k) for k in ("learning_rate", "weight_decay") if k in settings}
    chosen = {"problems_per_round": 4, "rounds": 3, "epochs_per_round": 2, **settings}
    module = OVDModule(student, GRPO(group_size=group_size), **model)
    return {**OVDDataModule(ArithmeticTask(), **chosen).resume_settings(), **module.resume_settings()}


@pytest.fixture
def checkpoint(tiny_model: str) -> dict[str, Any]:
    """After two rounds of two updates."""
    return {"global_step": 4, "loops": {}, KEY: make(settings_of(tiny_model), 4, Progress(0, 0))}


def test_what_the_command_line_wins(checkpoint: dict[str, Any], tiny_model: str) -> None:
    assert compare(checkpoint, settings_of(tiny_model)) == (Progress(4, 2), [])
    progress, notes = compare(checkpoint, settings_of(tiny_model, rounds=9, learning_rate=0.5, weight_decay=0.25))
    assert progress == Progress(4, 2)
    assert notes == ["data.rounds 3 -> 9", "model.learning_rate 1e-06 -> 0.5", "model.weight_decay 0.0 -> 0.25"]
    assert compare(checkpoint, settings_of(tiny_model, group_size=8))[1] == ["method.init_args.group_size 4 -> 8"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs_per_round", 1), ("epochs_per_round", 4), ("mini_batches", 2), ("problems_per_round", 8), ("seed", 1)],
)
def test_what_must_not_change(setting: str, value: int, checkpoint: dict[str, Any], tiny_model: str) -> None:
    with pytest.raises(ConfigError, match=f"is {value}, and the checkpoint was trained with") as error:
        compare(checkpoint, settings_of(tiny_model, **{setting: value}))
    assert setting in error.value.setting


def test_fewer_rounds_than_are_trained(checkpoint: dict[str, Any], tiny_model: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.rounds: is 1, and the checkpoint has 2 rounds behind it"):
        compare(checkpoint, settings_of(tiny_model, rounds=1))


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_its_settings(tiny_model: str) -> None:
    old = {"global_step": 4, "loops": {}}
    progress, notes = compare(old, settings_of(tiny_model))
    assert progress == Progress(4, 2)
    assert "not compared" in notes[0]
    with pytest.raises(ConfigError, match="in the middle of a round of 3"):
        compare(old, settings_of(tiny_model, epochs_per_round=3))


def test_what_is_no_checkpoint_of_a_run(tiny_model: str) -> None:
    with pytest.raises(ConfigError, match="no checkpoint of a training run"):
        compare({"weight": 1}, settings_of(tiny_model))


def test_another_architecture_is_refused_before_it_is_loaded(tiny_model: str, tiny_untied_model: str) -> None:
    weights = {f"student.{name}": w for name, w in Student(tiny_model).state_dict().items()}
    raise_errors(student_errors({"state_dict": weights}, tiny_model))
    weights["student.hf.model.embed_tokens.weight"] = torch.zeros(3, 5)
    with pytest.raises(ConfigError, match=r"embed_tokens.weight is .* there and \[3, 5\] in the checkpoint"):
        raise_errors(student_errors({"state_dict": weights}, tiny_model))
    del weights["student.hf.model.embed_tokens.weight"]
    with pytest.raises(ConfigError, match="missing in the checkpoint"):
        raise_errors(student_errors({"state_dict": weights}, tiny_untied_model))


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_optimiser_and_schedule_are_the_runs_own(name: str) -> None:
    """With unchanged settings nothing changes, to the bit; with changed ones the run's are in force at its update."""

    def train(rate: float, decay: float, total: int, steps: int, state: Any = None) -> Any:
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter], lr=rate, weight_decay=decay)
        configured = optimizer_settings(optimizer)
        schedule = get_scheduler(name, optimizer, 2, total)
        if state is not None:
            optimizer.load_state_dict(state[0])
            schedule.load_state_dict(state[1])
            apply_settings(optimizer, configured, [schedule])
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            parameter.grad = torch.ones(3)
            optimizer.step()
            schedule.step()
        return rates, optimizer, (optimizer.state_dict(), schedule.state_dict())

    whole, *_ = train(0.1, 0.01, 10, 10)
    _, _, state = train(0.1, 0.01, 10, 4)
    assert train(0.1, 0.01, 10, 6, state)[0] == whole[4:]
    rates, optimizer, _ = train(0.3, 0.02, 20, 5, state)
    assert rates == train(0.3, 0.02, 20, 9)[0][4:]
    assert optimizer.param_groups[0]["weight_decay"] == 0.02
