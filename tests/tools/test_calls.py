"""What is a call of the tool, what is none, and what the model is told of it."""

from __future__ import annotations

import json

import pytest

from ovd_lightning.tools.calls import SCHEMA, NoCall, WrongCall, call_of, hermes_call, hermes_system, unfenced


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
        ("[" * 100_000, "no JSON"),
        ('["code_interpreter"]', "no JSON object"),
        ('{"arguments": {"code": "1"}}', 'no "name"'),
        ('{"name": null, "arguments": {"code": "1"}}', 'no "name"'),
        ('{"name": "code_interpreter"}', 'no "arguments"'),
        ('{"name": "code_interpreter", "arguments": {"code": "print("hi")"}}', "no JSON"),  # quotes as they stand
        ("{'name': 'code_interpreter', 'arguments': {'code': '1'}}", "no JSON"),
        ('{"name": "code_interpreter", "arguments": {"code": "1"}}}', "no JSON"),
        ('{"name": "code_interpreter", "arguments": {"code": "1"}} {"name": "x"}', "no JSON"),
        ("print(1)", "no JSON"),
        ("```python\nprint(1)\n```", "no JSON"),
        ("{...}", "no JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
    ],
)
def test_what_is_no_call(inside: str, reason: str) -> None:
    with pytest.raises(NoCall, match=reason) as raised:
        call_of(f"<tool_call>{inside}</tool_call>")
    assert not isinstance(raised.value, WrongCall)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ('{"name": "search", "arguments": {"code": "1"}}', "no tool is named 'search'"),
        ('{"name": "", "arguments": {"code": "1"}}', "no tool is named ''"),
        ('{"name": "python", "parameters": {"code": "1"}}', "no tool is named 'python'"),
        ('{"name": "code_interpreter", "arguments": {}}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": null}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": []}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": "print(1)"}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": "\\"code\\""}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": {"code": 3}}', 'no text "code"'),
        ('{"name": "code_interpreter", "arguments": {"program": "1"}}', 'no text "code"'),
    ],
)
def test_a_call_of_nothing_that_can_be_run(inside: str, reason: str) -> None:
    with pytest.raises(WrongCall, match=reason):
        call_of(f"<tool_call>{inside}</tool_call>")


CALL = '{"name": "code_interpreter", "arguments": {"code": "print(1)"}}'


@pytest.mark.parametrize(
    "inside",
    [
        f"\n{CALL}\n",
        f"```json\n{CALL}\n```",
        f"\n```json\n{CALL}\n```\n",
        f"```\n{CALL}```",
        f"~~~JSON\n{CALL}\n~~~",
        f"[{CALL}]",
        f'{{"type": "function", "function": {CALL}}}',
        '{"name": "code_interpreter", "parameters": {"code": "print(1)"}}',
        '{"name": "code_interpreter", "arguments": "{\\"code\\": \\"print(1)\\"}"}',
        '{"name": "code_interpreter", "parameters": "{\\"code\\": \\"print(1)\\"}"}',
        '{"name": "code_interpreter", "arguments": {"code": "```Python\\nprint(1)\\n```"}}',
        '{"name": "code_interpreter", "arguments": {"code": "```python3\\nprint(1)\\n```"}}',
        '{"name": "code_interpreter", "arguments": {"code": "```python\nprint(1)\n```"}}',  # as they stand
        '{"name": "code_interpreter", "arguments": {"code": "\ufeffprint(1)"}}',
        f"<tool_call>{CALL}",  # opened twice
        f"{{...}}</tool_call> means: <tool_call>{CALL}",
    ],
)
def test_what_is_written_for_a_call(inside: str) -> None:
    assert call_of(f"<tool_call>{inside}</tool_call>") == "print(1)"


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("x = 1\nprint(x)", "x = 1\nprint(x)"),
        ("if 1:\n\tprint(1)", "if 1:\n\tprint(1)"),
        ("a\r\nb", "a\r\nb"),
        ("print('é\x0b')", "print('é\x0b')"),
    ],
)
def test_line_breaks_and_tabs_as_they_stand(code: str, read: str) -> None:
    assert call_of(f'<tool_call>{{"name": "code_interpreter", "arguments": {{"code": "{code}"}}}}</tool_call>') == read
    inner = f'{{\\"code\\": \\"{code}\\"}}'
    call = f'<tool_call>{{"name": "code_interpreter", "arguments": "{inner}"}}</tool_call>'
    assert call_of(call) == read


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ("<think>I could write <tool_call>{...}</tool_call></think>\n" + hermes_call("2"), "2"),
        ("<think>I could write " + hermes_call("1") + "</think>\n" + hermes_call("2"), "2"),
        ("or " + hermes_call("1") + "</think>\n" + hermes_call("2"), "2"),  # the prompt opened the thought
        ("<THINK>" + hermes_call("1") + "</THINK>" + hermes_call("2"), "2"),
        ("<think>" + hermes_call("1") + "</think>\\boxed{3}", None),
        ("<think>" + hermes_call("1"), None),
        ("<think><tool_call></think>\\boxed{3}", None),
        ("<think>so</think>" + hermes_call("2"), "2"),
        (hermes_call("2") + "<think>" + hermes_call("1") + "</think>", "2"),
    ],
)
def test_a_call_in_a_thought_is_none(turn: str, code: str | None) -> None:
    assert call_of(turn) == code


def test_a_turn_may_begin_in_a_thought() -> None:
    assert call_of(hermes_call("1"), thinking=True) is None
    assert call_of(hermes_call("1") + "</think>" + hermes_call("2"), thinking=True) == "2"


@pytest.mark.parametrize(
    ("code", "program"),
    [
        ("```python\nx\n```", "x"),
        ("```py\nx```", "x"),
        ("~~~\nx\n~~~", "x"),
        ("````\n```\n````", "```"),
        ("```python\nx", "x"),  # never closed
        ("```\n```", ""),
        ("```tool_code\nx\n```", "x"),
        ("Here it is:\n```python\nx\ny\n```\nIt prints y.", "x\ny"),
        ("```python\nx\n```\n```python\ny\n```", "x"),
        ("s = '''\n```\nx\n```\n'''", "s = '''\n```\nx\n```\n'''"),
        ('s = """\n```\n"""', 's = """\n```\n"""'),
        ("print('```')", "print('```')"),
        ("x = 1  # ```", "x = 1  # ```"),
        ("", ""),
    ],
)
def test_a_program_in_a_fence(code: str, program: str) -> None:
    assert unfenced(code) == program


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
