"""Everything that can be wrong and can be known before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.prompting import LONGEST
from ovd_lightning.engines.render import TemplateError
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.errors import ConfigError, collecting, located, raise_errors
from ovd_lightning.evaluation.names import AVERAGE
from ovd_lightning.pretrained import check_checkpoint, load_config
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.data import OVDDataModule
    from ovd_lightning.evaluation.answering import Decoding
    from ovd_lightning.evaluation.names import EvalSplit
    from ovd_lightning.evaluation.rejection import TestingRejection
    from ovd_lightning.methods.base import Method
    from ovd_lightning.tasks.base import Task


def log_generation_problem(student: str) -> None:
    """Generation settings that transformers loads and would not save again are no reason to refuse a student."""
    from ovd_lightning.export import generation_problem

    problem = generation_problem(student)
    if problem is not None:
        rank_zero_info(
            f"model.student: the generation settings of {student} contradict themselves ({problem}). Sampling here "
            "does not use them; the exported student gets them as they are."
        )


def problem_errors(setting: str, problems: Sequence[Problem], graded: bool = True) -> Iterator[ConfigError]:
    """That there is no problem; where answers are ``graded``, the first problem without a reference."""
    if not problems:
        yield ConfigError(setting, "has no problems.", "Give it data, or a larger size.")
    for problem in problems if graded else ():
        if not any(str(answer).strip() for answer in problem.answers):
            yield ConfigError(
                setting,
                f"problem {problem.id!r} has no reference answer: {problem.question[:80]!r}.",
                "Add one, or leave the problem out of the data.",
            )
            return


def prompt_errors(
    setting: str,
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    max_tokens: int,
    chat: bool,
    complete: bool = True,
) -> Iterator[ConfigError]:
    """The first prompt that is empty, or too long for the model's context; what a chat template lacks.

    Args:
        complete: a completion of ``max_tokens`` must fit. Otherwise, for evaluation, where no problem may be left out,
            it is enough that there is room for an answer: the engine ends it at the context, it counts as truncated,
            and how many prompts that concerns is logged.
    """
    tokenizer, context = engine.tokenizer, engine.max_context
    if tokenizer is None or context is None:
        return
    if chat and not getattr(tokenizer, "chat_template", None):
        yield ConfigError(
            "rollout.chat", "is true, but the student's tokenizer has no chat template.", "Set it to false."
        )
        return
    if not chat and task.system is not None:
        yield ConfigError(
            setting,
            "has a system message, which is not shown where rollout.chat is false.",
            "Set rollout.chat to true, or a prompt without one (of the mathematics benchmarks: style: plain).",
        )
    by_length = sorted(problems, key=lambda p: -len(task.prompt(p)))
    room: list[int] = []
    for problem in [*by_length[:LONGEST], *by_length[LONGEST:][-1:]]:  # the shortest one may be empty
        try:
            tokens = len(encode_prompt(task.prompt(problem), tokenizer, chat, task.system))
        except TemplateError as error:
            yield ConfigError(
                "rollout.chat",
                f"is true, but of {tokenizer.name_or_path} {error}.",
                "Use a prompt without a system message (of the mathematics benchmarks: style: plain), or chat: false."
                if task.system is not None
                else "Set it to false, or give the tokenizer another chat template.",
            )
            return
        if tokens == 0:
            yield ConfigError(setting, f"problem {problem.id!r} has an empty prompt.", "Leave it out of the data.")
            return
        if tokens + (max_tokens if complete else 1) > context:
            excess = (
                f"; with rollout.max_tokens {max_tokens} that is more than"
                if complete
                else ", which leaves no room for an answer in"
            )
            yield ConfigError(
                setting,
                f"the prompt of problem {problem.id!r} has {tokens} tokens{excess} the {context} that the student's "
                "engine holds.",
                "Raise the engine's max_model_len if the model allows, lower rollout.max_tokens, show fewer examples, "
                "or leave the problem out.",
            )
            return
        if tokens + max_tokens > context:
            room.append(context - tokens)
    if room:
        rank_zero_info(
            f"{setting}: {len(room)} prompts leave an answer fewer than {max_tokens} tokens in the student's "
            f"context of {context}, the longest {min(room)}; answers end there and count as truncated"
        )


def positions_of(student: str, engine: Engine) -> int | None:
    """The longest sequence that a student was made for; None: it has no limit of its own. Raises: ConfigError."""
    config = load_config("model.student", student, getattr(engine, "trust_remote_code", False))
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def length_errors(student: str, positions: int | None, max_tokens: int) -> Iterator[ConfigError]:
    """A limit of completions that leaves no prompt a place, whatever the engine would hold."""
    if positions is not None and max_tokens >= positions:
        yield ConfigError(
            "rollout.max_tokens",
            f"is {max_tokens}, but {student} has {positions} positions, for prompt and completion together.",
            "Lower it, or use a student of more.",
        )


def sleep_errors(engine: Engine, method: Method) -> Iterator[ConfigError]:
    """A second sleeping engine on a GPU: vLLM keeps the memory of sleeping engines in one pool a process, which serves
    one engine."""
    teacher = method.teacher
    engines = [engine, *(teacher.engines if teacher is not None else [])]
    asleep = [e for e in engines if isinstance(e, VLLMEngine) and e.sleep and not e.on_cpu]
    own_processes = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1"
    if len(asleep) > 1 and not own_processes:
        yield ConfigError(
            "engine.init_args.sleep",
            f"is true for {' and '.join(e.name for e in asleep)}; vLLM lets one engine a process sleep.",
            "Let the student's sleep and the teacher's not, or put the teacher behind a server.",
        )


def shared_errors(engine: Engine, method: Method, world_size: int) -> Iterator[ConfigError]:
    """An engine other than the student's that several ranks would have to share, or that is beside a shared one in a
    process: vLLM has one division into ranks a process."""
    teacher = method.teacher
    others = [] if teacher is None else [*engine_settings(teacher, "method.init_args.teacher")]
    parts = engine.tensor_parallel_size if isinstance(engine, VLLMEngine) else 1
    for setting, other in others if world_size > 1 else ():
        if isinstance(other, VLLMEngine) and max(parts, other.tensor_parallel_size) > 1:
            why = f"is {other.tensor_parallel_size}" if other.tensor_parallel_size > 1 else "is 1 beside the student's"
            yield ConfigError(
                f"{setting}.init_args.tensor_parallel_size",
                f"{why} on {world_size} ranks, which can share the student's engine only.",
                "Put the teacher behind a server: vllm serve MODEL --tensor-parallel-size N (docs/eight_gpus.md).",
            )


def training_errors(method: Method, data: OVDDataModule, world_size: int, accumulate: int) -> Iterator[ConfigError]:
    """Sizes of a round that do not divide among ranks and updates; a reward without references."""
    if data.problems_per_round % world_size:
        yield ConfigError(
            "data.problems_per_round",
            f"is {data.problems_per_round}, not a multiple of the {world_size} ranks.",
            "Every rank takes the same number of complete groups.",
        )
        return
    groups = data.problems_per_round // world_size
    if groups < data.mini_batches:
        yield ConfigError(
            "data.mini_batches",
            f"is {data.mini_batches}, more than the {groups} groups a rank has of a round, which are not split.",
            "Lower it, or raise data.problems_per_round.",
        )
    elif (smallest := groups // data.mini_batches * method.group_size) < accumulate:
        yield ConfigError(
            "trainer.accumulate_grad_batches",
            f"is {accumulate}, but an optimiser step has as few as {smallest} trajectories a rank.",
            "Lower it or data.mini_batches, or raise data.problems_per_round.",
        )
    if method.needs_references and not data.task.graded:
        yield ConfigError(
            "task",
            f"{type(data.task).__name__} has no reference answers, and {type(method).__name__} with these settings "
            "needs them for its reward.",
            "Use configs/method/judge_reward.yaml, or OVD with replace_when: score and credit: Score.",
        )


def engine_settings(teacher: Teacher, setting: str) -> Iterator[tuple[str, Engine]]:
    """A teacher's engines, each once, with the setting that holds it: a part of it may be a teacher itself."""
    seen: list[Engine] = []
    parts = {name: getattr(teacher, name, None) for name in ("engine", "demonstrator", "default")}
    parts |= {f"teachers.{name}": part for name, part in getattr(teacher, "teachers", {}).items()}
    for name, part in parts.items():
        found = engine_settings(part, f"{setting}.init_args.{name}") if isinstance(part, Teacher) else ()
        for where, engine in found if not isinstance(part, Engine) else ((f"{setting}.init_args.{name}", part),):
            if all(engine is not other for other in seen):
                seen.append(engine)
                yield where, engine


def check_teacher(teacher: Teacher) -> None:
    """Its engines first, each by the setting that holds it. Raises: ConfigError."""
    found: list[ConfigError] = []
    for where, engine in engine_settings(teacher, "method.init_args.teacher"):
        with collecting(found), located(where):
            engine.check()
    raise_errors(found)
    teacher.check()


def asking_errors(setting: str, task: Task, teacher: Teacher | None) -> Iterator[ConfigError]:
    """An environment that asks the student, where a teacher takes turns in it."""
    if task.environment is not None and task.environment.asks_student and isinstance(teacher, Demonstrator):
        yield ConfigError(
            setting,
            "has an environment that asks the student, which cannot reply to the turns of a teacher.",
            "Use a search engine that gives the documents themselves, or a method without a teacher that writes.",
        )


def check_environments(data: OVDDataModule) -> None:
    """Each once, by the setting that holds it: its own errors name the training task's. Raises: ConfigError."""
    benchmarks = [*data.benchmarks("validation").items(), *data.benchmarks("test").items()]
    for environment in data.environments():
        where = "task"
        if environment is not data.task.environment:
            name = next(name for name, task in benchmarks if task.environment is environment)
            where = "data.benchmarks" if data.suite is not None else f"data.benchmarks.{name}"
        with located(f"{where}.init_args.environment", own="task.init_args.environment"):
            environment.check()


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
    model_errors: Iterable[ConfigError] = (),
) -> None:
    """All checks of a run, the cheapest first; mistakes that do not hide one another are reported together.

    Args:
        model_errors: what the module knows of its own settings.
    Raises: ConfigError.
    """
    training = stage == "fit"
    split: EvalSplit = "test" if stage in ("test", "predict") else "validation"
    found: list[ConfigError] = []
    with collecting(found):
        check_checkpoint("model.student", student)
        found += length_errors(student, positions_of(student, engine), max_tokens if training else 0)
    if not found:
        found += model_errors
    if not engine.trainable:
        found.append(
            ConfigError("engine", f"{engine.name} cannot be given new weights.", "Use the vllm or the hf engine.")
        )
    if training:
        found += training_errors(method, data, world_size, accumulate)
        found += [*sleep_errors(engine, method), *shared_errors(engine, method, world_size)]
        found += asking_errors("data.task", data.task, method.teacher)
    raise_errors(found)

    trained = data.train_problems() if training else []
    if training:
        found += problem_errors("data.task (train)", trained, graded=data.task.graded)
        if not found:
            with collecting(found):
                data.task.check(trained)
    evaluated: list[tuple[str, Task, list[Problem]]] = []
    with collecting(found):
        tasks = data.benchmarks(split)
        evaluated += [(f"data.benchmarks.{n} ({split})", tasks[n], p) for n, p in data.eval_problems(split).items()]
    for setting, _, problems in evaluated:
        found += problem_errors(setting, problems, graded=stage != "predict")
    raise_errors(found)

    if training:
        log_generation_problem(student)
    for _, task, problems in evaluated if stage != "predict" else ():
        with collecting(found):
            task.check(problems)
    with collecting(found), located("engine"):
        engine.check()
    if training and method.teacher is not None:
        with collecting(found):
            check_teacher(method.teacher)
    raise_errors(found)

    if training:
        found += prompt_errors("data.task (train)", data.task, trained, engine, max_tokens, chat)
        with collecting(found):
            method.check_problems(data.task, trained, max_tokens)
    for setting, task, problems in evaluated:
        found += prompt_errors(setting, task, problems, engine, max_tokens, chat, complete=False)
    raise_errors(found)


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
    if rejection is not None:
        rejection.check(teacher)
    asked = teacher if rejection is not None and rejection.needs_teacher(teacher) else None
    found: list[ConfigError] = []
    if asked is not None:
        asked.check()
    for split in splits:
        tasks = data.benchmarks(split)
        for name, problems in data.eval_problems(split).items():
            setting = f"data.benchmarks.{name} ({split})"
            if name == AVERAGE:
                found.append(
                    ConfigError(setting, "has the name of the average over benchmarks.", "Call it something else.")
                )
            wrong = [] if split == checked else list(problem_errors(setting, problems))
            if not wrong and split != checked:
                wrong += prompt_errors(
                    setting, tasks[name], problems, engine, decoding.max_tokens, decoding.chat, complete=False
                )
            found += wrong
            if asked is not None and not wrong:
                found += asking_errors(setting, tasks[name], asked)
                with collecting(found):
                    asked.check_problems(tasks[name], problems, decoding.max_tokens)
    raise_errors(found)
