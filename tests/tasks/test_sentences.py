"""A step of mathematics as a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from ovd_lightning.tasks.math import MathTask
from ovd_lightning.tasks.sentences import sentence_spans
from ovd_lightning.tokens import decode
from tests.helpers import EOS


@pytest.mark.parametrize(
    "sentences",
    [
        ["We add 1 and 2.", " The sum is 3.5!", " So?", " \\boxed{3.5}."],
        ["1. First we add.", " Then (see above) we stop.", "\n\n2. The rest is 1.25 of it.\n", "Done"],
        ["Let {x = 2.}", " It is \\boxed{2}"],
        ["no end at all"],
        ["\nA line\n", "another\n"],
        [],
    ],
)
def test_sentences_by_hand(tokenizer: Any, sentences: list[str]) -> None:
    ids = tokenizer.encode("".join(sentences), add_special_tokens=False)
    spans = sentence_spans(ids, tokenizer)
    assert [decode(tokenizer, ids[a:b]).strip() for a, b in spans] == [s.strip() for s in sentences]
    assert [i for a, b in spans for i in range(a, b)] == list(range(len(ids))), "no gap, no overlap"
    ended = sentence_spans([*ids, EOS], tokenizer)
    assert len(ended) == max(len(spans), 1), "an end of sequence is no sentence of its own"


def test_the_task_takes_either(tokenizer: Any) -> None:
    ids = tokenizer.encode("We add.\nIt is 3. Then\n\n\\boxed{3}", add_special_tokens=False)
    blocks, sentences = MathTask("data.jsonl"), MathTask("data.jsonl", steps="sentences")
    assert [len(task.split_steps(ids, tokenizer)) for task in (blocks, sentences)] == [2, 4]
    assert blocks.step_rule != sentences.step_rule, "an answer under testing rejection depends on it"
