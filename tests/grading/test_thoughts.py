"""What stands in a thought is no answer, whoever opened the thought and whether or not it ended."""

from __future__ import annotations

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast

from ovd_lightning.grading import Grader, extract_answer
from ovd_lightning.round.turns import mark_thoughts
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.thoughts import behind, closing, open_at_end, special_marks, unfinished, with_marks
from ovd_lightning.types import Problem, Trajectory

TWELVE = Problem(id="x", question="5+7=?", answers=("12",))
BOX, OTHER = r"\boxed{12}", r"\boxed{13}"
CORRECT = [
    f"<think>13?</think>{BOX}",
    f"<think>{OTHER}</think>\n\nIt is {BOX}.",
    f"{OTHER}</think>{BOX}",  # the template opened it
    f"<think>a</think>b<think>{OTHER}</think>{BOX}",
    f"<thinking>{OTHER}</thinking>{BOX}",
    f"<Thought> {OTHER} </Thought> {BOX}",
    f"<reasoning>{OTHER}</reasoning>{BOX}",
    f"[THINK]{OTHER}[/THINK]{BOX}",
    f"◁think▷{OTHER}◁/think▷{BOX}",
    f"<seed:think>{OTHER}</seed:think>{BOX}",
    f"<|begin_of_thought|>{OTHER}<|end_of_thought|>{BOX}",
    f"<|START_THINKING|>{OTHER}<|END_THINKING|>{BOX}",
    f"<|channel|>analysis<|message|>{OTHER}<|end|><|start|>assistant<|channel|>final<|message|>{BOX}",
    f"<think></think>{BOX}",
    f"<think>I could write <think> here</think>{BOX}",
    f"I think that it is {BOX}",
    f"x<thinker>{BOX}",
]
INCORRECT = [
    f"<think>{BOX}</think> I cannot tell.",
    f"<think>{BOX}",
    f"<think>a</think> Wait. <think>{BOX}",
    f"{BOX}</think>",
    f"{BOX}</think>\n\nHm.",
    f"<thinking>{BOX}",
    f"<thinking>{BOX}</thinking>",
    f"[THINK]{BOX}",
    f"[THINK]{BOX}[/THINK]",
    f"<|channel|>analysis<|message|>{BOX}<|end|>",
    f"<|channel|>analysis<|message|>{BOX}",
    f"<|begin_of_thought|>{BOX}<|end_of_thought|>",
    f"◁think▷{BOX}",
    f"<THINK>{BOX}",
    f"< think >{BOX}</ think >",
    f"<think>{BOX}</think>{OTHER}",
    f"<think>{BOX} <think> </think> none",
]


@pytest.mark.parametrize("mode", ["strict", "qwen"])
@pytest.mark.parametrize("response", [*CORRECT, *INCORRECT])
def test_the_answer_stands_behind_the_thought(mode: str, response: str, request: pytest.FixtureRequest) -> None:
    grader: Grader = request.getfixturevalue(mode)
    assert grader.grade(response, TWELVE).correct == (response in CORRECT)
    assert ArithmeticTask().grade(response, TWELVE).correct == (response in CORRECT)
    assert (extract_answer(response, mode) == "12") == (response in CORRECT)  # type: ignore[arg-type]


def test_without_a_thought_nothing_is_taken_away() -> None:
    for text in ("", "a", "no tag", "I think, therefore", "</thinker> a", "[THINKING] a", "1 < 2 > think"):
        assert behind(text) == text


@pytest.mark.parametrize(
    "mark",
    ["<think>", "<seed:think>", "< thinking >", "[THINK]", "◁think▷", "<|begin_of_thought|>", "<|START_THINKING|>"],
)
def test_a_mark_is_ended_by_its_own(mark: str) -> None:
    assert open_at_end(f"assistant\n{mark}\n") == mark
    assert unfinished(f"{mark} a") is True
    assert unfinished(f"{mark} a {closing(mark)}") is False
    assert behind(f"{mark} a {closing(mark)} b") == " b"


def test_what_opens_nothing_is_not_ended() -> None:
    assert open_at_end("assistant\n") == closing("") == closing("<|channel|>analysis") == ""
    assert unfinished("no mark") is None


@pytest.mark.cpu_limit(20)
@pytest.mark.parametrize("unit", ["<think>", "</think>", "<", "< ", "<|channel|>", "<|channel|> ", "[THINK"])
def test_long_responses_take_linear_time(unit: str) -> None:
    response = unit * (200_000 // len(unit))
    assert behind(response) == ("" if "think>" in unit else response)


@pytest.fixture(scope="module")
def reasoning(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer with thought marks, as text (Qwen3, R1) and as special tokens (Magistral)."""
    import copy

    own = copy.deepcopy(tokenizer)
    own.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    own.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    return own


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def written(tokenizer: PreTrainedTokenizerFast, prompt: str, *runs: tuple[str, bool]) -> str:
    """What is graded of a completion of these runs (text, written or observed)."""
    parts = [(ids(tokenizer, text), own) for text, own in runs]
    plain = "".join(tokenizer.decode(part, skip_special_tokens=True) for part, own in parts if own)
    y = Trajectory(
        problem=TWELVE,
        prompt_ids=ids(tokenizer, prompt),
        completion_ids=[token for part, _ in parts for token in part],
        completion_mask=[own for part, own in parts for _ in part],
        written=plain,
    )
    mark_thoughts([y], tokenizer)
    return y.written


def test_a_thought_that_the_prompt_opened_is_one(reasoning: PreTrainedTokenizerFast) -> None:
    assert behind(written(reasoning, "5+7=?<think>\n", ("1+1=2", True))) == ""
    assert behind(written(reasoning, "5+7=?<think>", ("1</think>2", True))) == "2"
    assert written(reasoning, "5+7=?<think></think>", ("1+1=2", True)) == "1+1=2"
    assert written(reasoning, "<think> is a tag; 5+7=?", ("1+1=2", True)) == "1+1=2"
    assert written(reasoning, "5+7=?", ("1+1=2", True)) == "1+1=2"
    turns = [("1</think>2", True), ("=3<think>", False), ("4", True)]
    assert behind(written(reasoning, "5+7=?<think>", *turns)) == "", "the observation's template opened another"
    assert behind(written(reasoning, "5+7=?<think>", *turns[:2], ("4</think>5", True))) == "5"


def test_marks_that_are_special_tokens_are_seen(reasoning: PreTrainedTokenizerFast) -> None:
    assert set(special_marks(reasoning).values()) == {"[THINK]", "[/THINK]"}
    assert behind(written(reasoning, "5+7=?", ("[THINK]1[/THINK]2", True))) == "2"
    assert behind(written(reasoning, "5+7=?", ("[THINK]1+1=2", True))) == ""
    assert behind(written(reasoning, "5+7=?[THINK]", ("1+1=2", True))) == ""


def test_without_marks_the_text_stays_what_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    assert with_marks(tokenizer, {}, [1], [5, 6], [True, True], "as it was") == "as it was"
