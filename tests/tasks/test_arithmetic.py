"""The quickstart's task, its tokenizer and the two checkpoints that ship with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.tasks.arithmetic import LIMIT, ArithmeticTask, parse, render, solution
from ovd_lightning.tasks.base import Split
from ovd_lightning.types import Problem

ASSETS = Path(str(files("ovd_lightning") / "assets"))
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCALE = SCALES["zero_to_nine"]
QUESTION = "(17-5)*7+5=?"
STEPS = ["17-5=12", "12*7=84", "84+5=89", "\\boxed{89}"]


@pytest.fixture(scope="module")
def task() -> ArithmeticTask:
    return ArithmeticTask(train_size=4000)


@pytest.fixture(scope="module", params=["student", "teacher"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(ASSETS / request.param)


def problem(question: str, answer: str) -> Problem:
    return Problem(id="x", question=question, answers=(answer,))


def test_splits_are_disjoint_for_every_seed(task: ArithmeticTask) -> None:
    other = ArithmeticTask(seed=7, train_size=4000)
    seen: dict[str, Split] = {}
    for split in SPLITS:
        for p in [*task.problems(split), *other.problems(split)]:
            assert seen.setdefault(p.question, split) == split


def test_problems_are_deterministic_and_sized(task: ArithmeticTask) -> None:
    for split, size in zip(SPLITS, (4000, 256, 512), strict=True):
        problems = task.problems(split)
        assert problems == ArithmeticTask(train_size=4000).problems(split)
        assert len(problems) == size == len({p.question for p in problems}) == len({p.id for p in problems})
    assert task.problems("test") != ArithmeticTask(seed=1).problems("test")


def test_a_size_does_not_move_the_problems(task: ArithmeticTask) -> None:
    smaller = ArithmeticTask(train_size=100, validation_size=10)
    assert list(smaller.problems("train")) == list(task.problems("train"))[:100]
    assert list(smaller.problems("test")) == list(task.problems("test"))


def test_questions_read_as_python_reads_them_and_stay_in_range(task: ArithmeticTask) -> None:
    for p in task.problems("train"):
        expression = p.question.removesuffix("=?")
        assert re.fullmatch(r"[-+*()0-9]+", expression)
        assert str(eval(expression)) == p.answers[0]
        assert render(parse(p.question)) == expression
        *lines, box = solution(p).split("\n")
        assert 2 <= len(lines) <= 3
        assert box == f"\\boxed{{{p.answers[0]}}}"
        for line in lines:
            left, right = line.split("=")
            assert str(eval(left)) == right
            assert all(0 <= int(number) <= LIMIT for number in re.findall(r"\d+", line))


@pytest.mark.parametrize(
    ("question", "lines"),
    [
        ("3+4*5=?", ["4*5=20", "3+20=23"]),
        ("(3+4)*5=?", ["3+4=7", "7*5=35"]),
        ("9-4-3=?", ["9-4=5", "5-3=2"]),
        ("9-(4-3)=?", ["4-3=1", "9-1=8"]),
        ("8*9-(17-5)=?", ["8*9=72", "17-5=12", "72-12=60"]),
        (QUESTION, STEPS[:3]),
    ],
)
def test_solution_follows_precedence(question: str, lines: list[str]) -> None:
    assert solution(question).split("\n")[:-1] == lines


@pytest.mark.parametrize("question", ["1+", "1+=?", "(1+2=?", "1+2)=?", "__import__('os')=?", "=?", "1 + 2=?"])
def test_solution_refuses_what_is_no_question(question: str) -> None:
    with pytest.raises(ValueError, match="arithmetic question"):
        solution(question)


@pytest.mark.parametrize(
    ("response", "correct", "answer"),
    [
        ("17-5=12\n\\boxed{89}", True, "89"),
        ("\\boxed{089}", True, "089"),
        ("\\boxed{ 89 }", True, "89"),
        ("\\boxed{89}\\boxed{12}", False, "12"),
        ("\\boxed{12}\n\\boxed{89}", True, "89"),
        ("84+5=89", False, None),
        ("", False, None),
        ("\\boxed{", False, None),
        ("\\boxed{89", False, None),
        ("\\boxed{}", False, ""),
        ("\\boxed{80+9}", False, "80+9"),
        ("\\boxed{8 9}", False, "8 9"),
        ("\\boxed{89.0}", False, "89.0"),
        ("\\boxed{٨٩}", False, "٨٩"),
        ("\\boxed{" + "9" * 5000 + "}", False, "9" * 5000),
    ],
)
def test_grade(task: ArithmeticTask, response: str, correct: bool, answer: str | None) -> None:
    grade = task.grade(response, problem(QUESTION, "89"))
    assert (grade.correct, grade.reward, grade.answer) == (correct, float(correct), answer)


def test_grade_accepts_any_alternative(task: ArithmeticTask) -> None:
    assert task.grade("\\boxed{4}", Problem(id="x", question="?", answers=("3", "4"))).correct
    assert not task.grade("\\boxed{4}", Problem(id="x", question="?", answers=())).correct


@pytest.mark.parametrize(
    "settings",
    [
        {"operations": (3, 2)},
        {"operations": (1, 2)},
        {"operations": (2, 9)},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ArithmeticTask(**settings)


def test_operations_range_is_kept() -> None:
    problems = ArithmeticTask(train_size=200, operations=(4, 4)).problems("train")
    assert {len(solution(p).split("\n")) for p in problems} == {5}


@pytest.mark.parametrize(
    "text",
    [
        f"{QUESTION}\n" + "\n".join(STEPS),
        step_prompt(QUESTION, STEPS[:2], STEPS[2], SCALE),
        step_prompt(QUESTION, [], STEPS[0], SCALE),
        response_prompt(QUESTION, "\n".join(STEPS), SCALE),
        "1 + 2 = ? ",
    ],
)
def test_tokenizer_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.backend_tokenizer.decode(ids) == text


def test_tokenizer_vocabulary(tokenizer: Any) -> None:
    assert len(tokenizer) == 32
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer(f"{QUESTION}<eos>").input_ids[-1] == tokenizer.eos_token_id
    assert [len(tokenizer(str(score)).input_ids) for score in SCALE.values] == [1] * 10
    assert tokenizer.chat_template is None


def test_every_training_text_is_in_the_vocabulary(tokenizer: Any, task: ArithmeticTask) -> None:
    texts = [f"{task.prompt(p)}{solution(p)}" for p in list(task.problems("train"))[:500]]
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        assert tokenizer.decode(ids) == text


def test_scoring_prompts_are_short(tokenizer: Any) -> None:
    lengths = [len(tokenizer(step_prompt(QUESTION, STEPS[:k], STEPS[k], SCALE)).input_ids) for k in range(4)]
    assert max(lengths) <= 60
    assert len(tokenizer(response_prompt(QUESTION, "\n".join(STEPS), SCALE)).input_ids) <= 60


def test_split_steps_of_a_tokenised_solution(tokenizer: Any, task: ArithmeticTask) -> None:
    ids = [*tokenizer(solution(QUESTION)).input_ids, tokenizer.eos_token_id]
    spans = task.split_steps(ids, tokenizer)
    assert [tokenizer.decode(ids[a:b], skip_special_tokens=True).strip() for a, b in spans] == STEPS
    assert [a for a, _ in spans] + [len(ids)] == [0] + [b for _, b in spans]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a=1\n\\(\nb=2\n\\)\nso 3\n", ["a=1\n", "\\(\nb=2\n", "\\)\nso 3\n"]),  # a formula on lines of its own
        ("a=1\n\\(\nb=2\n\\)", ["a=1\n", "\\(\nb=2\n\\)"]),
        ("\n\n--\n\na\nb\n--\n", ["\n\n--\n\na\n", "b\n--\n"]),
        ("\\(\n", ["\\(\n"]),
        ("", []),
    ],
)
def test_a_line_without_a_letter_or_digit_is_no_step(
    text: str, steps: list[str], tiny_model: str, task: ArithmeticTask
) -> None:
    characters: Any = AutoTokenizer.from_pretrained(tiny_model)
    ids = characters.encode(text, add_special_tokens=False)
    assert [characters.decode(ids[a:b]) for a, b in task.split_steps(ids, characters)] == steps


def greedy(name: str, prompts: Sequence[str]) -> list[str]:
    tokenizer: Any = AutoTokenizer.from_pretrained(ASSETS / name)
    model: Any = AutoModelForCausalLM.from_pretrained(ASSETS / name, dtype=torch.float32)
    encoded = tokenizer(list(prompts), padding=True, return_tensors="pt")
    output = model.generate(**encoded, do_sample=False, max_new_tokens=48)
    texts: list[str] = tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


@pytest.mark.parametrize(("name", "low", "high"), [("student", 0.15, 0.35), ("teacher", 0.93, 1.0)])
def test_checkpoints_solve_what_they_should(task: ArithmeticTask, name: str, low: float, high: float) -> None:
    problems = list(task.problems("validation"))[:128]
    responses = greedy(name, [task.prompt(p) for p in problems])
    accuracy = sum(task.grade(r, p).correct for r, p in zip(responses, problems, strict=True)) / len(problems)
    assert low <= accuracy <= high
    assert sum("\\boxed{" in response for response in responses) >= 0.9 * len(problems)


def test_teacher_scores_a_wrong_step_lower(task: ArithmeticTask) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(ASSETS / "teacher")
    model: Any = AutoModelForCausalLM.from_pretrained(ASSETS / "teacher", dtype=torch.float32)
    digits = [tokenizer.convert_tokens_to_ids(str(score)) for score in SCALE.values]

    def expected_score(p: Problem, step: str) -> float:
        ids = tokenizer(step_prompt(p.question, [], step, SCALE), return_tensors="pt").input_ids
        with torch.no_grad():
            probabilities = model(ids).logits[0, -1].softmax(-1)[digits]
        assert probabilities.sum() > 0.95
        return float((probabilities * torch.arange(10)).sum())

    right, wrong = [], []
    for p in list(task.problems("validation"))[:40]:
        step = solution(p).split("\n")[0]
        stem, value = step.split("=")
        right.append(expected_score(p, step))
        wrong.append(expected_score(p, f"{stem}={(int(value) + 10) % 100}"))
    assert sum(a > b for a, b in zip(right, wrong, strict=True)) >= 36
