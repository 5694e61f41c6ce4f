"""Rows of similar length together, so that little padding is computed."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np


def split_by_length(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in ``parts`` non-empty bins, longest first over all bins. The costliest bin, its rows times its longest,
    costs as little as any such cut allows.

    Raises: ValueError with fewer items than parts.
    """
    if len(lengths) < parts:
        raise ValueError(f"{len(lengths)} trajectories cannot fill {parts} micro-batches")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    low, high = max(lengths), len(lengths) * max(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(spans_within([lengths[i] for i in order], middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    bins = spans_within([lengths[i] for i in order], low)
    while len(bins) < parts:  # cutting a bin makes none costlier
        widest = max((b for b in bins if len(b) > 1), key=lambda b: len(b) * lengths[order[b.start]])
        at, middle = bins.index(widest), (widest.start + widest.stop + 1) // 2
        bins[at : at + 1] = [range(widest.start, middle), range(middle, widest.stop)]
    return [[order[i] for i in b] for b in bins]


def split_by_tokens(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in ``parts`` non-empty bins of about equally many tokens, for rows that are computed without padding.

    The longest first, each into the bin with the fewest tokens so far: no bin costs more than 4/3 of what the best
    division's costliest does (Graham 1969), nor more than ceil(rows / parts) of the longest.

    Raises: ValueError with fewer items than parts.
    """
    if len(lengths) < parts:
        raise ValueError(f"{len(lengths)} trajectories cannot fill {parts} micro-batches")
    bins: list[list[int]] = [[] for _ in range(parts)]
    fill = [(0, 0, number) for number in range(parts)]  # tokens, rows
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, rows, number = heappop(fill)
        bins[number].append(i)
        heappush(fill, (tokens + lengths[i], rows + 1, number))
    return bins


def spans_within(lengths: Sequence[int], most: int, padded: bool = True) -> list[range]:
    """The fewest spans of rows, in their order, of which none costs more than ``most``: its rows times its longest. A
    single row may cost more.

    Args:
        padded: False: rows are computed without padding, and a span costs the sum of its lengths.
    """
    starts, longest, total = [0], lengths[0], lengths[0]
    for i in range(1, len(lengths)):
        longest, total = max(longest, lengths[i]), total + lengths[i]
        if ((i + 1 - starts[-1]) * longest if padded else total) > most:
            starts.append(i)
            longest = total = lengths[i]
    return [range(a, b) for a, b in pairwise([*starts, len(lengths)])]


def slices_by_length(lengths: Sequence[int], overhead: float) -> list[slice]:
    """Spans of rows, in their order, that are computed one after the other, each padded to its own longest.

    The spans with the least sum of rows x longest + ``overhead``, for rows whose lengths fall; others are cut by the
    longest of what follows.

    Args:
        overhead: what a span costs beside its tokens, in tokens.
    """
    rows = len(lengths)
    longest = np.maximum.accumulate(np.asarray(lengths, dtype=np.float64)[::-1])[::-1]
    best, starts = np.zeros(rows + 1), np.zeros(rows + 1, dtype=np.int64)
    for stop in range(1, rows + 1):
        costs = best[:stop] + (stop - np.arange(stop)) * longest[:stop] + overhead
        starts[stop] = costs.argmin()
        best[stop] = costs[starts[stop]]
    cuts = [rows]
    while cuts[-1] > 0:
        cuts.append(int(starts[cuts[-1]]))
    return [slice(a, b) for a, b in pairwise(reversed(cuts))]
