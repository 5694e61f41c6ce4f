"""Naming a class starts from that class's own defaults.

jsonargparse merges an object that is given again into the one before it, setting by setting, and where the new class
takes an argument of the same name, the old one's value stays. Here, whatever names a class (a ``class_path``, a
class's name, the file of one) replaces what was there, at any depth; a mapping with nothing but
``init_args``, or a dotted name, changes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse._typehints import ActionTypeHint
from jsonargparse.typing import Path_fr

from ovd_lightning.errors import ConfigError
from ovd_lightning.packaged import config_named, resolved
from ovd_lightning.settings.names import file_beside
from ovd_lightning.settings.parser import RunParser
from ovd_lightning.settings.yaml_files import parse_yaml

YAML = (".yaml", ".yml", ".json")


def as_mapping(value: Any) -> dict[str, Any] | None:
    """A mapping or a namespace as a dictionary that shares its values; None for anything else."""
    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, dict) else None


def names_class(value: Any) -> bool:
    """Whether a value, read from its file if it is one, is an object of its own."""
    mapping = as_mapping(value)
    return mapping is None or "class_path" in mapping


@contextmanager
def opened(value: Any) -> Iterator[Any]:
    """A value as it is meant: a file's content, with that file's folder as the current one, or a mapping in YAML."""
    if not isinstance(value, str):
        yield value
        return
    try:
        file = Path_fr(value)
    except TypeError:
        try:
            found = yaml.safe_load(value) if value.lstrip()[:1] in ("{", "[") or "\n" in value else value
        except yaml.YAMLError:
            found = value
        yield found if isinstance(found, (dict, list)) else value
        return
    if not value.endswith(YAML):
        yield value
        return
    text = Path(file).read_text(encoding="utf-8")
    with file.relative_path_context():
        yield parse_yaml(text, value, "config")


def make_room(present: Namespace | dict[str, Any], given: dict[str, Any]) -> None:
    """Take out of ``present`` every object that ``given`` defines again, so that nothing of it is merged into the new.

    Args:
        present: the configuration so far.
        given: what is about to be merged into it, as it was written: nested, with files by name.
    """
    for name, value in given.items():
        holder, _, last = name.rpartition(".")
        inside = present
        for part in filter(None, holder.split(".")):
            inside = (as_mapping(inside) or {}).get(part, {})
        mapping = as_mapping(inside)
        if mapping is None or last not in mapping:
            continue
        mapping[last] = _kept(mapping[last], value)
        if mapping[last] is None:
            del mapping[last]


def _kept(old: Any, value: Any) -> Any:
    """What stays of ``old`` before ``value`` is merged into it; None: nothing."""
    fields = as_mapping(old)
    if fields is None and not isinstance(old, list):
        return old
    with opened(value) as new:
        mapping = as_mapping(new)
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            return [_kept(a, b) for a, b in zip(old, new, strict=True)]
        if fields is None:
            return old
        if "class_path" not in fields:  # a group of settings, or a mapping of objects
            if mapping is not None:
                make_room(old, mapping)
            return old
        if mapping is None or names_class(mapping):
            return None
        if "init_args" in mapping or "dict_kwargs" in mapping:
            make_room(old, mapping)
        elif isinstance(fields.get("init_args"), (Namespace, dict)):  # the arguments alone
            make_room(fields["init_args"], mapping)
    return old


class ObjectArgument(ActionTypeHint):
    """An argument on the command line, which makes room before it is merged."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 4:
            _, present, value, option = args
            base = self.get_option_string_base(option)
            if not str(option).endswith("+"):  # --x+ appends
                given: Any = value
                for part in reversed([] if base is None else option[len(base) + 1 :].split(".")):
                    given = {part: given}
                make_room(present, {self.dest: given})
        return super().__call__(*args, **kwargs)


def objects_replace(parser: ArgumentParser) -> None:
    """Let every argument of a parser that is complete follow the rule."""
    for action in parser._actions:
        if type(action) is ActionTypeHint:
            action.__class__ = ObjectArgument


class ConfigFile(ActionConfigFile):
    """``--config FILE``, where a line ``base: OTHER`` of FILE names the file that it differs from, relative to it.

    The same as ``--config OTHER --config FILE``: a variant of an experiment is then one file with what differs.
    ``base`` takes a line of its own; a base may have a base.
    """

    BASE = re.compile(r"^base:[ \t]*([^\s#]+)[ \t]*(#.*)?$", re.MULTILINE)

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any, variants: tuple[Path, ...] = ()) -> None:
        try:
            file = Path_fr(value)
        except TypeError:
            file = Path_fr(str(named)) if (named := config_named(str(value))) is not None else None
        if file is None:
            with opened(value) as mapping:
                if not isinstance(mapping, dict):
                    raise _no_config(value)
                ConfigFile.prepare(parser, cfg, mapping, "--config")
            ActionConfigFile.apply_config(parser, cfg, dest, value)
            return
        text = Path(file).read_text(encoding="utf-8")
        found = ConfigFile.BASE.search(text)
        if found is not None:
            path = Path(file).absolute()
            base = Path(os.path.normpath(path.parent / found.group(1)))
            if not base.is_file():
                base = config_named(found.group(1)) or base
            circular = base in (*variants, path)
            if circular or not base.is_file():
                problem = "is among the files that it is the base of" if circular else "is not there"
                hint = f"Name a file relative to {path.parent} that does not have this one as its base."
                raise ConfigError("base", f"{base}, named in {path}, {problem}.", hint)
            ConfigFile.apply_config(parser, cfg, dest, str(base), (*variants, path))
            text = ConfigFile.BASE.sub("", text, count=1)  # its line stays, empty: an error's line number is right
        if parse_yaml(text, str(value), "config") is None:  # comments, and perhaps a base
            return
        mapping = parse_yaml(text, str(value), "config", "Write `setting: value` lines.", dict)
        complete = resolved(mapping, Path(file).absolute().parent)
        if complete != mapping:
            text = yaml.safe_dump(complete, sort_keys=False)
        with file.relative_path_context():
            ConfigFile.prepare(parser, cfg, complete, str(value))
            if found is not None or complete != mapping:
                ActionConfigFile.apply_config(parser, cfg, dest, text)
                return
        ActionConfigFile.apply_config(parser, cfg, dest, str(file))

    @staticmethod
    def prepare(parser: Any, cfg: Any, mapping: dict[str, Any], source: str) -> None:
        """Raises: ConfigError for names that the parser does not know or refuses."""
        if isinstance(parser, RunParser):
            parser.check_given(mapping, source)
        make_room(cfg, mapping)


def _no_config(value: Any) -> ConfigError:
    what = "is a folder." if Path(str(value)).expanduser().is_dir() else "is not there."
    return ConfigError(
        "config",
        f"{value} {what}",
        file_beside(str(value)) or "Give the path of a YAML file; `configs` lists those here.",
    )
