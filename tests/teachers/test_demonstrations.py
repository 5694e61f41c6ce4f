"""What becomes of a demonstration's text and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Completion
from ovd_lightning.teachers import demonstrations as D
from tests.chat_model import TEMPLATE, save_chat_model
from tests.helpers import EOS, PAD


def completion(text: str, ids: list[int] | None = None, truncated: bool = False) -> Completion:
    return Completion(
        text=text, token_ids=ids, logprobs=None if ids is None else [-1.0] * len(ids), truncated=truncated,
        prompt_tokens=7, completion_tokens=5,
    )  # fmt: skip


UNFINISHED, EMPTY = "the thought did not end", "nothing follows the thought"


@pytest.mark.parametrize(
    ("text", "truncated", "opened", "answer", "error"),
    [
        ("<think>a</think>\n\nb", False, False, "b", None),
        ("a</think>\n\nb", False, True, "b", None),  # the template wrote the opening tag
        ("a</think>\n\nb", False, None, "b", None),
        ("<think>a</think>b</think>c", False, False, "c", None),
        ("<think>a</think>b<think>c", False, False, "", UNFINISHED),
        ("[THINK]a[/THINK]b", False, False, "b", None),
        ("a</think> b \n", True, True, "b \n", None),  # an answer that was cut off stays one
        ("<think>a", False, False, "", UNFINISHED),
        ("<think>a", True, None, "", UNFINISHED),
        ("a", True, True, "", UNFINISHED),
        ("a", False, True, "", UNFINISHED),
        ("a", True, None, "", UNFINISHED),  # nobody knows: a long text without an end is no answer
        ("", False, None, "", UNFINISHED),  # a server that keeps the thought for itself
        ("a", False, None, "a", None),
        ("a", True, False, "a", None),
        ("", False, False, "", None),  # an answer's end, where no thought was begun
        ("<think>a</think>\n\n", False, False, "", EMPTY),
        ("a</think>", True, True, "", EMPTY),
    ],
)
def test_stripping_a_thought(text: str, truncated: bool, opened: bool | None, answer: str, error: str | None) -> None:
    stripped = D.strip_thought(completion(text, [3, 4], truncated), opened)
    assert (stripped.text, stripped.error) == (answer, error)
    assert stripped.truncated == (truncated and error is None)
    assert (stripped.prompt_tokens, stripped.completion_tokens) == (7, 5), "the thought has its price"
    unchanged = error is None and "</think>" not in text and "[/THINK]" not in text
    assert stripped.token_ids == ([3, 4] if unchanged else None), "the answer's tokens are made of its text"


def test_a_failed_completion_stays_one() -> None:
    failed = Completion(text="", token_ids=None, logprobs=None, truncated=False, error="503")
    assert D.strip_thought(failed, True).error == "503"


def test_whether_the_template_opens_the_thought(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_chat_model(tmp_path, seed=0))
    tokenizer.chat_template = f"{TEMPLATE}{{% if add_generation_prompt %}}<think>\n{{% endif %}}"
    user = {"role": "user", "content": "q"}
    assert D.opens_thought(tokenizer, [user])
    assert not D.opens_thought(tokenizer, [user, {"role": "assistant", "content": "one\n"}])
    assert not D.opens_thought(tokenizer, "q")
    assert D.opens_thought(tokenizer, "q <think>\n")


@pytest.mark.parametrize(
    ("text", "stop", "end"),
    [
        ("a\nb", ("\n",), 2), ("\n\na\nb", ("\n",), 4), ("ab", ("\n",), None), ("\n\n", ("\n",), None),
        ("a\nb\n\nc", ("\n\n",), 5), ("a;b.c", (".", ";"), 2), ("a\n", (), None), ("a </s> b", ("</s>",), 6),
        ("\\[\n3+4\n\\]\n", ("\n",), 7), ("\\[\n", ("\n",), None), ("---\n\na\n", ("\n",), 7),
    ],
)  # fmt: skip
def test_where_a_step_ends(text: str, stop: tuple[str, ...], end: int | None) -> None:
    assert D.step_end(text, stop) == end


def test_tokens_in_the_students_vocabulary(tokenizer: Any) -> None:
    ids = tokenizer.encode("ab", add_special_tokens=False)
    own = completion("ab", [*ids, PAD])
    assert D.student_tokens(own, tokenizer, same=True) == [*ids, EOS], "its end of turn becomes the student's end"
    assert D.student_tokens(own, tokenizer, same=False) == [*ids, EOS]
    cut = completion("ab", ids, truncated=True)
    assert D.student_tokens(cut, tokenizer, same=True) == D.student_tokens(cut, tokenizer, same=False) == ids
    step = completion("ab", ids)
    assert D.student_tokens(step, tokenizer, same=True, ended=False) == ids
    assert D.student_tokens(step, tokenizer, same=False, ended=False) == ids
    odd = completion("ab", [5, 6, EOS])
    assert D.student_tokens(odd, tokenizer, same=True) == [5, 6, EOS], "token ids are passed on as they are"
    text = completion("ab")
    assert D.student_tokens(text, tokenizer, same=True) == [*ids, EOS], "text alone is tokenised"


def test_what_a_teacher_spells_is_text(tokenizer: Any) -> None:
    """``<eos>`` in a demonstration's text ends nothing; the one at its end is the student's own."""
    ids = D.student_tokens(completion("a<eos>b"), tokenizer, same=False)
    assert ids.count(EOS) == 1
    assert ids[-1] == EOS
    assert ids[-2] == tokenizer.convert_tokens_to_ids("b")


def test_a_demonstration_of_a_megabyte_is_cut_before_it_is_encoded(tokenizer: Any) -> None:
    ids = D.student_tokens(completion("7 " * (1 << 19)), tokenizer, same=False, limit=20)
    assert 20 < len(ids) <= 21 * D.longest_token(tokenizer) + 1
    assert D.student_tokens(completion("7 7"), tokenizer, same=False, limit=20) == [*tokenizer.encode("7 7"), EOS]
