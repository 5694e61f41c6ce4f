"""The tokenizer of the tool task: characters, and the parts of a call, of a result and of the scoring prompts as one
token each. A call has several parts, so that its JSON can go wrong."""

from __future__ import annotations

from benchmarks.assets.vocabulary import (
    BOX,
    CURRENT,
    PREVIOUS,
    PROBLEM,
    SOLUTION,
    STEP_TAIL,
    TRAJECTORY_TAIL,
    Vocabulary,
)

BEGIN, NAME, ARGUMENTS, PRINT = "<tool_call>", '{"name": "code_interpreter", ', '"arguments": {"code": "', "print("
CLOSE, END = '"}}', "</tool_call>"
PARTS = [BEGIN, NAME, ARGUMENTS, PRINT, CLOSE, END]
OPEN_RESULT, CLOSE_RESULT = "\n<tool_response>\n", "\n</tool_response>"
"""The line break after a result is a token of its own: a step that ends with a result loses it in a scoring prompt."""
VOCABULARY = Vocabulary(
    "+-*/=()?}\n .,:{\"'",
    [*PARTS, OPEN_RESULT, CLOSE_RESULT, BOX, PROBLEM, PREVIOUS, CURRENT, SOLUTION, STEP_TAIL, TRAJECTORY_TAIL],
)
