"""Strict equality of two answers, as far as text and exact numbers can decide; what is left is for a worker.

Everything here runs in the training process: linear in the (capped) length, nothing is evaluated.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ovd_lightning.grading import lists, named, quantity
from ovd_lightning.grading.extract import letters
from ovd_lightning.grading.text import MAX_LENGTH, squeeze, tidy, words

DEPTH = 3
"""Lists within lists that are compared element by element."""

_OR = re.compile(r"\s*\\(?:text|mathrm|mbox)\s*\{\s*OR\s*\}\s*|\s+OR\s+")
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\s?([ap]m)?")
_BASE = re.compile(r"([0-9][0-9A-F]*)\s*_\s*(?:\{\s*(?:\\text\s*\{\s*)?([0-9]{1,2})\s*\}?\s*\}|([0-9]))")
_LETTERS = re.compile(r"[A-K]{1,8}")
_STATEMENTS = re.compile(r"\((?:[0-9]|1[0-9])\)(?:\s*+,?\s*+\((?:[0-9]|1[0-9])\))*+")
_WORDS = re.compile(r"[a-z]{2,}[a-z0-9 '.,&/-]*+")
_SYMBOLIC = re.compile(r"\\[A-Za-z]+")
_PROSE = re.compile(r"\$|\\[(\[]|(?<![A-Za-z])[A-Za-z]{2,}\s")
_OPERATOR = r"(?:\*|/|\\(?:cdot|times|div)(?![A-Za-z]))"
_CUT_OFF = re.compile(
    rf"[\s\u2009({{\[]*+{_OPERATOR}|.*?(?:(?<![\^_{{])[-+]|[*/^_=<>&]|\\(?:cdot|times|div|pm|mp|le|ge|frac|sqrt)(?![A-Za-z]))"
    rf"[\s\u2009)}}\]]*+$",
    re.DOTALL,
)
_NUMBER_WITH_INDEX = re.compile(r"(?<![A-Za-z0-9_.}\\])[0-9.]+\s*_\s*(?:[A-Za-z]|\{\s*[A-Za-z])")


def is_prose(text: str) -> bool:
    """A text that may have an answer in it, rather than an answer: mathematics between delimiters, or words."""
    return _PROSE.search(_SYMBOLIC.sub(" ", text[:MAX_LENGTH])) is not None


def alternatives(reference: str) -> list[str]:
    """A reference, and the answers that it offers with an upper-case OR; lower-case "or" lists parts of one answer."""
    offered = [part for part in _OR.split(reference) if part.strip()]
    return [reference, *offered] if len(offered) > 1 else [reference]


def decide(prediction: str, reference: str, tolerance: Fraction | None = None, depth: int = DEPTH) -> bool | None:
    """True or False where that is certain, None where it takes a parser. A blank text equals nothing."""
    if len(prediction) > max(MAX_LENGTH, 2 * len(reference)):
        return False
    one, other = tidy(prediction), tidy(reference)
    if not one or not other:
        return False
    if squeeze(one) == squeeze(other):
        return True
    if cut_off(one) and not cut_off(other):
        return False
    bare = named.unassigned(one, other)
    if bare is None:
        return False
    one, other = bare
    for rule in (_quantities, _bases, _options, _statements, _clocks, _ratios, _texts):
        verdict = rule(one, other, tolerance)
        if verdict is not None:
            return verdict
    return match(one, other, lambda a, b: decide(a, b, tolerance, depth - 1)) if depth else None


def cut_off(text: str) -> bool:
    """An expression that begins or ends in the middle of an operation (``5-``, ``5*``), or a number with a letter for
    an index (``5_x``)."""
    if len(text) > MAX_LENGTH:
        return False
    return _CUT_OFF.match(text) is not None or _NUMBER_WITH_INDEX.search(text) is not None


def match(one: str, other: str, equal: lists.Equal) -> bool | None:
    """Named values by their names, lists element by element, with both values of a plus-minus sign.

    None where neither text is such a thing, or where an element takes a parser.
    """
    verdict = named.match(one, other, equal)
    return lists.match(lists.spread(one), lists.spread(other), equal) if verdict is None else verdict


def _quantities(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    second = quantity.quantity(other)
    first = quantity.quantity(one, lenient=second is not None)
    if first and second:
        return quantity.equal(first, second, tolerance)
    if first and first.unit and (second := quantity.quantity(other, lenient=True)) and second.unit:  # 2 seconds, 2s
        unit = quantity.canonical(first.unit)
        if unit is not None and unit == quantity.canonical(second.unit):
            return quantity.equal(first, second, tolerance)
    return None


def _bases(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Numbers with their base, ``52_8``; one of the two may leave it out."""
    first, second = _BASE.fullmatch(one), _BASE.fullmatch(other)
    if first and second:
        return (first[1], first[2] or first[3]) == (second[1], second[2] or second[3])
    with_base, plain = (first, other) if first else (second, one)
    if with_base and re.fullmatch(r"[0-9][0-9A-F]*", plain):
        return with_base[1] == plain
    return None


def _options(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Letters of options; the reference is one letter, or several in alphabetical order."""
    wanted = _plain_letters(other)
    if not _LETTERS.fullmatch(wanted) or sorted(set(wanted)) != list(wanted):
        return None
    named = letters(one)
    return None if named is None else named == wanted


def _plain_letters(text: str) -> str:
    """``\\text{(C)}`` as ``C``."""
    named = letters(text) if re.fullmatch(r"\\text(?:bf|rm)?\s*\{\s*\(?[A-K]\)?\s*\}", text) else None
    return named or text.strip()


def _statements(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Numbers of true statements, ``(1)(3)(4)`` (circled ones were folded to these)."""
    if len(other) < 4 or not _STATEMENTS.fullmatch(other) or other.count("(") < 2:
        return None
    if _STATEMENTS.fullmatch(one) or re.fullmatch(r"[0-9]+(?:\s*,\s*[0-9]+)*", one):
        return set(re.findall(r"[0-9]+", one)) == set(re.findall(r"[0-9]+", other))
    return None


def _clocks(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Times of day. Where the reference says which half of the day it means, the prediction has to say so too."""
    first, second = _clock(one), _clock(other)
    if not first or not second:
        return None
    if len(second) == 1:
        return first == second
    return True if first & second else None  # 4:5 may be a ratio


def _clock(text: str) -> set[int]:
    """Seconds since midnight that a time may mean: one number, or two where it may be a.m. or p.m."""
    found = _CLOCK.fullmatch(words(text))
    if found is None or not (found[2] or found[4]):
        return set()
    hours, minutes, seconds = int(found[1]), int(found[2] or 0), int(found[3] or 0)
    if minutes > 59 or seconds > 59 or hours > (12 if found[4] else 24):
        return set()
    halves = {"am": [0], "pm": [12]}.get(found[4], [0, 12] if 1 <= hours <= 12 else [hours - hours % 12])
    return {(hours % 12 + half) * 3600 + minutes * 60 + seconds for half in halves}


def _ratios(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Ratios of three or more numbers, ``6:8:10`` and ``3 : 4 : 5``; two are a fraction to the parser."""
    first, second = ([quantity.number(part) for part in text.split(":")] for text in (one, other))
    if len(second) < 3 or None in first or None in second or any(part and not part[0] for part in [*first, *second]):
        return None
    steps = {a[0] / b[0] for a, b in zip(first, second, strict=False) if a and b}
    return len(first) == len(second) and len(steps) == 1


def _texts(one: str, other: str, tolerance: Fraction | None) -> bool | None:
    """Words: equal but for case, article, quotation marks and text commands."""
    wanted = words(other)
    if not _WORDS.fullmatch(wanted) or re.search(
        r"\\(?!text|mbox|hbox|mathrm|mathbf|mathit|operatorname| )|[_^=<>]", other
    ):
        return None
    if words(one) == wanted:
        return True
    return False if re.search(r"[a-z]{4}", wanted) and not re.search(r"infin|sqrt|frac", wanted) else None
