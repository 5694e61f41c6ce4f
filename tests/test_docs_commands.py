"""What the documents name exists: commands, files of the benchmarks, and the targets of links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workflow import cli

ROOT = Path(__file__).parents[1]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "configs/**/*.yaml", "benchmarks/**/*", "ovd_lightning/**/*", "tests/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".md", ".py", ".yaml")
}
DOCUMENTS = [name for name in TEXTS if name.endswith(".md")]
GIVEN = [text for name, text in TEXTS.items() if not name.endswith(".py") or name.startswith("benchmarks/")]
MODULES = sorted({m for text in GIVEN for m in re.findall(r"-m\s+((?:benchmarks|ovd_lightning)(?:\.\w+)*)", text)})
"""Of the commands that a reader is given."""


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_modules_of_commands_exist() -> None:
    assert len([name for name in MODULES if name.startswith("benchmarks.")]) > 12
    places = {name: ROOT / name.replace(".", "/") for name in MODULES}
    missing = [m for m, p in places.items() if not (p.with_suffix(".py").exists() or (p / "__main__.py").exists())]
    assert not missing


def test_files_of_benchmarks_exist() -> None:
    """Written as paths or as modules, in prose, comments, and code."""
    missing = []
    for place, text in TEXTS.items():
        names = re.findall(r"(?<![\w/.-])benchmarks/[\w/.]*\w", text)
        names += re.findall(r"(?<![\w/.-])benchmarks\.(?:paper|compare|speed|assets)(?:\.\w+)*", text)
        for name in names:
            path = ROOT / (name if "/" in name else name.replace(".", "/"))
            # a folder or file, a module, or what a module defines
            if not any(p.exists() for p in (path, path.with_suffix(".py"), path.parent.with_suffix(".py"))):
                missing.append(f"{place}: {name}")
    assert not missing


@pytest.mark.slow
def test_commands_answer_help() -> None:
    for name in MODULES:
        done = cli.run("--help", module=name)
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        assert "usage:" in done.stdout, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    """To files and headings of this repository; the web is left out."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[name])):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (ROOT / name).parent / file if file else ROOT / name
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


def anchors(text: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+?)\s*$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
