"""Fixtures of the tasks' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.search.bm25 import BM25Search
from tests.search.parts import save_byte_tokenizer, write_corpus


@pytest.fixture
def bm25(tmp_path: Path) -> BM25Search:
    """Over the small corpus of tests/search/parts.py."""
    return BM25Search(str(write_corpus(tmp_path / "corpus.jsonl")), index=str(tmp_path / "index"))


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token a byte."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bytes")
    save_byte_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return AutoTokenizer.from_pretrained(folder)
