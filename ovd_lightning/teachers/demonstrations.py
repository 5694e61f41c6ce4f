"""From what a teacher wrote to what the student reads: without its thought, cut after one step, in its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ovd_lightning import thoughts
from ovd_lightning.engines.base import Completion, Prompt
from ovd_lightning.engines.render import as_text, encode
from ovd_lightning.tokens import from_first_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def opens_thought(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> bool:
    """Whether a prompt ends inside a thought, as many reasoning models' chat templates have it: the completion then
    holds no opening mark."""
    return bool(thoughts.opened(tokenizer, encode(tokenizer, prompt)))


def strip_thought(completion: Completion, opened: bool | None) -> Completion:
    """What follows the last thought, as text alone; failed where that never ended or nothing follows.

    Args:
        opened: the prompt ends inside a thought; None: not known (a hidden chat template). A text without any mark
            was then no thought if it ended by itself, and is taken for an unfinished one if it was cut off.
    """
    if completion.error is not None:
        return completion
    unfinished = thoughts.unfinished(completion.text)
    if unfinished is None:
        inside = opened or (opened is None and (completion.truncated or not completion.text))
        return failed(completion, "the thought did not end") if inside else completion
    if unfinished:
        return failed(completion, "the thought did not end")
    answer = thoughts.behind(completion.text).lstrip()
    if not answer:
        return failed(completion, "nothing follows the thought")
    return replace(completion, text=answer, token_ids=None, logprobs=None)


def failed(completion: Completion, reason: str) -> Completion:
    """Without its text; what it cost stays."""
    return replace(completion, text="", token_ids=None, logprobs=None, truncated=False, error=reason)


def step_end(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of ``stop`` that follows a letter or digit ends; None: there is none. See `Task.split_steps`."""
    begin = len(text) - len(from_first_word(text))
    ends = [at + len(s) for s in stop if (at := text.find(s, begin)) >= 0]
    return min(ends, default=None)


def cut_step(completion: Completion, stop: Sequence[str], stopped: bool) -> Completion:
    """The first step alone; unchanged where none ends.

    Args:
        stopped: the engine ended it at ``stop``. Token ids stay unless their last one says more than the step;
            otherwise the text alone is left, for what follows a step may show in the ids only (an end of sequence).
    """
    end = step_end(completion.text, stop)
    if end is None or (stopped and end == len(completion.text)):
        return completion
    return replace(completion, text=completion.text[:end], token_ids=None, logprobs=None, truncated=False)


def drop_repeated_lines_end(completion: Completion, prefix: str) -> Completion:
    """Some chat templates (Llama's, Gemma's) trim the message that is to be continued; the teacher then begins with
    the end of the line that the prefix already has."""
    if not (prefix.endswith("\n") and completion.text.startswith("\n")):
        return completion
    return replace(completion, text=completion.text.lstrip("\n"), token_ids=None, logprobs=None)


@lru_cache(maxsize=32)
def longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Characters of the vocabulary's longest token: n tokens spell at most n times as many."""
    return max(map(len, tokenizer.get_vocab()), default=1)


@lru_cache(maxsize=32)
def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    return frozenset(tokenizer.all_special_ids)


def student_tokens(
    completion: Completion,
    tokenizer: PreTrainedTokenizerBase,
    same: bool,
    ended: bool | None = None,
    limit: int | None = None,
) -> list[int]:
    """A demonstration in the student's vocabulary, with the student's end of sequence where it ended.

    Args:
        same: the teacher's vocabulary is the student's, so that its token ids can be passed on.
        ended: by an end of sequence; None: unless it was cut off.
        limit: more tokens than this are of no use: a longer text is cut before it is encoded, to somewhat more.
    """
    end = tokenizer.eos_token_id
    ended = (not completion.truncated if ended is None else ended) and end is not None
    if same and completion.token_ids is not None:
        ids = list(completion.token_ids)
        # A chat model ends its turn with a token of its own, at which the student's engine would not stop.
        if ended and ids and ids[-1] in special_ids(tokenizer):
            ids[-1] = end
        return ids
    text = completion.text if limit is None else completion.text[: (limit + 1) * longest_token(tokenizer)]
    ids = as_text(tokenizer, text)
    return [*ids, end] if ended else ids
