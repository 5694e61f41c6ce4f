"""YAML that a user wrote: what is wrong with it, in one line with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ovd_lightning.errors import ConfigError


def parse_yaml(text: str, source: str, setting: str, hint: str = "It must be YAML.", kind: type = object) -> Any:
    """The content of a YAML text.

    Args:
        source: where the text is from.
        kind: what its top level must be: dict, list, or anything.

    Raises: ConfigError with line and column.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where, problem = "", str(error)
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
            problem = " ".join(filter(None, (error.context, error.problem)))
        problem = f"{where}: {problem}"
    else:
        if isinstance(found, kind):
            return found
        problem = f" is not a {'mapping of settings' if kind is dict else kind.__name__}"
    raise ConfigError(setting, f"{source}{problem}.", hint)


def read_yaml(path: Path, setting: str, hint: str, kind: type = object) -> Any:
    """The content of a YAML file, see :func:`parse_yaml`. Raises: ConfigError, also for a file that is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ConfigError(setting, f"{path} {problem}.", hint) from error
    return parse_yaml(text, str(path), setting, hint, kind)
