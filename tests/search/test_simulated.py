"""A language model as search engine: what it is told, when it is noisy, how it is read, and when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.search.base import Document, SearchResult
from ovd_lightning.search.simulated import SimulatedSearch
from ovd_lightning.search.written import read_documents
from ovd_lightning.tasks.search import SearchEnvironment
from tests.helpers import ScriptedEngine, save_tiny_model
from tests.limits import patient
from tests.search.parts import Server, in_order, problem, query, refused, roll, send

Serve = Callable[..., Server]


def written(text: str) -> ScriptedEngine:
    return ScriptedEngine(write=lambda prompt, request: text)


def told(engine: ScriptedEngine) -> list[str]:
    """The prompts that came in."""
    return [r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"] for r in engine.written]  # type: ignore[index,call-overload,misc]


def simulated(engine: Any, **settings: Any) -> SimulatedSearch:
    return SimulatedSearch(engine, **{"chat": False, **settings})


def test_documents_are_written_for_the_query() -> None:
    engine = written("Doc 1: Karel Brunn built it.\nDoc 2: It stands in Ostrava.\nDoc 3: Extra.")
    (result,) = simulated(engine).search([query("who built the bridge")], 2)
    assert result == SearchResult(
        documents=[Document(id="1", text="Karel Brunn built it."), Document(id="2", text="It stands in Ostrava.")]
    )
    (prompt,) = told(engine)
    for part in ("who built the bridge", problem().question, "Telsa", "the 2 documents", "useful"):
        assert part in prompt
    assert "noisy:" not in prompt


def test_the_answer_is_told_unless_it_is_kept_from_it() -> None:
    engine = written("Doc 1: x.")
    told_it, untold = simulated(engine), simulated(engine, tell_answer=False)
    assert (told_it.tells_answer, untold.tells_answer) == (True, False)
    untold.search([query("who built the bridge")], 3)
    assert "Telsa" not in told(engine)[0]
    own = simulated(engine, prompt="{Kind}: {query} -> ")
    assert not own.tells_answer
    own.search([query("who", of=problem())], 3)
    assert told(engine)[1] == "Useful: who -> "
    assert simulated(engine, prompt="{query} {answer}").tells_answer
    with pytest.raises(ConfigError, match="tell_answer"):
        simulated(engine, prompt="{query} {answer}", tell_answer=False)


def test_a_question_may_hold_anything() -> None:
    from ovd_lightning.types import Problem

    engine = written("Doc 1: x.")
    odd = Problem(id="o", question="What is {query} in {0}?", answers=())
    assert simulated(engine).search([query("{answer} %s", of=odd)], 3)[0].error is None
    assert "What is {query} in {0}?" in told(engine)[0]


# ----------------------------------------------------------------------- noise


def test_noise_rises_as_zerosearch_has_it() -> None:
    """start + (4^progress - 1) / 3 * (end - start)."""
    search = simulated(written(""))
    assert [search.noise(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5 / 3, 0.5])
    other = simulated(written(""), noise_start=0.25, noise_end=0.75, evaluation_noise=0.1)
    assert [other.noise(p) for p in (0.0, 0.5, 1.0, None)] == pytest.approx([0.25, 0.25 + 0.5 / 3, 0.75, 0.1])


def test_noise_is_drawn_from_a_querys_seed_alone() -> None:
    search = simulated(written(""), noise_end=1.0)

    def share(progress: float | None) -> float:
        return sum(search.is_noisy(query("q", seed=seed, progress=progress)) for seed in range(2000)) / 2000

    assert share(0.0) == share(None) == 0.0
    assert share(0.5) == pytest.approx(1 / 3, abs=0.04)
    assert share(0.99) > 0.95
    drawn = [search.is_noisy(query(str(seed), seed=seed, progress=0.5)) for seed in range(50)]
    assert drawn == [search.is_noisy(query("another text", seed=seed, progress=0.5)) for seed in range(50)]


def test_noisy_documents_are_asked_for_and_counted() -> None:
    engine = written("Doc 1: x.\nDoc 2: y.")
    search = simulated(engine, noise_start=1.0, noise_end=1.0)
    search.search([query("a", seed=1, progress=0.0), query("b", seed=2, progress=0.9), query("c", seed=3)], 5)
    kinds = ["noisy" if "Noisy documents:" in prompt else "useful" for prompt in told(engine)]
    assert kinds == ["noisy", "noisy", "useful"]
    assert search.take_counts()["noisy_documents"] == 4


def test_each_trajectory_gets_documents_of_its_own_and_the_same_again() -> None:
    def write(prompt: str, request: Request) -> str:
        return f"Doc 1: {request.seed}."

    def found(seeds: Sequence[int]) -> list[str]:
        search = simulated(ScriptedEngine(write=write))
        return [r.documents[0].text for r in search.search([query("q", seed=seed) for seed in seeds], 3)]

    assert len(set(found([1, 2, 3]))) == 3
    assert found([1, 2, 3]) == found([3, 2, 1])[::-1]
    assert found([7, 7])[0] == found([7, 7])[1]


def test_documents_are_kept_where_a_cache_is_named(tmp_path: Path) -> None:
    cache = str(tmp_path / "c.sqlite")
    first = simulated(written("Doc 1: x."), cache=cache, noise_start=1, noise_end=1).search([query("q", 1, 0.0)], 3)
    silent = written("nothing")
    search = simulated(silent, cache=cache, noise_start=1, noise_end=1)
    assert search.search([query("q", 1, 0.0)], 3) == first
    assert silent.written == []
    counts = search.take_counts()
    assert (counts["cache_hits"], counts["noisy_documents"]) == (1, 1)
    for other in (query("q", 2, 0.0), query("q", 1)):  # another seed; not noisy
        assert search.search([other], 3)[0].error


# --------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("Doc 1: One.\nDoc 2: Two.", ["One.", "Two."]),
        ("\n\n  doc 1 - One.\n\n\ndoc 2) Two\ngoes on.", ["One.", "Two goes on."]),
        ("**Document 1:** One.\n**Document 2:** Two.", ["One.", "Two."]),
        ("- Doc 1: One.\n- Doc 2: Two.", ["One.", "Two."]),
        ("[Doc 1] One.\n[Doc 2] Two.", ["One.", "Two."]),
        ("## Document #1\nOne.\n\n## Document #2\nTwo.", ["One.", "Two."]),
        ("Sure, here they are:\nDoc 1: One.\nDoc 2: Two.", ["One.", "Two."]),
        ("<think>Doc 1: no</think>\nDoc 1: One.\nDoc 2: Two.", ["One.", "Two."]),
        ("Doc 1: One. Doc 2: Two.", ["One.", "Two."]),
        ("Doc 1: One.\nDoc 2:", ["One."]),
        ("Doc 1: One, as Doc A says.\nDoc 2: Two (see doctor 3).", ["One, as Doc A says.", "Two (see doctor 3)."]),
        ("Doc 3: Later.\nDoc 7: Last.", ["Later.", "Last."]),
        ("", []),
        ("I cannot do that.", []),
        ("Doc 1:\nDoc 2:", []),
        ("Documents about bridges", []),
    ],
)
def test_documents_in_what_a_model_wrote(text: str, documents: list[str]) -> None:
    assert [document.text for document in read_documents(text)] == documents


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("1. One.\n2. Two.\n3. Three.", ["One.", "Two.", "Three."]),
        ("1) One.\n2) Two.", ["One.", "Two."]),
        ("(1) One.\n(2) Two.", ["One.", "Two."]),
        ("[1] One.\n[2] Two.", ["One.", "Two."]),
        ("[1]One.\n[2]Two.", ["One.", "Two."]),
        ("**1.** One.\n**2.** Two.", ["One.", "Two."]),
        ("**1. One.**\n\n**2. Two.**", ["One.", "Two."]),
        ("1: One.\n2: Two.", ["One.", "Two."]),
        ("1 - One.\n2 - Two.", ["One.", "Two."]),
        ("1、一。\n2、二。", ["一。", "二。"]),
        ("1．一。\n2．二。", ["一。", "二。"]),
        ("1. One.", ["One."]),
        ("1. One. 2. Two. 3. Three.", ["One.", "Two.", "Three."]),
        ("Here are 2 documents:\n\n1. One in\n1913. It is.\n2. Two.", ["One in 1913. It is.", "Two."]),
        ("1. One.\n\n2. Two.\n  - a\n  - b", ["One.", "Two. - a - b"]),
        ("文档1：一。\n文档2：二。", ["一。", "二。"]),
        ("文档 1: 一。\n文档 2: 二。", ["一。", "二。"]),
        ("**文档1：** 一。\n**文档2：** 二。", ["一。", "二。"]),
        ("【文档1】一。\n【文档2】二。", ["一。", "二。"]),
        ("文档一：一。\n文档二：二。", ["一。", "二。"]),
        ("第1篇文档：一。\n第2篇文档：二。", ["一。", "二。"]),
        ("搜索结果1：一。\n搜索结果2：二。", ["一。", "二。"]),
        ("結果１：一。\n結果２：二。", ["一。", "二。"]),
        ("文書1: 一。\n文書2: 二。", ["一。", "二。"]),
        ("문서 1: 하나.\n문서 2: 둘.", ["하나.", "둘."]),
        ("Документ 1: Один.\nДокумент 2: Два.", ["Один.", "Два."]),
        ("Result 1: One.\nResult 2: Two.", ["One.", "Two."]),
        ("Search Result 1:\nOne.\n\nSearch Result 2:\nTwo.", ["One.", "Two."]),
        ("### Passage 1\nOne.\n### Passage 2\nTwo.", ["One.", "Two."]),
        ("Source [1]: One.", ["One."]),
        ("Document 1 : Un.\nDocument 2 : Deux.", ["Un.", "Deux."]),
        ("Dokument 1: Eins.\nDokument 2: Zwei.", ["Eins.", "Zwei."]),
        ("Documento 1: Uno.\nDocumento 2: Dos.", ["Uno.", "Dos."]),
        ("Doc 1：One.\nDoc 2：Two.", ["One.", "Two."]),
        ("- One.\n- Two.", ["One.", "Two."]),
        ("* One.\n* Two.", ["One.", "Two."]),
        ("- One.", []),
        ("<doc>One.</doc>\n<doc>Two.</doc>", ["One.", "Two."]),
        ('<document id="1"><title>T</title>One.</document>', ["One."]),
        ("<doc1>One.</doc1><doc2>Two.</doc2>", ["One.", "Two."]),
        ('[{"title": "T", "text": "One."}, {"title": "U", "text": "Two."}]', ["One.", "Two."]),
        ('```json\n{"documents": [{"content": "One."}, "Two."]}\n```', ["One.", "Two."]),
        ('{"doc1": "One.", "doc2": "Two."}', ["One.", "Two."]),
        ("Page 3 of the report says so.", []),
        ("It was built in 1913.", []),
        ("I cannot do that.", []),
        ("", []),
        ("<think>1. no</think>1. One.\n2. Two.", ["One.", "Two."]),
        ("<think>1. no\n2. no", []),
        ("Doc 1: One:\n1. a\n2. b\nDoc 2: Two.", ["One: 1. a 2. b", "Two."]),
    ],
)
def test_other_labels_lists_and_languages(text: str, documents: list[str]) -> None:
    assert [document.text for document in read_documents(text)] == documents


def test_ids_and_titles_of_other_forms() -> None:
    assert [d.id for d in read_documents("文档一：x\n文档二：y")] == ["1", "2"]
    assert [d.id for d in read_documents("- x\n- y")] == ["1", "2"]
    (named,) = read_documents('<document id="7"><title>T</title>One.</document>')
    assert (named.id, named.title, named.text) == ("7", "T", "One.")
    assert [d.title for d in read_documents('[{"title": "T", "snippet": "One."}]')] == ["T"]


def test_titles_in_what_a_model_wrote() -> None:
    read = read_documents('Doc 1(Title: "Moine") A river.\nDoc 2 (title: Telsa): A town.')
    assert [(d.title, d.text) for d in read] == [("Moine", "A river."), ("Telsa", "A town.")]


def test_what_cannot_be_read_is_a_failed_search_and_counted() -> None:
    answers = iter(["Doc 1: fine.", "no idea", None])
    search = simulated(ScriptedEngine(write=lambda prompt, request: next(answers)))
    results = search.search([query("a"), query("b"), query("c")], 3)
    assert [result.error is None for result in results] == [True, False, False]
    assert "no idea" in (results[1].error or "")
    assert search.take_counts()["unreadable"] == 1


def test_a_prompt_that_is_too_long_fails_alone(byte_tokenizer: Any) -> None:
    engine = ScriptedEngine(write=lambda prompt, request: "Doc 1: x.", tokenizer=byte_tokenizer, context=2000)
    results = simulated(engine).search([query("short"), query("long " * 400)], 3)
    assert results[0].error is None
    assert "leaves no room in the simulator's context of 2000" in (results[1].error or "")
    assert len(engine.written) == 1


# ------------------------------------------------------------- engines of all kinds


def writes(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """An OpenAI-compatible endpoint that writes two documents on what it was asked."""
    asked = body["messages"][-1]["content"].rpartition("Query: ")[2].split("\n")[0]
    message = {"role": "assistant", "content": f"Doc 1: {asked} one.\nDoc 2: {asked} two."}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
    send(handler, 200, {"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices, "usage": usage})


def endpoint(server: Server, **settings: Any) -> OpenAIEngine:
    quick: dict[str, Any] = {"api": "chat", "timeout_s": 5, "max_retries": 1, "backoff_s": 0.01, "patience_s": 0.0}
    return OpenAIEngine(f"{server.url}/v1", "m", vllm_extensions=False, **{**quick, "max_failures": 3, **settings})


def test_an_endpoint_simulates(serve: Serve, byte_tokenizer: Any) -> None:
    server = serve(writes)
    search = SimulatedSearch(endpoint(server), system="")
    environment = SearchEnvironment(search, top_k=5)
    environment.check()
    (y,) = roll(byte_tokenizer, environment, in_order("<search>the bridge</search>", "<answer>Telsa</answer>"))
    assert "<information>Doc 1: the bridge one.\nDoc 2: the bridge two.</information>" in y.text
    (body,) = server.bodies
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == ""
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.8, 600, ["\nDoc 6"])
    counts = environment.take_counts()
    assert (counts["simulator_prompt_tokens"], counts["simulator_completion_tokens"]) == (30, 20)


def test_an_endpoint_that_dies_fails_searches_and_not_the_run(serve: Serve, byte_tokenizer: Any) -> None:
    server = serve(writes)
    environment = SearchEnvironment(SimulatedSearch(endpoint(server)), max_turns=3, max_failed_share=1)

    def write(said: str, request: Request) -> str:
        if said.count("</information>") == 1:
            server.close()
        done = said.count("</information>") == 3
        return "<answer>Telsa</answer>" if done else f"<search>bridge {request.seed}</search>"

    begun = time.monotonic()
    trajectories = roll(byte_tokenizer, environment, write, n=6)
    assert time.monotonic() - begun < patient(10)
    assert all(e.text.endswith("<answer>Telsa</answer>") and e.failed == 2 for e in trajectories)
    counts = environment.take_counts()
    assert (counts["searches"], counts["failed_searches"]) == (18, 12)


def test_other_errors_of_an_engine_are_not_hidden() -> None:
    def out_of_memory(prompt: str, request: Request) -> str:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        simulated(ScriptedEngine(write=out_of_memory)).search([query("q")], 3)


def test_a_local_model_that_writes_nonsense(tmp_path: Path, byte_tokenizer: Any) -> None:
    """A random model, through transformers: every search fails, every trajectory goes on."""
    model = save_tiny_model(tmp_path / "model", tied=True, context=2048)
    environment = SearchEnvironment(
        SimulatedSearch(HFEngine(model), chat=False, max_tokens=20), max_turns=2, max_failed_share=1
    )
    environment.check()
    environment.start()
    turns = in_order("<search>bridge</search>", "<search>river</search>", "<answer>Telsa</answer>")
    trajectories = roll(byte_tokenizer, environment, turns, n=2)
    assert all(e.failed == 2 and e.text.endswith("<answer>Telsa</answer>") for e in trajectories)
    counts = environment.take_counts()
    assert counts["unreadable"] == 4
    assert counts["simulator_completion_tokens"] > 0


def test_the_engines_life_is_the_environments() -> None:
    engine = written("Doc 1: x.")
    environment = SearchEnvironment(simulated(engine))
    environment.check()
    with environment.awake():
        assert engine.awakenings == 1
    environment.close()
    assert (engine.checks, engine.closed) == (1, True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"prompt": "{query} {answer}", "tell_answer": False}, "tell_answer"),
        ({"system": "s"}, "system"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"search.init_args.{named}\b"):
        simulated(written(""), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "no place for it"},
        {"prompt": "{query} {title}"},
        {"prompt": "{query} {"},
        {"noise_start": -0.1},
        {"noise_end": 1.1},
        {"evaluation_noise": 2},
        {"temperature": -1},
        {"max_tokens": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    engine = {"class_path": "ovd_lightning.engines.hf.HFEngine", "init_args": {"model": "m"}}
    (named,) = settings
    assert f'"given.{named}"' in refused(SimulatedSearch, {"engine": engine, **settings})


def test_messages_need_a_template(byte_tokenizer: Any, serve: Serve) -> None:
    for engine in (ScriptedEngine(tokenizer=byte_tokenizer), endpoint(serve(writes), api="completions")):
        with pytest.raises(ConfigError, match=r"search.init_args.chat"):
            SimulatedSearch(engine).check()
        SimulatedSearch(engine, chat=False).check()
    SimulatedSearch(endpoint(serve(writes))).check()
