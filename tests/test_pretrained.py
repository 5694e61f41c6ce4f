"""A model or a tokenizer that cannot be loaded is one line with the setting's full name, before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.preflight import check_teacher
from ovd_lightning.pretrained import check_checkpoint, load_tokenizer, loading
from ovd_lightning.search.simulated import SimulatedSearch
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher

Break = Callable[[Path], object]
TEACHER = "method.init_args.teacher.init_args"
BROKEN: dict[str, tuple[Break, str]] = {
    "config": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON"),
    "architecture": (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
    "weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    "cut": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors cannot be loaded",
    ),
    "shard": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}'),
        "lacks b.safetensors",
    ),
}  # fmt: skip


@pytest.fixture
def model(tiny_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint(kind: str, model: Path) -> None:
    check_checkpoint("model.student", str(model))
    spoil, says = BROKEN[kind]
    spoil(model)
    with pytest.raises(ConfigError, match=says) as error:
        check_checkpoint("model.student", str(model))
    assert error.value.setting == "model.student"
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer(model: Path) -> None:
    load_tokenizer("model.student", str(model))
    for file in model.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"^engine\.init_args\.tokenizer: "):
        load_tokenizer("engine.init_args.tokenizer", str(model))


def test_what_the_hub_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as error, loading("model.student", "org/model"):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your connection.\n" * 50)
    assert str(error.value).startswith("model.student: org/model cannot be loaded: We couldn't connect to")
    assert "\n" not in str(error.value)


def engine(model: Path) -> HFEngine:
    return HFEngine(model=str(model))


HOLDERS: dict[str, tuple[Callable[[Path, str], Any], str]] = {
    "judge": (lambda bad, good: VerbalTeacher(engine(bad)), f"{TEACHER}.engine.init_args.model"),
    "demonstrator": (
        lambda bad, good: VerbalTeacher(engine(Path(good)), demonstrator=engine(bad)),
        f"{TEACHER}.demonstrator.init_args.model",
    ),
    "token": (lambda bad, good: TokenTeacher(model=str(bad)), f"{TEACHER}.model"),
    "token engine": (lambda bad, good: TokenTeacher(engine=engine(bad)), f"{TEACHER}.engine.init_args.model"),
    "token demonstrator": (
        lambda bad, good: TokenTeacher(model=good, demonstrator=VerbalTeacher(engine(bad))),
        f"{TEACHER}.demonstrator.init_args.engine.init_args.model",
    ),
    "endpoint's tokenizer": (
        lambda bad, good: VerbalTeacher(OpenAIEngine("http://127.0.0.1:9/v1", "m", tokenizer=str(bad))),
        f"{TEACHER}.engine.init_args.tokenizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOLDERS)
def test_whoever_holds_the_model_is_named(kind: str, model: Path, tiny_model: str) -> None:
    (model / "config.json").write_text("{")
    make, setting = HOLDERS[kind]
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        check_teacher(make(model, tiny_model))
    assert error.value.setting == setting


def test_a_search_simulators_model(model: Path) -> None:
    (model / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        SimulatedSearch(engine(model)).check()
    assert error.value.setting == "task.init_args.environment.init_args.search.init_args.engine.init_args.model"
