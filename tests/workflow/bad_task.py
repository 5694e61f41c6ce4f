"""A task whose third problem has no reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.base import Split
from ovd_lightning.types import Problem


class NoReference(ArithmeticTask):
    def problems(self, split: Split) -> Sequence[Problem]:
        problems = list(super().problems(split))
        problems[2] = replace(problems[2], answers=())
        return problems
