"""A model's tool call in Hermes format: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

import json
import re
from typing import Any

from ovd_lightning.thoughts import spoken

TOOL = "code_interpreter"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*[\w.+-]*[ \t]*(?:\n|\Z)", re.MULTILINE)
_END = re.compile(rf"\s*(?:```+|~~~+)?\s*{CLOSE}")

SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Runs a Python program and returns what it printed. Nothing is kept from one call to the next.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The program. Print what you want to see."}},
            "required": ["code"],
        },
    },
}
"""The tool's definition for a chat template."""


class NoCall(ValueError):
    """A turn tries to call a tool, but the call cannot be parsed; the message says why."""


class WrongCall(NoCall):
    """The call can be parsed, but there is no such tool, or it has no program."""


def call_of(turn: str, thinking: bool = False) -> str | None:
    """The program that a turn asks to run; None when it calls no tool.

    The first call that can be parsed counts. A call inside a thought or only mentioned is none. Common deviations with
    one possible meaning are accepted: raw line breaks in JSON strings, ``parameters`` for ``arguments``, arguments as a
    JSON string (OpenAI's format), a Markdown fence around the JSON or the program.

    Args:
        thinking: the turn begins inside a thought.
    Raises: NoCall; WrongCall where the call is well-formed and wrong.
    """
    text, _ = spoken(turn, thinking)
    problem: NoCall | None = None
    start = 0
    while (at := text.find(OPEN, start)) >= 0:
        start = at + len(OPEN)
        try:
            call, start = _parse(text, start)
        except NoCall as error:
            problem = problem or error
        else:
            return _program(call)
    if problem is not None:
        raise problem
    return None


def _parse(text: str, start: int) -> tuple[dict[str, Any], int]:
    """(call whose opening tag ends at ``start``, its end). Raises: NoCall."""
    if text.find(CLOSE, start) < 0:
        raise NoCall(f"{OPEN} without {CLOSE}")
    rest = text[start:]
    begins = len(rest) - len(rest.lstrip())
    if fence := _FENCE.match(rest, begins):
        begins = fence.end()
        begins += len(rest[begins:]) - len(rest[begins:].lstrip())
    try:
        call, end = json.JSONDecoder(strict=False).raw_decode(rest, begins)
    except (ValueError, RecursionError) as error:
        raise NoCall(f"no JSON: {error}"[:200]) from error
    closing = _END.match(rest, end)
    if closing is None:
        raise NoCall(f"no JSON: more than one value before {CLOSE}")
    if isinstance(call, list) and call:
        call = call[0]
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict):
        raise NoCall("no JSON object")
    if not isinstance(call.get("name"), str):
        raise NoCall('no "name" of a tool')
    if not {"arguments", "parameters"} & call.keys():
        raise NoCall('no "arguments"')
    return call, start + closing.end()


def _program(call: dict[str, Any]) -> str:
    """The program of a call. Raises: WrongCall."""
    if call["name"] != TOOL:
        raise WrongCall(f"no tool is named {call['name'][:50]!r}")
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            arguments = None
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        raise WrongCall('"arguments" has no text "code"')
    return unfenced(code.removeprefix("\ufeff"))


def unfenced(code: str) -> str:
    """A program without a Markdown fence and the text around it.

    In Python a line of backticks can only be inside a multi-line string, so after triple quotes nothing is a fence.
    """
    fence = _FENCE.search(code)
    if fence is None or '"""' in code[: fence.start()] or "'''" in code[: fence.start()]:
        return code
    body = code[fence.end() :]
    closing = re.search(rf"^[ \t]*{fence[1]}[`~]*[ \t]*$|{fence[1]}\s*\Z", body, re.MULTILINE)
    return body[: closing.start()].removesuffix("\n") if closing else body


def hermes_call(code: str) -> str:
    """The call that runs ``code``, on one line."""
    return OPEN + json.dumps({"name": TOOL, "arguments": {"code": code}}, ensure_ascii=False) + CLOSE


def hermes_system(instruction: str = "") -> str:
    """A system message that offers the tool, word for word as the chat templates of Qwen2.5 and Qwen3 write it.

    Args:
        instruction: text before it.
    """
    tool = json.dumps(SCHEMA, ensure_ascii=False)
    return (
        (f"{instruction}\n\n" if instruction else "")
        + "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        + f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tool}\n</tools>\n\n"
        + "For each function call, return a json object with function name and arguments within "
        + f"{OPEN}{CLOSE} XML tags:\n{OPEN}\n"
        + '{"name": <function-name>, "arguments": <args-json-object>}\n'
        + CLOSE
    )
