"""Between text and tokens. What the student generated is decoded for reading, never encoded again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ovd_lightning.engines.encoding import decode as decode
from ovd_lightning.engines.encoding import encode_many
from ovd_lightning.engines.prompting import as_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_WORD = re.compile(r"[^\W_]")
"""A letter or digit, as `str.isalnum` has it."""


class _Decoded(dict[int, str]):
    """Token id -> its text; each is decoded once in a process."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        return self.setdefault(token_id, decode(self.tokenizer, [token_id]))


decoded = lru_cache(maxsize=8)(_Decoded)
"""A tokenizer's tokens, each as :func:`decode` has it alone."""


def from_first_word(text: str) -> str:
    """A text from its first letter or digit; empty where it has none, as an empty line or a LaTeX ``\\[`` alone: such
    a line is no step."""
    found = _WORD.search(text)
    return text[found.start() :] if found is not None else ""


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase, chat: bool, system: str | None = None) -> list[int]:
    """A task's prompt in the student's tokens: as it stands, behind the tokenizer's own beginning of sequence where
    it has one (Llama), or as a user message in the chat template, behind the ``system`` message if there is one.

    What the text spells is never a special token. Raises: TemplateError where the template refuses the messages.
    """
    return encode_prompts([text], tokenizer, chat, system)[0]


def encode_prompts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: bool, system: str | None = None
) -> list[list[int]]:
    """As :func:`encode_prompt`, of each text."""
    return encode_many(tokenizer, [as_prompt(text, chat, system) for text in texts])


@lru_cache(maxsize=8)
def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase | None) -> bool:
    """Whether the same ids mean the same tokens, so that token ids can be passed on; compared once in a process."""
    return b is not None and (a is b or a.get_vocab() == b.get_vocab())
