"""Arithmetic with an interpreter, its tokenizer, and the two checkpoints that ship with it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.assets.scoring import auc, score_distributions
from benchmarks.assets.tools.data import scoring_row, trajectory_row
from benchmarks.assets.tools.evaluation import TURNS, Played, as_step, play, tool_arithmetic
from benchmarks.assets.tools.trajectories import Turn, fault, habits, judge, mistake_of, rightly, write
from benchmarks.assets.tools.vocabulary import CLOSE, VOCABULARY
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.round.turns import Generation, rollout
from ovd_lightning.tasks.arithmetic import ArithmeticTask, Expression, evaluate, parse, render
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.tool_arithmetic import LARGEST, RESPONSE, ToolArithmeticTask, call, solution
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.tokens import decode
from ovd_lightning.types import Problem, Trajectory

ASSETS = Path(str(files("ovd_lightning") / "assets" / "tools"))
CONFIGS = Path(__file__).parents[2] / "configs"
SCALE = SCALES["zero_to_nine"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
QUESTION = "(347-82)*46=?"
CALLS = [call("print(347-82)"), call("print(265*46)")]


@pytest.fixture(scope="module")
def task() -> Iterator[ToolArithmeticTask]:
    """With a real sandbox."""
    made = tool_arithmetic()
    assert made.environment is not None
    made.environment.start()
    yield made
    made.environment.close()


@pytest.fixture(scope="module", params=["student", "teacher"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(ASSETS / request.param)


def drawn(task: ToolArithmeticTask, count: int) -> list[tuple[Expression, list[Turn]]]:
    """Trajectories of every sort that pretraining writes."""
    rng = random.Random(0)
    kinds = (rightly, habits(0.8), fault(0), fault(1), fault(2))
    problems = task.problems("train")[:count]
    expressions = [parse(problem.question) for problem in problems]
    return [(e, write(e, rng, kinds[i % len(kinds)])) for i, e in enumerate(expressions)]


# ---------------------------------------------------------------------- the task


def test_splits_are_disjoint_for_every_seed_and_sized(task: ToolArithmeticTask) -> None:
    other = ToolArithmeticTask(task.environment, seed=7, train_size=500)
    seen: dict[str, Split] = {}
    for split in SPLITS:
        for p in [*task.problems(split)[:2000], *other.problems(split)]:
            assert seen.setdefault(p.question, split) == split
    assert [len(other.problems(split)) for split in SPLITS] == [500, 256, 512]
    assert other.problems("test") == ToolArithmeticTask(task.environment, seed=7).problems("test")
    assert other.problems("test") != task.problems("test")


def test_questions_read_as_python_reads_them_and_stay_in_range(task: ToolArithmeticTask) -> None:
    for p in task.problems("validation"):
        expression = p.question.removesuffix("=?")
        assert str(eval(expression)) == p.answers[0]
        assert all(2 <= len(number) <= 3 for number in re.findall(r"\d+", expression))
        *calls, box = solution(p)
        assert len(calls) == len(re.findall(r"[-+*]", expression)) in (2, 3)
        assert box == f"\\boxed{{{p.answers[0]}}}"
        last = ""
        for text in calls:
            body = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            assert body["name"] == "code_interpreter"
            (code,) = body["arguments"].values()
            last = str(eval(re.fullmatch(r"print\((.+)\)", code)[1]))  # type: ignore[index]
            assert 0 <= int(last) <= LARGEST
        assert last == p.answers[0]


def test_a_solution_follows_precedence_and_uses_results(task: ToolArithmeticTask) -> None:
    assert solution(QUESTION) == [*CALLS, "\\boxed{12190}"]
    assert solution("20+30*40=?") == [call("print(30*40)"), call("print(20+1200)"), "\\boxed{1220}"]
    told = f"{CALLS[0]}\n<tool_response>\n265\n</tool_response>\n{CALLS[1]}\n<tool_response>\n12190\n</tool_response>\n"
    assert task.solution(QUESTION) == told + "\\boxed{12190}"
    assert all(p.meta["solution"] == task.solution(p.question) for p in task.problems("test")[:20])


@pytest.mark.parametrize(
    "settings",
    [{"operations": (1, 2)}, {"digits": (3, 2)}, {"digits": (0, 2)}, {"digits": (2, 5)}],
)
def test_bad_settings_are_refused(task: ToolArithmeticTask, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ToolArithmeticTask(task.environment, **settings)


def test_the_arithmetic_of_the_quickstart_is_drawn_as_ever() -> None:
    problems = ArithmeticTask(train_size=3).problems("train")
    assert [p.question for p in problems] == ["87-(76-18-26)=?", "(44-39)*(6+8)=?", "40-34+4*4=?"]
    assert all(render(parse(p.question)) == p.question.removesuffix("=?") for p in problems)


def trajectory(task: ToolArithmeticTask, tokenizer: Any, question: str, *texts: str) -> Trajectory:
    """Turns that say ``texts``, with the real environment between them."""
    problem = Problem(id="x", question=question, answers=(str(evaluate(parse(question))),))
    y = Trajectory(problem=problem, prompt_ids=tokenizer.encode(task.prompt(problem)), seed=0)
    said = iter(texts)

    def generate(trajectories: Any, limits: Any, stop: tuple[str, ...]) -> list[Generation]:
        text = next(said)
        ids = tokenizer.encode(text, add_special_tokens=False)
        if text.endswith(stop):
            return [Generation(ids=ids, text=text, stop_reason="stop_text")]
        return [Generation(ids=[*ids, tokenizer.eos_token_id], text=text, stop_reason="end_of_sequence")]

    rollout([y], task.environment, tokenizer, generate, max_tokens=128)
    return y


def test_a_trajectory_of_calls_is_as_pretraining_writes_it(task: ToolArithmeticTask, tokenizer: Any) -> None:
    y = trajectory(task, tokenizer, QUESTION, *solution(QUESTION))
    assert y.text == task.solution(QUESTION)
    expression = parse(QUESTION)
    row = trajectory_row(expression, write(expression, random.Random(0), rightly))
    assert [*y.prompt_ids, *y.completion_ids] == [*row.inputs, tokenizer.eos_token_id]
    assert [float(written) for written in y.completion_mask] == row.weights[len(y.prompt_ids) - 1 :]
    assert task.grade(y.written, y.problem).correct


def test_the_steps_are_turns_with_their_results(task: ToolArithmeticTask, tokenizer: Any) -> None:
    y = trajectory(task, tokenizer, QUESTION, *solution(QUESTION))
    spans = task.split_steps(y.completion_ids, tokenizer, y.completion_mask)
    assert [start for start, _ in spans] + [len(y.completion_ids)] == [0] + [end for _, end in spans]
    assert [decode(tokenizer, y.completion_ids[a:b]).strip() for a, b in spans] == [
        f"{CALLS[0]}\n<tool_response>\n265\n</tool_response>",
        f"{CALLS[1]}\n<tool_response>\n12190\n</tool_response>",
        "\\boxed{12190}",
    ]
    silent = trajectory(task, tokenizer, QUESTION, CALLS[0], "")
    assert len(task.split_steps(silent.completion_ids, tokenizer, silent.completion_mask)) == 1
    assert task.split_steps([], tokenizer, []) == []
    assert task.split_steps(y.completion_ids, tokenizer) == [(0, len(y.completion_ids))]


def test_a_result_is_no_answer_and_malformed_json_is_no_call(task: ToolArithmeticTask, tokenizer: Any) -> None:
    boxes = trajectory(task, tokenizer, QUESTION, call("print('\\\\boxed{12190}')"), "")
    assert "\\boxed{12190}" in boxes.text.partition(RESPONSE[0])[2]
    assert task.grade(boxes.written.partition("</tool_call>")[2], boxes.problem).answer is None
    broken = trajectory(task, tokenizer, QUESTION, CALLS[0].replace(CLOSE, ""), "\\boxed{12190}")
    assert broken.turns == 1
    assert not any(not written for written in broken.completion_mask)


def test_the_config_has_the_limits_that_were_pretrained_with(task: ToolArithmeticTask) -> None:
    settings = yaml.safe_load((CONFIGS / "quickstart_tools.yaml").read_text())
    own = settings["task"]["init_args"]["environment"]["init_args"]
    assert {name: own[name] for name in TURNS} == TURNS
    assert isinstance(task.environment, ToolEnvironment)
    assert (task.environment.observation_prefix, task.environment.observation_suffix) == RESPONSE


# ------------------------------------------------------------------ the tokenizer


def test_texts_survive_the_tokenizer_whole(tokenizer: Any, task: ToolArithmeticTask) -> None:
    for expression, turns in drawn(task, 300):
        question, steps = f"{render(expression)}=?", [as_step(turn) for turn in turns]
        for text in (
            f"{question}\n" + "\n".join(steps),
            step_prompt(question, steps[:-1], steps[-1], SCALE),
            response_prompt(question, "\n".join(steps), SCALE),
        ):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert decode(tokenizer, ids) == text
            assert ids == VOCABULARY.encode(text)
            assert len(ids) <= 192


def test_a_scoring_row_is_the_scoring_prompt(task: ToolArithmeticTask) -> None:
    for expression, turns in drawn(task, 300):
        judged = judge(expression, turns)
        question, steps = f"{render(expression)}=?", [as_step(turn) for turn in turns]
        for k in range(len(steps)):
            prompt = step_prompt(question, steps[:k], steps[k], SCALE)
            assert scoring_row(expression, judged, k).inputs == VOCABULARY.encode(prompt)
        whole = response_prompt(question, "\n".join(steps), SCALE)
        assert scoring_row(expression, judged, None).inputs == VOCABULARY.encode(whole)


# -------------------------------------------------------------------- the verdicts


def said(*turns: str) -> list[Turn]:
    """Turns with what their code prints."""
    found = [re.search(r"print\((.+)\)\"", turn) for turn in turns]
    return [Turn(turn, None if code is None else str(eval(code[1]))) for turn, code in zip(turns, found, strict=True)]


@pytest.mark.parametrize(
    ("turns", "verdicts", "mistake"),
    [
        ([*CALLS, "\\boxed{12190}"], ["right", "right", "right"], None),
        ([call("print(82-347)"), call("print(-265*46)"), "\\boxed{-12190}"],
         ["value", "inherited", "inherited"], "swaps a subtraction"),
        ([CALLS[0], call("print(347*46)"), "\\boxed{15962}"],
         ["right", "value", "inherited"], "takes a number of the question again"),
        ([CALLS[0], call("print(265+46)"), "\\boxed{311}"], ["right", "value", "inherited"], "other"),
        ([CALLS[0], "\\boxed{265}"], ["right", "value"], "other"),
        (["\\boxed{12190}"], ["expression"], "other"),
        ([*CALLS, "\\boxed{12191}"], ["right", "right", "value"], "other"),
        ([CALLS[0].replace(CLOSE, "")], ["expression"], "forgets the end of the JSON"),
        ([call("print(260*46)"), "\\boxed{11960}"], ["expression", "inherited"], "other"),
        ([*CALLS, call("print(12190+46)"), "\\boxed{12236}"], ["right", "right", "expression", "value"], "other"),
    ],
)  # fmt: skip
def test_a_step_is_judged_by_what_could_be_known(turns: list[str], verdicts: list[str], mistake: str | None) -> None:
    expression = parse(QUESTION)
    assert [step.verdict for step in judge(expression, said(*turns))] == verdicts
    assert mistake_of(expression, said(*turns)) == mistake


@pytest.mark.parametrize(
    ("question", "turns", "verdicts", "mistake"),
    [
        ("347*82+46=?", [call("print(34700+46)"), "\\boxed{34746}"], ["expression", "inherited"], "guesses a product"),
        ("30+40+50+60=?", [call("print(30+40)"), call("print(70+50)"), "\\boxed{120}"], ["right", "right", "value"],
         "boxes too early"),
    ],
)  # fmt: skip
def test_the_other_habits_are_mistakes_too(question: str, turns: list[str], verdicts: list[str], mistake: str) -> None:
    expression = parse(question)
    assert [step.verdict for step in judge(expression, said(*turns))] == verdicts
    assert mistake_of(expression, said(*turns)) == mistake


def test_written_trajectories_go_wrong_by_habit_alone(task: ToolArithmeticTask) -> None:
    rng = random.Random(1)
    for problem in task.problems("test"):
        expression = parse(problem.question)
        right, wrong = (write(expression, rng, alter) for alter in (rightly, habits(0.8)))
        assert {step.verdict for step in judge(expression, right)} == {"right"}
        assert mistake_of(expression, wrong) != "other"
        sound = all(step.verdict == "right" for step in judge(expression, wrong))
        assert sound is (mistake_of(expression, wrong) is None)
        assert not sound or wrong[-1].text == f"\\boxed{{{problem.answers[0]}}}"


# ------------------------------------------------------------------ the checkpoints


@pytest.fixture(scope="module")
def engines() -> dict[str, HFEngine]:
    loaded = {name: HFEngine(str(ASSETS / name), batch_size=128) for name in ("student", "teacher")}
    for engine in loaded.values():
        engine.start()
    return loaded


@pytest.fixture(scope="module")
def played(task: ToolArithmeticTask, engines: dict[str, HFEngine]) -> dict[str, list[Played]]:
    """Greedy trajectories for some validation problems."""
    problems = task.problems("validation")[:96]
    return {name: play(engine, task, problems, 0.0) for name, engine in engines.items()}


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_checkpoint_is_small_and_loads(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name)
    assert model.config.vocab_size == len(VOCABULARY.tokens)
    assert model.config.hidden_size // model.config.num_attention_heads == 32
    assert sum(path.stat().st_size for path in ASSETS.rglob("*")) < 5_000_000


def test_student_and_teacher_share_a_vocabulary() -> None:
    one, two = (AutoTokenizer.from_pretrained(ASSETS / name).get_vocab() for name in ("student", "teacher"))
    assert one == two


def test_the_teacher_calls_and_the_student_has_much_to_learn(played: dict[str, list[Played]]) -> None:
    share = {name: sum(p.correct for p in rows) / len(rows) for name, rows in played.items()}
    assert share["teacher"] >= 0.93
    assert 0.15 <= share["student"] <= 0.45
    assert sum(p.mistake == "other" for p in played["student"]) <= 0.15 * len(played["student"])
    assert all(p.text.count(RESPONSE[0]) in (2, 3) for p in played["teacher"] if p.correct)


def test_the_teacher_scores_right_steps_higher(played: dict[str, list[Played]], engines: dict[str, HFEngine]) -> None:
    rows = [(p, k) for p in [*played["student"], *played["teacher"]] for k in range(len(p.steps))]
    prompts = [step_prompt(p.problem.question, p.steps[:k], p.steps[k], SCALE) for p, k in rows]
    distributions, mass = score_distributions(engines["teacher"], prompts)
    expected = distributions @ torch.arange(10.0)
    right = torch.tensor([p.verdicts[k] == "right" for p, k in rows])
    assert mass.min() > 0.9
    assert auc(expected, right) > 0.95
    assert expected[right].mean() > 6.5
    assert expected[~right].mean() < 4.5
