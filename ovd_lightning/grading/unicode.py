"""Unicode characters as ASCII and LaTeX. Standard library only."""

from __future__ import annotations

import re
import unicodedata

_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
    "⅑": (1, 9), "⅒": (1, 10), "↉": (0, 3),
}  # fmt: skip
_GREEK = {
    chr(code): f"\\{unicodedata.name(chr(code)).rsplit(' ', 1)[1].lower().replace('lamda', 'lambda')} "
    for code in [*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA)]
    if chr(code) != "ο"
}
_CAPITALS = {
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi",
    "Ψ": "Psi", "Ω": "Omega", "∆": "Delta", "ϕ": "phi", "ϑ": "theta", "ϵ": "epsilon", "µ": "mu",
}  # fmt: skip
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "⁃": "-", "∕": "/", "⧸": "/", "⁄": "/",
    "×": r"\times ", "✕": r"\times ", "✖": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "•": r"\cdot ", "・": r"\cdot ", "∗": "*", "÷": r"\div ", "±": r"\pm ", "∓": r"\mp ",
    "∞": r"\infty ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "℃": r"^\circ \text{C}",
    "℉": r"^\circ \text{F}", "′": "'", "″": "''", "∶": ":", "：": ":", "∣": "|", "｜": "|",
    "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≧": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "≡": r"\equiv ", "∝": r"\propto ", "→": r"\to ", "⇒": r"\Rightarrow ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ", "⌀": r"\emptyset ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "∖": r"\setminus ", "∀": r"\forall ", "∃": r"\exists ",
    "∧": r"\wedge ", "∨": r"\vee ", "¬": r"\neg ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ", "∇": r"\nabla ", "ℯ": "e", "ⅇ": "e", "ⅈ": "i",
    "∠": r"\angle ", "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ", "…": r"\ldots ", "⋯": r"\cdots ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "、": ",", "。": ".", "【": "[", "】": "]", "〔": "(", "〕": ")", "“": '"', "”": '"', "‘": "'", "’": "'",
    "٫": ".", "٬": ",", "٪": "%", "\u200b": "", "\u2060": "", "\ufeff": "", "\u2009": " ",
}  # fmt: skip
_FOLD = str.maketrans(
    {chr(0x2460 + n): f"({n + 1})" for n in range(20)}  # numbers in circles
    | {sign: rf"\frac{{{over}}}{{{under}}}" for sign, (over, under) in _FRACTIONS.items()}
    | _GREEK
    | {sign: f"\\{name} " for sign, name in _CAPITALS.items()}
    | _SYMBOLS
)

_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵉᵏᵐᵖᵗ", "0123456789+-=()nixyabcdekmpt"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼ", "0123456789+-=()aeoxhklmnpstij"
_UP, _DOWN = str.maketrans(*_RAISED), str.maketrans(*_LOWERED)
_SMALL_RATIO = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+)")
_SUPERSCRIPTS = re.compile(f"[{_RAISED[0]}]+")
_SUBSCRIPTS = re.compile(f"[{_LOWERED[0]}]+")
_RATIO = re.compile(r"(?<![0-9])([0-9]+)⁄([0-9]+)")
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT = re.compile(
    r"([√∛∜])\s*((?:[0-9]++(?:\.[0-9]++)?|[A-Za-z]|\\[A-Za-z]++|\((?:[^()]|\([^()]*\))*+\)|\{[^{}]*+\}|\|[^|]*+\|)"
    r"(?:\^\{[^{}]*+\})?)"
)
_REPEATED = re.compile(r"(?:[0-9]\u0305)+")


def fold(text: str) -> str:
    """ASCII or LaTeX for digits and letters of other alphabets, raised and lowered signs, full-width forms, Chinese
    punctuation and mathematical signs; what is none of these stays."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = _SMALL_RATIO.sub(lambda m: rf"\frac{{{m[1].translate(_UP)}}}{{{m[2].translate(_DOWN)}}}", text)
    text = _REPEATED.sub(lambda m: rf"\overline{{{m[0].replace(chr(0x305), '')}}}", text)
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_UP) + "}", text)
    text = _SUBSCRIPTS.sub(lambda m: "_{" + m[0].translate(_DOWN) + "}", text)
    text = _RATIO.sub(r"\\frac{\1}{\2}", text).translate(_FOLD)
    text = "".join(one if one.isascii() else _plain(one) for one in text)
    return _ROOT.sub(lambda m: rf"\sqrt{_ROOTS[m[1]]}{{{_bare(m[2])}}}", text)


def _plain(sign: str) -> str:
    """A digit of any script, and the plain form of a character that is one in another shape: bold, wide, a ligature."""
    digit = unicodedata.decimal(sign, None)
    if digit is not None:
        return str(digit)
    return unicodedata.normalize("NFKC", sign).translate(_FOLD)  # a bold pi is a pi


def _bare(text: str) -> str:
    return text[1:-1] if text[0] + text[-1] in ("()", "{}") else text
