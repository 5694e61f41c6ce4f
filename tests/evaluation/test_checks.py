"""Settings of an evaluation that cannot work are named before anything is answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.evaluation.answering import Decoding
from ovd_lightning.evaluation.rejection import TestingRejection
from ovd_lightning.preflight import check_evaluation
from ovd_lightning.resume.damage import trained_updates
from ovd_lightning.run_folder import continuation
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Problem
from tests.workflow.cli import ROOT

DECODING = Decoding(greedy=True, samples=0, max_tokens=64, temperature=1.0, top_p=1.0, chat=False, seed=0)


def test_splits_of_both_ends() -> None:
    callback = BenchmarkCallback(before_training=False, after_training=["test"])
    assert (callback.before_training, callback.after_training) == ([], ["test"])
    assert BenchmarkCallback().before_training == ["validation", "test"]


def check(data: OVDDataModule, engine: HFEngine, decoding: Decoding = DECODING, **settings: Any) -> None:
    given: dict[str, Any] = {"rejection": None, "teacher": None, **settings}
    check_evaluation(data, ["validation", "test"], engine, decoding, **given)


class Unknown(ArithmeticTask):
    """Nobody knows the answers of the test problems."""

    def problems(self, split: Any) -> list[Problem]:
        return [replace(p, answers=()) if split == "test" else p for p in super().problems(split)]


class Wordy(ArithmeticTask):
    def prompt(self, problem: Problem) -> str:
        return "1+1=2\n" * 100 + super().prompt(problem)


def test_problems_and_prompts(student: HFEngine) -> None:
    sizes = {"validation_size": 8, "test_size": 8}
    task = ArithmeticTask(**sizes)  # type: ignore[arg-type]
    check(OVDDataModule(task), student)
    # No problem is left out because a full answer does not fit: it is cut off and counts as truncated.
    check(OVDDataModule(task), student, replace(DECODING, max_tokens=student.max_context or 0))
    with pytest.raises(ConfigError, match=r"data.benchmarks.arithmetic \(validation\).*no room"):
        check(OVDDataModule(Wordy(**sizes)), student)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"name of the average"):
        check(OVDDataModule(task, benchmarks={"average": task}), student)
    unknown = OVDDataModule(Unknown(**sizes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\(test\).*no reference"):
        check(unknown, student)
    check(unknown, student, checked="test")


def test_testing_rejection_needs_a_teacher_whose_scale_has_the_threshold(student: HFEngine) -> None:
    data = OVDDataModule(ArithmeticTask(validation_size=8, test_size=8))
    teacher = VerbalTeacher(HFEngine(str(ROOT / "ovd_lightning/assets/teacher")))
    check(data, student, rejection=TestingRejection(7), teacher=teacher)
    with pytest.raises(ConfigError, match=r"benchmark\.rejection"):
        check(data, student, rejection=TestingRejection(7))
    with pytest.raises(ConfigError, match=r"benchmark\.rejection\.threshold"):
        check(data, student, rejection=TestingRejection(12), teacher=teacher)
    missing = VerbalTeacher(HFEngine(str(ROOT / "ovd_lightning/assets/none")))
    with pytest.raises(ConfigError, match="assets/none"):
        check(data, student, rejection=TestingRejection(7), teacher=missing)
    check(data, student, rejection=TestingRejection(0), teacher=missing)  # is not asked: need not be there


@pytest.mark.parametrize(
    "folder_flags", [[], ["--trainer.default_root_dir=old"], ["--trainer.default_root_dir", "old"]], ids=str
)
def test_the_command_that_goes_on(folder_flags: list[str]) -> None:
    argv = ["/x/ovd_lightning/__main__.py", "fit", "--config=a b.yaml", *folder_flags, "--ckpt_path=first.ckpt"]
    assert continuation(Path("/runs/x"), None, argv) == (
        "python -m ovd_lightning fit '--config=a b.yaml' --ckpt_path=first.ckpt --trainer.default_root_dir=/runs/x"
    )
    assert continuation(Path("/runs/x"), "last.ckpt", argv) == (
        "python -m ovd_lightning fit '--config=a b.yaml' --ckpt_path=last.ckpt --trainer.default_root_dir=/runs/x"
    )
    assert continuation(Path("/runs/x"), None, ["/x/notebook.py", "fit"]) is None


def test_updates_of_a_checkpoint_that_is_none_are_unknown(tmp_path: Path) -> None:
    assert trained_updates(None) is None
    assert trained_updates("org/name") is None
    assert trained_updates(tmp_path) is None
