"""What an OpenAI-compatible endpoint answers, validated before anything is read from it.

Servers, proxies and gateways answer with status 200 and an error, a login page, or half of what was asked. Everything
that is read later is looked at here, inside the call, so that a bad answer is retried, counted and shown like any other
failure of the endpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Api = Literal["completions", "chat"]

LARGEST_ANSWER = 256 << 20
"""Bytes, decompressed: far more than 64 prompts with the log-probabilities of their tokens take."""
FLOOR = -9000.0
"""Servers write -9999 for minus infinity, which JSON cannot hold."""
QUOTED = 200
"""Characters of an answer that an error shows."""


class BadAnswer(ValueError):
    """An answer that cannot be what was asked for; another try may bring a good one."""


@dataclass(slots=True, kw_only=True)
class Choice:
    """One validated completion."""

    text: str
    finish_reason: str | None
    problem: str | None = None
    """Why the text is no answer although the endpoint did its work: refused, filtered, nothing but a thought."""
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    """[T] of the sampled tokens."""
    first: dict[str, float] | None = None
    """Log-probability by token at the first position, as far as reported."""
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    """vLLM's: a position a prompt token, each token id (as text) -> {"logprob": ...}."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """One validated response."""

    choices: list[Choice]
    """In the order of the prompts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True, kw_only=True, frozen=True)
class Wanted:
    """What a request must bring back."""

    api: Api
    choices: int
    logprobs: bool = False
    """Of the sampled tokens."""
    first: bool = False
    """Also those of the first position's likeliest, or chosen, tokens."""
    most_characters: int | None = None
    """A text is cut there: far more than the tokens that were asked for can spell."""


def read_answer(data: bytes, wanted: Wanted) -> Answer:
    """Raises: BadAnswer, which quotes what came."""
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
    """What an answer cost; what is no number counts as not said."""

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
    """Lone surrogates, which no file and no tokenizer takes, become U+FFFD."""
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
    """(of the sampled tokens, of the first position by token)."""
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


def prompt_logprob(positions: Sequence[dict[str, Any] | None], position: int, token: int) -> float:
    """Of a token of the prompt. Raises: BadAnswer where it is not reported."""
    entry = positions[position] if position < len(positions) else None
    found = (entry or {}).get(str(token))
    if not isinstance(found, dict):
        raise BadAnswer(f"no log-probability of token {token} at position {position} of the prompt")
    return _number(found.get("logprob"))


def _quote(data: bytes) -> str:
    text = " ".join(data[: 4 * QUOTED].decode("utf-8", errors="replace").split())
    return repr(text[:QUOTED] + ("…" if len(text) > QUOTED else ""))
