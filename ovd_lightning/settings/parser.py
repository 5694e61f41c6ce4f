"""The parser: no abbreviations, and a mistake is one line that names the setting, the value and what was meant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.packaged import object_named, resolved
from ovd_lightning.settings.messages import explain
from ovd_lightning.settings.names import classes_in, is_object, subclasses, suggestion

ONE_STUDENT = "the engine generates for the student, which is named once."
REFUSED: dict[str, tuple[str, str]] = {
    "data.seed": ("there is one seed, of problem order and of every sample.", "Use --seed_everything {value}."),
    "engine.init_args.model": (ONE_STUDENT, "Use --model.student {value}."),
    "engine.model": (ONE_STUDENT, "Use --model.student {value}."),
    "data.task": ("the task is set at the top level.", "Use --task {value}."),
    "model.method": ("the method is set at the top level.", "Use --method {value}."),
    "rollout.engine": ("the student's engine is set at the top level.", "Use --engine {value}."),
    "optimizer": ("the optimiser is AdamW.", "Use --model.learning_rate, --model.betas, --model.weight_decay."),
    "lr_scheduler": ("the schedule is the model's.", "Use --model.lr_scheduler NAME, --model.warmup_fraction."),
}
"""Setting -> reason, what to use: names that Lightning users know, or that another setting determines."""


def refused_name(name: str, value: object = "VALUE") -> ConfigError | None:
    """The error for a setting that must not be given; None for any other."""
    for known, (reason, hint) in REFUSED.items():
        if name == known or name.startswith(f"{known}."):
            short = value if isinstance(value, (str, int)) and name == known else "VALUE"
            return ConfigError(name, reason, hint.format(value=short))
    return None


COMPLETED = ("method", "engine")
"""Settings whose classes a completion script knows; with those of ``task``, whose objects hold objects that hold
objects, it has 450 MB."""


class RunParser(LightningArgumentParser):
    """Lightning's, which takes ``--model.learning_rat`` for ``--model.learning_rate`` and prints its usage, 100 lines,
    before an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    _raises: ClassVar[bool] = False

    @classmethod
    @contextmanager
    def raising(cls) -> Iterator[None]:
        """Inside, a mistake is a ConfigError instead of the end of the process."""
        cls._raises = True
        try:
            yield
        finally:
            cls._raises = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, and exit code 2. A parser of a class's arguments raises, and the one around it reports."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        if self._raises:
            setting, _, problem = explain(parser, message).partition(": ")
            raise ConfigError(setting, problem, "")
        self.exit(2, f"error: {explain(parser, message)}\n")

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        if self.exit_on_error:
            args = sys.argv[1:] if args is None else args
            for name, value in options(args):
                refused = refused_name(name, value)
                if refused is not None:
                    raise refused
                if name.endswith(".help") or (value.isidentifier() and object_named(name, value) is None):
                    self._import_classes(name.removesuffix(".help"))
                if name == "print_completion" and self._subcommands_action is not None:
                    for command in self._subcommands_action._name_parser_map.values():
                        command._import_classes(*COMPLETED)
            args = in_place(args)
        return super().parse_args(args, *more, **kwargs)

    def _import_classes(self, *names: str) -> None:
        """Every class that can be given for these settings, so that they are found by their names alone."""
        for action in self._actions:
            if action.dest in names:
                for base in classes_in(getattr(action, "_typehint", None)):
                    subclasses(base)

    def check_given(self, given: dict[str, Any], source: str) -> None:
        """What a file sets, before it is merged. Raises: ConfigError for a name that is refused or not known."""
        if self._subcommands_action is not None:
            commands = self._subcommands_action._name_parser_map
            for name, value in given.items():
                if name in commands and isinstance(value, dict):
                    commands[name].check_given(value, source)
            return
        raise_errors([*self._refused(given, source, ""), *self._unknown(given, source, "")])

    def _unknown(self, given: dict[str, Any], source: str, prefix: str) -> Iterator[ConfigError]:
        settings = {action.dest for action in self._actions}
        for key, value in given.items():
            name = f"{prefix}{key}"
            if refused_name(name) is not None:  # see _refused
                continue
            plain = name.rstrip("+")
            inside = any(is_object(self, parent) for parent in parents(name))
            group = not is_object(self, plain) and any(setting.startswith(f"{plain}.") for setting in settings)
            if group and isinstance(value, dict):
                yield from self._unknown(value, source, f"{name}.")
            elif not (group or inside or plain in settings):
                yield ConfigError(name, f"(in {source}) is no setting.", suggestion(self, name))

    def _refused(self, given: dict[str, Any], source: str, prefix: str) -> Iterator[ConfigError]:
        """At any depth: the parser of an object's arguments does not know these names."""
        for key, value in given.items():
            refused = refused_name(f"{prefix}{key}", value)
            if refused is not None and value is not None:
                yield ConfigError(f"{prefix}{key}", f"(in {source}) {refused.problem}", refused.hint)
            if isinstance(value, dict):
                yield from self._refused(value, source, f"{prefix}{key}.")


def parents(name: str) -> list[str]:
    """Of a.b.c: a.b and a."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def in_place(args: Any) -> list[str]:
    """A command line with the package's files by their paths: ``--method grpo``, ``--model.student
    ovd_lightning/assets/student``. A value that names a file is replaced by what is in it only where that needs it."""
    placed: list[str] = []
    option = ""
    for word in map(str, args):
        name, equals, value = word.partition("=") if word.startswith("--") else (option, "", word)
        option = "" if equals else word if word.startswith("--") else ""
        if (word.startswith("--") and not equals) or not name or name == "--config":
            placed.append(word)
            continue
        new = resolved(value, Path.cwd())
        if (named := object_named(name.removeprefix("--"), value)) is not None:
            new = resolved(str(named), Path.cwd())
        text = new if isinstance(new, str) else json.dumps(new)
        placed.append(f"{name}={text}" if equals else text)
    return placed


def options(args: Any) -> list[tuple[str, str]]:
    """(a.b, value) of every --a.b=value and --a.b value of a command line."""
    found, words = [], [str(arg) for arg in args]
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            found.append((name, value if equals else following))
    return found
