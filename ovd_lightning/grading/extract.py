"""Find the answer in a response. Linear in the length of the response, standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ovd_lightning.grading.text import MAX_LENGTH, squeeze, tidy, words

_BOX = re.compile(r"\\(?:f?boxed|fbox)(?![A-Za-z])\s*+(\{?)")
_FOUR = "####"
_PROSE_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}(?![A-Za-z])")
_MACRO = re.compile(r"\\[A-Za-z]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|mbox|mathrm|mathbf|bf|rm)\s*")
_BARE = re.compile(r"[*_`\s{}]+")
_LABELLED = re.compile(r"(?:\(([A-K])\)|([A-K])\s*+[.:)]|([A-K])\s*+,\s++(?=[^\sA-Z]|[A-Z][a-z]))\s*+\S", re.DOTALL)
_LABEL = re.compile(r"[\s(\[<]*+([A-Ka-k])\s*+[)\]>]?\s*+[.:,=-]?\s*+(?![a-z])(.*)", re.DOTALL)
_ONE_LETTER = re.compile(r"[(\[<{\"']?\s*([A-Ka-k])\s*[)\]>}\"']?\s*[.:)]?")
_NAMED = re.compile(
    r"(?:the |correct )*+(?:option|choice|answer)(?: is|:)?\s++|选项|选择|答案是?:?|故选:?|选", re.IGNORECASE
)
_SET = re.compile(r"\(?[A-K]\)?(?:(?:[,;&\s和与及]|and\b)*+\(?[A-K]\)?)*+")
_ANSWER_IS = re.compile(r"(?:answer|choice|option) is:?|答案是:?|故选:?", re.IGNORECASE)


class Found(NamedTuple):
    """An answer and how it was found, see docs/grading.md."""

    answer: str | None
    how: str | None


def last_box(response: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` or ``\fbox{...}`` that holds anything, the innermost where they are nested.

    Braces are balanced, ``\{`` and ``\}`` are not counted. A last box that is not closed (a truncated response) is no
    answer, and nothing in front of it is one either.
    """
    for opening in reversed(list(_BOX.finditer(response))):
        if not opening[1]:  # "\\boxed" named in a sentence
            continue
        content = _balanced(response, opening.end())
        if content is None:
            return None
        if content.strip():
            return content.strip()
    return None


def _balanced(text: str, start: int) -> str | None:
    """From ``start``, after an opening brace, up to the brace that closes it; None where none does."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.start()]
    return None


def reference(text: str) -> str:
    """The answer in a reference: after the last ``####`` of a worked solution as in GSM8K, else in its last box, else
    all of it."""
    if _FOUR in text and (rest := text.rsplit(_FOUR, 1)[1].strip()):
        return rest.splitlines()[0].strip()
    return (last_box(text) if "boxed" in text else None) or text


def worked(text: str) -> bool:
    """A reference that is no answer but a text about one: several lines of words, or very many."""
    answer = reference(text)
    words_ = _PROSE_WORD.findall(_MACRO.sub(" ", answer))
    return len(words_) >= 40 or (len(words_) >= 5 and "\n" in answer.strip())


def letters(text: str) -> str | None:
    """The option letters that an answer names, sorted: ``(B)``, ``\\text{B}``, ``B. text``, ``A, C, D``, ``选 C``.

    None where it names none; lower-case letters are none.
    """
    plain = _BARE.sub(" ", _COMMAND.sub("", tidy(text[:400]))).strip().rstrip(".").strip()
    if named := _NAMED.match(plain):
        plain = plain[named.end() :].strip()
    if _SET.fullmatch(plain):
        return "".join(sorted(set(re.findall(r"[A-K]", plain))))
    if match := _LABELLED.match(plain):
        return match[1] or match[2] or match[3]
    return None


def option(text: str, options: Sequence[str]) -> int | None:
    """Index of the one option whose text ``text`` is: to the letter, else but for spaces and delimiters, else by its
    words. None for none or several."""
    for form in (str.strip, lambda one: squeeze(tidy(one)), lambda one: words(tidy(one))):
        wanted = form(text)
        fits = [index for index, one in enumerate(options) if wanted and form(one) == wanted]
        if fits:
            return fits[0] if len(fits) == 1 else None
    return None


def labelled(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that ``text`` is with its letter in front, ``(B) its text``; None where it is none."""
    label = _LABEL.match(tidy(_COMMAND.sub("", text).strip().removeprefix("{").removesuffix("}")))
    if label is None:
        return None
    index = ord(label[1].upper()) - ord("A")
    return index if index < len(options) and option(label[2], options[index : index + 1]) == 0 else None


def letter(text: str, options: Sequence[str]) -> int | None:
    """Index of the option whose letter ``text`` is, in either case and any brackets: ``c``, ``(c)``, ``[C]``,
    ``option c``. None where it is no letter of an option."""
    plain = _BARE.sub(" ", _COMMAND.sub("", tidy(text[:400]))).strip()
    if named := _NAMED.match(plain):
        plain = plain[named.end() :].strip()
    found = _ONE_LETTER.fullmatch(plain)
    index = ord(found[1].upper()) - ord("A") if found else len(options)
    return index if index < len(options) else None


def mentioned(response: str, options: Sequence[str]) -> int | None:
    """Index of the option that a response without a box names, after its last "answer is" where there is one.

    By its letter, by being its text, or by mentioning its text and that of no other option.
    """
    text = _ANSWER_IS.split(response)[-1][-MAX_LENGTH:].strip()
    letter = letters(text)
    if letter is not None and len(letter) == 1 and ord(letter) - ord("A") < len(options):
        return ord(letter) - ord("A")
    if (index := option(text, options)) is not None:
        return index
    plain, found = words(tidy(text)), []
    for index, spelled in sorted(enumerate(words(tidy(one)) for one in options), key=lambda item: -len(item[1])):
        pattern = re.compile(rf"(?<!\w){re.escape(spelled)}(?!\w)")
        if spelled and pattern.search(plain):
            found.append(index)
            plain = pattern.sub("", plain)  # "1 hour and 30 minutes" does not mention "1 hour" as well
    return found[0] if len(found) == 1 else None


def strict(response: str, choices: bool = False) -> Found:
    """The last box of the response; with ``choices`` its option letters where it names any."""
    box = last_box(response)
    if box is None:
        return Found(None, None)
    return Found((letters(box) or box) if choices else box, "boxed")
