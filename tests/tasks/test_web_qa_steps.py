"""Steps of Web Q&A: triples (query, documents, reasoning), whatever the vocabulary makes of the tags."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.tasks.web_protocol import step_spans
from tests.search.parts import save_byte_tokenizer

FIRST = "<think> Who built it?</think> <search> Ostrava bridge </search>"
FOUND = "\n\n<information>Doc 1(Title: Ostrava) Built by Karel Brunn, 1913.</information>\n\n"
SECOND = "<think>Karel Brunn; from where?</think><search>Karel Brunn</search>"
ALSO = "\n\n<information>Doc 1(Title: Karel Brunn) Of Telsa, é 50 €.</information>\n\n"
MESSAGE = "To search, write a query between <search> and </search> ."
LAST = "<think> Telsa </think><answer> Telsa </answer>"
WHOLE = FIRST + FOUND + SECOND + ALSO + LAST
CUT = WHOLE.index("<search>Karel")


def of_bytes(folder: Path) -> Any:
    from transformers import AutoTokenizer

    save_byte_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return AutoTokenizer.from_pretrained(folder)


def fast(backend: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def of_pairs(folder: Path) -> Any:
    """Byte pairs that run over the borders of tags, such as "><se" and "ch> "."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=5
    )
    backend.train_from_iterator(["?</think><search>Karel ", "</search>\n\n<information>", "; from where"] * 50, trainer)
    assert any("><" in token for token in backend.get_vocab())
    return fast(backend)


def of_pieces(folder: Path) -> Any:
    """SentencePiece's way: "▁" for a space, which a decoder drops at the beginning of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({*WHOLE.replace(" ", "▁"), "▁", "<", ">", "/"})
    words = ["<eos>", *letters, "▁<", "<search>", "search", "▁Karel", "</", "▁search"]
    backend = Tokenizer(models.Unigram([(word, -1.0 / len(word)) for word in words], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return fast(backend)


def of_words(folder: Path) -> Any:
    """A closed vocabulary whose words are joined by spaces; tags are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    text = WHOLE.replace("<", " <").replace(">", "> ")
    words = dict.fromkeys(["<eos>", *text.split(), *MESSAGE.split(), "Who?", "a"])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast(backend)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "bytes": of_bytes,
    "pairs": of_pairs,
    "pieces": of_pieces,
    "words": of_words,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    made.kind = request.param
    return made


class Trajectory:
    """Texts by turns, written ones and observations."""

    def __init__(self, tokenizer: Any, *turns: tuple[str, bool]) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.mask: list[bool] = []
        for text, written in turns:
            spaced = text.replace("<", " <").replace(">", "> ") if tokenizer.kind == "words" else text
            ids = tokenizer.encode(spaced, add_special_tokens=False)
            self.ids += ids
            self.mask += [written] * len(ids)

    def steps(self, masked: bool = True) -> list[str]:
        spans = step_spans(self.ids, self.tokenizer, self.mask if masked else None)
        assert spans[0][0] == 0
        assert spans[-1][1] == len(self.ids)
        assert all(a[1] == b[0] for a, b in pairwise(spans))
        assert all(a < b for a, b in spans)
        return [str(self.tokenizer.decode(self.ids[a:b])) for a, b in spans]


def tag_on(step: str) -> str:
    """From the tag that begins it on, without spaces; a token may have brought the end of what precedes the tag."""
    assert step.index("<search>") < 5
    return step[step.index("<search>") :].replace(" ", "")


def two_searches(tokenizer: Any) -> Trajectory:
    return Trajectory(tokenizer, (FIRST, True), (FOUND, False), (SECOND, True), (ALSO, False), (LAST, True))


@pytest.mark.parametrize("masked", [True, False])
def test_a_step_is_a_query_its_documents_and_the_reasoning_up_to_the_next_query(tokenizer: Any, masked: bool) -> None:
    first, second = two_searches(tokenizer).steps(masked)
    assert "Who built" in first  # what precedes the first search belongs to it
    assert "Built by" in first
    assert "from where?" in first
    assert "Telsa" not in first
    assert second.count("search>") == 2
    assert "Of Telsa" in second
    assert second.rstrip().endswith("</answer>")


def test_a_step_begins_with_the_token_that_begins_the_tag(tokenizer: Any) -> None:
    trajectory = two_searches(tokenizer)
    (_, cut), _ = step_spans(trajectory.ids, tokenizer, trajectory.mask)
    before, token = tokenizer.decode(trajectory.ids[:cut]), tokenizer.decode(trajectory.ids[: cut + 1])
    assert "<search>Karel" not in before.replace(" ", "")
    assert before.count("<") == WHOLE[:CUT].count("<")
    assert token.count("<") == WHOLE[:CUT].count("<") + 1
    if tokenizer.kind == "bytes":
        assert before == WHOLE[:CUT]


@pytest.mark.parametrize(
    "text",
    [
        "Telsa",
        "<think> nothing to look up </think><answer> Telsa </answer>",
        "<search>Karel Brunn",  # cut off by a limit
        "Karel Brunn</search>",
        "<search> </search><search></search><answer>Telsa</answer>",  # no query
        "</search>Karel<search>",
        "<search>Karel Brunn</search>",
        "<search>",
    ],
)
def test_fewer_than_two_searches_are_one_step(tokenizer: Any, text: str) -> None:
    trajectory = Trajectory(tokenizer, (text, True))
    assert len(trajectory.steps()) == len(trajectory.steps(masked=False)) == 1


def test_nothing_has_no_step(tokenizer: Any) -> None:
    assert step_spans([], tokenizer, []) == []


def test_documents_and_messages_that_quote_tags_begin_no_step(tokenizer: Any) -> None:
    quoting = "<information>Doc 1: <search>Karel</search> </information> <search>Telsa</search> <answer>"
    trajectory = Trajectory(
        tokenizer, (FIRST, True), (quoting, False), ("<think> Who?", True), (MESSAGE, False), (SECOND, True)
    )
    first, second = trajectory.steps()
    assert "write" in first
    assert "Who?" in first
    assert tag_on(second) == "<search>KarelBrunn</search>"


def test_a_tag_does_not_reach_over_an_observation(tokenizer: Any) -> None:
    trajectory = Trajectory(
        tokenizer,
        (FIRST, True),
        (FOUND, False),
        ("<search>Karel", True),
        (FOUND, False),
        ("Brunn</search>", True),
        (ALSO, False),
        (SECOND, True),
    )
    first, second = trajectory.steps()
    assert "Of Telsa" in first  # nothing was asked: the turn before belongs to the first step
    assert "Of Telsa" not in second


def test_only_the_first_search_of_a_turn_counts_as_it_does_for_the_environment(tokenizer: Any) -> None:
    twice = "<search>Ostrava</search> <search>Telsa</search>"
    trajectory = Trajectory(tokenizer, (twice, True), (FOUND, False), (LAST, True))
    assert len(trajectory.steps()) == 1


def test_a_search_after_the_last_reply_is_a_step_without_documents(tokenizer: Any) -> None:
    trajectory = Trajectory(tokenizer, (FIRST, True), (FOUND, False), (SECOND, True))
    first, second = trajectory.steps()
    assert tag_on(second) == "<search>KarelBrunn</search>"
    assert "from where?" in first


def test_without_an_environment_made_up_documents_are_passed_over(tokenizer: Any) -> None:
    made_up = "<information><search>Telsa</search></information>"
    trajectory = Trajectory(tokenizer, (FIRST + made_up + SECOND + "<information><search>Telsa</search>", True))
    assert len(trajectory.steps()) == 2


def test_an_end_of_sequence_belongs_to_the_last_step(tokenizer: Any) -> None:
    trajectory = two_searches(tokenizer)
    trajectory.ids.append(tokenizer.eos_token_id)
    trajectory.mask.append(True)
    assert len(trajectory.steps()) == 2


def test_steps_of_a_long_trajectory_take_no_time() -> None:
    """Twenty searches with long documents, as a byte each: the slowest vocabulary."""
    import tempfile
    import time

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = of_bytes(Path(folder))
    tokenizer.kind = "bytes"
    turns = [turn for i in range(20) for turn in ((f"<search>town {i}</search>", True), (FOUND * 20, False))]
    trajectory = Trajectory(tokenizer, *turns)
    begun = time.perf_counter()
    assert len(trajectory.steps()) == 20
    assert time.perf_counter() - begun < 2
