"""The words of a text in any script, as a lexical search engine compares them."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

VERSION = 2
"""Of the rules below: an index that was built by others is not read."""
# Lucene's CJK analysis takes pairs of characters for words where no space stands between words.
_DENSE = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul: words there are, but particles are joined to them
    "\u3005-\u3007\u3031-\u3035\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)


def words(text: str, query: bool = False) -> list[str]:
    """The words of a text, in order.

    Letters are compared without case, accents and width, digits of all scripts by their value, and however they are
    composed (NFC, NFD). In scripts without spaces, neighbouring characters are a word. Such a character by itself is
    one too in a document, so that a ``query`` of one character finds it.
    """
    if text.isascii():
        return re.findall(r"\w+", text.lower())
    found: list[str] = []
    for match in _runs().finditer(folded(text)):
        run = match[0]
        if match.lastgroup != "dense":
            found.append(run)
            continue
        if len(run) == 1 or not query:
            found += run
        found += [run[i : i + 2] for i in range(len(run) - 1)]
    return found


def folded(text: str) -> str:
    """Without case, accents, width and ways to compose."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in text)
    # accents of alphabets, not the marks that are part of a kana or of an Indic syllable
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))


@cache
def _runs() -> re.Pattern[str]:
    """Words, and stretches of a script without spaces. Vowel signs belong to words: ``\\w`` leaves them out."""
    marks = "".join(c for c in map(chr, range(0x483, 0x10000)) if unicodedata.category(c) in ("Mn", "Mc"))
    letter = rf"[\w{marks}]"
    return re.compile(rf"(?P<dense>(?:(?=[{_DENSE}]){letter})+)|(?:(?![{_DENSE}]){letter})+")
