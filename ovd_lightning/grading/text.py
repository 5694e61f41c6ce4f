"""Answers as text: one spelling for what LaTeX, Unicode and Chinese write in several ways. Standard library only."""

from __future__ import annotations

import re

MAX_LENGTH = 4000
"""Characters of an answer that are looked at; a longer one is compared as it stands and never parsed."""

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "＋": "+",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ",
    "∞": r"\infty ", "π": r"\pi ", "°": r"^\circ ", "℃": r"^\circ \text{C}", "′": "'",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "、": ",", "。": ".", "【": "[", "】": "]", "〔": "(", "〕": ")", "“": '"', "”": '"', "‘": "'", "’": "'",
    "\u3000": " ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
_FOLD = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
    | {chr(0x2460 + n): f"({n + 1})" for n in range(20)}  # numbers in circles
    | _SYMBOLS
)
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPTS = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z]|\([^()]*\)|\{[^{}]*\})")

_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_DELIMITER = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]]")
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_STYLE = re.compile(r"\\(?:displaystyle|textstyle|limits|rm|bf|it)(?![A-Za-z])")
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!|\\thinspace)\s*(?=\d{3}(?!\d))")
_THIN = re.compile(r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![A-Za-z])|\\thinspace(?![A-Za-z])")
_SPACES = re.compile(r"\s+")
_LOOSE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_TEXT = re.compile(r"\\(?:text(?:normal|bf|it|rm|sf)?|mbox|hbox|mathrm|mathit|mathbf|operatorname)\s*\{([^{}]*)\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_MERIDIEM = re.compile(r"\b([ap])\s?\.\s?m\b\.?")
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm|textbf)\s*\{([^{}]*)\}|\\(?:text|mathrm|mbox)\s*\{([^A-Za-z{}]*)\}")
_ALONE = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*\}")


def fold(text: str) -> str:
    """ASCII or LaTeX for full-width forms, Chinese punctuation and mathematical signs."""
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    return _ROOT.sub(lambda m: r"\sqrt{" + m[1].strip("(){}") + "}", text.translate(_FOLD))


def tidy(text: str) -> str:
    """An answer without delimiters, sizes and closing punctuation; spacing commands become a thin space (U+2009).

    Thousands separators go, the comma of a list stays: ``1{,}234``, ``1,\\!234`` and ``1\\,234`` become ``1234``.
    """
    text = fold(text)
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _DELIMITER.sub(" ", text).replace(r"\$", "")
    text = text.replace(r"\varnothing", r"\emptyset")
    text = _STYLE.sub("", _FRACTION.sub(r"\\frac", _SIZE.sub("", text)))
    text = _ALONE.sub("", _THIN.sub("\u2009", _GROUPED.sub("", text)))
    return _BOLD.sub(r"\1\2", text).strip().lstrip("=").rstrip(".,;:").strip()


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
