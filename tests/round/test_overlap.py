"""Finished groups are graded and judged while others are still sampled, with the result of doing one after another."""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.engines.base import Completion, Poll, Prompt, Ready, Request, Sampling, ignore
from ovd_lightning.errors import RunError
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.judge_reward import JudgeReward
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import Added, MixedGroup, Reward, StepScores, Suffix
from ovd_lightning.round.loop import Training, can_overlap, run_round
from ovd_lightning.round.metrics import RoundMetrics
from ovd_lightning.round.transcripts import TranscriptWriter
from ovd_lightning.seeds import seed_of
from ovd_lightning.stop import Stopped
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.helpers import ScriptedEngine, make_round, problem

LIMIT_S = 60.0
"""Nothing here takes a second: what is waited for this long does not come."""
LINES = ("1+1=2", "2+0=2", "1+1=3", "3+0=3", "\\boxed{2}", "\\boxed{3}")
PROBLEMS = [problem(str(i), question=f"1+1+0={'?' * (i + 1)}") for i in range(6)]


def some(*what: Any) -> str:
    return "\n".join(LINES[seed_of(*what, k) % 6] for k in range(1 + seed_of(*what) % 3))


def respond(prompt: str, request: Request) -> str:
    return some(prompt, request.seed)


class Student(ScriptedEngine):
    """Its completions are finished one by one, in an order of its own.

    Args:
        before: called with how many are finished already, before each; and again and again, with ``poll``, until it
            returns True.
    """

    def __init__(self, tokenizer: Any, before: Callable[[int], bool] = lambda count: True) -> None:
        super().__init__(write=respond, tokenizer=tokenizer)
        self.before = before
        self.events: list[str] = []

    def generate_as_ready(
        self, requests: Sequence[Request], sampling: Sampling, ready: Ready, poll: Poll = ignore
    ) -> list[Completion]:
        completions = self.generate(requests, sampling)
        order = list(range(len(requests)))
        random.Random(0).shuffle(order)
        for count, index in enumerate(order):
            start = time.monotonic()
            while not self.before(count):
                poll()
                assert time.monotonic() - start < LIMIT_S
                time.sleep(0.001)
            self.events.append("completion")
            ready(index, completions[index])
        return completions


class Remote(ScriptedEngine):
    """An endpoint's place."""

    concurrent = True

    def __init__(self, asked: Callable[[], None] = lambda: None, **settings: Any) -> None:
        super().__init__(
            judge=lambda prompt: {str(k): seed_of(prompt, k) % 100 / 1000 for k in range(10)},
            write=lambda prompt, request: some("teacher", prompt, request.seed),
            **settings,
        )
        self.asked = asked

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Any:
        self.asked()
        return super().next_text_logprobs(prompts, texts)


METHODS: dict[str, Callable[[VerbalTeacher], Method]] = {
    "ovd": lambda teacher: OVD(teacher, threshold=5, credit=Reward(), group_size=4),
    "ovd, by step": lambda teacher: OVD(
        teacher, threshold=5, credit=StepScores(MixedGroup()), replacement=Suffix(), group_size=4
    ),
    "ovd, added": lambda teacher: OVD(teacher, threshold=5, credit=MixedGroup(), replacement=Added(), group_size=4),
    "judge reward": lambda teacher: JudgeReward(teacher, group_size=4, kl_coefficient=0),
}


def collect(
    student: ScriptedEngine, teacher: Remote, method: str = "ovd", folder: Path | None = None, overlap: bool = True
) -> RoundMetrics:
    made = METHODS[method](VerbalTeacher(teacher, VerbalJudge(max_parse_failures=1.0)))
    round = make_round(student.tokenizer, engine=student, max_tokens=40)
    training = Training(
        send_weights=lambda: student.sync([], version=0),
        fill_logprobs=lambda batch, old: batch,
        mini_batches=1,
        epochs=1,
        accumulate=2,
        world_size=1,
        all_reduce_sum=lambda value: value,
    )
    run_round(PROBLEMS, made, round, training, TranscriptWriter(folder).write if folder else None, overlap)
    return round.metrics


@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_that_of_one_after_another(tokenizer: Any, tmp_path: Path, method: str) -> None:
    measured, asked, written = [], [], []
    for overlap in (False, True):
        teacher = Remote()
        folder = tmp_path / str(overlap)
        student: ScriptedEngine = ScriptedEngine(write=respond, tokenizer=tokenizer)
        if overlap:  # a group or two at a time, so that the round is divided into several calls
            student = Student(tokenizer, lambda count: count % 5 > 0 or (time.sleep(0.01) is None))
        metrics = collect(student, teacher, method, folder, overlap)
        measured.append((metrics.means, metrics.sums, metrics.maxima, metrics.histograms))
        asked.append((sorted(teacher.judged), sorted(map(str, teacher.written)), teacher.used))
        written.append(gzip.decompress((folder / "round-000000.jsonl.gz").read_bytes()))
        assert ("overlapped" in metrics.seconds) == overlap
    assert measured[0] == measured[1]
    assert asked[0] == asked[1]
    assert written[0] == written[1]
    assert len(written[0].splitlines()) >= 24


def test_the_teacher_is_asked_while_the_student_is_sampled(tokenizer: Any) -> None:
    """The last completion waits until a judge call has begun."""
    student = Student(tokenizer, lambda count: count < 23 or "judge" in student.events)
    teacher = Remote(lambda: student.events.append("judge"))
    collect(student, teacher)
    assert student.events.index("judge") < len(student.events) - 1 - student.events[::-1].index("completion")


def test_an_error_of_the_teacher_ends_the_round_at_once(tokenizer: Any) -> None:
    def fail() -> None:
        raise RunError("the endpoint is gone")

    student = Student(tokenizer, lambda count: count < 23)  # without an end of its own
    with pytest.raises(RunError, match="the endpoint is gone"):
        collect(student, Remote(fail))
    assert student.events == ["completion"] * 23


def test_what_interrupts_the_student_does_not_wait_for_the_teacher(tokenizer: Any) -> None:
    begun, over = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        over.wait(LIMIT_S)

    def interrupted(count: int) -> bool:
        if count == 23:
            assert begun.wait(LIMIT_S)
            raise Stopped(15)
        return True

    with pytest.raises(Stopped):
        collect(Student(tokenizer, interrupted), Remote(hang))
    assert not over.is_set()
    over.set()


def test_the_phases_have_what_the_round_waits_for(tokenizer: Any) -> None:
    """Judge calls of 0.3 s: the first beside the sampling, whose end it is, the others after it."""
    calls = 0
    over = threading.Event()

    def slow() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.3)
        over.set()

    start = time.perf_counter()
    metrics = collect(Student(tokenizer, lambda count: count < 23 or over.is_set()), Remote(slow))
    wall, seconds = time.perf_counter() - start, dict(metrics.seconds)
    assert calls > 1
    assert seconds.pop("overlapped") >= 0.3
    assert 0.2 * (calls - 1) <= seconds["score"] <= wall - 0.3
    assert sum(seconds.values()) <= wall


def test_only_where_the_teacher_takes_nothing_from_the_student(tokenizer: Any) -> None:
    assert not can_overlap(METHODS["ovd"](VerbalTeacher(Remote())), make_round(tokenizer)), "one batch"
    round = make_round(tokenizer, engine=Student(tokenizer))
    for engine, possible in ((Remote(), True), (ScriptedEngine(), False)):
        method = METHODS["ovd"](VerbalTeacher(engine))
        assert can_overlap(method, round) == possible
    mixed = VerbalTeacher(Remote(), demonstrator=ScriptedEngine())
    assert not can_overlap(METHODS["ovd"](mixed), round)

    class Chosen(OVD):
        def sample(self, problems: Any, round: Any) -> Any:
            return super().sample(problems, round)

    assert not can_overlap(Chosen(VerbalTeacher(Remote())), round)
    assert RolloutCallback(ScriptedEngine()).overlap
