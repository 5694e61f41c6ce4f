"""A score in what a judge wrote: which of its numbers is the score, and when none is.

Judges are asked for a single number and write sentences, JSON, Markdown and thoughts, in many languages. Every number
of an answer is put into one of three classes before any is taken:

- a *value*: a number, a fraction of the scale ("8/10"), or something that stands where a score should and is none: a
  range, a decimal, a negative, a percentage, a number outside the scale, a fraction of another scale;
- the *scale*: "on a scale of 1-10", "out of 10", "满分10分", "10 = best", a band of the rubric;
- a *count*: "step 3", "2 errors", "第3步", "confidence: 3".

Scales and counts are never scores. Of the values the best labelled ones count, see :func:`read_score`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ovd_lightning.judges import score_words as W
from ovd_lightning.thoughts import spoken

# ------------------------------------------------------------------ numbers

_N = r"\d+(?:[.,]\d+)*"
_DASH = r"(?:-|~|〜|\.\.\.?|…)"
_OR = (
    rf"(?:[ \t]*{_DASH}[ \t]*"
    r"|[ \t]+(?:to|or|and|vs\.?|through|bis|oder|à|ou|a|o|или|до|hoặc|đến|إلى|أو)[ \t]+(?:an?[ \t]+)?"
    r"|[ \t]*(?:到|至|或|から|か|에서|또는)[ \t]*|,[ \t]*(?=\d+[ \t]*(?:[\n.;)]|\Z))"
    r"|[ \t]*[,(]?[ \t]*(?:or )?(?:maybe|perhaps|possibly|if not)[ \t]+(?:an?[ \t]+)?)"
)
_OUT_OF = (
    r"(?:[ \t]*/[ \t]*|[ \t]*(?:out of|of(?: a (?:possible|total)(?: of)?)?|from a possible"
    r"|sur|von|из|de|sobre|su|em|över|av|z|trên|من)"
    r"[ \t]+|[ \t]*\(?[ \t]*(?:out of|满分为?|滿分)[ \t]*)"
)
_UNIT = rf"(?:[ \t]?{W.UNITS}(?![A-Za-z]))"
NUMBER = re.compile(
    rf"(?P<between>\bbetween\s+)?(?P<sign>(?<![^\W_])[-+]|(?<![\w=\-\"'/])(?:>=?|<=?)|≥|≤)?"
    rf"(?P<a>(?<![A-Za-z\d]){_N})(?![A-Za-z\d]){_UNIT}??"
    rf"(?:(?:[ \t]*\([^()\d\n]{{0,30}}\))?{_OR}(?P<b>{_N})(?![A-Za-z\d]){_UNIT}??)?"
    rf"{_UNIT}?(?:{_OUT_OF}(?P<of>{_N})(?P<c>{_OR}{_N}{_OUT_OF}{_N})?)?(?P<more>[ \t]*%|\+(?!\d)|:\d[\d:]*)?",
    re.IGNORECASE,
)
_TOP = (
    r"\bout of(?: a (?:possible|total))?(?: of)?|满分(?:为|是)?|滿分|最高分?(?:为|是)?|总共"
    r"|\bmax(?:imum)?(?: of)?|\bminimum(?: of)?"
)
BEFORE_TOP = re.compile(rf"(?:{_TOP}|\bscale of|\bskala von)[\s:=(]*$", re.IGNORECASE)
BEFORE_SCALE = re.compile(
    rf"(?:{_TOP}|\bscale(?: of| from)?|\bfrom|\brange(?: of)?|\bskala(?: von)?|échelle de|escala del?|шкале от)"
    r"[\s:=(\[]*$",
    re.IGNORECASE,
)
AFTER_SCALE = re.compile(
    r"\s*(?:-\s*)?(?:points?\s+)?(?:scale\b|分?满分|分制|點?滿分|点?満点|点?中(?=\s*\d)|점 만점|being\b|とし)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """One number of an answer, a range or a fraction taken as one."""

    start: int
    end: int
    value: int | None
    """None: it stands for no score of the scale."""
    kind: str
    """"value", "scale", "foreign" (another scale) or "count"."""
    fraction: bool
    several: bool
    """A range or alternatives."""

    @property
    def band(self) -> bool:
        return self.several and self.kind == "scale"


def whole(written: str) -> int | None:
    """8 for "8", "8.0" and "8,0"; None for other decimals and numbers in groups."""
    found = re.fullmatch(r"(\d{1,9})(?:[.,]0{1,2})?", written)
    return int(found[1]) if found else None


def numbers(text: str, low: int, high: int) -> list[Number]:
    """All numbers of a normalised text, each with its class."""
    tops = {high, 10}
    found: list[Number] = []
    for match in NUMBER.finditer(text):
        start, end = match.span()
        before, after = text[max(0, start - 60) : start], text[end : end + 60]
        a, b, of = (None if match[group] is None else whole(match[group]) for group in ("a", "b", "of"))
        several = match["b"] is not None or match["c"] is not None
        ends_scale = bool(AFTER_SCALE.match(after) or (BEFORE_SCALE if several else BEFORE_TOP).search(before))
        kind, value = "value", a
        if (
            match["b"] is not None
            and a in (0, 1)
            and b is not None
            and match["of"] is None
            and (b in {9, 10} or ends_scale)
        ):
            kind = "scale" if b in {9, 10} else "foreign"
        elif not several and match["of"] is None and ends_scale:
            kind = "scale" if a in {0, 1, 9, 10} else "foreign"
        elif re.match(r"\s*:", after) and _begins_line(text, start) and (several or any(n.band for n in found)):
            kind = "scale"  # a band of the rubric
        elif (
            (_is_count(before, after, found, text, start) and of not in tops)
            or re.search(W.LOST, before, re.IGNORECASE)
            or W.DENIED.search(before)
            or W.SUPPOSED.match(after)
        ):
            kind = "count"
        wrong = match["sign"] not in (None, "+") or match["more"] or several
        if wrong or (match["of"] is not None and of not in tops) or (a is not None and not low <= a <= high):
            value = None
        found.append(Number(start, end, value, kind, of in tops, several))
    return found


def _is_count(before: str, after: str, found: list[Number], text: str, start: int) -> bool:
    if re.search(rf"(?<!this )(?<!that )(?<!current ){W.INDEX}[ \t]*#?$", before, re.IGNORECASE):
        return True
    if re.search(
        rf"{W.OTHER}(?:\s+(?:score|level|rating))?[\s\"']*(?:[:=]|\bis\b|\bof\b)[\s\"']*$", before, re.IGNORECASE
    ):
        return True
    if re.match(rf"[ \t-]?{W.COUNTED}", after, re.IGNORECASE):
        return True
    if re.search(
        r"\b(?:answer|result|value|sum|product|difference|solution)\s+(?:is|of|equals|to be)\s*$", before, re.IGNORECASE
    ):
        return True
    joined = (
        found
        and found[-1].kind == "count"
        and re.fullmatch(r"\s*(?:,|&|and|und|et|y|和|と)\s*", text[found[-1].end : start])
    )
    return bool(joined and re.search(rf"{W.INDEX}[ \t]*#?$", text[: found[-1].start], re.IGNORECASE))


def _begins_line(text: str, at: int) -> bool:
    return not text[:at].rpartition("\n")[2].strip(" -•")


# ------------------------------------------------------------------ the score

_PUNCTUATION = str.maketrans({
    **dict.fromkeys("–—‐‑−", "-"), **dict.fromkeys("“”「」【】", '"'), "、": ",", "，": ",", "。": ". ",
})  # fmt: skip
DIRECT = re.compile(
    r"[\s\"'|:=<>\-)\]}(\[→⇒]*(?:(?:(?:is|of|was|as|at|ist|est|es|é|è|это)\b|是|为|為|は)[\s\"':=(\[]*)?"
)
"""Between a label and its number, where nothing else stands there."""
FAR = re.compile(
    r"[^\n.!?;]{0,60}?(?:[:=(]|\b(?:is|be|of|as|at|ist|est|es|é|è|это)\b|是|为|為|は)[\s\"']*"
    r"(?:[^\n.!?;]{0,30}?[\s(\"'])?|[^\n.!?;A-Za-z]{0,15}"
)
COLON = re.compile(r"[\"']?\s*(?:[:=>]|->|是|为|は)[\s\"'(\[]*")
GIVEN = re.compile(
    r"(?:\b(?:gives?|giving|assign(?:ing)?|award(?:ing)?|deserves?|merits?|rate (?:it|this|the)|grade (?:it|this|the)"
    r"|score (?:it|this|the))\b|打|给|給)[^\n.!?;\d]{0,40}?$",
    re.IGNORECASE,
)


def read_score(text: str, low: int, high: int) -> int | None:
    """The score from ``low`` to ``high`` in a judge's answer; None if there is none, or not a single one.

    Thoughts never count, and an unfinished one leaves no score. Then the first of these that there is:

    1. "[[8]]" or a box, of several the last;
    2. a label that says it is the final one ("overall score: 8", JSON keys included);
    3. a label ("Score: 8", ``{"score": 8}``, "评分：8"), 4. "8/10" or "8 out of 10", 5. "I give it an 8", 6. a word
       that may be a label ("Answer: 8", "Note : 8"): where several numbers are so labelled, they must be the same;
    7. the number that the answer begins with, 8. one that stands alone at its end, 9. the only one that is left.

    A range, a decimal, or a number outside the scale in that place is no score. "8/10" is 8 on the scale 0-9 as well:
    both scales have ten values, and judges write "of 10" out of habit; 10/10 lies outside it. A fraction of another
    scale ("4/5") is no score: what it means on this one would be a guess.
    """
    said, thinking = spoken(text)
    if thinking:
        return None
    said = _without_echo(normalised(said))
    labelled: dict[str, list[int | None]] = {"final": [], "score": []}
    said = _take_json(said, low, high, labelled)
    known = numbers(said, low, high)
    if any(n.kind == "foreign" for n in known):
        return None
    boxes = re.findall(r"\[\[([^\[\]]*)\]\]|\\boxed\s*\{([^{}]*)\}", said)
    if boxes:
        return read_score(re.sub(r"\\text|\\mathrm", "", "".join(boxes[-1])), low, high)
    values = [n for n in known if n.kind == "value"]
    masked = _masked(said, [n for n in known if n.kind != "value"])
    unfilled = _read_labels(masked, values, labelled)
    fractions = [n.value for n in values if n.fraction and not _in_formula(said, n)]
    given = [n.value for n in values if GIVEN.search(masked[max(0, n.start - 60) : n.start]) and _may_end(said, n)]
    weak = [
        n.value
        for label in re.finditer(W.WEAK, masked, re.IGNORECASE)
        for n in _behind(masked, label.end(), values, COLON)
    ]
    for label in re.finditer(rf"{W.FINAL}(?=\"?\s*[:=])", masked, re.IGNORECASE):  # "Overall: 8"
        labelled["final"] += [n.value for n in _behind(masked, label.end(), values, COLON)]
    for tier in (labelled["final"], labelled["score"], fractions, given, weak):
        if tier:
            return tier[0] if len(set(tier)) == 1 else None
    return _unlabelled(said, values, unfilled)


def normalised(text: str) -> str:
    """Digits and punctuation of any script as ASCII has them, and without Markdown's marks."""
    text = text.replace("🔟", "10")
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if category == "Nd":
            kept.append(str(unicodedata.decimal(char)))
        elif category == "No":  # superscripts, circled digits, fractions: no digit of a number
            kept.append(".5" if unicodedata.numeric(char, 1.0) % 1 else "^")
        elif category not in ("Cf", "Me") and char != "\ufe0f":
            kept.append(char)
    text = unicodedata.normalize("NFC", "".join(kept))
    text = "".join(c if "\u0e00" <= c <= "\u0e7f" else unicodedata.normalize("NFKC", c) for c in text)
    text = text.translate(_PUNCTUATION)
    text = re.sub(r"\\[\[\]()]", " ", text)  # LaTeX's formulas
    text = re.sub(r"(?<!\d)\*+|\*+(?!\s*\d)|\*\*|`|\$|~~", "", text)
    text = re.sub(r"(?m)^\s*#+\s*|^\s*>\s+", "", text).replace("_", " ")
    return re.sub(r"</\s*\w+\s*>", " ; ", text).strip()


def _without_echo(text: str) -> str:
    """Without what a base model goes on with behind its number: the next problem in the prompt's form."""
    if re.match(r"\s*\d+\s*\n", text):
        return re.split(r"\n\s*(?:Problem|Previous Steps|Current Step|Solution)\s*:", text)[0]
    return text


def _take_json(text: str, low: int, high: int, labelled: dict[str, list[int | None]]) -> str:
    """Read the scores of JSON objects; what is left of the text."""
    decoder = json.JSONDecoder(strict=False)
    left, start = "", 0
    while (brace := text.find("{", start)) >= 0:
        try:
            value, end = decoder.raw_decode(text, brace)
        except (ValueError, RecursionError):
            end = brace + 1
            left += text[start:end]
        else:
            left += text[start:brace] + " ; "
            for name, found in _items(value):
                if re.search(rf"{W.BOUND}|scale|range", name, re.IGNORECASE) or not re.search(
                    W.SCORE + "|" + W.WEAK, name, re.IGNORECASE
                ):
                    continue
                if (
                    isinstance(found, str)
                    and not re.search(W.SCORE, name, re.IGNORECASE)
                    and not re.match(r"\s*\d", found)
                ):
                    continue  # an answer or evaluation in words
                tier = "final" if re.search(W.FINAL, name, re.IGNORECASE) else "score"
                if re.search(W.SCORE, name, re.IGNORECASE) or not isinstance(found, bool):
                    labelled[tier].append(_of_json(found, low, high))
        start = end
    return left + text[start:]


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and simple values, at any depth; an object below a label hands the label on."""
    if isinstance(value, list):
        for part in value:
            yield from _items(part)
    elif isinstance(value, dict):
        for name, found in value.items():
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name))
            if isinstance(found, dict):
                inner = list(_items(found))
                labels = re.search(W.SCORE, name, re.IGNORECASE)
                yield from ((f"{name} {n}" if labels else n, v) for n, v in inner)
            elif isinstance(found, list) and any(isinstance(part, dict) for part in found):
                yield from _items(found)
            else:
                yield name, found


def _of_json(value: Any, low: int, high: int) -> int | None:
    if isinstance(value, str):
        return read_score(value, low, high)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or value != value
        or value not in range(low, high + 1)
    ):
        return None
    return int(value)


def _masked(text: str, those: list[Number]) -> str:
    for n in those:
        text = text[: n.start] + " " * (n.end - n.start) + text[n.end :]
    return text


def _read_labels(text: str, values: list[Number], labelled: dict[str, list[int | None]]) -> bool:
    """Fill in what stands behind labels; whether the last one that announces a number has none."""
    unfilled = False
    for label in re.finditer(W.SCORE, text, re.IGNORECASE):
        before = text[max(0, label.start() - 25) : label.start()]
        if re.search(rf"{W.BOUND}\W*$", before, re.IGNORECASE) or re.search(rf"{W.EARLIER}\W*$", before, re.IGNORECASE):
            continue
        if W.DENIED.search(before):
            continue
        number = _behind(text, label.end(), values, DIRECT) or _behind(text, label.end(), values, FAR)
        if number:
            final = re.search(rf"{W.FINAL}\W*$", before, re.IGNORECASE)
            labelled["final" if final else "score"].append(number[0].value)
        unfilled = not number and bool(re.match(r"[\"'\s]*[:=]", text[label.end() :]))
    return unfilled


def _behind(text: str, start: int, values: list[Number], gap: re.Pattern[str]) -> list[Number]:
    """The number behind a label, or nothing."""
    for n in values:
        if n.start >= start:
            begins = n.start
            while begins > start and text[begins - 1] in "-+":
                begins -= 1
            return [n] if gap.fullmatch(text, start, begins) else []
    return []


def _in_formula(text: str, n: Number, behind: bool = False) -> bool:
    """Whether an operator stands beside a number, or only ``behind`` it."""
    before, after = text[: n.start].rstrip(), text[n.end :].lstrip()
    operator = r"[=+*×·÷^/\\<>≤≥√%€°]$"
    return bool((not behind and re.search(operator, before)) or re.match(r"[=+*×·÷^/\\<>≤≥√€°]|-\s*\d", after))


def _may_end(text: str, n: Number) -> bool:
    """Whether what follows a number in prose lets it be a score."""
    after = text[n.end : n.end + 30]
    return not re.match(r"[ \t]*[^\W\d]", after) or bool(
        re.match(rf"\s*{W.GOES_ON}|\s*[\u3040-\u30ff\u4e00-\u9fff]", after, re.I)
    )


def _unlabelled(text: str, values: list[Number], unfilled: bool) -> int | None:
    if not values or unfilled:
        return None
    first, last = values[0], values[-1]
    alone = [n for n in values if _alone_on_line(text, n)]
    if len({n.value for n in alone}) > 1:
        return None
    if not re.search(r"\w", text[: first.start]) and not _in_formula(text, first, behind=True):
        if _is_list(text):
            values = [n for n in values if not re.search(r"(?:^|\n)\s*[-•]?\s*$", text[: n.start]) or n in alone]
            if not values:
                return None
            last = values[-1]
        elif len(values) > 1 and not text[first.end : values[1].start].strip(" ,;&\t\n"):
            return None
        else:
            return first.value
    if re.search(r"(?:^|[\n.!?;])[\s\"'(]*$", text[: last.start]) and not text[last.end :].strip(" \t\n\"').!"):
        return last.value
    left = {
        n.value for n in values
        if n.several or (not _in_formula(text, n) and _may_end(text, n) and not _IF.search(text[: n.start]))
    }  # fmt: skip
    return left.pop() if len(left) == 1 else None


_IF = re.compile(r"\b(?:if|unless|wenn|si|如果)\b[^.!?\n]*$", re.IGNORECASE)


def _alone_on_line(text: str, n: Number) -> bool:
    before, after = text[: n.start].rpartition("\n")[2], text[n.end :].partition("\n")[0]
    return not before.strip(" -•\"'") and not after.strip(" .\"'")


def _is_list(text: str) -> bool:
    """Whether lines are numbered 1, 2, ..."""
    return bool(re.search(r"(?:^|\n)\s*1[.)]\s+\S", text) and re.search(r"\n\s*2[.)]\s+\S", text))
