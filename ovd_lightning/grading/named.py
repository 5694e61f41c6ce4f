"""Names that answers give to their values: ``x=2, y=3``, ``(x,y)=(2,3)``, ``f(x)=2x``. Standard library only.

A value keeps its name: where both answers name their values, values of the same name are compared; where one of them
only lists values, they are those of the names in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from ovd_lightning.grading import lists
from ovd_lightning.grading.lists import Equal

_S = r"[\s\u2009]*+"
_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]{2,8}(?![A-Za-z]))"
_INDEX = r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,3}\}))?"
_FUNCTION = re.compile(
    rf"{_S}(?P<name>{_LETTER}{_INDEX}(?:'{{1,3}}|\^{{?-1}}?|\^\{{-1\}}|\^\{{?\\prime\}}?)?)"
    rf"{_S}(?P<arguments>\([A-Za-z0-9][A-Za-z0-9., \u2009-]{{0,12}}\)|\(\\[a-z]{{2,8}}\)|)?{_S}(?:=|\\in(?![a-z])){_S}"
)
_NAME = re.compile(
    rf"{_S}((?:\\(?:text|mathrm|mbox|textbf)\s*\{{[^{{}}=]{{1,30}}\}}|m?\\(?:angle|overline)\s*\{{?[A-Z]{{1,3}}\}}?"
    rf"|[A-Za-z]{{1,20}}|\\[A-Za-z]{{2,8}}(?![A-Za-z])){_INDEX}(?:'|\^\{{-1\}})?(?:\([A-Za-z0-9., ]{{1,8}}\))?){_S}"
)
_TUPLE = re.compile(rf"{_S}\(([^()=]{{1,60}})\){_S}=(.+)", re.DOTALL)
_NEXT = re.compile(rf"(?<=[^\s\u2009=<>,;])[\s\u2009]+(?=(?:[A-Za-z]|\\[a-z]{{2,8}}){_INDEX}{_S}=)")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|leq|geq|ne|neq|in|leqslant|geqslant)(?![A-Za-z])")
_EITHER = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|或")
_BRACES = re.compile(r"[{}\s\u2009]|\\(?:text|mathrm|mbox|textbf)(?![A-Za-z])")

Solution = dict[str, str]
"""Name -> value."""


def unassigned(one: str, other: str) -> tuple[str, str] | None:
    """Both without their ``x =`` where it is the same variable, where only one of them has it, or where one says y for
    the other's f(x); None where they are different functions."""
    first, second = (_FUNCTION.match(text) if text.count("=") <= 1 else None for text in (one, other))
    if (first and first.end() == len(one)) or (second and second.end() == len(other)):
        return one, other
    # a lone "f(x) =" against an equation in other variables is a matter of algebra
    if (first and not second and "=" in other) or (second and not first and "=" in one):
        return one, other
    bare = (one[first.end() :] if first else one), (other[second.end() :] if second else other)
    if not first or not second:
        return bare
    names = [_plain(found["name"]) for found in (first, second)]
    arguments = [_letters(found["arguments"] or "") for found in (first, second)]
    if names[0] == names[1]:
        if arguments[0] == arguments[1] or not (arguments[0] and arguments[1]):
            return bare
        if len(arguments[0]) == len(arguments[1]) == 1 and all(len(a[0]) == 1 and a[0].isalpha() for a in arguments):
            return _renamed(bare[0], arguments[0][0], arguments[1][0]), bare[1]
        return None
    if arguments[0] and arguments[1]:
        return bare if "y" in names and arguments[0] == arguments[1] else None
    if arguments[0] or arguments[1]:
        letters, letter = (arguments[0], names[1]) if arguments[0] else (arguments[1], names[0])
        usual = "y" if len(letters) == 1 else "z"
        return bare if letter == usual and letter not in letters and all(map(str.isalpha, letters)) else None
    return (one, other) if all(len(name) <= 1 or "'" not in name for name in names) else None


def _letters(arguments: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in arguments.strip("()").split(",") if part.strip())


def _renamed(text: str, old: str, new: str) -> str:
    return re.sub(rf"\\[A-Za-z]+|{old}", lambda found: new if found[0] == old else found[0], text)


def match(one: str, other: str, equal: Equal) -> bool | None:
    """Equality of two answers of which one names several values; None where neither does, or where it is algebra."""
    first, second = solutions(one), solutions(other)
    if first and second:
        if max(_names(first), _names(second)) < 2:
            return None
        return _same(first, second, equal)
    named, text = (first, other) if first else (second, one)
    if not named or _RELATION.search(text):
        return None
    if _names(named) < 2:
        bracketed = lists.parts(text)
        return False if len(named) > 1 and bracketed and bracketed[0] in ("(", "[") else None
    return _listed(named, text, equal if first else lambda a, b: equal(b, a))


def _names(found: Sequence[Solution]) -> int:
    return max(len(one) for one in found)


def solutions(text: str) -> list[Solution] | None:
    """The values that a text gives its names: one solution, or several where a name comes twice; None: no name.

    ``x=1,y=2; x=3,y=4`` and ``(x,y)=(1,2),(3,4)`` are two solutions, ``x=1 or x=2`` are two of one name.
    """
    if "=" not in text:
        return None
    if whole := _TUPLE.fullmatch(text):
        return _tuples(whole[1], whole[2])
    found: list[Solution] = [{}]
    listed = lists.parts(text) or ("", [text], "")
    for item in (piece for whole in listed[1] for piece in _NEXT.split(whole)):
        read = _assigned(item)
        if read is None:
            return None
        names, value = read
        if any(name in found[-1] for name in names):
            found.append({})
        found[-1].update(dict.fromkeys(names, value))
    spread = [
        dict(zip(one, values, strict=True))
        for one in found
        for values in product(*(lists.signs(value) for value in one.values()))
    ]
    return spread if len(spread) <= lists.MAX_PARTS else None


def _assigned(item: str) -> tuple[list[str], str] | None:
    """``x = y = 2`` as its names and its value."""
    *names, value = item.split("=")
    if not names or not value.strip() or re.search(r"[<>]|\\[lgn]e", item):
        return None
    found = [_NAME.fullmatch(name) for name in names]
    plain = [_plain(name[1]) for name in found if name]
    return (plain, value.strip()) if len(plain) == len(names) else None


def _tuples(names: str, values: str) -> list[Solution] | None:
    keys = [_plain(name) for name in names.split(",")]
    points = _points(values.strip(), len(keys))
    if points is None or len(set(keys)) < len(keys) or not all(_NAME.fullmatch(name) for name in names.split(",")):
        return None
    return [dict(zip(keys, point, strict=True)) for point in points]


def _points(text: str, size: int) -> list[list[str]] | None:
    """Tuples of ``size`` values: one, or a list of such."""
    one = lists.parts(text)
    if one is not None and one[0] == "(" and len(one[1]) == size:
        return [one[1]]
    if one is None or one[0] in ("(", "["):
        return None
    each = [lists.parts(item) for item in one[1]]
    if not all(point and point[0] == "(" and len(point[1]) == size for point in each):
        return None
    return [point[1] for point in each if point]


def _listed(named: Sequence[Solution], text: str, equal: Equal) -> bool | None:
    """Named values against a text that only lists some: points, or the values of the one solution in its order."""
    size = _names(named)
    if any(len(one) != size for one in named) or r"\pm" in text.replace(r"(\pm", "("):
        return False
    points = _points(lists.spread(text), size)
    if points is not None:
        keys = list(named[0])
        usual = sorted(keys) if all(len(key) == 1 for key in keys) else keys  # a point is (x, y), however it is found
        return _same(named, [dict(zip(usual, point, strict=True)) for point in points], equal)
    flat = lists.parts(text)
    if flat is None or flat[0] == "[" or len(named) > 1 or len(flat[1]) != size or _EITHER.search(text):
        return False
    return _same(named, [dict(zip(named[0], flat[1], strict=True))], equal)


def _same(one: Sequence[Solution], other: Sequence[Solution], equal: Equal) -> bool | None:
    def agree(a: Solution, b: Solution) -> bool | None:
        return lists.every([equal(a[name], b[name]) for name in a]) if a.keys() == b.keys() else False

    return lists.covered([[agree(a, b) for b in other] for a in one])


def _plain(name: str) -> str:
    return _BRACES.sub("", name)
