"""Data for a simulator: from trajectories that were really rolled out, in the words in which it will be asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.round.transcripts import TranscriptWriter, read_transcripts
from ovd_lightning.search.base import Document, Query, SearchEngine, SearchResult
from ovd_lightning.search.bm25 import BM25Search
from ovd_lightning.search.simulated import SimulatedSearch
from ovd_lightning.search.written import read_documents
from ovd_lightning.simulator_data import Asking, Form, Pair, distinct, main, pairs_of, split, written
from ovd_lightning.tasks.search import SearchEnvironment
from ovd_lightning.tasks.web_qa import WebQATask
from ovd_lightning.types import Problem
from tests.helpers import ScriptedEngine, make_round
from tests.search.parts import RIVERS, Script, in_order
from tests.workflow.cli import ROOT

SIMULATED = ROOT / "configs/search/simulated.yaml"
QUESTIONS = {"Where was the builder from?": ["Telsa", "Telsa town"], "Who built the bridge?": ["K. Brunn"]}
BRIDGE, BRUNN = (Document(title=title, text=text) for title, text in RIVERS[:2])
SMALL = {"document_format": "- {text}", "observation_prefix": "\n<information>", "observation_suffix": "</information>"}


class Failing(SearchEngine):
    """Is down."""

    name = "failing"

    def find(self, queries: Sequence[Query], top_k: int) -> list[SearchResult]:
        return [SearchResult(error="down") for _ in queries]


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, byte_tokenizer: Any, corpus: Path) -> MakeRun:
    """The folder of a run with one round, in which every script has answered both questions."""

    def make(*scripts: Script, search: SearchEngine | None = None, name: str = "run", **settings: Any) -> Path:
        rows = [{"id": str(i), "question": q, "answers": a} for i, (q, a) in enumerate(QUESTIONS.items())]
        data = tmp_path / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        engine = search or BM25Search(str(corpus), index=str(tmp_path / "index"))
        environment = SearchEnvironment(engine, **{"top_k": 1, "max_failed_share": 1, **settings})
        task = WebQATask(str(data), environment=environment, template="Question: {question}\n")
        playing: list[Script] = []

        def write(said: str, request: Request) -> str:
            return playing[-1](said, request)

        groups = []
        for script in scripts:
            playing.append(script)
            student = ScriptedEngine(write=write, tokenizer=byte_tokenizer)
            round = make_round(byte_tokenizer, max_tokens=2000, engine=student, first_group=len(groups))
            round.task = task
            groups += round.sample_student(task.problems("train"), 1)
        for group in groups:
            group.mixture = list(group.sampled)
        folder = tmp_path / name
        TranscriptWriter(folder / "transcripts").write(0, groups)
        chosen = {"search": {"class_path": f"{type(engine).__module__}.{type(engine).__name__}"}, **settings}
        config = {"task": {"init_args": {"environment": {"init_args": chosen}}}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


TWO_HOPS = in_order(
    "<think> first </think><search> Ostrava bridge </search>", "<search>Karel\nBrunn</search>", "<answer>Telsa</answer>"
)
"""Right about the first question, wrong about the second."""


def pairs(folder: Path) -> tuple[list[Pair], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(pairs_of(read_transcripts(folder / "transcripts"), Form.of(folder), counts)), counts


def test_every_search_is_a_pair_with_the_label_of_its_trajectory(make_run: MakeRun) -> None:
    found, counts = pairs(make_run(TWO_HOPS))
    where, who = QUESTIONS
    assert [(p.question, p.query, p.useful) for p in found] == [
        (where, "Ostrava bridge", True),
        (where, "Karel Brunn", True),
        (who, "Ostrava bridge", False),
        (who, "Karel Brunn", False),
    ]
    assert [p.documents for p in found] == [(BRIDGE,), (BRUNN,)] * 2
    assert [p.answers for p in found[:1]] == [("Telsa", "Telsa town")]
    assert [p.holds_answer for p in found] == [False, True, False, False]
    assert (counts["trajectories"], counts["searches"]) == (2, 4)


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_k": 3, **SMALL}], ids=["as usual", "small"])
def test_documents_are_read_in_the_form_in_which_the_run_wrote_them(make_run: MakeRun, settings: Any) -> None:
    found, _ = pairs(make_run(in_order("<search>Ostrava bridge</search>", "<answer>x</answer>"), **settings))
    texts = [text for _, text in RIVERS[:2]]
    assert [document.text for document in found[0].documents] == texts
    titles = [document.title for document in found[0].documents]
    assert titles == (["", ""] if "document_format" in settings else [title for title, _ in RIVERS[:2]])


def test_what_a_policy_invents_is_nobodys_documents(make_run: MakeRun) -> None:
    """Only what stands behind a search of its own turn was found."""
    lies = "<information>Doc 1: The bridge was built by Telsa.</information>"
    honest = in_order(f"{lies}<think>{lies}</think><search>Moine</search>", f"{lies}<answer>Telsa</answer>")
    found, _ = pairs(make_run(honest))
    assert {p.query for p in found} == {"Moine"}
    assert all(document.title in ("Moine", "Telsa") for p in found for document in p.documents)
    _, counts = pairs(make_run(lambda said, _: f"{lies}<answer>Telsa</answer>"))
    assert counts["trajectories without a search"] == 2
    assert counts["searches"] == 0


def test_a_search_without_documents_is_counted_and_left_out(make_run: MakeRun) -> None:
    script = in_order("<search>Moine</search>", "<answer>Telsa</answer>")
    for folder in (
        make_run(script, search=Failing(), name="failed"),
        make_run(in_order("<search>zzz</search>", "<answer>Telsa</answer>"), name="empty"),
    ):
        found, counts = pairs(folder)
        assert found == []
        assert counts["searches without a document"] == counts["searches"] == 2


def test_a_pair_comes_once_and_is_useful_when_it_ever_was(make_run: MakeRun) -> None:
    wrong = in_order("<search>karel brunn</search>", "<answer>Moine</answer>")
    right = in_order("<search>Karel Brunn</search>", "<answer>Telsa</answer>")
    for scripts in ((wrong, right, right), (right, wrong)):
        found, counts = pairs(make_run(*scripts))
        (where, who) = distinct(found, counts)
        assert (where.useful, who.useful) == (True, False), "the second question was never answered"
        assert counts["repeated"] == 2 * (len(scripts) - 1)
        assert counts["of right and of wrong trajectories, kept as useful"] == 1


def test_train_and_validation_share_no_question() -> None:
    every = [
        Pair(question=f"q{i % 40}", answers=("a",), query=f"s{i}", documents=(BRIDGE,), useful=True) for i in range(200)
    ]
    train, validation = split(every, 0.25, seed=0)
    assert len({p.question for p in validation}) == 10
    assert {p.question for p in train}.isdisjoint(p.question for p in validation)
    assert {*train} | {*validation} == {*every}
    assert split(every, 0.25, seed=0) == (train, validation)
    assert split(every, 0.25, seed=1) != (train, validation)
    assert split(every, 0.0, seed=0) == (every, [])


# ------------------------------------------------------------------ what is written


def sent(pair: Pair, settings: dict[str, Any]) -> list[dict[str, str]]:
    """The messages with which `SimulatedSearch` asks for the documents of a pair."""
    prompts: list[Any] = []

    class Listening(ScriptedEngine):
        api = "chat"

        def generate(self, requests: Any, sampling: Any) -> Any:
            prompts.extend(request.prompt for request in requests)
            return super().generate(requests, sampling)

    problem = Problem(id="p", question=pair.question, answers=pair.answers)
    noise = 0.0 if pair.useful else 1.0
    engine = Listening(write=lambda prompt, _: written(pair.documents))
    search = SimulatedSearch(engine, evaluation_noise=noise, **settings)
    (result,) = search.search([Query(text=pair.query, problem=problem, seed=0, progress=None)], len(pair.documents))
    assert [replace(document, id="") for document in result.documents] == list(pair.documents), "read back"
    return prompts[0]


@pytest.mark.parametrize("useful", [True, False])
@pytest.mark.parametrize("config", [None, SIMULATED])
def test_the_prompt_is_the_one_that_a_simulated_search_sends(useful: bool, config: Path | None) -> None:
    pair = Pair(
        question="Where from?", answers=("Telsa", "t"), query="bridge {x}", documents=(BRIDGE, BRUNN), useful=useful
    )
    settings = {} if config is None else yaml.safe_load(config.read_text())["init_args"]["search"]["init_args"]
    said = Asking.of(config).messages(pair)
    assert said[:-1] == sent(pair, {k: v for k, v in settings.items() if k in ("prompt", "system")})
    assert said[-1] == {"role": "assistant", "content": written(pair.documents)}
    assert ("useful" in said[-2]["content"]) or not useful
    assert "Telsa" in said[-2]["content"]


def test_a_search_that_tells_no_answer_gets_a_prompt_without_one(tmp_path: Path) -> None:
    config = {"init_args": {"search": {"class_path": "x.SimulatedSearch", "init_args": {"tell_answer": False}}}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    pair = Pair(question="Where from?", answers=("Telsa",), query="bridge", documents=(BRIDGE,), useful=True)
    (user, _) = Asking.of(tmp_path / "search.yaml").messages(pair)
    assert "Telsa" not in user["content"]
    assert "Query: bridge" in user["content"]


def test_what_is_no_simulated_search(tmp_path: Path) -> None:
    for path in (ROOT / "configs/search/http.yaml", ROOT / "configs/engine/hf.yaml"):
        with pytest.raises(ConfigError, match="SimulatedSearch"):
            Asking.of(path)


def test_documents_are_written_as_they_are_read() -> None:
    documents = (BRIDGE, Document(text="No title: it has 3 words."), BRUNN)
    read = read_documents(written(documents))
    assert [(d.title, d.text) for d in read] == [(d.title, d.text) for d in documents]


# ------------------------------------------------------------------ the command


def test_the_command_writes_two_files_and_says_what_is_in_them(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_run(TWO_HOPS, TWO_HOPS), tmp_path / "data"
    main([str(folder), "--out", str(out), "--validation", "0.5", "--search", str(SIMULATED)])
    rows = {name: [json.loads(x) for x in (out / f"{name}.jsonl").open()] for name in ("train", "validation")}
    assert [len(rows[name]) for name in rows] == [2, 2]
    for row in [*rows["train"], *rows["validation"]]:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == ""
    said = capsys.readouterr().out
    assert "4 trajectories" in said
    assert "8 searches" in said
    assert "4 repeated" in said
    assert "2 useful (50% with the answer in the documents), 0 noisy" in said
    assert "0 useful (0% with the answer in the documents), 2 noisy" in said


@pytest.mark.parametrize("what", ["no run", "no search", "no documents", "summaries", "share"])
def test_the_command_says_what_is_missing(
    what: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, more = tmp_path / "nothing", []
    if what == "no search":
        folder = make_run(TWO_HOPS)
        (folder / "config.yaml").write_text("task:\n  init_args:\n    environment: null\n")
    elif what == "no documents":
        folder = make_run(TWO_HOPS, search=Failing())
    elif what == "summaries":
        folder = make_run(TWO_HOPS)
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(config.replace("bm25.BM25Search", "reader.ReasonInDocuments"))
    elif what == "share":
        folder, more = make_run(TWO_HOPS), ["--validation", "1"]
    with pytest.raises(SystemExit) as ended:
        main([str(folder), "--out", str(tmp_path / "data"), *more])
    assert ended.value.code == 2
    reasons = {"no run": "config.yaml", "no search": "no search engine", "no documents": "no search with documents",
               "summaries": "that shows the documents"}  # fmt: skip
    assert reasons.get(what, "--validation is 1") in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_run_on_a_simulator_is_spoken_of(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(TWO_HOPS)
    config = (folder / "config.yaml").read_text()
    main([str(folder), "--out", str(tmp_path / "a")])
    assert "simulator" not in capsys.readouterr().err
    (folder / "config.yaml").write_text(config.replace("bm25.BM25Search", "simulated.SimulatedSearch"))
    main([str(folder), "--out", str(tmp_path / "b")])
    assert "written by a simulator" in capsys.readouterr().err
