"""The exceptions that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class ConfigError(ValueError):
    """A setting is wrong; raised before any model is loaded.

    Args:
        setting: its full name, e.g. ``method.init_args.threshold``.
        problem: what is wrong with its value, e.g. ``is 12, outside the teacher's scale 0-9.``
        hint: what to do about it.
    """

    def __init__(self, setting: str, problem: str, hint: str):
        self.setting, self.problem, self.hint = setting, problem, hint
        super().__init__(f"{setting}: {problem} {hint}".strip())

    @property
    def errors(self) -> Sequence[ConfigError]:
        """The single mistakes."""
        return [self]


class ConfigErrors(ConfigError):
    """Several wrong settings, one a line; ``setting``, ``problem`` and ``hint`` are those of the first."""

    def __init__(self, errors: Sequence[ConfigError]):
        super().__init__(errors[0].setting, errors[0].problem, errors[0].hint)
        self._errors = errors

    @property
    def errors(self) -> Sequence[ConfigError]:
        return self._errors

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def raise_errors(errors: Iterable[ConfigError]) -> None:
    """Raises: ConfigError with everything that is wrong, each once, if anything is."""
    found = list({str(error): error for error in errors}.values())
    if found:
        raise found[0] if len(found) == 1 else ConfigErrors(found)


@contextmanager
def collecting(errors: list[ConfigError]) -> Iterator[None]:
    """Append a ConfigError of the block to ``errors``, so that it is reported together with others."""
    try:
        yield
    except ConfigError as error:
        errors.append(error)


@contextmanager
def located(setting: str, own: str = "") -> Iterator[None]:
    """Give a ConfigError its full setting: an engine knows its own settings only, not whose engine it is.

    Args:
        setting: of the object.
        own: what the object itself calls that setting; empty: nothing, its settings have no dots.
    """
    try:
        yield
    except ConfigError as error:
        if not error.setting.startswith(own) if own else "." in error.setting:
            raise
        if own:
            inside = error.setting.removeprefix(own)
        else:
            inside = "" if error.setting == "engine" else f".init_args.{error.setting}"
        raise ConfigError(f"{setting}{inside}", error.problem, error.hint) from error


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: one with the same last part, else the closest in spelling."""
    known = list(dict.fromkeys(names))
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    if same:
        return max(same, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
    for other in difflib.get_close_matches(name, known, cutoff=0.8):
        if difflib.SequenceMatcher(None, last, other.rpartition(".")[2]).ratio() >= 0.75:  # model.lr is no model.lora
            return other
    lasts = {other.rpartition(".")[2]: other for other in reversed(known)}
    part = difflib.get_close_matches(last, lasts, n=1, cutoff=0.75)
    return lasts[part[0]] if part else None


def did_you_mean(name: str, names: Iterable[str], dashes: str = "") -> str:
    """ "Did you mean --data.rounds?", or nothing where no name is near."""
    found = nearest(name, names)
    return "" if found is None else f"Did you mean {dashes}{found}?"


class RunError(RuntimeError):
    """The run cannot go on, for a reason outside the program: a service that is gone, a full disk, a loss that is not
    a number. Only its message is shown."""
