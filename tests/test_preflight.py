"""What is checked before any model is loaded: each error, and the setting it names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.errors import ConfigError, ConfigErrors, raise_errors
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.preflight import (
    LONGEST,
    check_run,
    problem_errors,
    prompt_errors,
    shared_errors,
    sleep_errors,
)
from ovd_lightning.pretrained import check_path
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Split
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Problem
from tests.helpers import ScriptedEngine, problem


class ListTask(ArithmeticTask):
    """Arithmetic with given problems in every split."""

    name = "list"

    def __init__(self, problems: Sequence[Problem], heldout: Sequence[Problem] | None = None) -> None:
        super().__init__()
        self.given = {"train": problems, "validation": problems if heldout is None else heldout}

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.given["train" if split == "train" else "validation"]


@pytest.fixture
def check(tiny_model: str, tokenizer: Any) -> Callable[..., None]:
    def run(task: ArithmeticTask | None = None, **changes: Any) -> None:
        data = {"problems_per_round": 8, "mini_batches": 1, **changes.pop("data", {})}
        settings = {
            "student": tiny_model,
            "method": GRPO(group_size=4),
            "data": OVDDataModule(task or ListTask([problem(str(i)) for i in range(8)]), **data),
            "engine": ScriptedEngine(tokenizer=tokenizer, context=64),
            "max_tokens": 32,
            "chat": False,
            "stage": "fit",
        }
        check_run(**{**settings, **changes})

    return run


def test_a_completion_longer_than_the_students_positions_is_refused(
    check: Callable[..., None], tokenizer: Any, tiny_model: str
) -> None:
    """Also where the engine says nothing of its own limit."""
    positions = json.loads((Path(tiny_model) / "config.json").read_text())["max_position_embeddings"]
    engine = ScriptedEngine(tokenizer=tokenizer, context=None)
    check(engine=engine, max_tokens=positions - 1)
    with pytest.raises(ConfigError, match=rf"rollout\.max_tokens: is {positions}, but .* has {positions} positions"):
        check(engine=engine, max_tokens=positions)


Check = Callable[..., None]


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_good_run_passes(check: Check, stage: str, tokenizer: Any) -> None:
    engine, judge = ScriptedEngine(tokenizer=tokenizer, context=64), ScriptedEngine(tokenizer=tokenizer)
    check(stage=stage, engine=engine, method=OVD(VerbalTeacher(judge)), world_size=2, accumulate=4)
    assert engine.checks == 1
    assert (judge.checks > 0) is (stage == "fit"), "the teacher plays no part in an evaluation"


# ------------------------------------------------------------------ the model


def test_a_folder_that_is_not_there(check: Check, tmp_path: Path) -> None:
    for path in (str(tmp_path / "nothing"), "./nothing", "../nothing", "~/nothing-of-this-name", "a/b/c", "nothing"):
        with pytest.raises(ConfigError, match=r"^model\.student: .*nothing.* is not there|a/b/c is not there"):
            check(student=path)


def test_a_folder_without_a_checkpoint(check: Check, tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.student: .* has no config\.json"):
        check(student=str(tmp_path))
    shutil.copy(f"{tiny_model}/config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.student: .* holds no weights"):
        check(student=str(tmp_path))
    shutil.copy(f"{tiny_model}/model.safetensors", tmp_path)
    check(student=str(tmp_path))


def test_a_hub_id_may_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_path("model.student", "Qwen/Qwen2.5-0.5B")
    (tmp_path / "Qwen").mkdir()
    with pytest.raises(ConfigError, match="is not there"):  # a folder of that name is here: a slip of the pen
        check_path("model.student", "Qwen/Qwen2.5-0.5B")


def test_an_engine_that_cannot_be_trained(check: Check, tokenizer: Any) -> None:
    class Endpoint(ScriptedEngine):
        trainable = False

    for stage in ("fit", "test"):
        with pytest.raises(ConfigError, match="cannot be given new weights"):
            check(engine=Endpoint(tokenizer=tokenizer), stage=stage)


# ------------------------------------------------------------------ problems


@pytest.mark.parametrize("answers", [(), ("",), (" ", "")])
def test_a_problem_without_reference(check: Check, answers: tuple[str, ...]) -> None:
    bad = Problem(id="p7", question="1+1+0=?", answers=answers)
    good = [problem(str(i)) for i in range(8)]
    with pytest.raises(ConfigError, match=r"data\.task \(train\): problem 'p7' has no reference answer"):
        check(ListTask([*good, bad], heldout=good))
    with pytest.raises(ConfigError, match=r"data\.benchmarks\.list \(validation\): problem 'p7' has no reference"):
        check(ListTask(good, heldout=[*good, bad]))
    with pytest.raises(ConfigError, match=r"data\.benchmarks\.list \(test\)"):
        check(ListTask(good, heldout=[*good, bad]), stage="test")


def test_no_problems_at_all(check: Check) -> None:
    with pytest.raises(ConfigError, match="has no problems"):
        check(ListTask([]))
    assert not [*problem_errors("data.task", [problem()])]


def prompt_of(tokens: int, name: str) -> Problem:
    """One whose prompt has that many tokens: a character each, and the line break."""
    return problem(name, question="1" * (tokens - 1))


def test_a_prompt_longer_than_the_context(check: Check) -> None:
    short = [problem(str(i)) for i in range(200)]
    check(ListTask([*short, prompt_of(32, "fits")]))  # 32 + 32 = 64
    with pytest.raises(ConfigError, match="the prompt of problem 'long' has 33 tokens") as error:
        check(ListTask([*short, prompt_of(33, "long")], heldout=short))
    assert error.value.setting == "data.task (train)"
    assert "rollout.max_tokens 32" in str(error.value)
    assert "more than the 64" in str(error.value)


def test_an_evaluation_needs_room_for_an_answer_not_for_a_full_one(
    check: Check, caplog: pytest.LogCaptureFixture
) -> None:
    """No problem may be left out of a benchmark: the engine ends the answer at the context."""
    short = [problem(str(i)) for i in range(200)]
    with caplog.at_level("INFO"):
        check(ListTask(short, heldout=short))
        assert "data.benchmarks.list" not in caplog.text
        check(ListTask(short, heldout=[*short, prompt_of(33, "a"), prompt_of(63, "b")]))
    assert "data.benchmarks.list (validation): 2 prompts leave an answer fewer than 32 tokens" in caplog.text
    assert "context of 64, the longest 1;" in caplog.text
    for stage, split in (("fit", "validation"), ("test", "test")):
        with pytest.raises(ConfigError, match=rf"data\.benchmarks\.list \({split}\): .*'full' has 64 tokens.* no room"):
            check(ListTask(short, heldout=[*short, prompt_of(64, "full")]), stage=stage)


def test_an_engine_without_a_known_context_is_not_judged(check: Check, tokenizer: Any) -> None:
    check(ListTask([prompt_of(500, str(i)) for i in range(8)]), engine=ScriptedEngine(tokenizer=tokenizer))


def test_an_empty_prompt_is_found_among_many(tokenizer: Any) -> None:
    class Bare(ListTask):
        def prompt(self, problem: Problem) -> str:
            return problem.question

    engine = ScriptedEngine(tokenizer=tokenizer, context=64)
    for others in (3, LONGEST + 10):
        problems = [problem("empty", question=""), *(problem(str(i)) for i in range(others))]
        with pytest.raises(ConfigError, match="problem 'empty' has an empty prompt"):
            raise_errors(prompt_errors("data.task", Bare(problems), problems, engine, max_tokens=8, chat=False))


def test_chat_without_a_template(check: Check) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.chat: is true, but .* no chat template"):
        check(chat=True)


# ------------------------------------------------------------------ engines


def vllm(model: str, sleep: bool, on_cpu: bool = False) -> VLLMEngine:
    engine = VLLMEngine(model=model, sleep=sleep)
    engine.__dict__["on_cpu"] = on_cpu  # what a machine with a GPU would find
    return engine


def test_one_engine_of_a_process_may_sleep(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    student = vllm(tiny_model, sleep=True)
    raise_errors(sleep_errors(student, GRPO(group_size=2)))
    raise_errors(sleep_errors(student, OVD(VerbalTeacher(vllm(tiny_model, sleep=False)))))
    raise_errors(
        sleep_errors(vllm(tiny_model, True, on_cpu=True), OVD(VerbalTeacher(vllm(tiny_model, True, on_cpu=True))))
    )
    two = OVD(VerbalTeacher(vllm(tiny_model, sleep=True)))
    with pytest.raises(ConfigError, match=r"engine\.init_args\.sleep: .* one engine a process"):
        raise_errors(sleep_errors(student, two))
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # each engine in a process of its own
    raise_errors(sleep_errors(student, two))


def test_ranks_share_the_students_engine_only(tiny_model: str) -> None:
    def said(student: int, teacher: int, ranks: int) -> list[str]:
        engines = [VLLMEngine(tiny_model, tensor_parallel_size=parts) for parts in (student, teacher)]
        return [str(error) for error in shared_errors(engines[0], OVD(VerbalTeacher(engines[1])), ranks)]

    assert not said(1, 1, 4)
    assert not said(2, 2, 1)
    assert not list(shared_errors(VLLMEngine(tiny_model, tensor_parallel_size=2), GRPO(group_size=2), 2))
    for student, teacher, why in ((2, 1, "is 1 beside the student's"), (1, 2, "is 2"), (2, 2, "is 2")):
        (error,) = said(student, teacher, 2)
        assert error.startswith("method.init_args.teacher.init_args.engine.init_args.tensor_parallel_size: " + why)
        assert "vllm serve" in error


@pytest.mark.parametrize("concerned", ["engine", "demonstrator"])
def test_a_server_that_is_down_is_named_by_its_setting(check: Check, tokenizer: Any, concerned: str) -> None:
    server = OpenAIEngine(base_url="http://127.0.0.1:9/v1", model="Qwen/QwQ-32B")
    parts = {"engine": ScriptedEngine(tokenizer=tokenizer), "demonstrator": ScriptedEngine(tokenizer=tokenizer)}
    method = OVD(VerbalTeacher(**{**parts, concerned: server}))
    check(method=method, stage="test")  # nothing is asked of it
    with pytest.raises(ConfigError, match="does not answer") as error:
        check(method=method)
    assert error.value.setting == f"method.init_args.teacher.init_args.{concerned}.init_args.base_url"
    assert "python -m vllm.entrypoints.openai.api_server" in error.value.hint


def test_the_students_engine_is_named_by_its_setting(check: Check, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        check(engine=VLLMEngine(model=str(tmp_path / "nothing")))
    assert error.value.setting == "engine.init_args.model"


# ------------------------------------------------------------------ sizes


def test_ranks_that_do_not_divide_the_round(check: Check) -> None:
    for ranks in (2, 4, 8):
        check(world_size=ranks)
    for ranks in (3, 16):
        with pytest.raises(ConfigError, match=rf"data\.problems_per_round: is 8, not a multiple of the {ranks} ranks"):
            check(world_size=ranks)
    check(world_size=3, stage="test")  # evaluation takes any number


@pytest.mark.parametrize(
    ("ranks", "mini_batches", "least"),
    [
        (1, 1, 32),  # 8 groups of 4
        (2, 1, 16),
        (1, 3, 8),  # 3, 3 and 2 groups
        (2, 4, 4),  # one group a step and rank
    ],
)
def test_more_micro_batches_than_trajectories(check: Check, ranks: int, mini_batches: int, least: int) -> None:
    sizes = {"world_size": ranks, "data": {"mini_batches": mini_batches}}
    check(**sizes, accumulate=least)
    with pytest.raises(ConfigError, match=rf"accumulate_grad_batches: is {least + 1}, .* as few as {least} traject"):
        check(**sizes, accumulate=least + 1)


def test_more_mini_batches_than_groups_of_a_rank(check: Check) -> None:
    with pytest.raises(ConfigError, match=r"data\.mini_batches: is 4, more than the 2 groups a rank has"):
        check(world_size=4, data={"mini_batches": 4})


def test_sizes_of_the_data() -> None:
    task = ListTask([problem()])
    with pytest.raises(ConfigError, match=r"data\.mini_batches: is 9, more than the 8 groups"):
        OVDDataModule(task, problems_per_round=8, mini_batches=9)


def test_a_system_message_needs_a_chat_template_to_be_shown(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer=tokenizer, context=128)
    task = ArithmeticTask(train_size=1, validation_size=1, test_size=1)
    task.system = "Reason step by step."
    with pytest.raises(ConfigError, match=r"data\.task.*not shown where rollout\.chat is false"):
        raise_errors(prompt_errors("data.task", task, task.problems("train"), engine, 8, chat=False))


def test_what_is_not_graded_needs_no_reference() -> None:
    open_question = [Problem(id="p", question="why?", answers=())]
    assert not [*problem_errors("data.benchmarks.open (test)", open_question, graded=False)]
    with pytest.raises(ConfigError, match="no reference"):
        raise_errors(problem_errors("data.benchmarks.open (test)", open_question))


def test_mistakes_are_reported_together(check: Check, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as error:
        check(student=str(tmp_path / "nothing"), accumulate=99)
    assert [e.setting for e in error.value.errors] == ["model.student", "trainer.accumulate_grad_batches"]
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(ConfigError) as error:  # of training and of validation, the same: once
        check(chat=True)
    assert not isinstance(error.value, ConfigErrors)
