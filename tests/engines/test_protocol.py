"""Whatever an endpoint answers with status 200 is read, or is a failure that says what came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ovd_lightning.engines.protocol import BadAnswer, Wanted, read_answer
from tests.bad_endpoint import NO_LOGPROBS, NO_TEXT, ODD, UNREADABLE, honest

ASKED = {"model": "m", "messages": [{"role": "user", "content": "1+2+3=?"}], "logprobs": True}
TEXT = Wanted(api="chat", choices=1)
FIRST = Wanted(api="chat", choices=1, logprobs=True, first=True)


def raw(made: Any) -> bytes:
    data = made(ASKED)
    return data if isinstance(data, bytes) else json.dumps(data).encode()


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_what_came(name: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_answer(raw(UNREADABLE[name]), TEXT)
    shown = str(caught.value)
    assert len(shown) < 400
    if name in ("html", "error", "error as text"):
        assert "log in" in shown or "upstream overloaded" in shown


@pytest.mark.parametrize("name", NO_LOGPROBS)
def test_missing_log_probabilities_are_a_failure_where_they_were_asked_for(name: str) -> None:
    with pytest.raises(BadAnswer):
        read_answer(raw(NO_LOGPROBS[name]), FIRST)
    assert read_answer(raw(NO_LOGPROBS[name]), TEXT).choices[0].text


@pytest.mark.parametrize("name", [n for n in ODD if n != "gzip"])
def test_odd_answers_are_answers(name: str) -> None:
    answer = read_answer(raw(ODD[name]), TEXT)
    (choice,) = answer.choices
    assert choice.problem is None
    expected = "7" if "UTF-8" in name else honest(ASKED)["choices"][0]["message"]["content"]
    assert expected in choice.text
    choice.text.encode("utf-8")  # no surrogate is left
    assert answer.prompt_tokens == (0 if "usage" in name else 10)


@pytest.mark.parametrize("name", [n for n in NO_TEXT if n != "empty"])
def test_nothing_said_is_no_answer(name: str) -> None:
    (choice,) = read_answer(raw(NO_TEXT[name]), FIRST).choices
    assert choice.text == ""
    assert choice.problem


def test_a_text_far_beyond_its_limit_is_cut() -> None:
    long = json.dumps(honest(ASKED, "7 " * 10_000)).encode()
    (choice,) = read_answer(long, Wanted(api="chat", choices=1, most_characters=100)).choices
    assert (len(choice.text), choice.finish_reason) == (100, "length")


def test_choices_come_in_the_order_of_their_index() -> None:
    choices = [{"index": i, "text": f"t{i}", "finish_reason": "stop"} for i in (2, 0, 1)]
    answer = read_answer(json.dumps({"choices": choices}).encode(), Wanted(api="completions", choices=3))
    assert [c.text for c in answer.choices] == ["t0", "t1", "t2"]
    choices[0]["index"] = 0
    with pytest.raises(BadAnswer, match="indices"):
        read_answer(json.dumps({"choices": choices}).encode(), Wanted(api="completions", choices=3))
