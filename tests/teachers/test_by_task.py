"""A teacher for each part of a mixture: who is asked, what is counted for whom, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.evaluation.rejection import TestingRejection
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.round.transcripts import read_transcripts
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.combined import MixtureTask
from ovd_lightning.teachers.by_task import TeachersByTask
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.workflow import cli

ASSETS = cli.ROOT / "ovd_lightning/assets"
TASK = MixtureTask({"one": ArithmeticTask(), "two": ArithmeticTask(seed=1)})
PROBLEMS = TASK.ordered(0, 8, seed=0)
PLACE = "method.init_args.teacher.init_args"


def teacher(model: str = "teacher", **settings: Any) -> VerbalTeacher:
    return VerbalTeacher(HFEngine(str(ASSETS / model)), **settings)


@pytest.fixture(scope="module")
def both() -> TeachersByTask:
    """A right one, and one that learned another task's steps."""
    made = TeachersByTask({"one": teacher(), "two": teacher("tools/teacher")})
    made.start()
    return made


def test_each_problem_is_judged_by_its_own(both: TeachersByTask) -> None:
    requests = [JudgeRequest(problem=p, step="1+1=2") for p in PROBLEMS]
    found = both.score(requests)
    for name, member in both.members.items():
        own = [i for i, p in enumerate(PROBLEMS) if p.meta["part"] == name]
        assert len(own) == 4
        assert [found[i] for i in own] == member.score([requests[i] for i in own])
        assert member.take_ledger().scores == 8
    assert both.used.prompt == sum(member.used.prompt for member in both.members.values())


def test_the_default_has_what_is_left() -> None:
    made = TeachersByTask({"two": teacher()}, default=teacher("tools/teacher"))
    assert {p.meta["part"]: next(n for n, m in made.members.items() if made.of(p) is m) for p in PROBLEMS} == {
        "one": "default",
        "two": "two",
    }
    assert [(m is made.default, n) for m, n in made.shared(100, {"one": 0.75, "two": 0.25})] == [
        (False, 25),
        (True, 75),
    ]


@pytest.mark.parametrize(
    ("teachers", "default", "message"),
    [
        (["one"], False, "teachers: has none for two. Add"),
        (["one", "three"], True, "teachers.three: is no part of the task. Its parts are one, two"),
    ],
)
def test_parts_and_teachers_belong_together(teachers: list[str], default: bool, message: str) -> None:
    made = TeachersByTask({name: teacher() for name in teachers}, teacher() if default else None)
    with pytest.raises(ConfigError, match=message):
        made.check_problems(TASK, PROBLEMS, 64)


def test_a_task_without_parts() -> None:
    with pytest.raises(ConfigError, match="but ArithmeticTask has no parts"):
        TeachersByTask({"one": teacher()}).check_problems(ArithmeticTask(), [], 64)


def test_what_cannot_teach_together() -> None:
    other = VerbalTeacher(HFEngine(str(ASSETS / "teacher")), judge=VerbalJudge(scale="one_to_ten"))
    for teachers, message in (
        ({}, "is empty"),
        ({"one": teacher(), "two": other}, "different scales"),
        ({"one": TeachersByTask({"one": teacher()})}, "teachers by task"),
        ({"default": teacher()}, "a setting of its own"),
    ):
        with pytest.raises(ConfigError, match=message):
            TeachersByTask(teachers)


def test_errors_name_the_teacher_that_has_them() -> None:
    made = TeachersByTask({"one": teacher(), "two": teacher(demonstrator_chat=True)}, default=teacher("nowhere"))
    with pytest.raises(ConfigError) as caught:
        made.check()
    settings = [error.setting for error in caught.value.errors]
    assert f"{PLACE}.teachers.two.init_args.demonstrator_chat" in settings
    assert not [setting for setting in settings if ".teachers.one." in setting]
    with pytest.raises(ConfigError, match=rf"{PLACE}.teachers.two.init_args.demonstrator: .*two/"):
        TeachersByTask({"one": teacher(), "two": teacher(demonstration_tokens=5000)}).check_problems(TASK, PROBLEMS, 64)


def test_testing_rejection_has_one_teacher(both: TeachersByTask) -> None:
    with pytest.raises(ConfigError, match="asks one teacher"):
        TestingRejection(threshold=5).check(both)


def config(folder: Path, engine: str) -> Path:
    def verbal(model: str, **settings: Any) -> dict[str, Any]:
        made = {"class_path": engine, "init_args": {"model": str(ASSETS / model)}}
        if "vllm" in engine:
            made["init_args"]["kv_cache_memory_bytes"] = 67108864
        path = "ovd_lightning.teachers.verbal.VerbalTeacher"
        return {"class_path": path, "init_args": {"engine": made, **settings}}

    arithmetic = "ovd_lightning.tasks.arithmetic.ArithmeticTask"
    tasks = {"one": {"class_path": arithmetic}, "two": {"class_path": arithmetic, "init_args": {"seed": 1}}}
    pool = {"class_path": "ovd_lightning.teachers.pool.Pool", "init_args": {"file": str(folder / "pool"), "size": 2}}
    teachers = {"one": verbal("teacher", pool=pool), "two": verbal("tools/teacher", pool=pool)}
    overlay = {
        "task": {"class_path": "ovd_lightning.tasks.combined.MixtureTask", "init_args": {"tasks": tasks}},
        "method": {"init_args": {"teacher": {"class_path": "ovd_lightning.teachers.by_task.TeachersByTask",
                                             "init_args": {"teachers": teachers}}}},
    }  # fmt: skip
    path = folder / "by_task.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.cpu_limit(900)
def test_a_run_with_two_teachers_on_vllm(tmp_path: Path) -> None:
    """What each wrote and read is counted for it, and kept in a pool under its own name."""
    overlay = config(tmp_path, "ovd_lightning.engines.vllm.VLLMEngine")
    done = cli.fit(tmp_path / "run", f"--config={overlay}", "--run.wandb=disabled", "--method.init_args.judged=all")
    assert done.stdout.count("demonstration of") + done.stderr.count("demonstration of") >= 2  # both were tried
    rounds = cli.rounds(tmp_path / "run")
    for row in rounds:
        for name in ("scores", "demonstrations", "prompt_tokens", "completion_tokens"):
            each = [row[f"teacher/{name}/{part}"] for part in ("one", "two")]
            assert sum(each) == row[f"teacher/{name}"]
            assert min(each) > 0
        assert row["score/mass/one"] > 0.9
    written = [r for r in read_transcripts(tmp_path / "run/transcripts") if r["source"] == "teacher"]
    for part, rewards in (("one", (0.5, 1.0)), ("two", (0.0, 0.1))):
        own = [r["reward"] for r in written if r["problem_id"].startswith(f"{part}/")]
        assert rewards[0] <= sum(own) / len(own) <= rewards[1], part
        logged = [(row[f"ovd/teacher_reward/{part}"], row[f"teacher/demonstrations/{part}"]) for row in rounds]
        assert sum(reward * count for reward, count in logged) == pytest.approx(sum(own))


@pytest.mark.slow
def test_a_continued_run_repeats_its_rounds(tmp_path: Path) -> None:
    overlay = f"--config={config(tmp_path, 'ovd_lightning.engines.hf.HFEngine')}"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = [*cli.HF, overlay, "--run.wandb=disabled", "--benchmark.every_n_rounds=0"]
    cli.fit(whole, *common)
    for file in tmp_path.glob("pool*"):
        file.unlink()
    cli.fit(parts, *common, "--data.rounds=2")
    cli.fit(parts, *common, "--ckpt_path=last")
    timed = ("time/", "throughput/")
    rows = [[{k: v for k, v in row.items() if not k.startswith(timed)} for row in cli.rounds(run)]
            for run in (whole, parts)]  # fmt: skip
    spent = json.loads((parts / "run.json").read_text())["starts"]
    assert len(spent) == 2
    assert rows[0] == rows[1]
