"""What a judge said, and what was asked of a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Judgement:
    """The teacher's verdict on one scoring prompt."""

    distribution: list[float] | None
    """[v] over the score vocabulary, at temperature 1, normalised; one-hot when parsed from text; None: no score."""
    mass: float
    """Probability the teacher gave to score tokens at all, before normalising: the judge's health. 0 where the
    request failed or the text held no score."""


@dataclass(slots=True)
class Ledger:
    """What was asked of the teacher in a round; what it cost is counted by its engines."""

    scores: int = 0
    """Scoring prompts wanted."""
    asked: int = 0
    """... and really sent: not repeated in the round, not in the cache."""
    parse_failures: int = 0
    unscored: str | None = None
    """What the last answer without a score said."""
    demonstrations: int = 0
    mass: list[float] = field(default_factory=list)


@dataclass(slots=True)
class UnparsedScores:
    """Scoring prompts without a score, counted until there are enough of them to say that the teacher is at fault."""

    failures: int = 0
    prompts: int = 0
    least: int = 0
    """No share of failures is looked at until more prompts than these were judged."""
