"""Names that could have been meant: of settings, classes and files."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import typing
from pathlib import Path
from types import UnionType
from typing import Any

from ovd_lightning.errors import did_you_mean
from ovd_lightning.packaged import listing

LISTED = "python -m ovd_lightning fit --help lists all settings."


def is_object(parser: Any, name: str) -> bool:
    """Whether a setting is one argument with a value of any shape: an object, a list, a mapping."""
    return any(action.dest == name and hasattr(action, "_typehint") for action in parser._actions)


def suggestion(parser: Any, name: str, dashes: str = "") -> str:
    """What to write instead of a name that is none of a parser's settings."""
    known = known_names(parser)
    near = did_you_mean(name, known, dashes)
    group = name.rpartition(".")[0]
    members = [other.rpartition(".")[2] for other in known if group and other.rpartition(".")[0] == group]
    return near or (f"{group} has {', '.join(members)}." if members else LISTED)


def known_names(parser: Any) -> list[str]:
    """Every setting of a parser by its dotted name, those of the objects' constructors included."""
    dests = {action.dest for action in parser._actions if not action.dest.endswith(("help", "print_config"))}
    groups = {d for d in dests if not is_object(parser, d) and any(other.startswith(f"{d}.") for other in dests)}
    targets = {action.dest for action in parser._actions if getattr(action, "apply_on", None)}  # set by links only
    found = sorted(dests - groups - targets)
    for action in parser._actions:
        bases = classes_in(getattr(action, "_typehint", None))
        for base in (b for b in bases if b.__module__.startswith("ovd_lightning.")):
            for cls in subclasses(base):
                found += [f"{action.dest}.init_args.{name}" for name in constructor_names(cls)]
    return list(dict.fromkeys(found))


def constructor_names(cls: type) -> list[str]:
    """The arguments of a class, those that it passes on by ``**kwargs`` included."""
    names: list[str] = []
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(names) if name != "self"]


def classes_in(hint: Any) -> list[type]:
    """The classes in a type, of settings that hold an object: Task of ``dict[str, Task] | None``."""
    if inspect.isclass(hint) and typing.get_origin(hint) is None:
        return [] if issubclass(hint, (int, float)) or hint.__module__ == "builtins" else [hint]
    if typing.get_origin(hint) in (typing.Union, UnionType, list, dict, tuple, typing.Annotated):
        return [cls for part in typing.get_args(hint) for cls in classes_in(part)]
    return []


def subclasses(base: type) -> list[type]:
    """Every class that can be given for ``base``, this package's loaded for it."""
    package = base.__module__.rpartition(".")[0]
    if package.startswith("ovd_lightning"):
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__):
            try:
                importlib.import_module(f"{package}.{module.name}")
            except ImportError:  # e.g. of a library that is not installed
                continue
    found: list[type] = [base]
    for cls in found:
        derived: list[type] = cls.__subclasses__()
        found += [other for other in derived if other not in found]
    return [cls for cls in found if not inspect.isabstract(cls)]


def class_paths(base: type) -> list[str]:
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in subclasses(base)]


def argument_type(class_path: str, name: str) -> Any:
    """The type of a constructor's argument; None where it is not known."""
    module, _, cls = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls)
        for base in inspect.getmro(found):
            hints = typing.get_type_hints(base.__init__) if "__init__" in vars(base) else {}  # type: ignore[misc]
            if name in hints:
                return hints[name]
    except Exception:
        return None
    return None


def file_beside(path: str) -> str:
    """ "Did you mean configs/math.yaml?", of the files beside one that is not there and of the package's configs;
    nothing if none is near."""
    folder = Path(path).expanduser().parent
    names = [str(folder / file.name) for file in folder.glob("*.y*ml")] if folder.is_dir() else []
    names += [name for name, _ in listing()]
    near = difflib.get_close_matches(path, names, n=1, cutoff=0.75)
    return f"Did you mean {near[0]}?" if near else ""
