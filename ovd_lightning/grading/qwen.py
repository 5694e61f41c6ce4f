"""The rules of the reference harness (Qwen2.5-Math's evaluation, as One-Shot-RLVR runs it), faults included.

For comparing with published numbers and for nothing else: it takes the last number of a response that names no answer,
9999 for 10000, and 12 for 0.12. Written from its rules; where it tries three parsers, two of which evaluate text, the
one of math-verify is used here. A Unicode minus is read as a minus and ``3/13`` as one last number, which the harness
does not. This module parses nothing: :func:`equal` asks a function for symbolic equality.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isclose, isfinite

from ovd_lightning.grading.extract import Found
from ovd_lightning.grading.text import MAX_LENGTH

Symbolic = Callable[[str, str], bool]

_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+(?:/[0-9]+)?")
_LETTER = re.compile(r"\b[A-E]\b")
_TRIGGER = re.compile("choice is|answer is")

_UNITS = (
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|tile|"
    "per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches|"
    "noon|percent|by|gal|kmh|c|acre|rise|a . m|th|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|yr|women|feet|am|pm|hr|"
    "cu cm|square|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|day|hour|minute|min|second|man|woman|sec|cube|mt|sq inch|"
    "mp|hectare|more|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure|year|increase|decrease|"
    "d|less|Surface|litre|pi sq m|s .|metre|meter|inch"
)
"""Words that the harness takes for units wherever they are words of their own, single letters included."""
_UNIT = re.compile(rf"(^|\W)(?:{_UNITS})s?($|\W)")

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_SPOKEN = {word: value for value, word in enumerate([*_ONES, "seventeen", "eighteen", "nineteen"])} | {
    word: 10 * (tens + 2) for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}

_DROPPED = ("\\left", "\\right", "\\!", "\\$", "$", "\\(", "\\)", "^{\\circ}", "^\\circ", "\\%", "%", "\\mathbf", "and")
_ASSIGNED = ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to")


def extract(response: str, choices: bool = False, keep_units: bool = False) -> Found:
    """The answer by the harness's rules, cleaned; ``choices`` where the reference is the letter of an option."""
    response = response.replace("\u2212", "-")
    if choices:
        letter = choice(response)
        return Found(letter or None, "choice" if _LETTER.fullmatch(letter) else None)
    if "final answer is $" in response and "$. I hope" in response:
        answer, how = response.split("final answer is $", 1)[1].split("$. I hope", 1)[0], "answer_is"
    elif "boxed" in response:
        answer, how = boxed(response), "boxed"
    elif "he answer is" in response:
        answer, how = response.rsplit("he answer is", 1)[1], "answer_is"
    elif "final answer is" in response:
        answer, how = response.rsplit("final answer is", 1)[1], "answer_is"
    elif "答案是" in response:
        answer, how = response.split("答案是")[1].strip().split("\n\n")[0], "answer_is"
    else:
        numbers = _NUMBER.findall(response.replace(",", ""))
        answer, how = numbers[-1] if numbers else "", "last_number"
    answer = re.sub(r"\n\s*+", "", answer.strip()).removeprefix(":").removesuffix(".").removesuffix("/")
    if len(answer) > MAX_LENGTH:
        return Found(answer, how)
    cleaned = clean(answer, keep_units) or answer  # nothing may be left, of "east" for example
    return Found(cleaned, how) if cleaned else Found(None, None)


def boxed(response: str) -> str:
    """The content of the braces after the last "boxed", to the end where they do not close; to "$" without braces."""
    text = response.rsplit("boxed", 1)[-1]
    if not text.startswith("{"):
        return text.split("$")[0]
    depth = 0
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[1 : match.start()]
    return text[1:]


def choice(text: str) -> str:
    """The letter A to E that a response to a question with options names: the first one after "answer is" or
    "choice is", without those the last one; the text itself where it names none."""
    text = text.strip("\n")
    if any(text.count(trigger) > 1 for trigger in ("choice is", "answer is")):
        text = text.split("\n\n")[0]
    parts = _TRIGGER.split(text)
    text = parts[-1].strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    found = _LETTER.findall(text.upper())
    if found:
        return str(found[0] if len(parts) > 1 else found[-1])
    return text.strip().strip(".").rstrip("/")


def clean(text: str, keep_units: bool = False) -> str:
    """One spelling of an answer: without units, text commands, delimiters, percent and degree signs and spaces."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{[^}]*+\}", r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    text = text.replace("bmatrix", "pmatrix").replace("tfrac", "frac").replace("dfrac", "frac")
    text = text.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    for dropped in _DROPPED[:3]:
        text = text.replace(dropped, "")
    text = text.replace("\\{", "{").replace("\\}", "}")
    start = text.find("\\text{")
    if start >= 0 and text.endswith("}"):
        text = text[:start].strip() or text
    if not keep_units:
        text = _without_units(text)
    for dropped in _DROPPED[3:9]:
        text = text.replace(dropped, "")
    text = re.sub(r"\\text\{([^}]*+)\}", r"\1", spoken(text))
    for name in _ASSIGNED:
        text = text.replace(name, "")
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = text.replace("infinity", "\\infty")
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = text.replace("and", "").replace("\\mathbf", "")
    text = re.sub(r"\\mbox\{[^}]*+\}", "", text)
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = re.sub(r"(?<![0-9])([0-9]++)\.0*+(?=[^0-9]|$)", r"\1", text)
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    return _slash(_fractions(text))


def reference(answer: str, keep_units: bool = False) -> str:
    """A reference as the harness compares it; with ``keep_units`` (Minerva) it is left as it is."""
    if not keep_units:
        return clean(answer) or answer
    return answer.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")


def _without_units(text: str) -> str:
    if not re.search(r"[A-Za-z°]", text):
        return text
    for _ in range(4):  # a unit may follow one that was just removed
        shorter = _UNIT.sub(r"\1\2", text)
        if shorter in ("", text):
            break
        text = shorter
    return text


def spoken(text: str) -> str:
    """The number that the number words of a text spell ("twenty-five" is 25), in digits; else the text itself."""
    if len(text) < 400 and re.fullmatch("[0-9]+", text):
        return str(int(text))
    spelled = [
        word
        for word in text.replace("-", " ").lower().split()
        if word in _SPOKEN or word in _SCALES or word == "hundred"
    ]
    if not spelled or any(spelled.count(scale) > 1 for scale in _SCALES):
        return text
    total = part = 0
    for word in spelled:
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part += _SPOKEN[word]
    return str(total + part)


def _fractions(text: str) -> str:
    """Braces around the arguments of ``\\frac12``, ``\\frac1{72}``; untouched where one has none."""
    first, *others = text.split("\\frac")
    for other in others:
        if other.startswith("{"):
            first += "\\frac" + other
        elif len(other) < 2:
            return text
        else:
            second = other[1] if other[1] == "{" else f"{{{other[1]}}}"
            first += f"\\frac{{{other[0]}}}{second}{other[2:]}"
    return first


def _slash(text: str) -> str:
    match = re.fullmatch(r"(-?[0-9]+|[^/]*sqrt[^/]*)/(-?[0-9]+|[^/]*sqrt[^/]*)", text)
    return f"\\frac{{{match[1]}}}{{{match[2]}}}" if match else text


def digits(text: str) -> float | None:
    """The number that a text without its commas is to Python, a percentage as its hundredth."""
    text = text.replace(",", "")
    if len(text) > 400:
        return None
    for candidate, scale in ((text, 1.0), (text.removesuffix("%").removesuffix("\\"), 0.01)):
        if candidate is not text and not text.endswith("%"):
            break
        try:
            return float(candidate) * scale
        except ValueError:
            continue
    return None


def equal(prediction: str, reference: str, symbolic: Symbolic | None = None, depth: int = 3) -> bool | None:
    """Equality of two cleaned answers; None where only ``symbolic`` could decide and it is not given."""
    prediction, reference = prediction.strip(), reference.strip()
    if prediction.lower() == reference.lower():
        return True
    if _LETTER.fullmatch(reference) and _last_letter(prediction) == reference:
        return True
    p, r = digits(prediction), digits(reference)
    if (
        p is not None
        and r is not None
        and isfinite(p)
        and isfinite(r)
        and any(isclose(x, p, rel_tol=1e-4) for x in (r / 100, r, r * 100))
    ):
        return True
    if not prediction or depth == 0:
        return False
    if "pmatrix" in prediction and "pmatrix" not in reference:
        rows = re.findall(r"\{.*,.*\}", reference)
        reference = ", ".join(
            f"\\begin{{pmatrix}}{row.strip('{}').replace(',', chr(92))}\\end{{pmatrix}}" for row in rows
        )
    if _unbracketed(prediction, reference):
        return True
    if _is_list(prediction) and _is_list(reference):
        return _all(prediction[1:-1].split(","), reference[1:-1].split(","), symbolic, depth)
    if _is_matrix(prediction) and _is_matrix(reference):
        return _all(_cells(prediction), _cells(reference), symbolic, depth)
    left, right = prediction.split("="), reference.split("=")
    if len(left) == 2 and len(right) == 2:
        if symbolic is None:
            return None
        one, other = (f"{a.strip()} - ({b.strip()})" for a, b in (left, right))
        return symbolic(one, other) or symbolic(f"-({one})", other)
    if len(left) == 2 and len(left[0].strip()) <= 2 and len(right) == 1:
        return equal(left[1], reference, symbolic, depth - 1)
    if len(right) == 2 and len(right[0].strip()) <= 2 and len(left) == 1:
        return equal(prediction, right[1], symbolic, depth - 1)
    if p is not None and r is not None:
        return False  # two plain numbers: symbolic comparison adds nothing
    return None if symbolic is None else symbolic(prediction, reference)


def _last_letter(text: str) -> str:
    found = _LETTER.findall(text.upper())
    return str(found[-1]) if found else ""


def _unbracketed(prediction: str, reference: str) -> bool:
    """Equal but for brackets, where those of the prediction are not of the other kind than the reference's."""
    square, round_ = prediction[:1] + prediction[-1:] == "[]", prediction[:1] + prediction[-1:] == "()"
    kind = reference[:1] + reference[-1:]
    if (square and kind != "()") or (round_ and kind != "[]"):
        prediction, reference = prediction.strip("[]()"), reference.strip("[]()")
    table = str.maketrans("", "", "{}()")
    return prediction.translate(table).lower() == reference.translate(table).lower()


def _is_list(text: str) -> bool:
    return text[:1] in ("(", "[") and re.search(r"[)\]]", text[2:]) is not None


def _is_matrix(text: str) -> bool:
    return text.startswith("\\begin{pmatrix}") and text.endswith("\\end{pmatrix}")


def _cells(text: str) -> list[str]:
    rows = [row.strip() for row in text[len("\\begin{pmatrix}") : -len("\\end{pmatrix}")].split("\\\\") if row.strip()]
    return [cell for row in rows for cell in [*row.split("&"), "end of row"]]


def _all(predictions: list[str], references: list[str], symbolic: Symbolic | None, depth: int) -> bool | None:
    if len(predictions) != len(references):
        return False
    verdicts = [equal(p, r, symbolic, depth - 1) for p, r in zip(predictions, references, strict=True)]
    return False if False in verdicts else None if None in verdicts else True
