"""Sets of real numbers: intervals, unions, inequalities, sets by condition. Only workers import this: it can hang."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sympy
from math_verify.grader import is_relation

from ovd_lightning.grading import lists

Read = Callable[[str], Any]
"""Text -> what it means to sympy, or None."""

_S = r"[\s\u2009]*"
_MEMBER = rf"{_S}(?:\\in|∈){_S}"
_DOMAIN = r"\\(?:mathbb|mathbf|mathrm|Bbb)\s*\{?\s*(?P<set>[RZNQ])\s*\}?\s*(?P<sign>\^\s*\{?\s*[+*]\s*\}?)?"
_BUILDER = re.compile(
    rf"{_S}\\\{{{_S}(?P<letter>[A-Za-z])(?:{_MEMBER}{_DOMAIN})?{_S}(?:\\?\||\\mid(?![A-Za-z])|\\vert|\\middle\\?\||:){_S}"
    rf"(?P<condition>.*?){_S}\\?\}}{_S}",
    re.DOTALL,
)
_WITHIN = re.compile(rf"{_S}(?P<letter>[A-Za-z]){_MEMBER}{_DOMAIN}{_S}")
_AND = re.compile(r"\s*\\(?:text|mbox|mathrm)\s*\{\s*and\s*\}\s*|\s+and\s+|且|\\(?:wedge|land)(?![A-Za-z])")
_OR = re.compile(r"\s*\\(?:text|mbox|mathrm)\s*\{\s*or\s*\}\s*|\s+or\s+|或|\\(?:vee|lor)(?![A-Za-z])")
_WITHOUT = re.compile(r"\\(?:setminus|backslash|smallsetminus)(?![A-Za-z])|(?<=[}\]) ])-(?=\s*\\\{)")
_SET = re.compile(_DOMAIN)


def equal(one: str, other: str, read: Read) -> bool | None:
    """Whether two texts describe the same set; None where they are not both sets, or where the grammar compares them
    better: two plain intervals or inequalities."""
    built = [_BUILDER.fullmatch(text) is not None or _WITHOUT.search(text) is not None for text in (one, other)]
    first, second = _sets(one, read, any(built)), _sets(other, read, any(built))
    if not first or not second:
        return None
    return any(_same(a, b) for a in first for b in second)


def _same(one: sympy.Set, other: sympy.Set) -> bool:
    if one == other:
        return True
    try:
        return bool(one.symmetric_difference(other).is_empty)
    except (NotImplementedError, ValueError, TypeError):
        return False


def _sets(text: str, read: Read, always: bool) -> list[sympy.Set]:
    """The set that a text describes, both of them where it may or may not hold zero; none where it describes none.

    Args:
        always: also for what the grammar compares by itself.
    """
    try:
        if built := _BUILDER.fullmatch(text):
            return _built(built, read)
        if _WITHOUT.search(text):
            parts = [_sets(part, read, True) for part in _WITHOUT.split(text)]
            return [] if not all(parts) else [_without([part[0] for part in parts])]
        if always and (domain := _SET.fullmatch(text.strip())):
            return _domains(domain)
        pieces = [_piece(piece, read) for piece in _OR.split(text)]
    except (NotImplementedError, ValueError, TypeError, AttributeError):  # not inequalities in one variable
        return []
    if None in pieces or (not always and len(pieces) == 1 and not isinstance(pieces[0], sympy.Union)):
        return []
    return [sympy.Union(*pieces)]


def _without(parts: list[sympy.Set]) -> sympy.Set:
    left = parts[0]
    for part in parts[1:]:
        left = sympy.Complement(left, part)
    return left


def _built(built: re.Match[str], read: Read) -> list[sympy.Set]:
    domains = _domains(built) if built["set"] else [sympy.S.Reals]
    held = None
    for part in _OR.split(built["condition"]):
        every = sympy.S.Reals
        for condition in (piece for both in _AND.split(part) for piece in _listed(both)):
            if within := _WITHIN.fullmatch(condition):
                domains = _domains(within)
                continue
            piece = _piece(condition, read, built["letter"])
            if piece is None:
                return []
            every = sympy.Intersection(every, piece)
        held = every if held is None else sympy.Union(held, every)
    return [sympy.Intersection(domain, held) for domain in domains]


def _listed(text: str) -> list[str]:
    found = lists.parts(text)
    return [text] if found is None or found[0] else found[1]


def _domains(found: re.Match[str]) -> list[sympy.Set]:
    """The numbers that a letter stands for; the natural ones with and without zero."""
    chosen = {
        "R": [sympy.S.Reals], "Q": [sympy.S.Rationals], "Z": [sympy.S.Integers],
        "N": [sympy.S.Naturals, sympy.S.Naturals0],
    }[found["set"]]  # fmt: skip
    if not found["sign"]:
        return chosen
    positive = sympy.Interval.open(0, sympy.oo)
    return [sympy.Intersection(chosen[0], positive if "+" in found["sign"] else sympy.Complement(chosen[0], {0}))]


def _piece(text: str, read: Read, letter: str | None = None) -> sympy.Set | None:
    """An interval, a finite set, or the numbers for which a relation holds, real ones of its one letter."""
    parsed = read(text)
    if isinstance(parsed, sympy.Set):
        return parsed if letter is None else None
    if parsed is None or not is_relation(parsed):
        return None
    symbols = sorted(parsed.free_symbols, key=str)
    if len(symbols) != 1 or (letter is not None and symbols[0].name != letter):
        return None
    real = sympy.Dummy("x", real=True)  # of its own: the parser's relations are cached, and remember their order
    parsed = parsed.xreplace({symbols[0]: real})
    if isinstance(parsed, sympy.Eq):
        return sympy.solveset(parsed, real, sympy.S.Reals)
    return parsed.as_set()
