"""A model's call of a tool, in the form of Hermes: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

import json
import re
from typing import Any

TOOL = "code_interpreter"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)
_FENCED = re.compile(r"\A\s*```(?:python|py)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)

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
"""The tool as a chat template takes it."""


class NoCall(ValueError):
    """A turn wants to call a tool and does it wrongly; says how."""


def call_of(turn: str) -> str | None:
    """The program that a turn asks to run; None when it asks for nothing. The first complete call counts. A program in
    a Markdown fence is taken out of it.

    Raises: NoCall.
    """
    found = _CALL.search(turn)
    if found is None:
        if OPEN in turn:
            raise NoCall(f"{OPEN} without {CLOSE}")
        return None
    try:
        call = json.loads(found[1])
    except (ValueError, RecursionError) as error:
        raise NoCall(f"no JSON: {error}"[:200]) from error
    if not isinstance(call, dict):
        raise NoCall("no JSON object")
    if call.get("name") != TOOL:
        raise NoCall(f"no tool is named {str(call.get('name'))[:50]!r}")
    arguments = call.get("arguments")
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str):
        raise NoCall('"arguments" has no text "code"')
    fenced = _FENCED.match(code)
    return fenced[1] if fenced else code


def hermes_call(code: str) -> str:
    """The call that asks to run ``code``, on one line."""
    return OPEN + json.dumps({"name": TOOL, "arguments": {"code": code}}, ensure_ascii=False) + CLOSE


def hermes_system(instruction: str = "") -> str:
    """A system message that offers the tool, word for word as the chat templates of Qwen2.5 and Qwen3 write it.

    Args:
        instruction: what stands before it.
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
