"""Answers as text: one spelling for what LaTeX, Unicode and Chinese write in several ways. Standard library only."""

from __future__ import annotations

import re
from fractions import Fraction

from ovd_lightning.grading.unicode import fold

MAX_LENGTH = 4000
"""Characters of an answer that is parsed; a longer one is compared as text."""

_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_DELIMITER = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]]")
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_STYLE = re.compile(r"\\(?:displaystyle|textstyle|limits|rm|bf|it)(?![A-Za-z])")
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!|\\thinspace)\s*(?=\d{3}(?!\d))")
_SPACED = re.compile(
    r"(?<![\w.,^_}])(?<!frac )(?<!sqrt )([1-9]\d{0,2}(?:(?:\\[,;:> ]|~|'|[ \u2009])\d{3})++)(?![\d'])(?!\s*/)"
)
"""Digits in groups of three with a space or an apostrophe between them; 1 100/3 is a mixed number."""
_THIN = re.compile(r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![A-Za-z])|\\thinspace(?![A-Za-z])")
_SPACES = re.compile(r"\s+")
_LOOSE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_TEXT = re.compile(r"\\(?:text(?:normal|bf|it|rm|sf)?|mbox|hbox|mathrm|mathit|mathbf|operatorname)\s*\{([^{}]*)\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_MERIDIEM = re.compile(r"\b([ap])\s?\.\s?m\b\.?")
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm|textbf)\s*\{([^{}]*)\}|\\(?:text|mathrm|mbox)\s*\{([^A-Za-z{}]*)\}")
_CONSTANT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|normal)?|mathrm|mathbf|mathit|mathsf|operatorname|boldsymbol|bm)\s*"
    r"\{\s*([ei]|\\pi|\\theta)\s*\}(?!\s*\{)"
)
"""Euler's number, the imaginary unit and Greek letters in another type face."""
_CASES = re.compile(r"\\begin\{(cases|aligned|gathered)\}(.*?)\\end\{\1\}", re.DOTALL)
_BOLD_WORDS = re.compile(r"(?<![\w*)}\]])\*\*(?=[^\s*])([^*]*[^\s*])\*\*(?![\w*({\\])")
_MARKED = re.compile(r"(\*{1,3}|__|`{1,3})\s*+(?=[^*_`])([^*`]*[^\s*`])\s*+\1")
_EXPONENT = re.compile(
    r"\s*([-+]?\s*(?:\d++(?:\.\d++)?|[A-Za-z]|\\[A-Za-z]++|\((?:[^()]|\([^()]*+\))*+\)|\{[^{}]*+\})(?:\^\{[^{}]*+\})?)"
)
_POWERS = 32
"""Python's powers in an answer that are converted."""
_REPEATING = re.compile(
    r"(?<![\w.])(\d*)\.(\d*)(?:\\(?:overline|bar)\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"|\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?|\((\d+)\))(?![\d.])"
)
_GOES_ON = re.compile(r"(?<![\w.])(\d*)\.(\d{2,40})\s*(?:\.\.\.|\\[lcd]?dots(?![A-Za-z]))\s*(?=$|[^\w\s.+-])")
_ALONE = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*\}")


def tidy(text: str) -> str:
    """An answer without delimiters, sizes and closing punctuation; spacing commands become a thin space (U+2009).

    Thousands separators go, the comma of a list stays: ``1{,}234``, ``1,\\!234`` and ``1\\,234`` become ``1234``.
    """
    text = fold(text)
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _CASES.sub(_system, text)
    text = _marks(_DELIMITER.sub(" ", text).replace(r"\$", "").strip())
    text = text.replace(r"\varnothing", r"\emptyset")
    text = _STYLE.sub("", _FRACTION.sub(r"\\frac", _SIZE.sub("", text)))
    text = _SPACED.sub(lambda number: re.sub(r"\D", "", number[0]), _GROUPED.sub("", text))
    text = _CONSTANT.sub(r"\1", _ALONE.sub("", _THIN.sub("\u2009", text)))
    text = _repeating(_BOLD.sub(r"\1\2", text))
    return text.strip().lstrip("=").rstrip(".,;:").strip()


def _system(found: re.Match[str]) -> str:
    """Equations below each other as a list; the cases of a function stay what they are."""
    if re.search(r"[<>]|\\(?:le|ge|ne|in|text|mbox|mathrm)", found[2]):
        return found[0]
    return found[2].replace("&", "").replace("\\\\", ",").strip().strip(",")


def _marks(text: str) -> str:
    """Without Markdown around it, and with LaTeX's power for Python's."""
    if not ("*" in text or "`" in text or "__" in text):
        return text
    if marked := _MARKED.fullmatch(text):
        text = marked[2].strip().rstrip(".,;:")
        text = _DELIMITER.sub(" ", text).strip()
    text = _BOLD_WORDS.sub(r"\1", text)
    end = len(text)
    for _ in range(_POWERS):
        end = text.rfind("**", 0, end)  # from the last: 2**3**2 is 2**(3**2)
        if end < 0:
            break
        if exponent := _EXPONENT.match(text, end + 2):
            text = f"{text[:end].rstrip()}^{{{_unwrapped(exponent[1])}}}{text[exponent.end() :]}"
    return text


def _unwrapped(text: str) -> str:
    return text[1:-1] if text[0] + text[-1] in ("()", "{}") else text


def _repeating(text: str) -> str:
    """Repeating decimals as the fractions that they are."""
    if "." not in text or len(text) > MAX_LENGTH:
        return text
    text = _REPEATING.sub(_as_fraction, text)
    return _GOES_ON.sub(_as_shown, text)


def _as_fraction(found: re.Match[str]) -> str:
    dotted = "".join(digits for digits in (found[5], found[6], found[7]) if digits)
    block = found[3] or found[4] or found[8] or dotted
    return _fraction(found[1], found[2], block)


def _as_shown(found: re.Match[str]) -> str:
    """0.1666... repeats the digits that end it twice or more; else it is left."""
    whole, digits = found[1], found[2]
    for length in range(1, len(digits) // 2 + 1):
        block = digits[-length:]
        start = len(digits)
        while start >= length and digits[start - length : start] == block:
            start -= length
        if len(digits) - start >= 2 * length:
            return _fraction(whole, digits[:start], block)
    return found[0]


def _fraction(whole: str, fixed: str, block: str) -> str:
    if len(whole) + len(fixed) + len(block) > 100:
        return f"{whole}.{fixed}\\overline{{{block}}}"
    scale = 10 ** len(fixed)
    value = Fraction(int(whole + fixed or "0"), scale) + Fraction(int(block), scale * (10 ** len(block) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def squeeze(text: str) -> str:
    """:func:`tidy` text without spaces (two numbers stay apart): equal here is equal for certain."""
    return _LOOSE.sub("", text)


def words(text: str) -> str:
    """Lower-case words without text commands, quotation marks, article, ordinal endings and closing full stop."""
    previous = None
    while previous != text:
        previous, text = text, _TEXT.sub(r"\1", text)
    text = _SPACES.sub(" ", re.sub(r"[\"'`{}*]|\\ ", "", text).replace("\\", "")).strip().casefold()
    text = _ORDINAL.sub("", _MERIDIEM.sub(r"\1m", text)).rstrip(".,;:!").strip()
    return _ARTICLE.sub("", text)
