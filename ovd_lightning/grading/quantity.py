"""Plain numbers with their units, read exactly and without a computer algebra system: most answers are no more.

``-3``, ``1,234.50``, ``.5``, ``3/4``, ``\\frac{3}{4}``, ``2\\frac{1}{2}``, ``4.5e33``, ``4.5 \\times 10^{33}``, each
with a currency sign before it and a unit, a degree sign or a percent sign after it. The regular expressions run in
the training process, so none of them may backtrack: possessive quantifiers, and texts are cut at a length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 400
"""Characters of a number, and its largest exponent: beyond it a text is not taken for a plain number."""

_S = r"[\s\u2009]*+"
_UNSIGNED = r"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)"
_DECIMAL = re.compile(rf"[-+]?{_S}{_UNSIGNED}")
_GROUPS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})++(?:\.[0-9]++)?(?![,0-9])")
_RATIO = re.compile(rf"([-+]?{_S}{_UNSIGNED}){_S}/{_S}({_UNSIGNED})")
_PART = rf"(?:\{{{_S}([-+]?{_UNSIGNED}){_S}\}}|([0-9]))"
_FRAC = re.compile(rf"([-+]?){_S}\\frac{_S}{_PART}{_S}{_PART}")
_MIXED = re.compile(rf"([-+]?){_S}([0-9]++)(?:{_S}\\frac{_S}{_PART}{_S}{_PART}|[\s\u2009]++([0-9]++)/([0-9]++))")
_POWER = re.compile(
    rf"([-+]?{_S}{_UNSIGNED})(?:[eE]([-+]?[0-9]++)"
    rf"|{_S}(?:\\times|\\cdot|\*|x){_S}10{_S}\^{_S}(?:\{{{_S}([-+]?[0-9]++){_S}\}}|(-?[0-9])))"
)
_CURRENCY = re.compile(rf"{_S}([-+]?){_S}(?:(?:US|HK)?\\?\$|[€£¥₹]|Rs\.|RMB){_S}(?=[-+.0-9])")
_PERCENT = re.compile(rf"{_S}(?:\\?%|(?:\\text{_S}\{{{_S})?(?:percent|per cent|pct)\.?{_S}\}}?){_S}$", re.IGNORECASE)

_COMMAND = r"\\(?:text(?:normal|bf|it|rm|sf)?|mbox|hbox|mathrm|operatorname)"
_EXPONENT = r"(?:[\s\u2009]*+\^[\s\u2009]*+(?:\{[\s\u2009]*+-?[0-9][\s\u2009]*+\}|[0-9]))?"
_TOKEN = re.compile(
    rf"(?P<command>{_COMMAND}{_S}\{{(?P<inside>[^{{}}]*+)\}}){_EXPONENT}"
    rf"|(?P<word>[A-Za-z]++){_EXPONENT}|(?P<chinese>[\u4e00-\u9fff]++)|(?P<degree>\^{_S}(?:\\circ|\{{{_S}\\circ{_S}\}}))"
    r"|(?P<thin>\u2009++)|(?P<space>\s++)|(?P<other>[/.,:*-])"
)
_TAIL = re.compile(
    rf"(?:{_S}{_COMMAND}{_S}\{{[^{{}}]*+\}}{_EXPONENT}|(?<![A-Za-z\\]){_S}[A-Za-z]{{2,12}}{_EXPONENT}"
    rf"|\u2009{_S}[msghlLtJNWVACFK]{_EXPONENT}|/[A-Za-z]{{1,12}}{_EXPONENT}"
    rf"|{_S}\^{_S}(?:\\circ|\{{{_S}\\circ{_S}\}})|{_S}[\u4e00-\u9fff]{{1,6}}){_S}\.?$"
)
_STRIP = re.compile(rf"{_COMMAND}|[{{}}\\\u2009]")
_NO_UNIT = frozenset("and or to pi ln log lg sin cos tan cot sec csc exp sqrt mod inf infty i e x y z".split())
_LETTERS = frozenset("m s g h l L t J N W V A K C F".split())

_NAMES = {
    "m": "m meter metre 米", "cm": "cm centimeter centimetre 厘米", "mm": "mm millimeter millimetre 毫米",
    "km": "km kilometer kilometre 千米 公里", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard",
    "mi": "mi mile", "g": "g gram 克", "kg": "kg kilogram 千克 公斤", "mg": "mg milligram 毫克", "lb": "lb pound",
    "oz": "oz ounce", "s": "s sec second 秒", "min": "min minute 分钟 分", "h": "h hr hour 小时 时", "day": "day 天 日",
    "week": "week 周", "month": "month 个月", "year": "yr year 年", "l": "l liter litre 升", "ml": "ml milliliter 毫升",
    "dollar": "dollar usd", "cent": "cent", "yuan": "yuan rmb 元", "degree": "degree deg 度", "unit": "unit",
    "mi / h": "mph", "km / h": "kmh kmph kph", "gallon": "gal gallon", "N": "newton",
}  # fmt: skip
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_PREFIXES = frozenset("sq square cu cubic per".split())


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it is written."""

    value: Fraction
    """Without regard to a percent sign: 5 for ``5\\%``."""
    exact: bool
    """Written as integers; False for a decimal, which may have been rounded."""
    unit: str | None = None
    percent: bool = False


def number(text: str) -> tuple[Fraction, bool] | None:
    """The number that a text is, with whether it is exact; None when it is anything else or too long."""
    read = _leading(_unwrap(text.strip()))
    return read[:2] if read and not read[2] else None


def _unwrap(text: str) -> str:
    while len(text) > 2 and text[0] + text[-1] in ("{}", "()") and not re.search(r"[(){},]", text[1:-1]):
        text = text[1:-1].strip()
    return text


def _leading(text: str) -> tuple[Fraction, bool, str] | None:
    """Number at the start of a text, whether it is exact, and what follows it."""
    if not text or len(text) > LONGEST:
        return None
    value: Fraction | None
    if match := _MIXED.match(text):
        over, under = match[3] or match[4] or match[7], match[5] or match[6] or match[8]
        part = _ratio(_decimal(over), _decimal(under))
        value = None if part is None else (int(match[2]) + part) * (-1 if match[1] == "-" else 1)
    elif match := _FRAC.match(text):
        value = _ratio(_decimal(match[2] or match[3]), _decimal(match[4] or match[5]))
        value = -value if value is not None and match[1] == "-" else value
    elif match := _GROUPS.match(text):
        value = _decimal(match[0].replace(",", ""))
    elif match := _RATIO.match(text):
        value = _ratio(_decimal(match[1]), _decimal(match[2]))
    elif match := _POWER.match(text):
        exponent = int(match[2] or match[3] or match[4])
        value = _decimal(match[1]) * Fraction(10) ** exponent if abs(exponent) <= LONGEST else None
    elif match := _DECIMAL.match(text):
        value = _decimal(match[0])
    else:
        return None
    exact = "." not in match[0].rstrip(".")
    return None if value is None else (value, exact, text[match.end() :].strip(" \t\n"))


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[\s\u2009]", "", text).removesuffix("."))


def _ratio(over: Fraction, under: Fraction) -> Fraction | None:
    return over / under if under else None


def quantity(text: str, lenient: bool = False) -> Quantity | None:
    """The quantity that a :func:`~ovd_lightning.grading.text.tidy` text is, None when it is anything else.

    A unit is words in a text command, words of the table, or any word of four letters. Single letters and short words
    may be variables (``6m``, ``2ab``): they are units only when ``lenient``, which is for a prediction whose reference
    is known to be a number.
    """
    if len(text) > LONGEST + 100:
        return None
    text = _CURRENCY.sub(r"\1", text, count=1)
    if found := _PERCENT.search(text):
        read = number(text[: found.start()])
        return Quantity(*read, percent=True) if read else None
    leading = _leading(_unwrap(text.strip()))
    if leading is None:
        return None
    value, exact, rest = leading
    if not rest:
        return Quantity(value, exact)
    return Quantity(value, exact, unit=rest) if _is_unit(rest, lenient) else None


def _is_unit(text: str, lenient: bool) -> bool:
    position, before = 0, "number"
    for match in _TOKEN.finditer(text):
        if match.start() != position:
            return False
        position = match.end()
        kind = match.lastgroup or ""
        name = match["word"] or (match["inside"] or "").strip("\u2009 ")
        if name.casefold() in _NO_UNIT:
            return False
        if kind == "word" and before in ("number", "space", "thin", "degree") and not _known(name):
            enough = 4 if not lenient else 1 if name in _LETTERS else 2 if before == "space" else 3
            if len(name) < enough and not (before == "thin" and name in _LETTERS):
                return False
        if match["command"] and match["command"].startswith(r"\mathrm") and len(name) == 1 and name not in _LETTERS:
            return False
        before = kind if kind in ("space", "thin", "degree") else "word"
    return position == len(text)


def _known(name: str) -> bool:
    return len(name) > 1 and (canonical(name) is not None or name.casefold() in _PREFIXES)


def split_unit(text: str) -> tuple[str, str]:
    """A value that is no plain number (``36\\sqrt{7} cm^3``) and its unit, which is empty where it ends in none."""
    end = len(text)
    while (match := _TAIL.search(text, 0, end)) and match.start() > 0:
        token = text[match.start() : end].strip(" ")
        name = _STRIP.sub("", re.sub(r"\^.*", "", token)).strip(" ./")
        if name.isascii() and not token.startswith("^") and name not in _LETTERS:
            bare = token[0].isalpha() or token[0] == "/"
            if name.casefold() in _NO_UNIT or (canonical(name) is None if bare else len(name) == 1):
                break
        end = match.start()
    return text[:end].rstrip(" \u2009\\"), text[end:].strip(" \u2009")


def canonical(unit: str) -> str | None:
    """One name for every spelling of a unit, e.g. ``square meters`` and ``m^2``; None for one not in the table."""
    text = _STRIP.sub(" ", unit.casefold().replace(r"\circ", "degree"))
    found: list[str] = []
    power = ""
    for token in re.findall(r"[a-z]+|[\u4e00-\u9fff]+|\^\s*[0-9]|/", text):
        if token in ("square", "sq", "cubic", "cu"):
            power = "2" if token[0] == "s" else "3"
        elif token[:2] in ("平方", "立方"):
            token, power = token[2:], "2" if token[0] == "平" else "3"
            if token not in _CANONICAL:
                return None
            found.append(_CANONICAL[token] + power)
            power = ""
        elif token[0] == "^":
            if found:
                found[-1] += token[-1]
        elif token in ("/", "per"):
            found.append("/")
        else:
            name = _CANONICAL.get(token) or _CANONICAL.get(token.removesuffix("s"))
            if name is None:
                return None
            found.append(name + power)
            power = ""
    return " ".join(found) or None


def conflict(one: str | None, other: str | None) -> bool:
    """Both are units of the table, and different ones."""
    if not one or not other:
        return False
    first, second = canonical(one), canonical(other)
    return first is not None and second is not None and first != second


def close(one: Fraction, other: Fraction, exact: bool) -> bool:
    """Equal; a decimal may be off by one in the sixth decimal, and by a ten-thousandth of itself where it is small."""
    if one == other or exact:
        return one == other
    largest = max(abs(one), abs(other))
    return abs(one - other) <= max(largest / 10**12, min(Fraction(1, 10**6), largest / 10**4))


def equal(one: Quantity, other: Quantity, tolerance: Fraction | None = None) -> bool:
    """Equality of quantities. A unit may be missing but not differ; a percent sign is a unit or means /100."""
    if conflict(one.unit, other.unit):
        return False
    pairs = [(one.value, other.value)]
    if one.percent != other.percent:
        pairs.append((one.value / 100, other.value) if one.percent else (one.value, other.value / 100))
    if tolerance is not None:
        return any(abs(a - b) <= tolerance for a, b in pairs)
    return any(close(a, b, one.exact and other.exact) for a, b in pairs)
