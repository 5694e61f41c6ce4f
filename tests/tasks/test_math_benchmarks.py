"""The named test sets: what their rows mean, how many there are, how they are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError
from ovd_lightning.loader import ProblemLoader
from ovd_lightning.tasks.math import INSTRUCTION, MathBenchmark, MathSuite, MathTask
from ovd_lightning.tasks.math_benchmarks import ENTRIES, TABLE_4, Entry, to_problem
from ovd_lightning.tasks.math_demonstrations import Demonstration
from ovd_lightning.types import Problem
from tests.tasks.math_rows import EXAMPLES, GAOKAO_QUESTION, common_rows, reference_rows, write_jsonl, write_parquet

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
WITH_EXAMPLES = [name for name, entry in ENTRIES.items() if entry.demonstrations]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with every set in the common shape."""
    folder = tmp_path_factory.mktemp("copies")
    for entry in ENTRIES.values():
        write_jsonl(folder / f"{entry.file}.jsonl", common_rows(entry))
    return str(folder)


# --------------------------------------------------------------------- what a row means


@pytest.mark.parametrize("name", ENTRIES)
def test_a_row_of_the_reference_evaluation_means(name: str) -> None:
    example = EXAMPLES[name]
    problem = to_problem(ENTRIES[name], example.row, 5)
    assert (problem.question, problem.answers) == (example.question, example.answers)
    assert tuple(problem.meta.get("choices", ())) == example.choices
    assert problem.id == ("aime24-60" if name == "aime24" else f"{ENTRIES[name].file}-5")
    assert None not in problem.meta.values()
    assert problem.meta["benchmark"] == name


def test_what_grading_may_need_is_kept() -> None:
    olympiad = {**EXAMPLES["olympiadbench"].row, "unit": "km", "error": "1e-1"}
    meta = to_problem(ENTRIES["olympiadbench"], olympiad, 0).meta
    assert (meta["unit"], meta["error"], meta["answer_type"]) == ("km", "1e-1", "Tuple")
    assert to_problem(ENTRIES["tabmwp"], EXAMPLES["tabmwp"].row, 0).meta["ans_type"] == "decimal_number"
    kept = [name for name in ENTRIES if "keep_units" in to_problem(ENTRIES[name], EXAMPLES[name].row, 0).meta]
    assert kept == ["minerva_math"]


@pytest.mark.parametrize(
    ("raw", "kind", "golds"),
    [
        ("4,656", "integer_number", ("4656",)),
        ("3.30", "decimal_number", ("3.3",)),
        ("45%", "decimal_number", ("0.45", "45%")),
        ("-7", "integer_number", ("-7",)),
        ("yes", "boolean_text", ("yes",)),
        ("Jan 3", "extractive_text", ("Jan 3",)),
    ],
)
def test_numbers_of_a_table_are_plain_decimals(raw: str, kind: str, golds: tuple[str, ...]) -> None:
    row = {**EXAMPLES["tabmwp"].row, "answer": raw, "ans_type": kind}
    assert to_problem(ENTRIES["tabmwp"], row, 0).answers == golds


def test_options_of_a_table_question_stand_in_its_text() -> None:
    row = {**EXAMPLES["tabmwp"].row, "choices": ["yes", "no"], "answer": "no", "ans_type": "boolean_text"}
    problem = to_problem(ENTRIES["tabmwp"], {**row, "table_title": None}, 0)
    assert problem.question.startswith("Read the following table and answer a question:\nColour | Number\n")
    assert problem.question.endswith("Please select from the following options: ['yes', 'no'] (Yes or No)")
    assert problem.answers == ("no",)
    assert problem.meta["choices"] == ["yes", "no"]


def test_a_table_keeps_its_empty_corner() -> None:
    row = {**EXAMPLES["tabmwp"].row, "table": " | Red | Blue\nBig | 3 | 4"}
    assert "answer a question:\n | Red | Blue\nBig" in to_problem(ENTRIES["tabmwp"], row, 0).question


def test_options_may_be_marked_by_points() -> None:
    row = {**EXAMPLES["sat_math"].row, "options": "A. one B. two C. a B) D. four"}
    assert to_problem(ENTRIES["sat_math"], row, 0).meta["choices"] == ["one", "two", "a B)", "four"]


@pytest.mark.parametrize(
    ("gold", "suffix"),
    [("Yes", " (Yes or No)"), ("no", " (Yes or No)"), ("True", " (True or False)"), ("false", " (True or False)")],
)
def test_a_yes_or_no_is_asked_for(gold: str, suffix: str) -> None:
    entry = ENTRIES["asdiv"]
    problem = to_problem(entry, {"id": "a", "question": "Is it?", "answers": [gold]}, 0)
    assert problem.question == f"Is it?{suffix}"
    again = to_problem(entry, {"id": "a", "question": problem.question, "answers": [gold]}, 0)
    assert again.question == problem.question, "and not twice"
    assert to_problem(entry, {"id": "a", "question": "Is it?", "answers": ["Nora"]}, 0).question == "Is it?"


def test_two_golds_that_are_glued_to_their_questions_are_put_back() -> None:
    entry = ENTRIES["gaokao2023en"]
    question = "Compute the probability that this grid has at least one saddle point."
    problem = to_problem(entry, {"question": question + "####\\frac{3}{10}", "answer": ""}, 167)
    assert (problem.question, problem.answers) == (question, ("\\frac{3}{10}",))
    assert problem.meta["repaired"] is True
    other = to_problem(entry, {"question": question, "answer": ""}, 3)
    assert other.answers == ("",), "elsewhere a missing gold is not made up"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("svamp", {"Body": ...}, "has no field 'Body'; it has ID, Question"),
        ("sat_math", {"options": "A) 1 B) 2 C) 3"}, r"no options A\) to D\)"),
        ("mmlu_stem", {"answer": 4}, "4 in 'answer'"),
        ("mmlu_stem", {"answer": "C"}, "'C' in 'answer'"),
        ("minerva_math", {"solution": "no box"}, "no boxed answer"),
        ("gsm8k", {"answer": "12"}, "'####'"),
        ("gaokao", {"question": ...}, "none of the fields question, problem"),
        ("tabmwp", {"answer": "three/four"}, "'three/four' in 'answer'"),
        ("olympiadbench", {"final_answer": []}, "empty answer"),
        ("asdiv", {"answer": "(apples)"}, "empty answer"),
    ],
)
def test_a_row_that_is_not_of_the_set_stops_the_run(
    tmp_path: Path, name: str, change: dict[str, Any], says: str
) -> None:
    rows = reference_rows(name)
    rows[3] = {key: value for key, value in {**rows[3], **change}.items() if value is not ...}
    if ... in change.values():
        rows = [{key: value for key, value in row.items() if key not in change} for row in rows]
    write_jsonl(tmp_path / ENTRIES[name].file / "test.jsonl", rows)
    with pytest.raises(ConfigError, match=says) as raised:
        MathBenchmark(name, folder=str(tmp_path)).problems("test")
    assert raised.value.setting == "MathBenchmark.folder"


# --------------------------------------------------------------------- where rows come from


@pytest.mark.parametrize("name", ENTRIES)
def test_every_set_loads_from_a_folder(copies: str, name: str) -> None:
    task = MathBenchmark(name, folder=copies)
    entry, problems = ENTRIES[name], task.problems("test")
    assert [p.id for p in problems] == [f"{entry.file}-{i}" for i in range(entry.size)]
    assert list(task.problems("validation")) == list(problems)
    shown = "\nAnswer Choices: (A) 3 (B) 4 (C) 5 (D) none" if entry.show_choices else ""
    assert problems[3].question == f"What is 3 + 1?{shown}"
    assert problems[3].answers == (("B",) if entry.show_choices else ("4",))
    assert problems[3].meta["index"] == 3


def test_every_set_loads_from_the_hub_in_its_own_fields(tmp_path: Path) -> None:
    """From a hub on this machine, all of them, in the file and format that their entries name."""
    for name, entry in ENTRIES.items():
        folder = tmp_path / "hub" / entry.source.data
        if entry.source.file:
            write_jsonl(folder / entry.source.file, reference_rows(name))
        else:
            assert (entry.source.config, entry.source.split) == ("main", "test")
            write_parquet(folder / "main" / "test-00000-of-00001.parquet", reference_rows(name))
            readme = "configs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n"
            (folder / "README.md").write_text(f"---\n{readme}---\n")
    program = (
        "import json, sys\n"
        "from ovd_lightning.tasks.math import MathBenchmark\n"
        "for name in sys.argv[1:]:\n"
        "    problems = MathBenchmark(name).problems('test')\n"
        "    print(json.dumps([name, len(problems), problems[0].question, problems[0].answers]))\n"
    )
    command = [sys.executable, "-m", "tests.hub", str(tmp_path / "hub"), sys.executable, "-c", program, *ENTRIES]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [[name, e.size, EXAMPLES[name].question, list(EXAMPLES[name].answers)] for name, e in ENTRIES.items()]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


@pytest.mark.parametrize("name", ["aime24", "sat_math"])
def test_a_copy_of_the_reference_evaluations_files_will_do(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / name / "test.jsonl", reference_rows(name))
    problems = MathBenchmark(name, folder=str(tmp_path)).problems("test")
    assert problems[0].question == EXAMPLES[name].question
    assert len(problems) == ENTRIES[name].size


def test_a_copy_may_be_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "aime24.parquet", common_rows(ENTRIES["aime24"]))
    assert len(MathBenchmark("aime24", folder=str(tmp_path)).problems("test")) == 30


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_set_of_another_size_is_noticed(tmp_path: Path, name: str, change: int) -> None:
    entry = ENTRIES[name]
    write_jsonl(tmp_path / f"{entry.file}.jsonl", common_rows(entry, entry.size + change))
    with pytest.raises(ConfigError, match=f"has {entry.size + change} rows, not {entry.size}"):
        MathBenchmark(name, folder=str(tmp_path)).problems("test")


def test_a_folder_without_the_set_says_what_it_looked_for(tmp_path: Path) -> None:
    task = MathBenchmark("gaokao", folder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no gaokao.*gaokao2024_I\.jsonl, .*, gaokao2024_I/test\.jsonl"):
        task.problems("test")
    with pytest.raises(ConfigError, match="is not a folder"):
        MathBenchmark("gaokao", folder=str(tmp_path / "nowhere")).problems("test")


def test_wrong_settings_are_named(copies: str) -> None:
    with pytest.raises(ConfigError, match=r"'aime2024', which is no test set\. There are svamp, asdiv"):
        MathBenchmark("aime2024")
    with pytest.raises(ConfigError, match="a test set"):
        MathBenchmark("svamp", folder=copies).problems("train")
    for name, shots in (("svamp", 1), ("sat_math", 6)):
        with pytest.raises(ConfigError, match=f"is {shots}; {name} has"):
            MathBenchmark(name, shots=shots)


@pytest.mark.parametrize("world_size", [1, 2, 4, 7])
def test_thirty_problems_on_any_number_of_ranks(copies: str, world_size: int) -> None:
    data = OVDDataModule(task=MathTask("unused.jsonl"), benchmarks=MathSuite(names=["aime24", "gaokao"], folder=copies))
    problems = data.eval_problems("test")["aime24"]
    loaders = [ProblemLoader("aime24", problems, 4, rank, world_size) for rank in range(world_size)]
    answered = [p.id for loader in loaders for batch in loader for p in batch.problems]
    assert len(answered) == 30
    assert set(answered) == {f"aime24-{i}" for i in range(30)}


# --------------------------------------------------------------------- prompts


def problem(question: str, *answers: str) -> Problem:
    return Problem(id="x", question=question, answers=answers)


def test_a_question_alone_is_the_user_message() -> None:
    task = MathBenchmark("svamp")
    assert task.prompt(problem("How many?", "5")) == "How many?"
    assert task.system == "Please reason step by step, and put your final answer within \\boxed{}."


def test_worked_examples_stand_in_the_same_user_message() -> None:
    task = MathBenchmark("sat_math", shots=2)
    assert task.prompt(problem("Which?\nAnswer Choices: (A) 1 (B) 2 (C) 3 (D) 4", "B")) == (
        "A phone plan costs $\\$18$ a month plus $\\$0.05$ for each text message. One month's bill was $\\$23.40$. How "
        "many text messages were sent that month?\n"
        "Answer Choices: (A) $54$ (B) $108$ (C) $118$ (D) $468$\n"
        "The messages cost $23.40 - 18 = 5.40$ dollars.\n"
        "At $0.05$ dollars each, there were $\\frac{5.40}{0.05} = 108$ of them.\n"
        "The answer is $\\boxed{B}$.\n"
        "\n"
        "If $3a - 2b = 11$ and $a + 2b = 13$, what is the value of $b$?\n"
        "Answer Choices: (A) $\\frac{5}{2}$ (B) $3$ (C) $\\frac{7}{2}$ (D) $6$\n"
        "Adding the two equations gives $4a = 24$, so $a = 6$.\n"
        "The second one then says $2b = 13 - 6 = 7$, so $b = \\frac{7}{2}$.\n"
        "The answer is $\\boxed{C}$.\n"
        "\n"
        "Which?\n"
        "Answer Choices: (A) 1 (B) 2 (C) 3 (D) 4"
    )
    assert task.prompt(problem("Which?", "B")).count("\n\n") == 2
    assert MathBenchmark("sat_math").prompt(problem("Which?", "B")).count("\n\n") == 5
    assert MathBenchmark("mmlu_stem", shots=0).prompt(problem("Which?", "B")) == "Which?"


def test_examples_of_the_gaokao_stand_before_single_choice_questions_only() -> None:
    task = MathBenchmark("gaokao")
    assert task.prompt(problem(GAOKAO_QUESTION, "D")).count("故选") == 5
    for gold in ("ACD", "3/2", "BC"):
        assert task.prompt(problem("求值", gold)) == "求值"


def test_a_model_without_a_chat_template_reads_the_instruction_in_the_text() -> None:
    task = MathBenchmark("svamp", style="plain")
    assert task.system is None
    assert task.prompt(problem("How many?", "5")) == (
        "Please reason step by step, and put your final answer within \\boxed{}.\n\nQuestion: How many?\nAnswer:"
    )
    shown = MathBenchmark("mmlu_stem", style="plain", shots=1).prompt(problem("Which?", "B"))
    assert shown.startswith(f"{INSTRUCTION}\n\nQuestion: Which process makes four haploid cells")
    assert shown.endswith("The answer is $\\boxed{C}$.\n\nQuestion: Which?\nAnswer:")


def test_a_question_that_a_plain_model_asks_itself_does_not_count() -> None:
    response = "It is \\boxed{5}.\n\nQuestion: What is 1 + 1?\nAnswer: \\boxed{2}"
    assert MathBenchmark("svamp", style="plain").grade(response, problem("How many?", "5")).correct
    assert not MathBenchmark("svamp", style="chat").grade(response, problem("How many?", "5")).correct


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_worked_examples_are_right(name: str) -> None:
    shown = ENTRIES[name].demonstrations
    assert len(shown) == len({d.question for d in shown}) == 5 == ENTRIES[name].shots
    assert len({d.letter for d in shown}) >= 3, "no letter is the answer to all"
    for grading in ("strict", "qwen"):
        task = MathBenchmark(name, grading=grading)  # type: ignore[arg-type]
        right = [problem(d.question, d.letter) for d in shown]
        wrong = [problem(d.question, "ABCD"[("ABCD".index(d.letter) + 1) % 4]) for d in shown]
        answers = [d.answer for d in shown]
        assert all(g.correct for g in task.grade_many(answers, right))
        assert not any(g.correct for g in task.grade_many(answers, wrong))


def _text(d: Demonstration) -> str:
    return f"{d.question}\n{d.answer}"


def test_worked_examples_hold_no_empty_line_which_separates_them() -> None:
    assert not [d for e in ENTRIES.values() for d in e.demonstrations if "\n\n" in _text(d) or "Question:" in _text(d)]


# --------------------------------------------------------------------- the suite


def test_the_ten_of_the_paper_are_tested_on_and_math500_validates(copies: str) -> None:
    suite = MathSuite(folder=copies)
    assert tuple(suite.tasks("test")) == TABLE_4
    assert list(suite.tasks("validation")) == ["math500"]
    titles = [ENTRIES[name].title for name in TABLE_4]
    assert titles == "SVAMP ASDiv MAWPS TABMWP Minerva OlympiadBench SAT-Math MMLU Gaokao AIME24".split()
    sizes = [len(task.problems("test")) for task in suite.tasks("test").values()]
    assert sizes == [1000, 2215, 2065, 1000, 272, 675, 32, 3018, 14, 30]
    assert all(task.grading == "qwen" and task.metrics == () for task in suite.tasks("test").values())  # type: ignore[attr-defined]


def test_a_suite_passes_its_settings_on(copies: str) -> None:
    suite = MathSuite(["sat_math", "svamp"], ["svamp"], copies, grading="strict", shots=0, style="plain", timeout_s=1)
    sat, svamp = suite.tasks("test").values()
    assert isinstance(sat, MathBenchmark)
    assert isinstance(svamp, MathBenchmark)
    assert (sat.shots, svamp.shots, sat.style, sat.grading, sat.timeout_s) == (0, 0, "plain", "strict", 1)
    assert suite.tasks("validation")["svamp"] is svamp, "data are read once"


@pytest.mark.parametrize("setting", ["names", "validation"])
def test_a_suite_names_what_is_wrong(setting: str) -> None:
    for chosen in (["svamp", "svamp"], []):
        with pytest.raises(ConfigError) as raised:
            MathSuite(**{setting: chosen})  # type: ignore[arg-type]
        assert raised.value.setting == f"MathSuite.{setting}"
    with pytest.raises(ConfigError, match=f"MathSuite.{setting}: is 'xyz'"):
        MathSuite(**{setting: ["xyz"]})  # type: ignore[arg-type]


# --------------------------------------------------------------------- the documentation


def documented(entry: Entry) -> str:
    source = entry.source
    place = source.file or f"{source.config}, {source.split}"
    shots = str(entry.shots) if entry.shots else "0"
    style = "options" if entry.show_choices else "question"
    return f"| `{entry.name}` | {entry.title} | {entry.size} | `{source.data}` : `{place}` | {style} | {shots} |"


@pytest.mark.parametrize("name", ENTRIES)
def test_the_documentation_lists_every_entry_as_it_is(name: str) -> None:
    assert documented(ENTRIES[name]) in DOCS.read_text(encoding="utf-8")


def test_a_prompt_takes_the_place_of_the_reference_evaluations(copies: str) -> None:
    """What is trained with one prompt can be evaluated with it."""
    suite = MathSuite(["svamp", "sat_math"], ["svamp"], folder=copies, prompt="Q: {question} In a \\boxed{}.")
    for task in suite.tasks("test").values():
        problem = next(iter(task.problems("test")))
        assert task.prompt(problem) == f"Q: {problem.question} In a \\boxed{{}}."
        assert task.system is None  # the template's own
    assert MathBenchmark("svamp", prompt="{question}", system="Be short.").system == "Be short."
    with pytest.raises(ConfigError, match=r"MathBenchmark\.shots: is 5, but prompt"):
        MathBenchmark("sat_math", prompt="{question}", shots=5)
