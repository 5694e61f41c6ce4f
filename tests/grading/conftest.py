"""Graders that the tests of this folder share; their workers start once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ovd_lightning.grading import Grader


@pytest.fixture(scope="package")
def strict() -> Iterator[Grader]:
    with Grader("strict", workers=2, timeout_s=10) as grader:  # generous: a busy machine must not decide a test
        yield grader


@pytest.fixture(scope="package")
def qwen() -> Iterator[Grader]:
    with Grader("qwen", workers=1, timeout_s=10) as grader:
        yield grader
