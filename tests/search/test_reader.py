"""The student reads what a search found: what it is shown, what of its words counts, and what happens without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.search.base import Document, Query, SearchEngine, SearchResult
from ovd_lightning.search.bm25 import BM25Search
from ovd_lightning.search.reader import ReasonInDocuments, shortened
from tests.helpers import ScriptedEngine
from tests.search.parts import problem, refused

FOUND = {"bridge": [Document(text="Built {query} by Brunn.", title="Bridge"), Document(text="A river.")], "none": []}
SHORT = "{reasoning}|{query}|{documents}|"


class Listed(SearchEngine):
    name = "listed"
    tells_answer = True
    most = 7

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        return [
            SearchResult(documents=FOUND[q.text][:top_k]) if q.text in FOUND else SearchResult(error="down")
            for q in queries
        ]


def asked(text: str, history: str = "Who?", seed: int = 0) -> Query:
    return Query(text=text, problem=problem(), seed=seed, progress=None, history=history)


def read(
    tokenizer: Any, says: str | Callable[[str], str], *queries: Query, context: int | None = None, **settings: Any
) -> tuple[list[SearchResult], ScriptedEngine, ReasonInDocuments]:
    def write(prompt: str, request: Request) -> str:
        return says if isinstance(says, str) else says(prompt)

    student = ScriptedEngine(write=write, tokenizer=tokenizer, context=context)
    engine = ReasonInDocuments(Listed(), **{"prompt": SHORT, "chat": False, **settings})
    with engine.asking(student):
        return engine.search(queries, top_k=2), student, engine


def test_the_summary_is_the_document(byte_tokenizer: Any) -> None:
    shown: list[str] = []

    def says(prompt: str) -> str:
        shown.append(prompt)
        return "Both speak of it.\n\n**Final Information**\n\nBrunn built\nit.\n```"

    results, student, engine = read(byte_tokenizer, says, asked("bridge", "It was built.\n\nBy whom?"))
    documents = "Doc 1(Title: Bridge) Built {query} by Brunn.\nDoc 2: A river."
    assert shown == [f"Step 1: It was built.\n\nStep 2: By whom?|bridge|{documents}|"]
    assert results == [SearchResult(documents=[Document(text="Brunn built it.")])]
    counts = engine.take_counts()
    assert counts.keys() == set(engine.counted)
    assert counts["unmarked_summaries"] == counts["cut_readings"] == 0
    assert counts["reader_completion_tokens"] == student.used.completion > 0


def test_the_default_prompt_shows_all_three_and_asks_for_the_mark(byte_tokenizer: Any) -> None:
    engine = ReasonInDocuments(Listed())
    text = engine.render(asked("bridge", "By {documents}?"), "Doc 1: Brunn.")
    assert "Step 1: By {documents}?" in text  # braces in the parts mean nothing
    assert "Doc 1: Brunn." in text
    assert text.count("bridge") == 2
    assert "**Final Information**" in text


def test_the_chat_template_is_used_where_there_is_one(byte_tokenizer: Any) -> None:
    for template, chat, message in ((None, None, False), ("{{ messages[0].content }}", None, True),
                                    ("{{ messages[0].content }}", False, False)):  # fmt: skip
        byte_tokenizer.chat_template = template
        try:
            _, student, _ = read(byte_tokenizer, "", asked("bridge"), chat=chat)
        finally:
            byte_tokenizer.chat_template = None
        assert isinstance(student.written[0].prompt, list) is message


@pytest.mark.parametrize(
    ("says", "unmarked"),
    [
        ("Brunn built it.", 1),
        ("**Final Information**\n", 1),
        ("**Final Information**\nNo helpful information found.", 0),
        ("**Final Information**\nBrunn.\n**Final Information**\nno helpful information found", 0),
    ],
)
def test_nothing_that_helps_is_a_search_without_documents(byte_tokenizer: Any, says: str, unmarked: int) -> None:
    results, _, engine = read(byte_tokenizer, says, asked("bridge"))
    assert results == [SearchResult()]
    assert engine.take_counts()["unmarked_summaries"] == unmarked


def test_stop_texts_are_no_part_of_it(byte_tokenizer: Any) -> None:
    results, _, _ = read(byte_tokenizer, "<think> Brunn</think>", asked("bridge"), marker="<think>", stop=["</think>"])
    assert results[0].documents == [Document(text="Brunn")]
    results, _, _ = read(byte_tokenizer, "Brunn", asked("bridge"), marker="")
    assert results[0].documents == [Document(text="Brunn")]


def test_who_found_nothing_has_nothing_to_read(byte_tokenizer: Any) -> None:
    """And everybody else is asked in one call, each distinct reading once."""
    queries = [asked("bridge"), asked("none"), asked("lost"), asked("bridge", "Other reasoning."), asked("bridge")]
    results, student, _ = read(byte_tokenizer, "**Final Information** Brunn.", *queries)
    assert [r.error for r in results] == [None, None, "down", None, None]
    assert [len(r.documents) for r in results] == [1, 0, 0, 1, 1]
    assert len(student.written) == 2


def test_documents_are_cut_to_the_students_context(byte_tokenizer: Any) -> None:
    """One token a byte: prompt and summary together fill the context exactly."""
    _, whole, _ = read(byte_tokenizer, "x", asked("bridge"), max_tokens=10)
    size = len(byte_tokenizer.encode(str(whole.written[0].prompt)))
    for context, cut in ((size + 10, 0), (size + 9, 1), (size - 10, 1)):
        _, student, engine = read(byte_tokenizer, "x", asked("bridge"), max_tokens=10, context=context)
        prompt = str(student.written[0].prompt)
        assert len(byte_tokenizer.encode(prompt)) == min(size, context - 10)
        assert prompt.startswith("Step 1: Who?|bridge|Doc 1")
        assert engine.take_counts()["cut_readings"] == cut
    results, student, _ = read(byte_tokenizer, "x", asked("bridge"), max_tokens=10, context=30)
    assert "no room" in str(results[0].error)
    assert student.written == []


def test_only_a_students_turn_can_be_read_for() -> None:
    engine = ReasonInDocuments(Listed())
    assert engine.asks_student
    with pytest.raises(RunError, match="no student's turn"):
        engine.search([asked("bridge")], 2)
    with engine.asking(ScriptedEngine()):
        pass
    with pytest.raises(RunError, match="no student's turn"):
        engine.search([asked("bridge")], 2)


def test_what_is_around_an_engine_is_that_engine_otherwise() -> None:
    engine = ReasonInDocuments(Listed())
    assert engine.tells_answer
    assert engine.most == 7
    assert engine.name == "read:listed"
    assert engine.settings()["of"] == {"search": "listed"}
    missing = ReasonInDocuments(BM25Search("nowhere.jsonl"))
    with pytest.raises(ConfigError) as error:
        missing.check()
    assert error.value.setting == "task.init_args.environment.init_args.search.init_args.search.init_args.corpus"


def test_a_prompt_must_show_the_documents() -> None:
    search = {"class_path": "ovd_lightning.search.bm25.BM25Search", "init_args": {"corpus": "x"}}
    assert "a text with {documents}" in refused(ReasonInDocuments, {"search": search, "prompt": "{query}"})


def test_of_long_reasoning_the_searches_and_the_ends_stay() -> None:
    lines = [f"line {i}" for i in range(12)]
    lines[3], lines[5] = "<|begin_search_query|>a<|end_search_query|>", "<|begin_search_result|>b<|end_search_result|>"
    shown = shortened("\n\n".join(lines)).split("\n\n")
    assert [s.removeprefix("Step ").partition(":")[0] for s in shown] == [
        "1", "...", "4", "...", "6", "...", "9", "10", "11", "12",
    ]  # fmt: skip
    assert shortened("a\n \nb") == "Step 1: a\n\nStep 2: b"
    assert shortened("") == ""
