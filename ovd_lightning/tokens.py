"""Between text and tokens. What the student generated is decoded for reading, never encoded again."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ovd_lightning.engines.encoding import decode as decode
from ovd_lightning.engines.render import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_one(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """As :func:`decode`, of a single token, which is decoded once in a process."""
    known = _decoded(tokenizer)
    return known[token_id] if token_id in known else known.setdefault(token_id, decode(tokenizer, [token_id]))


def from_first_word(text: str) -> str:
    """A text from its first letter or digit; empty where it has none, as an empty line or a LaTeX ``\\[`` alone: such
    a line is no step."""
    return next((text[i:] for i, character in enumerate(text) if character.isalnum()), "")


@lru_cache(maxsize=8)
def _decoded(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {}


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase, chat: bool, system: str | None = None) -> list[int]:
    """A task's prompt in the student's tokens: as it stands, behind the tokenizer's own beginning of sequence where
    it has one (Llama), or as a user message in the chat template, behind the ``system`` message if there is one.

    What the text spells is never a special token. Raises: TemplateError where the template refuses the messages.
    """
    if not chat:
        return encode(tokenizer, text)
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return encode(tokenizer, messages)


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase | None) -> bool:
    """Whether the same ids mean the same tokens, so that token ids can be passed on."""
    return b is not None and (a is b or a.get_vocab() == b.get_vocab())
