"""From a prompt to token ids. Only the template's markers are special tokens; the content of messages is plain text.

A student may write ``<|im_end|>``, a document ``</s>``. Encoded as special tokens they would end the message, and a
judge would see turns that nobody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeGuard

from ovd_lightning import thoughts
from ovd_lightning.engines.base import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>\n]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]"
)
"""Special tokens of common vocabularies, for an endpoint whose vocabulary is unknown."""
ZERO_WIDTH_SPACE = "\u200b"


class TemplateError(ValueError):
    """A chat template rejects the messages: most often, it supports no system message."""


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids unchanged; text after the tokenizer's beginning-of-sequence token; messages through the chat template,
    with the assistant's turn opened. A last message of the assistant is the beginning of that turn and is appended
    verbatim, so that a prefix has the same context as a complete answer.

    Raises: TemplateError.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt, split_special_tokens=True)["input_ids"])
    if is_ids(prompt):
        return list(prompt)
    messages = [item for item in prompt if isinstance(item, dict)]
    text = rendered(tokenizer, prompt)
    if text is not None:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return _in_pieces(tokenizer, *_split_begun(messages))


def is_ids(prompt: Prompt) -> TypeGuard[list[int]]:
    """Whether a prompt is given as token ids; one that is empty is."""
    return not isinstance(prompt, str) and not (prompt and isinstance(prompt[0], dict))


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str | None:
    """The text of messages behind the chat template, in which every special token is the template's; None where a
    message spells one, and for token ids. Raises: TemplateError."""
    messages = [item for item in prompt if isinstance(item, dict)]
    special = special_tokens(tokenizer)
    if not messages or (special is not None and any(special.search(m["content"]) for m in messages)):
        return None
    return _answer_opened(tokenizer, *_split_begun(messages))


def _split_begun(messages: list[Message]) -> tuple[list[Message], str]:
    """(messages, the beginning of an answer to them)."""
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, ""


def _answer_opened(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], begun: str) -> str:
    """The rendered conversation, up to the beginning of the answer. Where the template opens a thought, it is closed
    first: what has begun is the answer, not the thought."""
    import jinja2

    try:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template refuses the messages: {error}") from error
    if begun and (end := thoughts.closing(thoughts.open_at_end(text))):
        text = f"{text.rstrip()}\n\n{end}\n\n"
    return text + begun


def _in_pieces(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], begun: str) -> list[int]:
    """Encodes the template's text and the messages separately, the latter without special tokens. Transformations of a
    message by the template (such as trimming) are not applied."""
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]  # private use characters, which templates pass through
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    text = _answer_opened(tokenizer, marked, "")
    if begun:
        text = _answer_opened(tokenizer, marked, "\ue002").removesuffix("\ue002")
    contents = dict(zip(marks, (m["content"] for m in messages), strict=True))
    ids: list[int] = []
    for piece in re.split("(\ue000\\d+\ue001)", text):
        if piece in contents:
            ids += as_text(tokenizer, contents[piece])
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids + as_text(tokenizer, begun)


def as_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text in which nothing is a special token."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


@lru_cache(maxsize=32)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Matches any special token; None where the tokenizer has none."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    known = sorted({*tokenizer.all_special_tokens, *added} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known))) if known else None


def defused(text: str, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """For a text that a server encodes: with a zero-width space inside everything it would take for a special token."""
    pattern = MARKERS if tokenizer is None else special_tokens(tokenizer)
    if pattern is None:
        return text
    return pattern.sub(lambda found: found[0][0] + ZERO_WIDTH_SPACE + found[0][1:], text)
