"""What can be wrong with an evaluation and can be known before its first answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovd_lightning.errors import ConfigError
from ovd_lightning.evaluation.names import AVERAGE
from ovd_lightning.preflight import check_problems, check_prompts

if TYPE_CHECKING:
    from ovd_lightning.data import OVDDataModule
    from ovd_lightning.engines.base import Engine
    from ovd_lightning.evaluation.answering import Decoding
    from ovd_lightning.evaluation.names import EvalSplit
    from ovd_lightning.evaluation.rejection import TestingRejection
    from ovd_lightning.teachers.base import Teacher


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
