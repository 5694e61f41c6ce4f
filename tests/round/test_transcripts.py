"""Transcripts: every trajectory of every round, whole files or none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.round.transcripts import TranscriptWriter, read_transcripts, record
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group
from tests.helpers import ScriptedEngine, make_group, make_round


@pytest.fixture
def groups(tokenizer: Any) -> list[Group]:
    """Two groups after a real round of OVD: one trajectory of each was replaced."""
    from ovd_lightning.methods.ovd import OVD

    engine = ScriptedEngine(lambda p: {"8": 0.6, "9": 0.3}, lambda p, r: "1+1=2\n\\boxed{2}", tokenizer)
    round = make_round(tokenizer)
    made = [make_group(round, ["1+1=2\n\\boxed{2}", "\\boxed{3}"], group=g) for g in range(2)]
    method = OVD(VerbalTeacher(engine), group_size=2, judged="all")
    method.consult(made, round)
    method.annotate(made, round)
    return made


def test_round_trip(groups: list[Group], tmp_path: Path) -> None:
    path = TranscriptWriter(tmp_path / "transcripts").write(3, groups)
    assert path.name == "round-000003.jsonl.gz"
    lines = list(read_transcripts(tmp_path / "transcripts"))
    assert len(lines) == 6, "two sampled and one of the teacher's, twice"
    shown = [(x["group"], x["sample"], x["source"], x["in_mixture"], x["reward"], x["advantage"]) for x in lines]
    assert shown == [
        (g, *rest)
        for g in range(2)
        for rest in [(1, "student", False, 0.0, None), (0, "student", True, 1.0, 1.0), (1, "teacher", True, 1.0, 1.0)]
    ]
    replaced, kept, taught = lines[:3]
    assert kept["text"] == taught["text"] == "1+1=2\n\\boxed{2}"
    assert (kept["correct"], kept["answer"], kept["answers"], kept["question"]) == (True, "2", ["2"], "1+1+0=?")
    assert (replaced["correct"], replaced["answer"], replaced["accepted"]) == (False, "3", True)
    assert [step["text"] for step in kept["steps"]] == ["1+1=2", "\\boxed{2}"]
    assert kept["steps"][0]["distribution"] == [0, 0, 0, 0, 0, 0, 0, 0, 0.66667, 0.33333]
    assert kept["score"] in (8.0, 9.0)
    assert (kept["tokens"], kept["student_tokens"], kept["policy_version"]) == (16, 16, 0)
    assert (taught["student_tokens"], taught["policy_version"], taught["score"]) == (0, -1, None)
    assert all(x["round"] == 3 for x in lines)


def test_every_text_stands_once(groups: list[Group], tmp_path: Path) -> None:
    """The parts of a text are spans of it, and a group's question is in its first line; the reader puts both back."""
    groups[0].mixture[0].text = "1+1=2\n\\boxed{½}"
    steps = groups[0].mixture[0].steps
    steps[0].text, steps[1].text = "1+1=2", "\ufffd}"  # as if the step began in the middle of a character
    path = TranscriptWriter(tmp_path).write(0, groups)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    assert [line["question"] for line in lines] == ["1+1+0=?", None, None] * 2
    assert lines[1]["steps"][0] | {"score": 0, "distribution": 0} == {
        "characters": [0, 5], "start": 0, "end": 6, "score": 0, "distribution": 0,
    }  # fmt: skip
    assert (lines[1]["steps"][1]["characters"], lines[1]["steps"][1]["text"]) == (None, "\ufffd}")
    read = list(read_transcripts(tmp_path))
    written = [y for g in groups for y in [g.sampled[1], *g.mixture]]
    assert [[step["text"] for step in y["steps"]] for y in read] == [[s.text for s in y.steps] for y in written]
    assert [y["question"] for y in read] == ["1+1+0=?"] * 6
    assert [y["answers"] for y in read] == [["2"]] * 6
    assert "characters" not in read[0]["steps"][0]


def test_pandas_and_datasets_read_the_files(groups: list[Group], tmp_path: Path) -> None:
    import datasets
    import pandas

    paths = [TranscriptWriter(tmp_path / "transcripts").write(n, groups) for n in range(2)]
    texts = [y["text"] for y in read_transcripts(tmp_path / "transcripts")]
    frame = pandas.concat(pandas.read_json(path, lines=True) for path in paths)
    assert list(frame["text"]) == texts
    assert set(frame["question"].ffill()) == {"1+1+0=?"}
    rows = datasets.load_dataset("json", data_files=list(map(str, paths)), split="train", cache_dir=str(tmp_path))
    assert list(rows["text"]) == texts


def test_the_same_round_has_the_same_bytes(groups: list[Group], tmp_path: Path, monkeypatch: Any) -> None:
    first = TranscriptWriter(tmp_path / "a").write(0, groups).read_bytes()
    monkeypatch.setattr("time.time", lambda: 10.0)
    assert TranscriptWriter(tmp_path / "b").write(0, groups).read_bytes() == first


def test_a_line_is_the_record(groups: list[Group]) -> None:
    y = groups[0].mixture[0]
    assert json.loads(json.dumps(record(y, 0, True))) == record(y, 0, True)


def test_rounds_and_ranks_have_files_of_their_own(groups: list[Group], tmp_path: Path) -> None:
    for round in (10, 2):
        for rank in (1, 0):
            TranscriptWriter(tmp_path, rank).write(round, groups[rank : rank + 1])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-000002-rank1.jsonl.gz", "round-000002.jsonl.gz", "round-000010-rank1.jsonl.gz", "round-000010.jsonl.gz",
    ]  # fmt: skip
    lines = list(read_transcripts(tmp_path))
    assert [x["round"] for x in lines] == [2] * 6 + [10] * 6
    assert {x["group"] for x in lines} == {0, 1}


def test_a_crash_in_the_middle_leaves_no_half_file(
    groups: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TranscriptWriter(tmp_path)
    writer.write(0, groups)
    before = (tmp_path / "round-000000.jsonl.gz").read_bytes()
    groups[1].mixture[-1].grade = None  # what cannot be written comes last
    for round in (0, 1):
        with pytest.raises(AssertionError):
            writer.write(round, groups)
    assert [p.name for p in tmp_path.iterdir()] == ["round-000000.jsonl.gz"], "no half of a file"
    assert (tmp_path / "round-000000.jsonl.gz").read_bytes() == before, "and the complete one is as it was"
    assert len(list(read_transcripts(tmp_path))) == 6


def test_a_repeated_round_replaces_its_file(groups: list[Group], tmp_path: Path) -> None:
    writer = TranscriptWriter(tmp_path)
    writer.write(0, groups)
    writer.write(0, groups[:1])
    assert len(list(read_transcripts(tmp_path))) == 3


def test_any_text_survives(groups: list[Group], tmp_path: Path) -> None:
    groups[0].mixture[0].text = 'ä "quoted"\n\\boxed{½}\u2028 𝛑'
    TranscriptWriter(tmp_path).write(0, groups)
    assert any(x["text"] == groups[0].mixture[0].text for x in read_transcripts(tmp_path))
