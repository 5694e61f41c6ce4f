"""The token-level teacher: what it reads, at which temperature, behind which prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.round.collate import to_batch
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Trajectory
from tests.helpers import PAD, ScriptedEngine
from tests.methods.slow import T, exact, rows, several_turns


def batch_of(trajectories: list[Trajectory], temperature: float = T) -> Any:
    return to_batch(trajectories, [1.0] * len(trajectories), PAD, temperature, round=0, version=0)


def test_log_probabilities_of_the_trained_tokens(tiny_untied_model: str) -> None:
    trajectories = several_turns()
    trajectories[4].teacher_prompt_ids = [9, 8, 7, 6, 5, 4, 3, 11, 12, 13]
    batch = batch_of(trajectories)
    found = TokenTeacher(model=tiny_untied_model, chunk_size=3).logprobs(batch)
    model = exact(Student(tiny_untied_model), tiny_untied_model)
    expected = [
        row[y.completion_ids[t]].item() for y in trajectories for t, row in rows(model, y, y.teacher_prompt_ids).items()
    ]
    assert found[batch.completion_mask].tolist() == pytest.approx(expected, abs=1e-5)
    assert not found[~batch.completion_mask].any()
    assert not found.requires_grad


def test_an_engine_reads_what_the_model_reads(tiny_untied_model: str) -> None:
    engine = HFEngine(tiny_untied_model)
    engine.start()
    batch = batch_of(several_turns(), temperature=1.0)
    torch.testing.assert_close(
        TokenTeacher(engine=engine).logprobs(batch), TokenTeacher(model=tiny_untied_model).logprobs(batch),
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_an_engine_knows_temperature_one_only(tiny_untied_model: str) -> None:
    student = HFEngine(tiny_untied_model)
    teacher = TokenTeacher(engine=HFEngine(tiny_untied_model))
    teacher.check_student(student, 1.0)
    with pytest.raises(ConfigError, match="scores at temperature 1"):
        teacher.check_student(student, 0.6)
    TokenTeacher(model=tiny_untied_model).check_student(student, 0.6)


def test_exactly_one_reads(tiny_untied_model: str, tmp_path: Path) -> None:
    for settings in ({}, {"model": tiny_untied_model, "engine": ScriptedEngine()}):
        with pytest.raises(ConfigError, match=r"init_args\.model"):
            TokenTeacher(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not there"):
        TokenTeacher(model=str(tmp_path / "nowhere")).check()


def test_a_hidden_vocabulary_is_refused(tokenizer: Any) -> None:
    teacher = TokenTeacher(engine=ScriptedEngine(tokenizer=None))
    with pytest.raises(ConfigError, match="another vocabulary"):
        teacher.check_student(ScriptedEngine(tokenizer=tokenizer), 1.0)


def test_the_model_is_frozen_loaded_once_and_leaves_the_random_state(tiny_untied_model: str) -> None:
    teacher = TokenTeacher(model=tiny_untied_model)
    before = torch.get_rng_state()
    model = teacher.model_on(torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
    assert model is teacher.model_on(torch.device("cpu"))
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
