"""Everything that can be wrong and can be known before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.prompting import LONGEST
from ovd_lightning.engines.render import TemplateError
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.errors import ConfigError, located
from ovd_lightning.evaluation.names import AVERAGE
from ovd_lightning.pretrained import check_checkpoint
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.data import OVDDataModule
    from ovd_lightning.evaluation.answering import Decoding
    from ovd_lightning.evaluation.names import EvalSplit
    from ovd_lightning.evaluation.rejection import TestingRejection
    from ovd_lightning.methods.base import Method
    from ovd_lightning.tasks.base import Task


def say_generation_problem(student: str) -> None:
    """Generation settings that transformers loads and would not save again are no reason to refuse a student."""
    from ovd_lightning.export import generation_problem

    problem = generation_problem(student)
    if problem is not None:
        rank_zero_info(
            f"model.student: the generation settings of {student} contradict themselves ({problem}). Sampling here "
            "does not use them; the exported student gets them as they are."
        )


def check_problems(setting: str, problems: Sequence[Problem], graded: bool = True) -> None:
    """Raises: ConfigError when there is no problem, or one without a reference where answers are ``graded``."""
    if not problems:
        raise ConfigError(setting, "has no problems.", "Give it data, or a larger size.")
    for problem in problems if graded else ():
        if not problem.answers or not any(str(a).strip() for a in problem.answers):
            raise ConfigError(
                setting,
                f"problem {problem.id!r} has no reference answer: {problem.question[:80]!r}.",
                "Add one, or leave the problem out of the data.",
            )


def check_prompts(
    setting: str,
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    max_tokens: int,
    chat: bool,
    whole: bool = True,
) -> None:
    """Raises: ConfigError when a prompt is empty, or too long for the model's context with a full completion.

    Args:
        whole: a full completion must fit. Otherwise, for evaluation, where no problem may be left out, it is enough
            that there is room for an answer: the engine ends it at the context, it counts as truncated, and how many
            prompts that concerns is logged.
    """
    tokenizer, context = engine.tokenizer, engine.max_context
    if tokenizer is None or context is None:
        return
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "rollout.chat", "is true, but the student's tokenizer has no chat template.", "Set it to false."
        )
    if not chat and task.system is not None:
        raise ConfigError(
            setting,
            "has a system message, which is not shown where rollout.chat is false.",
            "Set rollout.chat to true, or a prompt without one (of the mathematics benchmarks: style: plain).",
        )
    by_length = sorted(problems, key=lambda p: -len(task.prompt(p)))
    short_of_room: list[int] = []
    for problem in [*by_length[:LONGEST], *by_length[LONGEST:][-1:]]:  # the shortest one may be empty
        try:
            tokens = len(encode_prompt(task.prompt(problem), tokenizer, chat, task.system))
        except TemplateError as error:
            raise ConfigError(
                "rollout.chat",
                f"is true, but of {tokenizer.name_or_path} {error}.",
                "Use a prompt without a system message (of the mathematics benchmarks: style: plain), or chat: false."
                if task.system is not None
                else "Set it to false, or give the tokenizer another chat template.",
            ) from error
        if tokens == 0:
            raise ConfigError(setting, f"problem {problem.id!r} has an empty prompt.", "Leave it out of the data.")
        if tokens + max_tokens <= context:
            continue
        if whole:
            raise ConfigError(
                setting,
                f"the prompt of problem {problem.id!r} has {tokens} tokens; with rollout.max_tokens {max_tokens} that "
                f"is more than the {context} the student's engine holds.",
                "Lower rollout.max_tokens, raise the engine's max_model_len if the model allows, or leave it out.",
            )
        if tokens >= context:
            raise ConfigError(
                setting,
                f"the prompt of problem {problem.id!r} has {tokens} tokens, which leaves no room for an answer in the "
                f"{context} that the student's engine holds.",
                "Raise the engine's max_model_len if the model allows, or show fewer examples.",
            )
        short_of_room.append(context - tokens)
    if short_of_room:
        rank_zero_info(
            f"{setting}: {len(short_of_room)} prompts leave an answer fewer than {max_tokens} tokens in the student's "
            f"context of {context}, the longest {min(short_of_room)}; answers end there and count as truncated"
        )


def check_sleep(engine: Engine, method: Method) -> None:
    """vLLM keeps the memory of sleeping engines in one pool a process, which serves one engine.

    Raises: ConfigError for a second sleeping engine on a GPU.
    """
    teacher = method.teacher
    engines = [engine, *(teacher.engines if teacher is not None else [])]
    asleep = [e for e in engines if isinstance(e, VLLMEngine) and e.sleep and not e.on_cpu]
    own_processes = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1"
    if len(asleep) > 1 and not own_processes:
        raise ConfigError(
            "engine.init_args.sleep",
            f"is true for {' and '.join(e.name for e in asleep)}; vLLM lets one engine a process sleep.",
            "Let the student's sleep and the teacher's not, or put the teacher behind a server.",
        )


def engine_settings(teacher: Teacher, setting: str) -> Iterator[tuple[str, Engine]]:
    """A teacher's engines, each once, with the setting that holds it: a demonstrator may be a teacher itself."""
    seen: list[Engine] = []
    for name in ("engine", "demonstrator"):
        part = getattr(teacher, name, None)
        found = engine_settings(part, f"{setting}.init_args.{name}") if isinstance(part, Teacher) else ()
        for where, engine in found if not isinstance(part, Engine) else ((f"{setting}.init_args.{name}", part),):
            if all(engine is not other for other in seen):
                seen.append(engine)
                yield where, engine


def check_teacher(teacher: Teacher) -> None:
    """Its engines first, each by the setting that holds it. Raises: ConfigError."""
    for where, engine in engine_settings(teacher, "method.init_args.teacher"):
        with located(where):
            engine.check()
    teacher.check()


def check_environments(data: OVDDataModule) -> None:
    """Each once; their errors name the training task's, which is not where every environment stands.

    Raises: ConfigError.
    """
    own = "task.init_args.environment"
    for environment in data.environments():
        try:
            environment.check()
        except ConfigError as error:
            if environment is data.task.environment or not error.setting.startswith(own):
                raise
            tasks = {**data.benchmarks("validation"), **data.benchmarks("test")}
            name = next(name for name, task in tasks.items() if task.environment is environment)
            where = "data.benchmarks" if data.suite is not None else f"data.benchmarks.{name}"
            setting = f"{where}.init_args.environment{error.setting.removeprefix(own)}"
            raise ConfigError(setting, error.problem, error.hint) from error


def check_run(
    *,
    student: str,
    method: Method,
    data: OVDDataModule,
    engine: Engine,
    max_tokens: int,
    chat: bool,
    stage: str,
    world_size: int = 1,
    accumulate: int = 1,
) -> None:
    """All checks of a run, the cheapest first. Raises: ConfigError."""
    training = stage == "fit"
    check_checkpoint("model.student", student)
    if not engine.trainable:
        raise ConfigError("engine", f"{engine.name} cannot be given new weights.", "Use the vllm or the hf engine.")
    if training:
        if data.problems_per_round % world_size:
            raise ConfigError(
                "data.problems_per_round",
                f"is {data.problems_per_round}, not a multiple of the {world_size} ranks.",
                "Every rank takes the same number of whole groups.",
            )
        groups = data.problems_per_round // world_size
        if groups < data.mini_batches:
            raise ConfigError(
                "data.mini_batches",
                f"is {data.mini_batches}, more than the {groups} groups a rank has of a round, which are kept whole.",
                "Lower it, or raise data.problems_per_round.",
            )
        smallest = groups // data.mini_batches * method.group_size
        if smallest < accumulate:
            raise ConfigError(
                "trainer.accumulate_grad_batches",
                f"is {accumulate}, but an optimiser step has as few as {smallest} trajectories a rank.",
                "Lower it or data.mini_batches, or raise data.problems_per_round.",
            )
        check_problems("data.task (train)", data.train_problems(), graded=data.task.graded)
        if method.needs_references and not data.task.graded:
            raise ConfigError(
                "task",
                f"{type(data.task).__name__} has no reference answers, and {type(method).__name__} with these settings "
                "needs them for its reward.",
                "Use configs/method/judge_reward.yaml, or OVD with replace_when: score and credit: Score.",
            )
        data.task.check(data.train_problems())
    split = "test" if stage in ("test", "predict") else "validation"
    evaluated = data.eval_problems(split)  # type: ignore[arg-type]
    for name, problems in evaluated.items():
        check_problems(f"data.benchmarks.{name} ({split})", problems, graded=stage != "predict")
        if stage != "predict":
            data.benchmarks(split)[name].check(problems)  # type: ignore[arg-type]
    if training:
        say_generation_problem(student)
        check_sleep(engine, method)
    with located("engine"):
        engine.check()
    if training and method.teacher is not None:
        check_teacher(method.teacher)
    if training:
        check_prompts("data.task (train)", data.task, data.train_problems(), engine, max_tokens, chat)
        method.check_problems(data.task, data.train_problems(), max_tokens)
    for name, problems in evaluated.items():
        task = data.benchmarks(split)[name]  # type: ignore[arg-type]
        check_prompts(f"data.benchmarks.{name} ({split})", task, problems, engine, max_tokens, chat, whole=False)


def check_evaluation(
    data: OVDDataModule,
    splits: Sequence[EvalSplit],
    engine: Engine,
    decoding: Decoding,
    rejection: TestingRejection | None,
    teacher: Teacher | None,
    checked: EvalSplit | None = None,
) -> None:
    """Raises: ConfigError for benchmarks without problems or references, prompts that leave no room for an answer,
    and testing rejection that has no teacher or does not fit it.

    Args:
        checked: a split whose problems and prompts were looked at already.
    """
    asked = False
    if rejection is not None:
        rejection.check(teacher)
        asked = rejection.needs_teacher(teacher)
    if asked and teacher is not None:
        teacher.check()
    for split in splits:
        tasks = data.benchmarks(split)
        for name, problems in data.eval_problems(split).items():
            setting = f"data.benchmarks.{name} ({split})"
            if name == AVERAGE:
                raise ConfigError(setting, "has the name of the average over benchmarks.", "Call it something else.")
            if split != checked:
                check_problems(setting, problems)
                check_prompts(setting, tasks[name], problems, engine, decoding.max_tokens, decoding.chat, whole=False)
            if asked and teacher is not None:
                teacher.check_problems(tasks[name], problems, decoding.max_tokens)
