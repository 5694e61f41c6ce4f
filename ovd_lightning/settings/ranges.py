"""Numbers with a range, as types of arguments: ``rounds: PositiveInt = 100``.

The parser checks them wherever a setting comes from, command line or file, and at any depth, before an object is made.
A constructor gets plain ints and floats, and that is what a type checker sees; called from Python, it checks no range.
(``Annotated[int, Ge(1)]`` would do without the types below, but jsonargparse drops what is annotated where annotations
are postponed. Its own restricted types hand on instances of subclasses of int and float.)
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsonargparse.typing import register_type


@dataclass(frozen=True)
class Range:
    """The numbers of one kind between two bounds.

    Args:
        kind: int or float. A float may be written without a point; an int may not be written with one.
        low: lower bound.
        high: upper bound.
        open_low: whether ``low`` itself is outside.
        open_high: whether ``high`` itself is outside.
    """

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        return (
            math.isfinite(value)
            and (self.low < value if self.open_low else self.low <= value)
            and (value < self.high if self.open_high else value <= self.high)
        )

    def read(self, value: object) -> int | float:
        """The number that a setting is given as. Raises: ValueError, in the form that settings/messages.py reads."""
        number = value
        if isinstance(value, str) or (self.kind is float and type(value) is int):
            with suppress(ValueError, OverflowError):
                number = self.kind(value)
        if not isinstance(number, self.kind) or isinstance(number, bool):
            raise ValueError(f"Expected a {self.kind}. Got value: {value}")
        if number not in self:
            raise ValueError(f"Use {self}. Got value: {value}")
        return number

    def is_read(self, value: object, number_type: type) -> bool:
        """Whether a value needs no reading: jsonargparse's check whether it is of the registered type."""
        return type(value) is self.kind and value in self

    def __str__(self) -> str:
        """As in "Use 1 or more."."""
        low, high = (f"{bound:.15g}" for bound in (self.low, self.high))
        if self.high == math.inf:
            return f"more than {low}" if self.open_low else f"{low} or more"
        if self.kind is int:
            return f"{low} to {high}"
        return f"a value in {'(' if self.open_low else '['}{low}, {high}{')' if self.open_high else ']'}"


def number_type(name: str, range: Range) -> type:
    """A type that stands for a range in annotations; values are plain numbers, never its instances."""
    created = type(name, (range.kind,), {"__module__": __name__, "__doc__": f"{range.kind.__name__}: {range}"})
    register_type(created, serializer=range.kind, deserializer=range.read, type_check=range.is_read)
    return created


if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    TwoOrMore = int
    ProblemCount = int
    PositiveFloat = float
    NonNegativeFloat = float
    ClosedUnitInterval = float
    OpenUnitInterval = float
    HalfOpenUnitInterval = float
    OneOrMore = float
    AboveOne = float
    GradingSeconds = float
else:
    PositiveInt = number_type("PositiveInt", Range(int, 1))
    NonNegativeInt = number_type("NonNegativeInt", Range(int, 0))
    TwoOrMore = number_type("TwoOrMore", Range(int, 2))
    ProblemCount = number_type("ProblemCount", Range(int, 1, 200_000))
    PositiveFloat = number_type("PositiveFloat", Range(float, 0, open_low=True))
    NonNegativeFloat = number_type("NonNegativeFloat", Range(float, 0))
    ClosedUnitInterval = number_type("ClosedUnitInterval", Range(float, 0, 1))
    OpenUnitInterval = number_type("OpenUnitInterval", Range(float, 0, 1, open_low=True, open_high=True))
    HalfOpenUnitInterval = number_type("HalfOpenUnitInterval", Range(float, 0, 1, open_low=True))
    OneOrMore = number_type("OneOrMore", Range(float, 1))
    AboveOne = number_type("AboveOne", Range(float, 1, open_low=True))
    GradingSeconds = number_type("GradingSeconds", Range(float, 0, 600, open_low=True))
