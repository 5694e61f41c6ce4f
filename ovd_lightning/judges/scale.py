"""The score vocabulary (section 3.3), and how one score is read from a distribution over it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_lightning.functional import temper
from ovd_lightning.judges.score_text import read_score

ScoreReading = Literal["sample", "mean", "argmax"]
"""One score from the teacher's distribution: drawn from it (section 3.3), its mean, or its likeliest."""
ScoreScale = Literal["zero_to_nine", "one_to_ten"]


@dataclass(frozen=True, slots=True)
class Scale:
    """A score vocabulary of v = 10 values. The body of the paper says 0-9, its prompt A.4 says 1-10."""

    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...]:
        """The scores in order, [v]."""
        return tuple(range(self.low, self.high + 1))

    @property
    def reject_all(self) -> int:
        """The smallest threshold that no score reaches: 10 on the 0-9 scale ("Rej=10"), 11 on 1-10."""
        return self.high + 1

    def normalise(self, score: float) -> float:
        """Score -> [0, 1]; the S / (v - 1) of Proposition 3.4."""
        return (score - self.low) / (self.high - self.low)

    def mean(self, distribution: Sequence[float] | None) -> float | None:
        """E[S] under a distribution, [v]; None without one."""
        return None if distribution is None else sum(s * p for s, p in zip(self.values, distribution, strict=True))

    def read(
        self, distribution: Sequence[float] | None, how: ScoreReading, temperature: float, rng: random.Random
    ) -> float | None:
        """One score from the teacher's distribution, [v]; None where the teacher gave none.

        Args:
            temperature, rng: of a sampled score (A.6.2: 0.7).
        """
        if distribution is None:
            return None
        if how == "argmax":
            return float(self.values[max(range(len(self.values)), key=distribution.__getitem__)])
        if how == "mean":
            return self.mean(distribution)
        return float(rng.choices(self.values, temper(distribution, temperature))[0])

    def parse(self, text: str) -> int | None:
        """The score in a teacher's answer; None, which is counted, if there is none or no single one.

        A labelled score comes before any other number, numbers that describe the scale never count, and a range, two
        different scores or a number outside the scale is none. The rules are those of `read_score`.
        """
        return read_score(text, self.low, self.high)


SCALES: dict[str, Scale] = {"zero_to_nine": Scale(0, 9), "one_to_ten": Scale(1, 10)}
