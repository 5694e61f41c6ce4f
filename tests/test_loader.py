"""Problems of a round, rounds of a run, problems of a rank."""

from __future__ import annotations

from collections import Counter

import pytest

from ovd_lightning.loader import ProblemLoader, RoundLoader
from ovd_lightning.tasks.order import shuffled
from ovd_lightning.types import Batch, Problem
from tests.helpers import problem


def problems(count: int) -> list[Problem]:
    return [problem(str(i)) for i in range(count)]


def ids(chosen: list[Problem]) -> list[str]:
    return [p.id for p in chosen]


def test_round_problems_are_a_function_of_their_arguments() -> None:
    data = problems(50)
    first = ids(shuffled(data, 24, 8, seed=1))
    assert ids(shuffled(data, 24, 8, seed=1)) == first
    assert ids(shuffled(data, 32, 8, seed=1)) != first
    assert ids(shuffled(data, 24, 8, seed=2)) != first


@pytest.mark.parametrize(("size", "count"), [(24, 8), (25, 8), (7, 7), (5, 8), (30, 1)])
def test_every_problem_once_an_epoch(size: int, count: int) -> None:
    data = problems(size)
    epochs = count  # rounds x count is then a multiple of the size
    order = [i for round in range(size * epochs // count) for i in ids(shuffled(data, round * count, count, seed=0))]
    assert len(order) == size * epochs
    each = [order[e * size : (e + 1) * size] for e in range(epochs)]
    assert all(sorted(epoch) == sorted(ids(data)) for epoch in each)
    if size > 5 and epochs > 1:
        assert each[0] != each[1], "a fresh order each epoch"


def test_one_problem_fills_a_round() -> None:
    assert ids(shuffled(problems(1), 640, 128, seed=0)) == ["0"] * 128
    counts = Counter(i for round in range(3) for i in ids(shuffled(problems(2), round * 128, 128, seed=0)))
    assert counts == {"0": 192, "1": 192}


def batches(round: int) -> list[Batch]:
    return [f"{round}/{i}" for i in range(2)]  # type: ignore[misc]


@pytest.mark.parametrize("start", [0, 3, 5])
def test_a_resumed_run_begins_where_it_stopped(start: int) -> None:
    collected: list[int] = []

    def collect(index: int) -> list[Batch]:
        collected.append(index)
        return batches(index)

    loader = RoundLoader(collect, rounds=5, batches_per_round=2, first_round=lambda: start)
    assert len(loader) == 10, "the length is the run's, wherever it begins"
    assert list(loader) == [b for index in range(start, 5) for b in batches(index)]
    assert collected == list(range(start, 5))


def test_a_round_is_collected_when_it_is_asked_for_and_not_before() -> None:
    collected: list[int] = []

    def collect(index: int) -> list[Batch]:
        collected.append(index)
        return batches(index)

    stream = iter(RoundLoader(collect, rounds=3, batches_per_round=2, first_round=lambda: 0))
    seen = []
    for _ in range(5):
        next(stream)
        seen.append(list(collected))
    assert seen == [[0], [0], [0, 1], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [30, 3, 1, 0])
def test_each_problem_exactly_once_over_all_ranks(world_size: int, count: int) -> None:
    answered = []
    for rank in range(world_size):
        loader = ProblemLoader("b", problems(count), batch_size=4, rank=rank, world_size=world_size)
        rounds = list(loader)
        assert len(rounds) == len(loader)
        assert all(0 <= len(batch) <= 4 and batch.benchmark == "b" for batch in rounds)
        assert rounds == [batch.to("cpu") for batch in rounds]
        answered += [p.id for batch in rounds for p in batch.problems]
    assert sorted(answered) == sorted(str(i) for i in range(count))
