"""Thoughts of reasoning models: which part of a text is thought, and which is said. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAGS = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|scratchpad)"
_OPEN = (
    rf"(?:<\s*{_TAGS}\s*>|\[THINK\]|◁\s*think\s*▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b)"
)
_CLOSE = (
    rf"(?:<\s*/\s*{_TAGS}\s*>|\[/THINK\]|◁\s*/\s*think\s*▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|message\|>)?)"
)
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
"""Of DeepSeek-R1, Qwen3, Nemotron and many others (tags), Seed-OSS, Magistral, Kimi, Sky-T1, Command A, gpt-oss."""
_BARE = re.compile(
    rf"(?P<open>{_OPEN}|(?-i:\Aanalysis(?=[A-Z])))|(?P<close>{_CLOSE}|(?-i:assistantfinal))", re.IGNORECASE
)
"""The same, and gpt-oss's channels where their special tokens were left out."""
_PART = re.compile(r"<\|(?:channel|message)\|>", re.IGNORECASE)
_TAIL = 16
"""Tokens at the end of a prompt that are looked at."""


def spoken(text: str, thinking: bool = False) -> tuple[str, bool]:
    """(what stands outside of thoughts, whether the text ends inside one).

    The first closing tag ends a thought, however often it was opened. What precedes a closing tag that nothing opened
    is thought as well: many chat templates end a prompt with the opening one. A line break stands for each thought.

    Args:
        thinking: the text begins inside a thought.
    """
    said: list[str] = []
    start = 0
    for tag in _BARE.finditer(text):
        if tag["open"] is not None:
            if not thinking:
                said.append(text[start : tag.start()])
            thinking = True
            continue
        said = [*said, "\n"] if thinking else ["\n"]
        thinking, start = False, tag.end()
    if not thinking:
        said.append(text[start:])
    return "".join(said), thinking


def behind(response: str) -> str:
    """What stands behind the last thought of a response; nothing where that has not ended, all where there is none.

    A thought may lack its opening mark (the chat template wrote it, behind the prompt), never its closing one.
    """
    marks = list(_MARK.finditer(response))
    if not marks:
        return response
    return "" if marks[-1]["open"] else response[marks[-1].end() :]


def unfinished(response: str) -> bool | None:
    """Whether a response ends inside a thought; None where it holds no mark of one."""
    marks = list(_MARK.finditer(response))
    return bool(marks[-1]["open"]) if marks else None


def is_mark(token: str) -> bool:
    """Whether a token is a mark of a thought, or a part of one."""
    return bool(_MARK.fullmatch(token) or _PART.fullmatch(token))


def open_at_end(text: str) -> str:
    """The mark with which a text ends inside a thought; empty where it does not."""
    text = text.rstrip()
    marks = [mark for mark in _MARK.finditer(text) if mark.end() == len(text)]
    return marks[0][0] if marks and marks[0]["open"] else ""


def closing(mark: str) -> str:
    """What ends the thought that a mark opens; empty for one that no single mark ends (gpt-oss's channels)."""
    if not mark or _PART.match(mark):
        return ""
    if mark.startswith("<|"):
        return mark.replace("begin_of", "end_of").replace("START_", "END_")
    return f"{mark[0]}/{mark[1:].lstrip()}"


def opened(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The mark with which a prompt (or an observation) ends inside a thought, as the chat templates of many reasoning
    models have it; empty where it does not."""
    return _opened(tokenizer, tuple(token_ids[-_TAIL:]))


@lru_cache(maxsize=1024)
def _opened(tokenizer: PreTrainedTokenizerBase, tail: tuple[int, ...]) -> str:
    """Once a prompt, of which a group has many trajectories."""
    return open_at_end(str(tokenizer.decode(list(tail), skip_special_tokens=False)))


def special_marks(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Marks that are special tokens, which decoding leaves out: id -> text."""
    tokens = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {id: text for id, text in tokens.items() if is_mark(text)}


def with_marks(
    tokenizer: PreTrainedTokenizerBase,
    special: dict[int, str],
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    mask: Sequence[bool],
    written: str,
) -> str:
    """What a model wrote, as a grader has to see it: with the marks of thoughts that the prompt (or an observation)
    opened, and with those that are special tokens.

    Args:
        special: :func:`special_marks` of the tokenizer.
        mask: [T], False on observations.
        written: the text without observations and special tokens: the result where no such mark is there.
    """
    runs: list[tuple[str, list[int]]] = []  # the mark before what the model wrote in one go, and its ids
    before, start = prompt_ids, 0
    for own, run in groupby(mask):
        end = start + len(list(run))
        ids, start = list(token_ids[start:end]), end
        if own:
            runs.append((opened(tokenizer, before), ids))
        else:
            before = ids
    if not any(mark or not special.keys().isdisjoint(ids) for mark, ids in runs):
        return written
    pieces: list[str] = []
    for mark, ids in runs:
        pieces.append(mark)
        for marked, part in groupby(ids, key=lambda token: token in special):
            tokens = list(part)
            text = "".join(special[token] for token in tokens) if marked else None
            pieces.append(str(tokenizer.decode(tokens, skip_special_tokens=True)) if text is None else text)
    return "".join(pieces)
