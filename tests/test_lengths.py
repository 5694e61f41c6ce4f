"""Rows of similar length together: cuts against every other cut, padding at the lengths of a real run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest

from ovd_lightning.lengths import slices_by_length, spans_within, split_by_length, split_by_tokens


def contiguous(count: int, parts: int) -> Iterator[list[range]]:
    for cuts in combinations(range(1, count), parts - 1):
        yield [range(a, b) for a, b in pairwise([0, *cuts, count])]


def drawn(seed: int, most: int) -> tuple[list[int], int]:
    """(lengths of at most so many rows, in how many bins)."""
    rng = random.Random(seed)
    count = rng.randint(1, most)
    parts = rng.randint(1, count)
    return [rng.randint(1, 60) for _ in range(count)], parts


def cost(lengths: Sequence[int], rows: Sequence[int]) -> int:
    return len(rows) * max(lengths[i] for i in rows)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_has_a_cheaper_micro_batch(seed: int) -> None:
    lengths, parts = drawn(seed, most=9)
    bins = split_by_length(lengths, parts)
    assert len(bins) == parts
    assert all(bins), "no bin is empty"
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert [lengths[i] for b in bins for i in b] == sorted(lengths, reverse=True), "longest first over all bins"
    ordered = sorted(lengths, reverse=True)
    least = min(max(cost(ordered, b) for b in cut) for cut in contiguous(len(lengths), parts))
    assert max(cost(lengths, b) for b in bins) == least
    assert split_by_length(lengths, parts) == bins


def test_split_by_length_by_hand() -> None:
    # 9 7 | 5 4 3 2: 18 and 20; one row more on the left would be 27
    assert split_by_length([2, 9, 7, 5, 4, 3], 2) == [[1, 2], [3, 4, 5, 0]]
    assert split_by_length([0, 0, 0], 3) == [[0], [1], [2]]
    # two bins are enough for a cost of 100: the third is cut off the costlier of those that can be cut
    assert split_by_length([100, 10, 10, 10, 10], 3) == [[0], [1, 2], [3, 4]]
    with pytest.raises(ValueError, match="2 trajectories cannot fill 3 micro-batches"):
        split_by_length([1, 1], 3)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_slices_are_cheaper(seed: int) -> None:
    rng = random.Random(seed)
    lengths = sorted((rng.randint(1, 60) for _ in range(rng.randint(1, 9))), reverse=True)
    overhead = rng.choice([0, 5, 40])

    def total(cut: Sequence[Sequence[int]]) -> int:
        return sum(cost(lengths, rows) + overhead for rows in cut)

    rows = range(len(lengths))
    found = [rows[s] for s in slices_by_length(lengths, overhead)]
    assert [i for s in found for i in s] == list(rows)
    assert total(found) == min(total(cut) for k in rows for cut in contiguous(len(lengths), k + 1))


def test_rows_in_any_order_are_sliced() -> None:
    assert slices_by_length([3, 50, 50, 4], 1) == [slice(0, 3), slice(3, 4)]
    assert slices_by_length([7], 100) == [slice(0, 1)]


@pytest.mark.parametrize("micro_batches", [1, 4, 16])
def test_little_padding_is_computed(micro_batches: int) -> None:
    """Ragged rows of 32 to 512 tokens: at most 1.05 of the real tokens, in however many micro-batches they are."""
    rng = random.Random(0)
    lengths = [rng.randint(32, 512) for _ in range(128)]
    computed = 0
    for part in split_by_length(lengths, micro_batches):
        rows = [lengths[i] for i in part]
        computed += sum(cost(rows, range(len(rows))[s]) for s in slices_by_length(rows, 18))
    assert computed / sum(lengths) < 1.05


def test_spans_within_a_budget() -> None:
    assert spans_within([9, 5, 4, 4, 1, 1, 1, 1], 10) == [range(1), range(1, 3), range(3, 5), range(5, 8)]
    assert spans_within([1, 1, 9, 1], 10) == [range(2), range(2, 3), range(3, 4)], "by the longest so far"
    assert spans_within([50], 10) == [range(1)], "a single row may cost more"
    assert spans_within([3, 3], 6) == [range(2)]


@pytest.mark.parametrize("seed", range(20))
def test_bins_of_equally_many_tokens(seed: int) -> None:
    lengths, parts = drawn(seed, most=60)
    bins = split_by_tokens(lengths, parts)
    assert len(bins) == parts
    assert all(bins)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    tokens = [sum(lengths[i] for i in b) for b in bins]
    assert max(tokens) <= -(-len(lengths) // parts) * max(lengths), "dry_run's bound"
    for b, total in zip(bins, tokens, strict=True):  # what came last went where the fewest were
        assert total - lengths[b[-1]] <= min(tokens)


def test_split_by_tokens_by_hand() -> None:
    assert split_by_tokens([2, 9, 7, 5, 4, 3], 2) == [[1, 4, 0], [2, 3, 5]], "15 and 15"
    assert split_by_tokens([0, 0, 0], 3) == [[0], [1], [2]]
    with pytest.raises(ValueError, match="2 trajectories cannot fill 3 micro-batches"):
        split_by_tokens([1, 1], 3)
    assert spans_within([9, 5, 4, 4, 1, 1, 1, 1], 10, padded=False) == [range(1), range(1, 3), range(3, 8)]
    assert spans_within([1, 1, 9, 1], 10, padded=False) == [range(2), range(2, 4)]
    assert spans_within([50, 1], 10, padded=False) == [range(1), range(1, 2)], "a single row may have more"
