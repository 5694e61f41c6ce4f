"""The verbal scoring prompt of appendix A.4, per step and per trajectory, and what is read from its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_lightning.functional import temper
from ovd_lightning.teachers.score_text import read_score

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
            return sum(s * p for s, p in zip(self.values, distribution, strict=True))
        return float(rng.choices(self.values, temper(distribution, temperature))[0])

    def parse(self, text: str) -> int | None:
        """The score in a teacher's answer; None, which is counted, if there is none or no single one.

        A labelled score comes before any other number, numbers that describe the scale never count, and a range, two
        different scores or a number outside the scale is none. The rules are those of `read_score`.
        """
        return read_score(text, self.low, self.high)

    def rubric(self) -> str:
        a = self.low
        bands = [f"{a}-{a + 2}", f"{a + 3}-{a + 5}", f"{a + 6}-{a + 8}", f"{a + 9}"]
        meanings = [
            "Incorrect or irrelevant",
            "Partially correct but incomplete",
            "Correct and well-reasoned",
            "Optimal step toward the solution",
        ]
        return "\n".join(f"- {band}: {meaning}" for band, meaning in zip(bands, meanings, strict=True))


SCALES: dict[str, Scale] = {"zero_to_nine": Scale(0, 9), "one_to_ten": Scale(1, 10)}


def step_prompt(question: str, previous: Sequence[str], current: str, scale: Scale) -> str:
    """Appendix A.4, word for word on the 1-10 scale; the 0-9 scale shifts the four bands by one.

    The paper writes the previous steps as "s_1, s_2, ..."; here they stand one a line, as written.
    The prompt ends where the score's token comes next.
    """
    return (
        f"Problem: {question.strip()}\n"
        f"Previous Steps: {chr(10).join(step.strip() for step in previous)}\n"
        f"Current Step: {current.strip()}\n"
        f"Rate the quality of the current reasoning step on a scale of {scale.low}-{scale.high}, where:\n\n"
        f"{scale.rubric()}\n\n"
        f"Output only a single number from {scale.low} to {scale.high}:"
    )


def trajectory_prompt(question: str, response: str, scale: Scale) -> str:
    """Trajectory-level scoring (section 3.3: "it evaluates the complete chain"); the paper prints no
    template for it, so this is A.4 with the whole solution as what is rated."""
    return (
        f"Problem: {question.strip()}\n"
        f"Solution: {response.strip()}\n"
        f"Rate the quality of the solution on a scale of {scale.low}-{scale.high}, where:\n\n"
        f"{scale.rubric().replace('Optimal step toward the solution', 'Optimal solution')}\n\n"
        f"Output only a single number from {scale.low} to {scale.high}:"
    )
