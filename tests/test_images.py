"""The Dockerfiles, which are not built here: what they copy is there, what they install is what the tests ran with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_what_an_image_copies_is_there(name: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [words.split() for kind, words in instructions(name) if kind == "COPY"]
    sources = [source for *sources, _ in copied for source in sources]
    assert {"pyproject.toml", "configs", "ovd_lightning"} <= set(sources)
    assert all((ROOT / source).exists() and source not in ignored for source in sources)
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert {kind for kind, _ in instructions(name)} <= known
    installed = [words for kind, words in instructions(name) if kind == "RUN" and "pip install" in words]
    files = [file for words in installed for file in re.findall(r"requirements/\S+", words)]
    assert not files or "requirements" in sources


def test_the_cpu_image_has_the_versions_of_the_installation() -> None:
    (version,) = re.findall(r"^torch_version=(\S+)$", (ROOT / "requirements/install.sh").read_text(), re.MULTILINE)
    runs = "\n".join(words for kind, words in instructions("Dockerfile") if kind == "RUN")
    assert f'"torch=={version}+cpu"' in runs
    for file in ("constraints.txt", "cpu-nodeps.txt"):
        assert f"requirements/{file}" in runs
        assert (ROOT / "requirements" / file).is_file()
