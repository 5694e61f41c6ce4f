"""Fixtures that unit tests share."""

from __future__ import annotations

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
