"""A pool of demonstrations: written once, drawn by problem, round and sample."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import Suffix
from ovd_lightning.methods.seqkd import SeqKD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.pool import Pool
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tools.local import LocalSandbox
from ovd_lightning.types import Group
from tests.helpers import ScriptedEngine, make_group, make_round, mean, problem

WRONG = "1+1=3\n\\boxed{3}"
PROBLEMS = [problem("a"), problem("b", "1+0+1=?")]


def by_seed(prompt: str, request: Request) -> str:
    return f"{request.seed}\n\\boxed{{2}}"


class Teacher:
    """A demonstrator with a pool, and what it had written."""

    def __init__(self, tokenizer: Any, pool: Pool | None, write: Any = by_seed, **settings: Any) -> None:
        self.engine = ScriptedEngine(write=write, tokenizer=tokenizer)
        self.teacher = Demonstrator(self.engine, pool=pool, **settings)
        self.tokenizer = tokenizer

    def round(self, index: int, group_size: int = 3, **settings: Any) -> list[Group]:
        method = SeqKD(self.teacher, group_size=group_size)
        self.last = make_round(self.tokenizer, index=index, **settings)
        groups = method.sample(PROBLEMS, self.last)
        method.consult(groups, self.last)
        method.annotate(groups, self.last)
        return groups


def texts(groups: list[Group]) -> list[list[str]]:
    return [[y.text for y in g.mixture] for g in groups]


def test_a_few_are_written_and_drawn_again(tokenizer: Any, tmp_path: Path) -> None:
    teacher = Teacher(tokenizer, Pool(str(tmp_path / "pool.sqlite"), size=4))
    drawn = [texts(teacher.round(index)) for index in range(12)]
    assert len(teacher.engine.written) == 2 * 4, "as many as the pool holds, over all rounds"
    for rounds in drawn:
        assert all(len(set(group)) == 3 for group in rounds), "none twice in a group before all were drawn"
    assert len({tuple(group) for rounds in drawn for group in rounds}) > 4, "rounds draw differently"
    assert teacher.last.metrics.sums["teacher/demonstrations"] == 6
    assert teacher.last.metrics.sums["teacher/demonstrations_from_pool"] == 6
    again = Teacher(tokenizer, Pool(str(tmp_path / "pool.sqlite"), size=4))
    assert [texts(again.round(index)) for index in range(12)] == drawn
    assert not again.engine.written, "another run has them"


def test_it_does_not_matter_who_filled_it(tokenizer: Any, tmp_path: Path) -> None:
    """Another order of rounds, another run's seed, and a run that goes on after its fifth round."""
    first = Teacher(tokenizer, Pool(None, size=8))
    expected = [texts(first.round(index)) for index in range(6)]
    filled = Teacher(tokenizer, Pool(str(tmp_path / "pool.sqlite"), size=8))
    for index in (7, 3, 1):
        filled.round(index, group_size=8, seed=5)
    there = len(filled.engine.written)
    assert [texts(filled.round(index)) for index in range(6)] == expected
    assert len(filled.engine.written) == there
    resumed = Teacher(tokenizer, Pool(None, size=8))
    assert texts(resumed.round(5)) == expected[5]


def test_without_seeds_nothing_changes(tokenizer: Any) -> None:
    """A teacher that always writes the same: with and without a pool, the same trains."""
    for group_size in (1, 8):
        plain, pooled = (
            Teacher(tokenizer, pool, write=lambda prompt, request: f"{prompt}\\boxed{{2}}") for pool in (None, Pool())
        )
        for index in range(3):
            one, other = plain.round(index, group_size), pooled.round(index, group_size)
            assert [[(y.key, y.completion_ids, y.grade, y.steps, y.stop_reason) for y in g.mixture] for g in one] == [
                [(y.key, y.completion_ids, y.grade, y.steps, y.stop_reason) for y in g.mixture] for g in other
            ]


def test_another_teacher_prompt_temperature_or_limit_is_another_pool(tokenizer: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "pool.sqlite")
    Teacher(tokenizer, Pool(file)).round(0)
    for settings in ({"demonstration_temperature": 0.2}, {"demonstrator_chat": True}, {"demonstration_tokens": 9}):
        other = Teacher(tokenizer, Pool(file), **settings)
        other.round(0)
        assert len(other.engine.written) == 6, settings
    other = Teacher(tokenizer, Pool(file))
    other.engine._name = "another"
    other.round(0)
    assert len(other.engine.written) == 6
    other.round(0, max_tokens=32)
    assert len(other.engine.written) == 12


def test_each_has_its_ledger(tokenizer: Any, tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "pool.sqlite"))
    engine = ScriptedEngine(write=by_seed, tokenizer=tokenizer)
    teacher = Teacher(tokenizer, pool, demonstration_temperature=0.3)
    teacher.round(0)
    rows = [json.loads(value) for (value,) in pool.kept._db.execute("SELECT value FROM answers")]
    assert len(rows) == 6
    for row in rows:
        assert (row["model"], row["temperature"]) == (engine.name, 0.3)
        assert row["completion_tokens"] == len(row["token_ids"])
        assert row["problem"] in "ab"
        assert 0 <= row["number"] < 8


def test_failures_are_not_kept_and_grades_are(tokenizer: Any) -> None:
    failing = True

    def write(prompt: str, request: Request) -> str | None:
        return None if failing else by_seed(prompt, request)

    teacher = Teacher(tokenizer, Pool(), write=write)
    assert texts(teacher.round(0)) == [[], []]
    assert teacher.last.metrics.sums["teacher/demonstration_failures"] == 6
    failing = False
    groups = teacher.round(0)
    assert [len(g.mixture) for g in groups] == [3, 3]
    grades = [y.grade for g in groups for y in g.mixture]
    assert [y.grade for g in teacher.round(0) for y in g.mixture] == grades
    assert all(a is b for a, b in zip(grades, [y.grade for g in teacher.round(0) for y in g.mixture], strict=True))


def test_ovd_draws_whole_ones_only(tokenizer: Any) -> None:
    engine = ScriptedEngine(
        lambda p: 9 if "Current Step: 0+2" in p else 2, lambda p, r: f"{r.seed}\n\\boxed{{2}}", tokenizer
    )
    method = OVD(VerbalTeacher(engine, pool=Pool(size=2)), replacement=Suffix(), group_size=2)
    for index in range(4):
        round = make_round(tokenizer, index=index)
        groups = [make_group(round, [WRONG, f"0+2=2\n{WRONG}"])]
        method.consult(groups, round)
        method.annotate(groups, round)
        assert [y.source for y in groups[0].mixture] == ["teacher", "mixed"]
        assert round.metrics.sums["teacher/demonstrations"] == 2
        assert mean(round, "ovd/replaced_fraction") == 1
    begun = [r for r in engine.written if str(r.prompt).endswith("0+2=2\n")]
    assert len(begun) == len({r.seed for r in begun}) == 4, "continuations are written anew"
    assert len(engine.written) - len(begun) <= 2


def test_sg_opd_draws_the_same_after_a_resume(tokenizer: Any, tiny_model: str) -> None:
    drawn = []
    for index in (0, 1):
        teacher = TokenTeacher(tiny_model, demonstrator=Demonstrator(ScriptedEngine(write=by_seed), pool=Pool()))
        round = make_round(tokenizer, index=index)
        groups = [make_group(round, [WRONG, WRONG])]
        SGOPD(teacher, demonstrations=2).consult(groups, round)
        drawn.append([y.text for y in groups[0].demonstrations])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 2


# ------------------------------------------------------------------ several processes


def fill(file: str, name: str, barrier: Any, tokenizer: Any) -> None:
    """An endpoint that ignores seeds: every process would write something else."""
    teacher = Teacher(tokenizer, Pool(file), write=lambda prompt, request: f"{name}{request.seed}\n\\boxed{{2}}")
    barrier.wait()
    Path(f"{file}.{name}").write_text(json.dumps([texts(teacher.round(index, group_size=8)) for index in range(4)]))


def die(file: str, tokenizer: Any) -> None:
    def write(prompt: str, request: Request) -> str:
        if len(Pool(file).kept) >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return by_seed(prompt, request)

    class OneByOne(ScriptedEngine):
        def generate_as_ready(self, requests: Any, sampling: Any, ready: Any) -> Any:
            for i, request in enumerate(requests):
                ready(i, self.generate([request], sampling)[0])

    teacher = Teacher(tokenizer, Pool(file))
    teacher.teacher = Demonstrator(OneByOne(write=write, tokenizer=tokenizer), pool=Pool(file))
    teacher.round(0, group_size=8)


def test_two_processes_fill_one_pool(tokenizer: Any, tmp_path: Path) -> None:
    file, context = str(tmp_path / "pool.sqlite"), multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=fill, args=(file, name, barrier, tokenizer)) for name in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    x, y = (json.loads(Path(f"{file}.{name}").read_text()) for name in "xy")
    assert x == y, "what was kept first is what both draw"
    third = Teacher(tokenizer, Pool(file), write=lambda prompt, request: None)
    assert [texts(third.round(index, group_size=8)) for index in range(4)] == x


def test_what_another_process_kept_first_is_drawn(tokenizer: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "pool.sqlite")
    other = Teacher(tokenizer, Pool(file), write=lambda prompt, request: "first \\boxed{2}")

    def write(prompt: str, request: Request) -> str:
        if not other.engine.written:
            other.round(0)
        return "second \\boxed{2}"

    assert texts(Teacher(tokenizer, Pool(file), write=write).round(0)) == [["first \\boxed{2}"] * 3] * 2


def test_what_was_written_before_a_kill_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    file, context = str(tmp_path / "pool.sqlite"), multiprocessing.get_context("fork")
    process = context.Process(target=die, args=(file, tokenizer))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    teacher = Teacher(tokenizer, Pool(file))
    expected = texts(Teacher(tokenizer, Pool()).round(0, group_size=8))
    assert texts(teacher.round(0, group_size=8)) == expected
    assert len(teacher.engine.written) == 16 - 3


# ------------------------------------------------------------------ what somebody else wrote


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_offline_teacher(tokenizer: Any, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "written.jsonl", {"id": "a", "text": "one \\boxed{2}"}, {"id": "a", "text": "two \\boxed{2}"},
        {"question": "1+0+1=?", "text": "three \\boxed{2}"},
    )  # fmt: skip
    offline = Demonstrator(pool=Pool(written=file))
    offline.check()
    task = make_round(tokenizer).task
    offline.check_problems(task, PROBLEMS, 64)
    offline.self_test(task, PROBLEMS, 64)
    method, round = SeqKD(offline, group_size=2), make_round(tokenizer)
    groups = method.sample(PROBLEMS, round)
    method.consult(groups, round)
    method.annotate(groups, round)
    assert sorted(y.text for y in groups[0].mixture) == ["one \\boxed{2}", "two \\boxed{2}"]
    assert [y.text for y in groups[1].mixture] == ["three \\boxed{2}"] * 2
    assert all(y.reward == 1 and y.completion_ids[-1] == tokenizer.eos_token_id for g in groups for y in g.mixture)
    assert offline.used == (0, 0)
    with pytest.raises(ConfigError, match=r"no demonstration of 1 of 3 problems, the first is 'c'") as error:
        offline.check_problems(task, [*PROBLEMS, problem("c", "?")], 64)
    assert error.value.setting.endswith("pool.init_args.written")


def test_an_engine_adds_to_what_was_written(tokenizer: Any, tmp_path: Path) -> None:
    file = lines(tmp_path / "written.jsonl", {"id": "a", "text": "one \\boxed{2}"})
    teacher = Teacher(tokenizer, Pool(written=file, size=3))
    teacher.teacher.check_problems(make_round(tokenizer).task, PROBLEMS, 64)
    groups = teacher.round(0)
    assert "one \\boxed{2}" in texts(groups)[0]
    assert len(teacher.engine.written) == 2 + 3


def test_a_judge_with_an_engine_of_its_own_and_written_demonstrations(tokenizer: Any, tmp_path: Path) -> None:
    file = lines(tmp_path / "written.jsonl", {"id": "p", "text": "\\boxed{2}"})
    teacher = VerbalTeacher(judge=VerbalJudge(ScriptedEngine(tokenizer=tokenizer)), pool=Pool(written=file))
    method, round = OVD(teacher, group_size=2), make_round(tokenizer)
    groups = [make_group(round, [WRONG, WRONG])]
    method.self_test(round.task, [problem()], 64)
    method.consult(groups, round)
    method.annotate(groups, round)
    assert [y.text for y in groups[0].mixture] == ["\\boxed{2}"] * 2
    with pytest.raises(ConfigError, match="no engine to continue"):
        OVD(teacher, replacement=Suffix())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ('{"id": "a", "text": "x"', "line 1 is no JSON"),
        ('{"id": "a"}', "row 1 is no demonstration"),
        ('{"text": "x"}', "row 1 is no demonstration"),
        ('{"id": "a", "text": " "}', "row 1 is no demonstration"),
    ],
)
def test_what_is_no_file_of_demonstrations(content: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "written.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=words) as error:
        Demonstrator(pool=Pool(written=str(file))).check()
    assert error.value.setting == "method.init_args.teacher.init_args.pool.init_args.written"


def test_settings_that_cannot_work(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="nobody demonstrates"):
        Demonstrator()
    with pytest.raises(ConfigError, match="the judge has none either"):
        VerbalTeacher(pool=Pool(written="x"))
    (tmp_path / "pool.sqlite").write_text("no database")
    with pytest.raises(ConfigError, match="no cache, or damaged"):
        Demonstrator(ScriptedEngine(), pool=Pool(str(tmp_path / "pool.sqlite"))).check()
    task = ArithmeticTask(train_size=1, validation_size=1, test_size=1)
    task.environment = ToolEnvironment(LocalSandbox())
    with pytest.raises(ConfigError, match="replies of the environment"):
        Demonstrator(ScriptedEngine(), pool=Pool()).check_problems(task, PROBLEMS, 64)
