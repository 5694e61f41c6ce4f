"""Ids to text, and many prompts to ids, equal to `render.encode` of each; lines that prompts share are encoded once.

A judge is asked about every step of a trajectory, each time with the question and all steps before it, so that prompts
of one trajectory are mostly the same lines. Between a line's end and the next line's beginning many tokenizers have a
token boundary whatever stands on either side (`splits_at_lines`); for those, each different line is encoded once, and
the ids are joined. For all others whole prompts are encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Prompt
from ovd_lightning.engines.render import encode, is_ids, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 256
"""Texts of one call of the tokenizer, which keeps the offsets of every token until it returns."""
LINE_START = re.compile(r"(?<=\S\n)(?=\S)")
"""Where a text may be cut: after a single line break between visible characters. At several, ``\\s+(?!\\S)`` of GPT-2's
pattern would see what follows."""
PATTERNS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
)
"""Of Qwen 2 to 3, Llama 3, and Qwen 3.5. No alternative matches a line break and a visible character after it, and none
looks past a single line break."""


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of some tokens, special tokens left out."""
    return str(_decoder(tokenizer)(list(token_ids), skip_special_tokens=True))


@lru_cache(maxsize=8)
def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[..., Any]:
    """What `tokenizer.decode` comes to. Around it, transformers looks at the type of each id, which takes longer than
    decoding a step."""
    from transformers import PreTrainedTokenizerFast as Fast

    plain = isinstance(tokenizer, Fast) and type(tokenizer)._decode is Fast._decode
    plain = plain and type(tokenizer).decode is Fast.decode and not tokenizer.clean_up_tokenization_spaces
    return tokenizer.backend_tokenizer.decode if plain else tokenizer.decode


def encode_many(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt. Raises: TemplateError; see `render.encode`."""
    encoded: dict[int, list[int]] = {}
    texts: dict[int, str] = {}
    conversations: dict[int, str] = {}
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            texts[index] = prompt
        elif is_ids(prompt):
            encoded[index] = list(prompt)
        elif (text := rendered(tokenizer, prompt)) is not None:
            conversations[index] = text
        else:
            encoded[index] = encode(tokenizer, prompt)
    for some, plain in ((texts, True), (conversations, False)):
        encoded |= zip(some, _encode_texts(tokenizer, list(some.values()), plain), strict=True)
    return [encoded[index] for index in range(len(prompts))]


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], plain: bool) -> list[list[int]]:
    """``plain``: nothing in a text is a special token, and the tokenizer's own stand around it."""
    if len(texts) < 2 or not splits_at_lines(tokenizer):
        return _in_batches(tokenizer, texts, plain, around=plain)
    lines = [LINE_START.split(text) for text in texts]
    different = list(dict.fromkeys(chain.from_iterable(lines)))
    known = dict(zip(different, _in_batches(tokenizer, different, plain, around=False), strict=True))
    before, after = _around(tokenizer) if plain else ([], [])
    return [[*before, *chain.from_iterable(map(known.__getitem__, parts)), *after] for parts in lines]


def _in_batches(tokenizer: PreTrainedTokenizerBase, texts: list[str], plain: bool, around: bool) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        ids += tokenizer(part, add_special_tokens=around, split_special_tokens=plain or None)["input_ids"]
    return ids


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that stand before and after any text."""
    alone = tokenizer("x", add_special_tokens=False)["input_ids"]
    full = tokenizer("x")["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(alone)] == alone)
    return full[:start], full[start + len(alone) :]


@lru_cache(maxsize=32)
def splits_at_lines(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of a text are those of its parts between `LINE_START`, for any text.

    That holds for byte-level BPE under three conditions. Text is normalised by NFC or not at all: a line break composes
    with nothing. It is cut into words by one of `PATTERNS`, by GPT-2's or at digits, and no space is put before it:
    then a word ends at the line break, and no word depends on what stands on the other side. No added token holds a
    line break or takes the white space before it.
    """
    from tokenizers.models import BPE

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, BPE) or backend.model.dropout:
        return False
    if any("\n" in token.content or token.lstrip for token in backend.get_added_tokens_decoder().values()):
        return False
    normalizers, words, around = map(_parts, (backend.normalizer, backend.pre_tokenizer, backend.post_processor))
    return (
        all(part["type"] == "NFC" for part in normalizers)
        and [part["type"] == "ByteLevel" for part in words] == [False] * (len(words) - 1) + [True]
        and any(part["type"] == "Split" or part.get("use_regex") for part in words)
        and all(map(_ends_words_at_lines, words))
        and all(part["type"] in ("ByteLevel", "TemplateProcessing") for part in around)
    )


def _ends_words_at_lines(part: dict[str, Any]) -> bool:
    if part["type"] == "Split":
        return part["pattern"].get("Regex") in PATTERNS and part["behavior"] == "Isolated" and not part["invert"]
    return part["type"] == "Digits" or (part["type"] == "ByteLevel" and not part["add_prefix_space"])


def _parts(component: Any) -> list[dict[str, Any]]:
    """The parts of a tokenizer's normalizer, pre-tokenizer or post-processor, as tokenizer.json has them."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    if state["type"] != "Sequence":
        return [state]
    (parts,) = (value for value in state.values() if isinstance(value, list))
    return list(parts)
