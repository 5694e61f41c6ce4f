"""Transcripts: every trajectory of every round, whole files or none."""

from __future__ import annotations

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
    method = OVD(VerbalTeacher(engine), group_size=2)
    method.consult(made, round)
    method.annotate(made, round)
    return made


def test_round_trip(groups: list[Group], tmp_path: Path) -> None:
    path = TranscriptWriter(tmp_path / "transcripts").write(3, groups)
    assert path.name == "round-000003.jsonl"
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


def test_a_line_is_the_record(groups: list[Group]) -> None:
    y = groups[0].mixture[0]
    assert json.loads(json.dumps(record(y, 0, True))) == record(y, 0, True)


def test_rounds_and_ranks_have_files_of_their_own(groups: list[Group], tmp_path: Path) -> None:
    for round in (10, 2):
        for rank in (1, 0):
            TranscriptWriter(tmp_path, rank).write(round, groups[rank : rank + 1])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-000002-rank1.jsonl", "round-000002.jsonl", "round-000010-rank1.jsonl", "round-000010.jsonl",
    ]  # fmt: skip
    lines = list(read_transcripts(tmp_path))
    assert [x["round"] for x in lines] == [2] * 6 + [10] * 6
    assert {x["group"] for x in lines} == {0, 1}


def test_a_crash_in_the_middle_leaves_no_half_file(
    groups: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TranscriptWriter(tmp_path)
    writer.write(0, groups)
    before = (tmp_path / "round-000000.jsonl").read_text()
    groups[1].mixture[-1].grade = None  # what cannot be written comes last
    for round in (0, 1):
        with pytest.raises(AssertionError):
            writer.write(round, groups)
    assert [p.name for p in tmp_path.glob("*.jsonl")] == ["round-000000.jsonl"], "no half of a file"
    assert (tmp_path / "round-000000.jsonl").read_text() == before, "and the whole one is as it was"
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
