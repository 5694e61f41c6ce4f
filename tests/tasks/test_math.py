"""Training problems: where they come from, how they are asked, and what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.math import TRAINING_PROMPT, MathTask, extract_answer, grade, is_equivalent
from ovd_lightning.tasks.order import shuffled
from ovd_lightning.types import Problem
from tests.tasks.math_rows import write_jsonl, write_parquet

INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."

# The two problems that appendix A.2 of the paper prints, between others, with their indices in the set they are from.
LOCK = (
    "The lock opens only if a specific three-digit number is entered. An attempt consists of randomly selecting three "
    "digits from a given set of five. The code was guessed correctly only on the last of all attempts. How many "
    "attempts preceded the successful one?"
)
ELLIPSE = "For the ellipse $25x^2 - 100x + 4y^2 + 8y + 16 = 0,$ find the distance between the foci."
POOL = {0: ("What is $1 + 1$?", "2"), 1: (LOCK, "124"), 7: ("What is $7 + 1$?", "8")}
POOL |= {289: (ELLIPSE, "\\frac{2\\sqrt{462}}{5}"), 300: ("What is $3 \\cdot 100$?", "300")}

COMMON = [{"id": f"pool-{i}", "question": q, "answers": [a], "meta": {"index": i}} for i, (q, a) in POOL.items()]
VERL = [
    {
        "data_source": "deepscaler",
        "prompt": [{"role": "user", "content": f"{q} {INSTRUCTION}"}],
        "reward_model": {"ground_truth": a, "style": "rule"},
        "extra_info": {"index": i, "split": "train"},
    }
    for i, (q, a) in POOL.items()
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", COMMON)


@pytest.fixture(scope="module")
def verl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_parquet(tmp_path_factory.mktemp("verl") / "pool.parquet", VERL)


def questions(problems: Any) -> list[str]:
    return [problem.question for problem in problems]


# --------------------------------------------------------------------- which problems


def test_every_row_is_a_problem(pool: str) -> None:
    problems = MathTask(pool).problems("train")
    assert [(p.question, p.answers[0]) for p in problems] == list(POOL.values())
    assert [p.id for p in problems] == [row["id"] for row in COMMON]
    assert problems[0].meta == {"index": 0}


def test_the_two_problems_of_the_paper_are_picked_by_id(pool: str) -> None:
    one = MathTask(pool, ids=["pool-1"]).problems("train")
    two = MathTask(pool, ids=["pool-289", "pool-1"]).problems("train")
    assert questions(one) == [LOCK]
    assert questions(two) == [ELLIPSE, LOCK]
    batch = shuffled(one, 384, 128, seed=0)
    assert questions(batch) == [LOCK] * 128, "one example fills the batch"


def test_rows_of_other_fields_are_read_by_naming_them(verl: str, pool: str) -> None:
    task = MathTask(
        verl,
        question_field="prompt.0.content",
        answers_field="reward_model.ground_truth",
        id_field="extra_info.index",
        ids=["1", "289"],
    )
    assert questions(task.problems("train")) == [LOCK, ELLIPSE]
    assert [p.id for p in task.problems("train")] == ["1", "289"]
    asked = [task.prompt(p) for p in task.problems("train")]
    assert asked == [f"{LOCK} {INSTRUCTION}", f"{ELLIPSE} {INSTRUCTION}"], "the instruction of the data is not doubled"
    assert asked == [MathTask(pool).prompt(p) for p in MathTask(pool, ids=["pool-1", "pool-289"]).problems("train")]


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i}?", "answer": i / 2} for i in range(4)]
    task = MathTask(write_jsonl(tmp_path / "a.jsonl", rows), question_field="problem", answers_field="answer")
    assert [(p.id, p.answers) for p in task.problems("train")] == [
        ("math-0", ("0",)),
        ("math-1", ("0.5",)),
        ("math-2", ("1",)),
        ("math-3", ("1.5",)),
    ]


def test_worked_solutions_come_along(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answers": [str(i)], "worked": f"It is {i}."} for i in range(2)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    solutions = [p.meta["solution"] for p in MathTask(path, solution_field="worked").problems("train")]
    assert solutions == ["It is 0.", "It is 1."]
    assert not any("solution" in p.meta for p in MathTask(path).problems("train"))
    with pytest.raises(ConfigError, match="solution_field"):
        MathTask(path, solution_field="work").problems("train")
    own = write_jsonl(tmp_path / "b.jsonl", [{"question": "1?", "answers": ["1"], "meta": {"solution": "One."}}])
    assert MathTask(own).problems("train")[0].meta["solution"] == "One."


def test_problems_are_left_out_by_name_only(tmp_path: Path) -> None:
    """DSR-sub has a row without an answer: it stops the run until it is excluded, and is not dropped in silence."""
    rows = [COMMON[0], {**COMMON[1], "answers": [""]}, *COMMON[2:]]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=r"row 1 \(pool-1\) has an empty answer.*exclude"):
        MathTask(data).problems("train")
    kept = MathTask(data, exclude=["pool-1"]).problems("train")
    assert [p.id for p in kept] == ["pool-0", "pool-7", "pool-289", "pool-300"]
    assert [p.id for p in MathTask(data, ids=["pool-300"]).problems("train")] == ["pool-300"]


@pytest.mark.parametrize("setting", ["ids", "exclude"])
def test_an_id_that_is_not_there_is_named(pool: str, setting: str) -> None:
    settings: dict[str, Any] = {setting: ["pool-1", "pool-2"]}
    with pytest.raises(ConfigError, match=r"names pool-2; .* like pool-0, pool-1, pool-7") as raised:
        MathTask(pool, **settings).problems("train")
    assert raised.value.setting == f"MathTask.{setting}"


def test_a_missing_field_is_answered_by_those_there_are(verl: str) -> None:
    with pytest.raises(ConfigError, match=r"row 0 has no field 'question'; it has data_source, prompt, reward_model"):
        MathTask(verl).problems("train")
    with pytest.raises(ConfigError, match=r"has no field 'extra_info.id'") as raised:
        MathTask(verl, id_field="extra_info.id", ids=["1"]).problems("train")
    assert raised.value.setting == "MathTask.id_field"


def test_an_id_that_comes_twice_stops_the_run(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", [*COMMON, COMMON[2]])
    with pytest.raises(ConfigError, match="row 5 has the id of row 2, 'pool-7'"):
        MathTask(data).problems("train")
    with pytest.raises(ConfigError, match="row 5 has the id of row 2, 'pool-7'"):
        MathTask(data, ids=["pool-7"]).problems("train")


def test_construction_touches_no_data(tmp_path: Path) -> None:
    task = MathTask(str(tmp_path / "later.jsonl"))
    with pytest.raises(ConfigError, match="is not there"):
        task.problems("train")
    write_jsonl(tmp_path / "later.jsonl", COMMON)
    assert task.problems("train") is task.problems("train"), "and data are read once"


# --------------------------------------------------------------------- splits


def test_held_out_problems_are_of_the_same_data(pool: str) -> None:
    task = MathTask(pool, split="train[:3]", validation_split="train[3:4]", test_split="train[4:]")
    assert [[p.id for p in task.problems(split)] for split in ("train", "validation", "test")] == [
        ["pool-0", "pool-1", "pool-7"],
        ["pool-289"],
        ["pool-300"],
    ]


def test_splits_share_no_question(pool: str) -> None:
    task = MathTask(pool, split="train[:3]", validation_split="train[2:]")
    with pytest.raises(ConfigError, match="1 of its questions are trained on, the first is 'pool-7'"):
        task.problems("validation")
    assert len(MathTask(pool, ids=["pool-0"], validation_split="train[2:]").problems("validation")) == 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_without_held_out_problems_evaluation_must_be_named(pool: str, split: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.benchmarks") as raised:
        MathTask(pool).problems(split)
    assert raised.value.setting == f"MathTask.{split}_split"


# --------------------------------------------------------------------- prompts


def test_the_prompt_is_the_question_and_the_recipes_instruction(pool: str) -> None:
    task = MathTask(pool)
    assert task.prompt(task.problems("train")[0]) == f"What is $1 + 1$? {INSTRUCTION}"
    assert task.system is None, "the chat template's own system message"
    own = MathTask(pool, prompt="Solve {question}\nBraces such as {x} and \\boxed{} stay.", system="Be brief.")
    assert own.prompt(own.problems("train")[0]) == "Solve What is $1 + 1$?\nBraces such as {x} and \\boxed{} stay."
    assert own.system == "Be brief."


def test_options_are_shown_where_the_answer_is_a_letter(tmp_path: Path) -> None:
    options = {"choices": ["one", "two"]}
    rows: list[dict[str, Any]] = [
        {"id": "letter", "question": "Which?", "answers": ["B"], **options},
        {"id": "text", "question": "Which of one, two?", "answers": ["two"], **options},
    ]
    letter, text = MathTask(write_jsonl(tmp_path / "a.jsonl", rows)).problems("train")
    assert letter.question == "Which?\nAnswer Choices: (A) one (B) two"
    assert text.question == "Which of one, two?"
    assert letter.meta["choices"] == text.meta["choices"] == ["one", "two"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ids": []}, "MathTask.ids"),
        ({"ids": ["a", "a"]}, "MathTask.ids"),
    ],
)
def test_a_wrong_setting_is_named_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        MathTask(**{"data": "x.jsonl", **settings})
    assert raised.value.setting == says


# --------------------------------------------------------------------- grading


def test_the_reward_is_one_for_an_equivalent_answer_in_the_last_box(pool: str) -> None:
    task = MathTask(pool)
    lock, ellipse = (task.problems("train")[i] for i in (1, 3))
    right = "So far \\boxed{9}.\n\nThe answer is \\boxed{124}."
    assert [task.grade(text, lock).reward for text in (right, "\\boxed{9}", "124", "")] == [1.0, 0.0, 0.0, 0.0]
    verdict = task.grade("\\boxed{\\dfrac{2}{5}\\sqrt{462}}", ellipse)
    assert (verdict.reward, verdict.correct) == (1.0, True)
    assert task.grade("", lock).answer is None


def test_many_answers_are_graded_in_order(pool: str) -> None:
    task = MathTask(pool, timeout_s=5.0)
    problems = list(task.problems("train")) * 6
    responses = [f"\\boxed{{{p.answers[0] if i % 3 else '17'}}}" for i, p in enumerate(problems)]
    assert [g.reward for g in task.grade_many(responses, problems)] == [float(i % 3 > 0) for i in range(30)]


GSM8K = [
    {"question": "How many apples?", "answer": "He has 3*4=<<3*4=12>>12 apples.\n#### 12"},
    {"question": "How much?", "answer": "It is $1,000 and $250.\n#### 1,250"},
    {"question": "How far?", "answer": "Down.\n#### -3"},
]


@pytest.mark.parametrize("grading", ["strict", "qwen"])
def test_rows_of_gsm8k_are_understood(tmp_path: Path, grading: Any) -> None:
    data = write_jsonl(tmp_path / "gsm8k.jsonl", GSM8K)
    task = MathTask(data, answers_field="answer", solution_field="answer", grading=grading)
    problems = task.problems("train")
    assert [p.answers for p in problems] == [("12",), ("1,250",), ("-3",)]
    assert problems[0].meta["solution"] == GSM8K[0]["answer"]
    task.check(problems)
    right = [f"So \\boxed{{{answer}}}" for answer in ("12", "1250", "-3")]
    assert [g.reward for g in task.grade_many(right, problems)] == [1.0, 1.0, 1.0]
    assert [g.reward for g in task.grade_many([*right[1:], right[0]], problems)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("a\n#### 12", "12"),
        ("a\n####12\n", "12"),
        ("#### 1\nb\n#### 12", "12"),
        ("We add: $5+7=12$, so $\\boxed{12}$.", "12"),
        ("\\boxed{1}, no, \\boxed{12}", "12"),
        ("12", "12"),
        ("####", "####"),
    ],
)
@pytest.mark.parametrize("mode", ["strict", "qwen"])
def test_the_answer_of_a_worked_reference(reference: str, answer: str, mode: Any) -> None:
    problem = Problem(id="p", question="?", answers=(reference,))
    assert grade(f"\\boxed{{{answer}}}", problem, mode).correct
    assert not grade("\\boxed{13}", problem, mode).correct


@pytest.mark.parametrize("grading", ["strict", "qwen"])
@pytest.mark.parametrize(
    "answer",
    [
        "First we add the two numbers.\nThen we see that twelve is what is left over.",
        " ".join(["so that it is"] * 12) + " 12",
    ],
)
def test_a_reference_that_no_answer_meets_stops_the_run(tmp_path: Path, grading: Any, answer: str) -> None:
    rows = [COMMON[0], {**COMMON[1], "answers": [answer]}]
    task = MathTask(write_jsonl(tmp_path / "a.jsonl", rows), grading=grading)
    with pytest.raises(ConfigError, match=r"'pool-1'.*####.*exclude"):
        task.check(task.problems("train"))
    task.check(task.problems("train")[:1])


def test_a_reference_that_its_own_grader_cannot_read_stops_the_run(tmp_path: Path) -> None:
    """As in DSR-sub, whose row 1187 lacks a closing brace."""
    rows = [COMMON[0], {**COMMON[1], "answers": [r"\frac{2 k n}{n+k-1}-2 \frac{k!n!}{(k+n-1)!"]}]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match="'pool-1'"):
        MathTask(data).check(MathTask(data).problems("train"))
    kept = MathTask(data, exclude=["pool-1"])
    kept.check(kept.problems("train"))


def test_the_checker_can_be_had_from_here() -> None:
    problem = Problem(id="p", question="?", answers=("\\frac{1}{2}",))
    assert extract_answer("a \\boxed{0.5}") == "0.5"
    assert is_equivalent("0.5", "\\frac{1}{2}")
    assert grade("\\boxed{0.5}", problem).correct
    assert not grade("\\boxed{0.6}", problem).correct


def test_the_default_prompt_is_what_the_config_reader_gives_back() -> None:
    """Braces survive the command line's parser."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(MathTask, "task")
    task = parser.instantiate(parser.parse_args(["--task.data", "a.jsonl"])).task
    assert task.template == TRAINING_PROMPT
