"""Everything that can be wrong and can be known before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovd_lightning.engines.base import Engine
from ovd_lightning.errors import ConfigError
from ovd_lightning.teachers.base import LONGEST
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.data import OVDDataModule
    from ovd_lightning.methods.base import Method
    from ovd_lightning.tasks.base import Task


def check_model_path(setting: str, path: str) -> None:
    """A checkpoint folder, or something that can be a hub id.

    Raises: ConfigError for a folder that is not there or holds no config.json.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(setting, f"{path} has no config.json.", "Give the folder of a Hugging Face checkpoint.")
        return
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or "/" not in path or folder.parent.is_dir():
        raise ConfigError(
            setting, f"{path} is not there.", "Give a checkpoint folder, or a hub id like Qwen/Qwen2.5-0.5B."
        )


def check_problems(setting: str, problems: Sequence[Problem]) -> None:
    """Raises: ConfigError when there is no problem, or one without a reference."""
    if not problems:
        raise ConfigError(setting, "has no problems.", "Give it data, or a larger size.")
    for problem in problems:
        if not problem.answers or not any(str(a).strip() for a in problem.answers):
            raise ConfigError(
                setting,
                f"problem {problem.id!r} has no reference answer: {problem.question[:80]!r}.",
                "Add one, or leave the problem out of the data.",
            )


def check_prompts(
    setting: str, task: Task, problems: Sequence[Problem], engine: Engine, max_tokens: int, chat: bool
) -> None:
    """Raises: ConfigError when a prompt is empty, or too long for the model's context with a full completion."""
    tokenizer, context = engine.tokenizer, engine.max_context
    if tokenizer is None or context is None:
        return
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "rollout.chat", "is true, but the student's tokenizer has no chat template.", "Set it to false."
        )
    by_length = sorted(problems, key=lambda p: -len(task.prompt(p)))
    for problem in [*by_length[:LONGEST], *by_length[LONGEST:][-1:]]:  # the shortest one may be empty
        tokens = len(encode_prompt(task.prompt(problem), tokenizer, chat, task.system))
        if tokens == 0:
            raise ConfigError(setting, f"problem {problem.id!r} has an empty prompt.", "Leave it out of the data.")
        if tokens + max_tokens > context:
            raise ConfigError(
                setting,
                f"the prompt of problem {problem.id!r} has {tokens} tokens; with rollout.max_tokens {max_tokens} that "
                f"is more than the {context} the student's engine holds.",
                "Lower rollout.max_tokens, raise the engine's max_model_len if the model allows, or leave it out.",
            )


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
    check_model_path("model.student", student)
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
        check_problems("data.task (train)", data.train_problems())
    split = "test" if stage in ("test", "predict") else "validation"
    evaluated = data.eval_problems(split)  # type: ignore[arg-type]
    for name, problems in evaluated.items():
        check_problems(f"data.benchmarks.{name} ({split})", problems)
    engine.check()
    if training and method.teacher is not None:
        method.teacher.check()
    if training:
        check_prompts("data.task (train)", data.task, data.train_problems(), engine, max_tokens, chat)
        if method.teacher is not None:
            method.teacher.check_problems(data.task, data.train_problems(), max_tokens)
    for name, problems in evaluated.items():
        task = data.benchmarks(split)[name]  # type: ignore[arg-type]
        check_prompts(f"data.benchmarks.{name} ({split})", task, problems, engine, max_tokens, chat)
