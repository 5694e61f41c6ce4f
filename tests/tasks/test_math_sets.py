"""Named sets to train on: the same problems as to test on, under the training task's prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.math import MathBenchmark
from ovd_lightning.tasks.math_benchmarks import ENTRIES
from ovd_lightning.tasks.math_sets import MathSets
from tests.tasks.math_rows import common_rows, write_jsonl

NAMES = ["asdiv", "mawps"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("copies")
    for name in NAMES:
        write_jsonl(folder / f"{name}.jsonl", common_rows(ENTRIES[name]))
    return str(folder)


def test_problems_are_those_of_the_benchmarks(copies: str) -> None:
    task = MathSets(NAMES, folder=copies)
    tested = [p for name in NAMES for p in MathBenchmark(name, folder=copies).problems("test")]
    assert list(task.problems("train")) == tested
    assert len(tested) == ENTRIES["asdiv"].size + ENTRIES["mawps"].size
    assert {p.id.partition("-")[0] for p in task.ordered(0, 100, 0)} == set(NAMES)


def test_the_prompt_and_the_system_message_are_its_own(copies: str) -> None:
    task = MathSets(NAMES, folder=copies, prompt="{question} In a box: \\boxed{12}.", system="Be short.")
    problem = task.problems("train")[0]
    assert task.prompt(problem) == f"{problem.question} In a box: \\boxed{{12}}."
    assert task.system == "Be short."
    assert task.grade(f"So \\boxed{{{problem.answers[0]}}}", problem).correct


def test_problems_are_left_out_by_name(copies: str) -> None:
    assert {p.id for p in MathSets(NAMES, copies).problems("train")} - {
        p.id for p in MathSets(NAMES, copies, exclude=["mawps-3", "asdiv-0"]).problems("train")
    } == {"mawps-3", "asdiv-0"}
    with pytest.raises(ConfigError, match=r"MathSets\.exclude: names svamp-0"):
        MathSets(NAMES, copies, exclude=["svamp-0"]).problems("train")


def test_what_is_no_set_or_is_not_there_is_named(copies: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MathSets\.names: is 'asdivs', which is no test set"):
        MathSets(["asdivs"])
    with pytest.raises(ConfigError, match=r"MathSets\.names: is \['asdiv', 'asdiv'\]"):
        MathSets(["asdiv", "asdiv"])
    with pytest.raises(ConfigError, match=r"MathSets\.folder: .* has no asdiv"):
        MathSets(NAMES, str(tmp_path)).problems("train")
    with pytest.raises(ConfigError, match=r"data\.benchmarks: is null"):
        MathSets(NAMES, copies).problems("test")
