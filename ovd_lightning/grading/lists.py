"""Lists, tuples, intervals and sets as text: their elements, and how those are compared. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

Equal = Callable[[str, str], bool | None]
"""True or False where that is certain, None where it takes a parser."""

MAX_PARTS = 64
"""Elements of a list, tuple or set; longer ones are compared as text."""

_AND = re.compile(
    r",?\s*+(?:\\(?:text|mathrm|mbox)\s*+\{\s*+(?:and|or|和|或)\s*+\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[和或])\s*+,?"
)
_OPEN, _CLOSE = "([{", ")]}"
_EITHER_SIGN = re.compile(r"\\pm(?![A-Za-z])\s*|\\mp(?![A-Za-z])\s*")
_SIGNS = 4
"""Plus-minus signs of one element that are written out."""


def parts(text: str) -> tuple[str, list[str], str] | None:
    """Opening bracket, elements, closing bracket of a list, tuple, interval or set; brackets are empty around none.

    None where the text is no such thing, e.g. a union of intervals, or one element alone without brackets.
    """
    text = _AND.sub(",", text).strip()
    opening = closing = ""
    if text[:2] == r"\{" and text[-2:] == r"\}":
        inner, opening, closing = text[2:-2], "{", "}"
    elif text[:1] in _OPEN and text[-1:] in _CLOSE and text[-2:-1] != "\\":
        inner, opening, closing = text[1:-1], text[0], text[-1]
        opening, closing = ("", "") if opening == "{" else (opening, closing)
    else:
        inner = text
    items = _split(inner)
    if opening + closing and items is None:  # "(0,1),(2,3)" and "(0,1) \cup (2,3)" are not one pair of brackets
        opening, closing, items = "", "", _split(text)
    if items is None or len(items) > MAX_PARTS or not all(items):
        return None
    return (opening, items, closing) if len(items) > 1 or opening == "{" else None


def _split(text: str) -> list[str] | None:
    """Elements between commas and semicolons outside of brackets; None where brackets do not balance."""
    depth, start, items = 0, 0, []
    for index, sign in enumerate(text):
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif sign in ",;" and depth == 0 and text[index - 1 : index] != "\\":
            items.append(text[start:index].strip())
            start = index + 1
    items.append(text[start:].strip())
    return items if depth == 0 else None


def match(one: str, other: str, equal: Equal) -> bool | None:
    """Lists and sets without regard to order and repetition, tuples and intervals element by element.

    Never more than a hint towards False: None unless every element is settled and the brackets are the same.
    """
    first, second = parts(one), parts(other)
    if first is None or second is None:
        return None
    ordered = second[0] in ("(", "[")
    if ordered:
        if (first[0], first[2]) != (second[0], second[2]):
            return None
        if len(first[1]) != len(second[1]):
            return False
        return every([equal(a, b) for a, b in zip(first[1], second[1], strict=True)])
    if first[0] == "[" or first[2] == "]":
        return None
    return covered([[equal(a, b) for b in second[1]] for a in first[1]])


def covered(table: list[list[bool | None]]) -> bool | None:
    """Whether every line and every column of a table of verdicts has a True."""
    lines = [*table, *map(list, zip(*table, strict=True))]
    return every([True if True in line else None if None in line else False for line in lines])


def every(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def signs(text: str) -> list[str]:
    """A text with plus and with minus for its plus-minus signs, each for itself; together where one is minus-plus."""
    found = _EITHER_SIGN.findall(text)
    if not found or len(found) > _SIGNS:
        return [text]
    together = any("mp" in sign for sign in found)
    choices = [("+",) * len(found), ("-",) * len(found)] if together else list(product("+-", repeat=len(found)))
    variants = []
    for choice in choices:
        left = iter(choice)
        flipped = {"+": "-", "-": "+"}
        text_of = _EITHER_SIGN.sub(lambda sign: _sign(sign[0], next(left), flipped), text)  # noqa: B023 -- called here
        variants.append(text_of.strip().removeprefix("+").strip())
    return list(dict.fromkeys(variants))


def _sign(found: str, chosen: str, flipped: dict[str, str]) -> str:
    return flipped[chosen] if "mp" in found else chosen


def spread(text: str) -> str:
    """A list with both elements for each that has a plus-minus sign; a single value or point as the list of both."""
    if not _EITHER_SIGN.search(text):
        return text
    found = parts(text)
    if found is None or found[0] in ("(", "["):
        items, braces = [text], ("", "")
    else:
        items, braces = found[1], (r"\{", r"\}") if found[0] == "{" else ("", "")
    variants = [variant for item in items for variant in signs(item)]
    return braces[0] + ", ".join(variants) + braces[1] if len(variants) <= MAX_PARTS else text
