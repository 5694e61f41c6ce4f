"""Steps as sentences (section 2: "sentences or logical derivations")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovd_lightning.tokens import decode, decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_END = re.compile(r"[.!?]['\"”’)\]}$*]*$")
"""Of a sentence, with what closes after its mark: a quotation, a bracket, a formula, Markdown's emphasis."""
_ITEM = re.compile(r"\s*(\d+|[A-Za-z])\.$")
"""The number of an item, whose full stop ends no sentence."""


def sentence_spans(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Half-open token spans [start, end) of the sentences; they cover ``token_ids`` without gap or overlap.

    A sentence ends before white space behind a full stop, exclamation or question mark (not behind "1." or "a." alone),
    and with a line. Trailing tokens without any visible text belong to the last one. Empty input gives no span.
    """
    spans: list[tuple[int, int]] = []
    start, alone = 0, decoded(tokenizer)
    for i, token in enumerate(token_ids):
        if alone[token].strip().isalnum():
            continue  # ends nothing: spares a decoding for each token
        said = decode(tokenizer, token_ids[start : i + 1])
        text = said.rstrip()
        behind = decode(tokenizer, token_ids[start : i + 2])[len(text) :]
        marked = behind[:1].isspace() and _END.search(text) is not None and _ITEM.match(text) is None
        if text.strip() and (marked or "\n" in said[len(text) :]):
            spans.append((start, i + 1))
            start = i + 1
    if start < len(token_ids):
        if spans and not decode(tokenizer, token_ids[start:]).strip():
            spans[-1] = (spans[-1][0], len(token_ids))
        else:
            spans.append((start, len(token_ids)))
    return spans
