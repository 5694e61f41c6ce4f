"""The answers of an OpenAI-compatible endpoint, validated.

Servers, proxies and gateways answer with status 200 and an error, a login page, or half of what was asked for.
Everything that is used later is validated here, inside the call, so that a bad answer is retried, counted and reported
like any other failure of the endpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Api = Literal["completions", "chat"]

LARGEST_ANSWER = 256 << 20
"""Bytes, decompressed: far more than 64 prompts with the log-probabilities of their tokens."""
FLOOR = -9000.0
"""Servers write -9999 for minus infinity, which JSON does not have."""
QUOTED = 200
"""Characters of an answer that an error shows."""
TOKEN_ID = "token_id:"
"""Prefix of a token's name in vLLM's responses under ``return_tokens_as_token_ids``."""
Row = dict[str, float]
"""Log-probability by token, at one position."""


class BadAnswer(ValueError):
    """An invalid answer; a retry may get a valid one."""


@dataclass(slots=True, kw_only=True)
class Choice:
    """One validated completion."""

    text: str
    finish_reason: str | None
    problem: str | None = None
    """Why a valid answer has no usable text: refused, filtered, only a thought."""
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    """[T] of the sampled tokens."""
    first: Row | None = None
    """At the first position, as far as reported."""
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    """vLLM's: per prompt token, token id (as text) -> {"logprob": ...}."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """One validated response."""

    choices: list[Choice]
    """In the order of the prompts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True, kw_only=True, frozen=True)
class Wanted:
    """What the answer to a request must contain."""

    api: Api
    choices: int
    logprobs: bool = False
    """Of the sampled tokens."""
    first: bool = False
    """Also of the likeliest, or given, tokens at the first position."""
    most_characters: int | None = None
    """A longer text is truncated: it ignored the limit of tokens."""


def read_answer(data: bytes, wanted: Wanted) -> Answer:
    """Raises: BadAnswer, which quotes the answer."""
    try:
        body = json.loads(data.decode("utf-8", errors="replace"))
    except ValueError:
        raise BadAnswer(f"no JSON: {_quote(data)}") from None
    if not isinstance(body, dict):
        raise BadAnswer(f"a JSON {type(body).__name__} where an object was expected: {_quote(data)}")
    if error := body.get("error"):
        message = error.get("message") if isinstance(error, dict) else error
        raise BadAnswer(f"an error in an answer with status 200: {_clean(str(message or error))[:QUOTED]}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
        raise BadAnswer(f"no choices: {_quote(data)}")
    if len(choices) != wanted.choices:
        raise BadAnswer(f"{len(choices)} choices for {wanted.choices} prompts")
    if len(choices) > 1:
        order = [c.get("index") for c in choices]
        if sorted(order, key=str) != sorted(range(len(choices)), key=str):
            raise BadAnswer(f"choices with the indices {order} for {len(choices)} prompts")
        choices = sorted(choices, key=lambda c: c["index"])
    prompt_tokens, completion_tokens = _usage(body.get("usage"))
    read = [_choice(c, wanted) for c in choices]
    if len(read) == 1 and read[0].prompt_token_ids is None:  # vLLM's chat has them beside the choices
        read[0].prompt_token_ids = _ids(body.get("prompt_token_ids"), "prompt_token_ids")
    if len(read) == 1 and read[0].prompt_logprobs is None:
        read[0].prompt_logprobs = _prompt_logprobs(body.get("prompt_logprobs"))
    return Answer(choices=read, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def _usage(usage: Any) -> tuple[int, int]:
    """(prompt tokens, completion tokens); 0 where missing or not a number."""

    def count(name: str) -> int:
        value = usage.get(name) if isinstance(usage, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    return count("prompt_tokens"), count("completion_tokens")


def _choice(choice: dict[str, Any], wanted: Wanted) -> Choice:
    text, problem = _message(choice) if wanted.api == "chat" else (_text(choice.get("text"), "text"), None)
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        problem = "withheld by the endpoint's content filter"
    text = _clean(text)
    cut = wanted.most_characters is not None and len(text) > wanted.most_characters
    if cut:
        text, finish = text[: wanted.most_characters], "length"
    read = Choice(
        text=text,
        finish_reason=finish if isinstance(finish, str) else None,
        problem=problem,
        token_ids=None if cut else _ids(choice.get("token_ids"), "token_ids"),
        prompt_token_ids=_ids(choice.get("prompt_token_ids"), "prompt_token_ids"),
        prompt_logprobs=_prompt_logprobs(choice.get("prompt_logprobs")),
    )
    if wanted.logprobs and problem is None:
        read.logprobs, read.first = _logprobs(choice.get("logprobs"), wanted.api)
        if read.logprobs and read.token_ids is not None and len(read.logprobs) != len(read.token_ids):
            raise BadAnswer(f"{len(read.logprobs)} log-probabilities for {len(read.token_ids)} tokens")
        if wanted.first and read.first is None:
            raise BadAnswer("no log-probabilities of the first position's tokens")
        if cut:
            read.logprobs = None
    return read


def _message(choice: dict[str, Any]) -> tuple[str, str | None]:
    """(text, problem) of a chat completion."""
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadAnswer(f"a choice without a message: {_clean(json.dumps(choice))[:QUOTED]}")
    content = message.get("content")
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") in ("text", "output_text")]
        if not all(isinstance(part, str) for part in parts):
            raise BadAnswer(f"content parts that are no text: {_clean(json.dumps(content))[:QUOTED]}")
        content = "".join(parts) if parts else None  # type: ignore[arg-type]
    if isinstance(content, str) and content.strip():
        return content, None
    if refusal := message.get("refusal"):
        return "", f"refused: {_clean(str(refusal))[:QUOTED]}"
    if content is None or isinstance(content, str):
        thought = message.get("reasoning_content") or message.get("reasoning")
        if thought:
            return "", f"a thought of {len(str(thought))} characters and no answer"
        if content is None:
            return "", "no content"
        return content, None
    raise BadAnswer(f"content that is no text: {_clean(json.dumps(content))[:QUOTED]}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadAnswer(f"{name} is {_clean(json.dumps(value))[:QUOTED]} instead of text")
    return value


def _clean(text: str) -> str:
    """Lone surrogates, which neither files nor tokenizers accept, become U+FFFD."""
    return text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")


def _ids(value: Any, name: str) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(i, int) for i in value):
        raise BadAnswer(f"{name} are no list of integers")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise BadAnswer(f"a log-probability is {value!r}")
    return float(value) if value > FLOOR else -math.inf


def _logprobs(value: Any, api: Api) -> tuple[list[float], dict[str, float] | None]:
    """(of the sampled tokens, of the tokens at the first position)."""
    if not isinstance(value, dict):
        raise BadAnswer("no log-probabilities")
    if api == "completions":
        sampled, tops = value.get("token_logprobs"), value.get("top_logprobs")
        if not isinstance(sampled, list):
            raise BadAnswer("no log-probabilities of the sampled tokens")
        first = tops[0] if isinstance(tops, list) and tops else None
        if first is not None and not isinstance(first, dict):
            raise BadAnswer("top_logprobs are no mapping from token to log-probability")
        return [_number(v) for v in sampled], None if first is None else {t: _number(v) for t, v in first.items()}
    content = value.get("content")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise BadAnswer("no log-probabilities of the sampled tokens")
    tops = content[0].get("top_logprobs") if content else None
    if tops is not None and not (
        isinstance(tops, list) and all(isinstance(t, dict) and isinstance(t.get("token"), str) for t in tops)
    ):
        raise BadAnswer("top_logprobs are no list of tokens")
    sampled = [_number(entry.get("logprob")) for entry in content]
    return sampled, None if tops is None else {t["token"]: _number(t.get("logprob")) for t in tops}


def _prompt_logprobs(value: Any) -> list[dict[str, Any] | None] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(entry is None or isinstance(entry, dict) for entry in value):
        raise BadAnswer("prompt_logprobs are no list of mappings")
    return value


def token_logprobs(row: Row | None, token_ids: Sequence[int]) -> list[float]:
    """[C] of vLLM's candidates at one position: -inf where not reported, nan without a row."""
    return [math.nan if row is None else row.get(f"{TOKEN_ID}{token}", -math.inf) for token in token_ids]


def text_logprobs(row: Row | None, texts: Sequence[str]) -> list[float]:
    """[C] as `token_logprobs`, of candidates given as text: the sum over tokens that equal one up to white space."""
    totals = []
    for text in texts:
        values = [value for token, value in (row or {}).items() if token.strip() == text.strip()]
        total = math.fsum(math.exp(value) for value in values)
        totals.append(math.nan if row is None else math.log(total) if total > 0 else -math.inf)
    return totals


def completion_logprobs(choice: Choice, start: int, completion: Sequence[int]) -> list[float]:
    """[T] of given tokens: all but the last in vLLM's prompt, from position ``start``, and the last as a candidate.

    Raises: BadAnswer where one is not reported.
    """
    values, positions = [], choice.prompt_logprobs or []
    for position, token in enumerate(completion[:-1], start=start):
        entry = positions[position] if position < len(positions) else None
        found = (entry or {}).get(str(token))
        if not isinstance(found, dict):
            raise BadAnswer(f"no log-probability of token {token} at position {position} of the prompt")
        values.append(_number(found.get("logprob")))
    if f"{TOKEN_ID}{completion[-1]}" not in (choice.first or {}):
        raise BadAnswer(f"no log-probability of token {completion[-1]} after the prompt")
    return values + token_logprobs(choice.first, completion[-1:])


def _quote(data: bytes) -> str:
    text = " ".join(data[: 4 * QUOTED].decode("utf-8", errors="replace").split())
    return repr(text[:QUOTED] + ("…" if len(text) > QUOTED else ""))
