"""Numbers with a range, as types for the signatures of configurable classes: jsonargparse checks them while parsing."""

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

HalfOpenUnitInterval = restricted_number_type("HalfOpenUnitInterval", float, [(">", 0), ("<=", 1)])

__all__ = [
    "ClosedUnitInterval",
    "HalfOpenUnitInterval",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
]
