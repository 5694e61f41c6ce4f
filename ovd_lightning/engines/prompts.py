"""Prompts as an endpoint takes them, the requests that they share, and the completions that come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING

from ovd_lightning.engines.base import Completion, Prompt
from ovd_lightning.engines.encoding import encode_many
from ovd_lightning.engines.protocol import Answer, Api, Choice
from ovd_lightning.engines.render import defused
from ovd_lightning.errors import ConfigError
from ovd_lightning.service import Failure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHARACTERS_PER_TOKEN = 4
"""Rough average of English text."""
Result = tuple[Choice, Answer] | Failure
"""Of one prompt; the Answer is that of the whole request."""


def api_of(prompt: Prompt) -> Api:
    """Messages go to ``chat``; text and token ids to ``completions``."""
    return "chat" if isinstance(prompt, list) and isinstance(prompt[0], dict) else "completions"


def prepare(
    prompts: Sequence[Prompt], api: Api, tokenizer: PreTrainedTokenizerBase | None, render: bool | None
) -> list[Prompt]:
    """What is sent for each: for chat, messages; for completions, token ids where the tokenizer is known, else text.

    Args:
        render: encode messages here and send them to ``completions``. None: only those that end with the beginning of
            an answer. False where the endpoint or the tokenizer does not allow it.
    Raises: ConfigError when ``api`` cannot take a prompt.
    """
    ready: dict[int, Prompt] = {}
    encoded: dict[int, Prompt] = {}
    for index, prompt in enumerate(prompts):
        kind = str if isinstance(prompt, str) else type(prompt[0])
        if api == "chat":
            if kind is int:
                raise ConfigError("api", "the chat interface takes no token ids.", "Set api to completions.")
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            last: dict[str, str] = messages[-1]  # type: ignore[assignment]
            if not (last["role"] == "assistant" if render is None else render):
                ready[index] = [{**m, "content": defused(m["content"], tokenizer)} for m in messages]  # type: ignore[dict-item,index]
                continue
            prompt = messages
        if tokenizer is not None:
            encoded[index] = prompt
        elif kind is dict:
            raise ConfigError(
                "tokenizer", "chat prompts need one to be rendered for completions.", "Set it, or api to chat."
            )
        else:
            ready[index] = defused(prompt, None) if isinstance(prompt, str) else prompt
    if tokenizer is not None:
        ready |= zip(encoded, encode_many(tokenizer, list(encoded.values())), strict=True)
    return [ready[index] for index in range(len(prompts))]


def estimate_tokens(prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Tokens of a prepared prompt: exact for token ids, else about right (a chat template adds a few)."""
    texts = [prompt] if isinstance(prompt, str) else [item["content"] for item in prompt if isinstance(item, dict)]
    if not texts:
        return len(prompt)
    if tokenizer is None:
        return ceil(sum(map(len, texts)) / CHARACTERS_PER_TOKEN)
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def share_requests(prompts: Sequence[Prompt], settings: Sequence[object], size: int) -> list[list[int]]:
    """Indices of the prompts of each request: at most ``size`` of one kind and equal settings; one for chat."""
    together: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        together[f"{api_of(prompt)} {type(prompt).__name__} {settings[i]!r}"].append(i)
    chunks: list[list[int]] = []
    for rows in together.values():
        step = size if api_of(prompts[rows[0]]) == "completions" else 1
        chunks += [rows[at : at + step] for at in range(0, len(rows), step)]
    return chunks


def ask(
    chunks: list[list[int]],
    send: Callable[[list[list[int]], Callable[[int, Answer | Failure], None]], None],
    ready: Callable[[int, Result], None],
) -> dict[int, Result]:
    """The result of each prompt, by its index. A refused request is split, so that one prompt does not fail others.

    Args:
        chunks: indices of the prompts of each request.
        send: called with chunks and a function; sends one request per chunk, and calls the function with the index of
            the chunk and its answer.
        ready: called with the index of a prompt and its result, as soon as it is there.
    """
    results: dict[int, Result] = {}
    while chunks:
        split: list[list[int]] = []

        def arrived(
            index: int, found: Answer | Failure, chunks: list[list[int]] = chunks, split: list[list[int]] = split
        ) -> None:
            rows = chunks[index]
            if isinstance(found, Failure) and found.refused and len(rows) > 1:
                split += [[i] for i in rows]
                return
            for k, i in enumerate(rows):
                results[i] = found if isinstance(found, Failure) else (found.choices[k], found)
                ready(i, results[i])

        send(chunks, arrived)
        chunks = split
    return results


def to_completion(result: Result, prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None) -> Completion:
    """The completion of a prepared prompt."""
    if isinstance(result, Failure):
        return Completion(text="", token_ids=None, logprobs=None, truncated=False, error=result.reason)
    choice, answer = result
    ids, text = choice.token_ids, choice.text
    if ids is not None and tokenizer is not None:
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
    known = choice.prompt_token_ids or (prompt if isinstance(prompt, list) and isinstance(prompt[0], int) else [])
    alone = answer if len(answer.choices) == 1 else None  # usage is reported per request
    return Completion(
        text="" if choice.problem else text,
        token_ids=None if choice.problem else ids,
        logprobs=choice.logprobs,
        truncated=choice.finish_reason == "length",
        prompt_tokens=len(known) or (alone.prompt_tokens if alone else 0),
        completion_tokens=len(ids) if ids is not None else alone.completion_tokens if alone else 0,
        error=choice.problem,
    )
