"""CONTRIBUTING.md is true: its example runs as written, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_example_method_passes_the_example_test(tokenizer: Any) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), namespace)
    namespace["test_only_correct_ones_train"](tokenizer)
    assert namespace["Twice"]().advantages([1.0, 0.0], []) == [2, 0]


def test_files_and_folders_it_names_exist() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|[\w-]+\.toml)`", TEXT))
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


def test_make_targets_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make ([\w-]+) ", TEXT))
    assert len(targets) >= 5
    assert not [target for target in targets if f"\n{target}:" not in makefile]
