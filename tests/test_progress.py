"""What is told of a run's progress, by a clock that the test sets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ovd_lightning.progress import RunProgress, duration, evaluation, expect, finished, following, phase, watch
from ovd_lightning.service import Service


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(clock: Clock) -> Iterator[RunProgress]:
    watched = RunProgress(clock)
    watch(watched)
    yield watched
    watch(None)


def test_a_line_says_round_phase_count_and_time(run: RunProgress, clock: Clock) -> None:
    assert run.line() == "starting | 0 s"
    run.begin(100, over=2)
    with phase("score"):
        expect(1024)
        clock.now = 103
        finished(412)
        assert run.line() == (
            "round 3/100 | scored 412/1024 | 1 min 43 s in this round | about 2 min 33 s to go in this phase"
        )
    assert run.line() == "round 3/100 | 1 min 43 s in this round"


def test_the_end_is_estimated_from_finished_rounds_with_the_evaluations_that_are_to_come(
    run: RunProgress, clock: Clock
) -> None:
    run.begin(10, plan=[(0, "validation"), (5, "validation"), (10, "validation"), (10, "test")])
    with evaluation("validation"):
        clock.now += 30
        assert run.where == "validation before round 1/10"
        assert run.seconds_left is None
    clock.now += 60
    assert run.in_round == 60  # without the evaluation
    run.end_round()
    assert run.seconds_left == 9 * 60 + 3 * 30  # the test problems were never answered: as long as the others
    clock.now += 20
    assert run.seconds_left == 9 * 60 + 3 * 30 - 20
    clock.now += 400  # longer than any round before: the estimate does not fall under that of the rounds to come
    assert run.seconds_left == 8 * 60 + 3 * 30
    run.end_round()
    run.over = 5
    with evaluation("validation"):
        clock.now += 10
        assert run.seconds_left == 5 * 240 + 3 * 30 - 10
        assert run.line().startswith("validation after round 5/10 | 10 s in this evaluation | about 21 min")


def test_a_finished_run_promises_nothing(run: RunProgress, clock: Clock) -> None:
    run.begin(1, plan=[(1, "test")])
    clock.now += 50
    run.end_round()
    with evaluation("test"):
        clock.now += 25
    assert run.seconds_left is None
    with phase("export of the student"):
        assert run.line() == "after round 1/1 | export of the student | 1 min 15 s in all"


def test_counts_go_to_the_innermost_phase(run: RunProgress) -> None:
    run.begin(1)
    with phase("environment"):
        expect(8)
        with phase("turn 2"), phase("generate"):
            expect(6)
            finished(4)
            assert run.line().startswith("round 1/1 | trajectories ended 0/8 | turn 2 | sampled 4/6 |")
        finished(3)
        assert run.line().startswith("round 1/1 | trajectories ended 3/8 |")


def test_who_waits_for_another_thread_shows_its_phases(run: RunProgress) -> None:
    other = RunProgress(run.clock)
    run.begin(3)

    def work() -> None:
        watch(other)
        with phase("score"):
            expect(8)
            finished(2)
            working.set()
            over.wait(60)

    working, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert working.wait(60)
    assert run.line() == "round 1/3 | 0 s in this round"
    with following(other):
        assert run.line().startswith("round 1/3 | scored 2/8 | ")
    over.set()
    thread.join()
    assert run.line() == "round 1/3 | 0 s in this round"


def test_what_an_owner_has_counted_grows_by_nobody_else_and_never_over_its_end(run: RunProgress) -> None:
    with phase("math500 answered", total=4, done=2):
        expect(100)
        finished(100)
        assert str(run.stages[-1]) == "math500 answered 4/4"


def test_a_phase_that_fails_is_left(run: RunProgress) -> None:
    with pytest.raises(KeyError), phase("score"), evaluation("test"):
        raise KeyError
    assert run.stages == ()
    assert run.evaluating is None


def test_nobody_watches_and_nothing_happens(run: RunProgress) -> None:
    watch(None)
    with phase("score"), evaluation("test"):
        expect(3)
        finished()
        assert run.stages == ()
        assert run.evaluating is None


def test_a_service_counts_from_its_own_thread(run: RunProgress) -> None:
    seen: list[str] = []

    async def call(client: object) -> int:
        await asyncio.sleep(0)
        seen.append(str(run.stages[-1]))
        return 1

    service = Service(
        "http://127.0.0.1:9", timeout_s=5, max_retries=0, backoff_s=0, max_concurrency=1, requests_per_minute=None,
        breaker_failures=3, breaker_pause_s=0,
    )  # fmt: skip
    with phase("score"):
        assert service.send([call, call, call], items=[5, 1, 2]) == [1, 1, 1]
        assert seen == ["scored 0/8", "scored 5/8", "scored 6/8"]
        assert str(run.stages[-1]) == "scored 8/8"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s"), (13_200, "3 h 40 min"),
     (3599.7, "1 h 0 min"), (190_800, "2 d 5 h")],
)  # fmt: skip
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
