"""What the package brings with it: the configs, and the models and data of the quickstarts. They are found from any
folder; what is in the current folder, or beside the file that names it, comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).parent
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
"""In a wheel they are in the package, in a checkout beside it."""
ROOTS = (("ovd_lightning/assets/", PACKAGE / "assets"), ("configs/", CONFIGS))
"""How files of the package are written in configs, and where they are."""
SUFFIXES = (".yaml", ".yml", ".json")


def packaged(name: str) -> str:
    """A path as it is written, or its place in the package if it only exists there."""
    for prefix, folder in ROOTS:
        if name.startswith(prefix) and not Path(name).exists():
            found = folder / name.removeprefix(prefix)
            return str(found) if found.exists() else name
    return name


def config_named(name: str) -> Path | None:
    """The package's config of a name: quickstart, method/grpo, ../method/grpo.yaml, configs/quickstart.yaml.
    None: there is none."""
    while name.startswith("../"):
        name = name.removeprefix("../")
    name = name.removeprefix("configs/").removesuffix(".yaml")
    path = CONFIGS / f"{name}.yaml"
    return path if path.is_file() and path.resolve().is_relative_to(CONFIGS.resolve()) else None


def object_named(setting: str, name: str) -> Path | None:
    """The package's file of an object, for what a setting is given: grpo for method, hosted for
    method.init_args.teacher. None: there is none, or a file of that name in the current folder."""
    if re.fullmatch(r"[\w./-]+", name) is None:  # e.g. an object, written out
        return None
    path = config_named(f"{setting.rpartition('.')[2]}/{name}")
    if path is None or Path(name).exists() or not re.search(r"^class_path:", path.read_text(encoding="utf-8"), re.M):
        return None
    return path


def listing() -> Iterator[tuple[str, str]]:
    """(name, the first sentence of its comment) of every config."""
    for path in sorted(CONFIGS.rglob("*.yaml"), key=lambda p: (len(p.relative_to(CONFIGS).parts), str(p))):
        prose = takewhile(re.compile(r"# ?\S").match, path.read_text(encoding="utf-8").splitlines())  # no command
        words = " ".join(line.removeprefix("#").strip() for line in prose)
        sentence = re.split(r"(?<=[a-z0-9)]{2}\.)\s+(?=[A-Z`])", words)[0].removesuffix(":")
        yield path.relative_to(CONFIGS).with_suffix("").as_posix(), sentence


def resolved(value: Any, folder: Path) -> Any:
    """Settings with every file of the package in its place.

    Args:
        value: as it was read from a file in ``folder``. A file in it that names files of the package replaces its name.
    """
    if isinstance(value, dict):
        return {name: resolved(part, folder) for name, part in value.items()}
    if isinstance(value, list):
        return [resolved(part, folder) for part in value]
    if not isinstance(value, str):
        return value
    if not value.endswith(SUFFIXES) or "\n" in value:
        return packaged(value)
    beside = folder / Path(value).expanduser()
    path = beside if beside.is_file() else config_named(value)
    if path is None:
        return value
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):  # whoever reads it says so
        return value
    complete = resolved(content, path.parent)
    if complete != content:
        return complete
    return value if path == beside else str(path)
