"""Problems -> answers: each once, in order, and none asked for that is already on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Completion, Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.evaluation.answering import Answering, Decoding
from ovd_lightning.evaluation.answers import AnswerFiles
from ovd_lightning.evaluation.rejection import TestingRejection
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Task
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Grade, Problem
from tests.helpers import ScriptedEngine, as_text, read_answers
from tests.workflow.cli import ROOT

DECODING = Decoding(greedy=True, samples=2, max_tokens=48, temperature=1.0, top_p=1.0, chat=False, seed=0)
N = 9


@pytest.fixture
def problems() -> list[Problem]:
    return list(ArithmeticTask(validation_size=N).problems("validation"))


def answering(engine: Any, folder: Path | None, decoding: Decoding = DECODING, **settings: Any) -> Answering:
    weights = settings.pop("weights", "w")
    files = None if folder is None else AnswerFiles(folder, "validation-000000", weights)
    batch_size = settings.pop("batch_size", 6)
    return Answering(
        engine=engine, tokenizer=engine.tokenizer, decoding=decoding, step=0, weights=weights, batch_size=batch_size,
        files=files, **settings,
    )  # fmt: skip


class Counting(HFEngine):
    """The embedded student; counts what is asked of it, and is interrupted after some calls."""

    def __init__(self, engine: HFEngine, calls: int | None = None) -> None:
        super().__init__(engine.model)
        self._network = engine.network
        self.calls = calls
        self.asked: list[int] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if self.calls is not None and len(self.asked) == self.calls:
            raise KeyboardInterrupt
        self.asked.append(len(requests))
        return super().generate(requests, sampling)


def texts(lines: Sequence[Sequence[dict[str, Any]]]) -> list[list[str]]:
    return [[row["response"] for row in rows] for rows in lines]


def test_every_problem_has_its_greedy_answer_and_its_samples_in_order(
    student: HFEngine, problems: list[Problem], tmp_path: Path
) -> None:
    engine, task = Counting(student), ArithmeticTask()
    lines = answering(engine, tmp_path).answer("arithmetic", task, problems)
    assert [[row["id"] for row in rows] for rows in lines] == [[p.id] * 3 for p in problems]
    assert [[(row["decoding"], row["sample"]) for row in rows] for rows in lines] == [
        [("greedy", None), ("sample", 0), ("sample", 1)]
    ] * N
    for problem, rows in zip(problems, lines, strict=True):
        for row in rows:
            assert row["correct"] is task.grade(row["response"], problem).correct
            assert row["truncated"] is (row["tokens"] == DECODING.max_tokens)
    assert len({text for rows in texts(lines) for text in rows}) > N  # samples differ
    assert engine.asked == [6, 3, 6, 6, 6]  # greedy ones, then samples; at most batch_size a call
    greedy = student.generate([Request(prompt=student.tokenizer.encode(task.prompt(p))) for p in problems],
                              Sampling(max_tokens=48, temperature=0))  # fmt: skip
    assert [rows[0]["response"] for rows in lines] == [c.text for c in greedy]


@pytest.mark.parametrize("calls", [0, 1, 3, 4])
def test_an_interrupted_evaluation_asks_only_for_what_is_missing(
    calls: int, student: HFEngine, problems: list[Problem], tmp_path: Path
) -> None:
    task = ArithmeticTask()
    whole = answering(student, None).answer("arithmetic", task, problems)
    stopped = Counting(student, calls)
    with pytest.raises(KeyboardInterrupt):
        answering(stopped, tmp_path).answer("arithmetic", task, problems)
    again = Counting(student)
    run = answering(again, tmp_path)
    lines = run.answer("arithmetic", task, problems)
    assert texts(lines) == texts(whole)
    assert sum(stopped.asked) + sum(again.asked) == 3 * N
    assert (run.reused, run.generated) == (sum(stopped.asked), sum(again.asked))
    assert len(list(read_answers(tmp_path, "validation-000000"))) == 3 * N
    third = Counting(student)
    assert texts(answering(third, tmp_path).answer("arithmetic", task, problems)) == texts(whole)
    assert third.asked == []


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"samples": 4}, 2 * N),  # two more each
        ({"samples": 1}, 0),
        ({"greedy": False}, 0),
        ({"max_tokens": 40}, 3 * N),
        ({"seed": 1}, 2 * N),  # greedy decoding has no seed
        ({"temperature": 0.5}, 2 * N),
        ({"top_p": 0.9}, 2 * N),
    ],
    ids=str,
)
def test_an_answer_is_used_again_only_where_it_is_the_one_that_is_asked_for(
    change: dict[str, Any], asked: int, student: HFEngine, problems: list[Problem], tmp_path: Path
) -> None:
    answering(student, tmp_path).answer("arithmetic", ArithmeticTask(), problems)
    run = answering(student, tmp_path, replace(DECODING, **change))
    lines = run.answer("arithmetic", ArithmeticTask(), problems)
    assert run.generated == asked
    assert texts(lines) == texts(
        answering(student, None, run.decoding).answer("arithmetic", ArithmeticTask(), problems)
    )


def test_other_weights_another_benchmark_or_prompt_are_other_answers(
    student: HFEngine, problems: list[Problem], tmp_path: Path
) -> None:
    answering(student, tmp_path).answer("arithmetic", ArithmeticTask(), problems)

    class Worded(ArithmeticTask):
        def prompt(self, problem: Problem) -> str:
            return f"{problem.question}\n\n"

    for weights, benchmark, task in (
        ("other", "arithmetic", ArithmeticTask()), ("w", "sums", ArithmeticTask()), ("w", "arithmetic", Worded())
    ):  # fmt: skip
        run = answering(student, tmp_path, weights=weights)
        run.answer(benchmark, task, problems[:2])
        assert (run.reused, run.generated) == (0, 6)


class Lenient(ArithmeticTask):
    """Takes any answer."""

    grading = "lenient"

    def grade(self, response: str, problem: Problem) -> Grade:
        return Grade(reward=1.0, correct=True, answer="any", how="any")


def test_another_grading_mode_or_reference_grades_the_same_responses_again(
    student: HFEngine, problems: list[Problem], tmp_path: Path
) -> None:
    before = answering(student, tmp_path).answer("arithmetic", ArithmeticTask(), problems)
    for task, changed in ((Lenient(), problems), (ArithmeticTask(), [replace(p, answers=("-1",)) for p in problems])):
        run = answering(student, tmp_path)
        lines = run.answer("arithmetic", task, changed)
        assert run.generated == 0
        assert texts(lines) == texts(before)
        assert {row["correct"] for rows in lines for row in rows} == {task.name == "arithmetic" and changed is problems}
    run = answering(student, tmp_path)  # and the first verdicts are still there
    assert run.answer("arithmetic", ArithmeticTask(), problems) == before
    assert sum(1 for _ in read_answers(tmp_path, "validation-000000")) == 3 * 3 * N


def test_a_problem_without_a_reference_is_answered_and_not_graded(student: HFEngine, tmp_path: Path) -> None:
    known, unknown = ArithmeticTask(validation_size=2).problems("validation")
    lines = answering(student, tmp_path).answer("arithmetic", ArithmeticTask(), [replace(unknown, answers=()), known])
    assert [(row["correct"], row["reward"], row["answer"]) for row in lines[0]] == [(None, None, None)] * 3
    assert all(row["response"] for row in lines[0])
    assert all(isinstance(row["correct"], bool) for row in lines[1])


def test_no_problem_is_no_question(student: HFEngine) -> None:
    engine = Counting(student)
    assert answering(engine, None).answer("arithmetic", ArithmeticTask(), []) == []
    assert engine.asked == []


def test_the_tasks_system_message_goes_through_the_chat_template(tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}({{ m.role }}) {{ m.content }}{% endfor %}")
    engine = ScriptedEngine(tokenizer=tokenizer)

    class Told(ArithmeticTask):
        system = "Be brief."

    answering(engine, None, replace(DECODING, samples=0, chat=True)).answer("a", Told(), [problem("1+1=?")])
    (request,) = engine.written
    assert as_text(request.prompt, tokenizer) == "(system) Be brief.(user) 1+1=?\n"


def problem(question: str) -> Problem:
    return Problem(id=question, question=question, answers=("2",))


class Echo(Environment):
    """Replies to one turn, with the answer."""

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        assert progress is None  # an evaluation
        return [Reply(body=r"\boxed{2}", done=turn.index > 0) for turn in turns]


def test_what_an_environment_says_is_no_answer_of_the_students(tokenizer: Any, tmp_path: Path) -> None:
    class Searching(ArithmeticTask):
        environment = Echo(max_turns=3)

    engine = ScriptedEngine(tokenizer=tokenizer, write=lambda prompt, request: "who knows")
    run = answering(engine, tmp_path, replace(DECODING, samples=0))
    ((row,),) = run.answer("searching", Searching(), [problem("1+1=?")])
    assert r"\boxed{2}" in row["response"]
    assert row["written"] == "who knowswho knows"
    assert row["turns"] == 2
    assert row["correct"] is False
    again = answering(engine, tmp_path, replace(DECODING, samples=0))
    assert again.answer("searching", Searching(), [problem("1+1=?")]) == [[row]]
    assert again.reused == 1


@pytest.fixture(scope="module")
def teacher() -> VerbalTeacher:
    teacher = VerbalTeacher(HFEngine(str(ROOT / "ovd_lightning/assets/teacher")))
    teacher.start()
    return teacher


def test_testing_rejection_keeps_steps_and_shares_and_is_part_of_the_key(
    student: HFEngine, teacher: VerbalTeacher, problems: list[Problem], tmp_path: Path
) -> None:
    greedy = replace(DECODING, samples=0)
    rows: dict[float, list[dict[str, Any]]] = {}
    for threshold in (5.0, 10.0):
        run = answering(student, tmp_path, greedy, rejection=TestingRejection(threshold), teacher=teacher)
        rows[threshold] = [row for (row,) in run.answer("arithmetic", ArithmeticTask(), problems)]
        assert run.generated == N
        again = answering(student, tmp_path, greedy, rejection=TestingRejection(threshold), teacher=teacher)
        assert [row for (row,) in again.answer("arithmetic", ArithmeticTask(), problems)] == rows[threshold]
        assert again.generated == 0
    assert {row["teacher_step_share"] for row in rows[10.0]} == {1.0}
    assert 0 < sum(row["teacher_step_share"] for row in rows[5.0]) < N
    for row in rows[5.0]:
        assert {step["source"] for step in row["steps"]} <= {"student", "teacher"}
        for step in row["steps"]:
            assert (step["draft"] is not None) is (step["source"] == "teacher")


def test_grades_of_a_call_come_from_one_call_of_the_checker(student: HFEngine, problems: list[Problem]) -> None:
    class Batched(ArithmeticTask):
        batches: list[int] = []  # noqa: RUF012 -- of this class alone

        def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
            self.batches.append(len(responses))
            return super().grade_many(responses, problems)

    task: Task = Batched()
    answering(student, None).answer("arithmetic", task, problems)
    assert Batched.batches == [6, 3, 6, 6, 6]
