"""What is a call of the tool, what is none, and what the model is told of it."""

from __future__ import annotations

import json

import pytest

from ovd_lightning.tools.calls import SCHEMA, NoCall, call_of, hermes_call, hermes_system


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ('<tool_call>{"name": "code_interpreter", "arguments": {"code": "print(1)"}}</tool_call>', "print(1)"),
        ('So: <tool_call>\n{"name": "code_interpreter", "arguments": {"code": "a\\nb"}}\n</tool_call>', "a\nb"),
        ('<tool_call>{"arguments": {"code": "", "more": 1}, "name": "code_interpreter"}</tool_call>', ""),
        ('<tool_call>{"name": "code_interpreter", "arguments": {"code": "```python\\nx\\n```"}}</tool_call>', "x"),
        ('<tool_call>{"name": "code_interpreter", "arguments": {"code": "```\\nx\\ny\\n```\\n"}}</tool_call>', "x\ny"),
        ('<tool_call>{"name": "code_interpreter", "arguments": {"code": "s = \'```\'"}}</tool_call>', "s = '```'"),
        (hermes_call("first") + hermes_call("second"), "first"),
        (hermes_call('quotes " and \\ and \n and ü'), 'quotes " and \\ and \n and ü'),
        ("\\boxed{7}", None),
        ("", None),
        ("</tool_call>", None),
        ("a code_interpreter", None),
    ],
)
def test_the_first_complete_call_of_a_turn(turn: str, code: str | None) -> None:
    assert call_of(turn) == code


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ('{"name": "code_interpreter", "arguments": {"code": "print(1)"}', "no JSON"),
        ('{"name": "code_interpreter", "arguments": {"code": "a\nb"}}', "no JSON"),  # a line break as it stands
        ("[" * 100_000, "no JSON"),
        ('["code_interpreter"]', "no JSON object"),
        ('{"name": "search", "arguments": {"code": "1"}}', "no tool is named 'search'"),
        ('{"arguments": {"code": "1"}}', "no tool is named 'None'"),
        ('{"name": "code_interpreter"}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": "print(1)"}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": {"code": 3}}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": {"program": "1"}}', 'no text "code"'),
    ],
)
def test_what_is_no_call(inside: str, reason: str) -> None:
    with pytest.raises(NoCall, match=reason):
        call_of(f"<tool_call>{inside}</tool_call>")


def test_a_call_that_never_closes_is_none() -> None:
    with pytest.raises(NoCall, match="without </tool_call>"):
        call_of('<tool_call>{"name": "code_interpreter", "arguments": {"code": "1"}}')


QWEN_TOOLS = (
    "{{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with "
    "function signatures within <tools></tools> XML tags:\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}"
    "{{- tool | tojson }}{%- endfor %}{{- '\\n</tools>\\n\\nFor each function call, return a json object with function "
    'name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, '
    '\\"arguments\\": <args-json-object>}\\n</tool_call>\' }}'
)
"""The section of tools in the chat templates of Qwen2.5 and Qwen3."""


def test_the_system_message_is_what_the_chat_template_writes(tokenizer: object) -> None:
    from transformers import PreTrainedTokenizerBase

    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}], tools=[SCHEMA], chat_template=QWEN_TOOLS, tokenize=False
    )
    assert hermes_system() == written
    assert hermes_system("Be brief.") == f"Be brief.\n\n{written}"
    tool = json.loads(hermes_system().split("<tools>\n")[1].split("\n</tools>")[0])
    assert tool["function"]["name"] == "code_interpreter"
