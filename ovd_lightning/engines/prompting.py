"""How judges and demonstrators ask an engine, and whether what they ask fits it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ovd_lightning.engines.base import Engine, Prompt
from ovd_lightning.engines.local import LocalEngine
from ovd_lightning.engines.render import TemplateError, encode
from ovd_lightning.errors import ConfigError
from ovd_lightning.types import Problem

LONGEST = 64
"""Problems whose prompts are counted before a run, those with the most characters: all could take minutes."""


def longest(problems: Sequence[Problem]) -> list[Problem]:
    """The ``LONGEST`` problems with the longest questions."""
    return sorted(problems, key=lambda p: -len(p.question))[:LONGEST]


def as_prompt(text: str, chat: bool, system: str | None = None, begun: str = "") -> Prompt:
    """A text as it stands, or as a user message; ``begun`` is the beginning of the answer."""
    if not chat:
        return text + begun
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return messages


def chat_errors(setting: str, engine: Engine, chat: bool) -> Iterator[ConfigError]:
    """Whether ``chat`` needs a template that the tokenizer does not have."""
    if chat and isinstance(engine, LocalEngine) and not engine.tokenizer.chat_template:
        yield ConfigError(
            setting, f"is true, but the tokenizer of {engine.name} has no chat template.", "Set it to false."
        )


def room_errors(
    setting: str, engine: Engine, prompt: Prompt, response: int, answer: int, problem: str
) -> Iterator[ConfigError]:
    """Whether a prompt, a response of so many tokens in it, and an answer to it fit the engine's context.

    Args:
        problem: id of the problem that the prompt is about.
    """
    if engine.tokenizer is None or engine.max_context is None:
        return
    if not isinstance(prompt, str) and not getattr(engine.tokenizer, "chat_template", None):
        prompt = "".join(m["content"] for m in prompt if isinstance(m, dict))  # an endpoint has the template
    try:
        tokens = len(encode(engine.tokenizer, prompt)) + response + answer
    except TemplateError as error:
        yield ConfigError(
            setting,
            f"is asked through its chat template, but of {engine.name} {error}.",
            "Use a task without a system message, chat: false, or a model whose template has a system role.",
        )
        return
    if tokens > engine.max_context:
        yield ConfigError(
            setting,
            f"{engine.name} holds {engine.max_context} tokens; problem {problem!r} with a solution of {response} "
            f"tokens may need {tokens}.",
            "Lower rollout.max_tokens or demonstration_tokens, or raise the engine's max_model_len.",
        )


def hint(reason: str, otherwise: str = "Correct the setting, or use another model.") -> str:
    """What to do about a call that failed for a reason."""
    if "status 401" in reason or "status 403" in reason:
        return "Export a valid key as the variable that api_key_env names."
    if "status 400" in reason or "status 422" in reason:
        return (
            "The endpoint refuses a field: leave it out by omit, rename the limit by max_tokens_field, or set "
            "vllm_extensions: false where the server is not vLLM's."
        )
    return otherwise
