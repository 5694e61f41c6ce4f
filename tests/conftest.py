"""Fixtures that unit tests share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.helpers import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random student with tied embeddings."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_tied"), tied=True)


@pytest.fixture(scope="session")
def tiny_untied_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny_untied"), tied=False, seed=1)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: str) -> Any:
    """One token a character."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: of the two that run at a time, neither then ends long after the other."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
