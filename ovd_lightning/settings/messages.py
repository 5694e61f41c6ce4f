"""The parser's errors as one line: the setting, its value, what it takes, and what was probably meant.

jsonargparse reports an error as nested text, one level per object, with a reason for every member of a union. The
innermost reason is what went wrong, and the levels around it are the setting's dotted name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from ovd_lightning.errors import did_you_mean
from ovd_lightning.settings.names import (
    argument_type,
    class_paths,
    classes_in,
    constructor_names,
    file_beside,
    suggestion,
)

KEY = re.compile(r'^Parser key "([^"]+)"(?: element \d+)?:?\s*(.*)$')
GIVEN_CLASS = re.compile(r"^Problem with given class_path '([^']+)'")
UNKNOWN = re.compile(r"^(?:Subcommand '\w+' does not accept|Group '(?P<group>[^']+)' does not accept|)\s*"
                     r"[oO]ption '(?P<name>[^']+)'")  # fmt: skip
NO_CLASS = re.compile(
    r"has no attribute|No module named|dot import path|import path format|does not correspond to|"
    r"Not a valid subclass|is abstract|Expected an instantiatable class"
)
REQUIRED = re.compile(r"^the following arguments are required: (.*)$")
EXPECTED = re.compile(r"^Expected (?:an? )?(?P<type>.+?)(?:\. Got value: (?P<value>.*))?$")
RANGE = re.compile(r"^Use (?P<words>.+?)(?:\. Got value: (?P<value>.*))?$")
"""Of a type of settings/ranges.py."""
REGISTERED = re.compile(r"^Not of type \w+: ")
"""Before the reason of such a type."""
GIVEN = re.compile(r"^Given value: (.*)$")
NESTED = re.compile(r"^NestedArg\(key='[^']*', val=(['\"]?)(.*)\1\)$")
COMMAND = re.compile(r"^(fit|validate|test|predict)\.")
TYPES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null",
    "list": "a list", "tuple": "a list", "dict": "a mapping",
}  # fmt: skip
LONG = 100
"""Characters of a value that is still shown."""


@dataclass
class Reason:
    """One of the reasons that an error gives: where, and what."""

    keys: tuple[str, ...]
    text: str
    class_path: str | None
    """Of the object whose argument is wrong, or of the object that was given."""
    owner: str | None
    """Class path of the object around the last key."""


@dataclass
class ParsedError:
    """A nested error in parts."""

    reasons: list[Reason] = field(default_factory=list)
    value: str | None = None
    missing_file: str | None = None


def parse_error(message: str) -> ParsedError:
    """Reasons with their places: the level of a line is its indentation."""
    parsed = ParsedError()
    levels: list[tuple[int, str | None, str | None]] = []  # indentation, key, class path
    for line in message.splitlines():
        text = line.lstrip()
        if not text:
            continue
        bullet = text.startswith("- ")
        text = text[2:] if bullet else text
        indent = len(line) - len(text)
        while levels and levels[-1][0] >= indent and not (indent == 0 and len(levels) == 1):
            levels.pop()
        if (match := KEY.match(text)) is not None:
            levels.append((indent, match.group(1), None))
            text = match.group(2)
        elif (match := GIVEN_CLASS.match(text)) is not None:
            levels.append((indent, None, match.group(1)))
            text = text[match.end() :].lstrip(": ")
        text = REGISTERED.sub("", text)
        if not text:
            continue
        keys = tuple(key for _, key, _ in levels if key is not None)
        if (match := GIVEN.match(text)) is not None:
            nested = NESTED.match(match.group(1))
            parsed.value = parsed.value or (nested.group(2) if nested else match.group(1))
        elif text.startswith("Expected a path but "):
            parsed.missing_file = text[len("Expected a path but ") :].partition(" either not")[0]
        elif any(match is not None for _, match in kinds(text)) or keys:
            paths = [path for _, _, path in levels if path is not None]
            last = max((n for n, (_, key, _) in enumerate(levels) if key is not None), default=0)
            owners = [path for _, _, path in levels[:last] if path is not None]
            parsed.reasons.append(Reason(keys, text, paths[-1] if paths else None, owners[-1] if owners else None))
    return parsed


def kinds(text: str) -> list[tuple[str, re.Match[str] | None]]:
    """The kinds of reasons, each with its match in the text; the most informative kind first."""
    return [
        ("unknown", UNKNOWN.match(text)), ("required", REQUIRED.match(text)), ("no class", NO_CLASS.search(text)),
        ("range", RANGE.match(text)), ("expected", EXPECTED.match(text)),
    ]  # fmt: skip


def rank(reason: Reason) -> tuple[int, int]:
    """The innermost reason ranks highest, and among equals the most informative one."""
    found = [match is not None for _, match in kinds(reason.text)]
    return len(reason.keys), len(found) - found.index(True) if any(found) else 0


def dotted(keys: tuple[str, ...]) -> str:
    """method, teacher -> method.init_args.teacher."""
    return COMMAND.sub("", ".init_args.".join(keys))


def shown(value: str | None) -> str | None:
    return None if value is None or len(value) > LONG or value.startswith(("Namespace(", "{", "NestedArg(")) else value


def in_words(kind: str) -> str:
    """<class 'int'> -> a whole number; Literal['a', 'b'] -> one of a, b."""
    kind = kind.strip().rstrip(".")
    if (match := re.match(r"^(?:typing\.)?Literal\[(.*)\]$", kind)) is not None:
        return "one of " + ", ".join(part.strip(" '\"") for part in match.group(1).split(","))
    if (match := re.match(r"^<class '([\w.]+)'>", kind)) is not None:
        return TYPES.get(match.group(1).rpartition(".")[2], match.group(1))
    if (match := re.match(r"^(list|tuple|dict)\b", kind)) is not None:
        return TYPES[match.group(1)]
    return kind


def explain(parser: Any, message: str) -> str:
    """A parser's message as one line; in the parser's own words where its form is not known here."""
    flat = " ".join(message.split())
    if (match := re.match(r"^unrecognized arguments: (\S+)", message)) is not None:
        return _unknown_option(parser, match.group(1))
    if (match := re.match(r"^the following arguments are required: (.*)$", message)) is not None:
        names = [COMMAND.sub("", name) for name in match.group(1).split(", ")]
        one = len(names) == 1
        return f"{', '.join(names)}: {'is' if one else 'are'} not set. {_start_from(names[0])}"
    if (match := re.match(r"^argument subcommand: invalid choice: '([^']*)'", message)) is not None:
        commands = [*parser._subcommands_action.choices, "dry_run"]
        near = did_you_mean(match.group(1), commands)
        return f"{match.group(1)} is no command. {near or 'Use one of ' + ', '.join(commands) + '.'}"
    if message.startswith('expected "subcommand" to be one of'):
        return f"no command is given. Use one of {', '.join([*parser._subcommands_action.choices, 'dry_run'])}."
    if (match := re.match(r"^argument (?:-\w/)?--([\w.]+): expected (one|at least one) argument", message)) is not None:
        return f"{match.group(1)}: has no value. Write --{match.group(1)} VALUE."
    if flat.startswith("argument --print_completion: invalid choice") and find_spec("shtab") is None:
        return "print_completion: needs a package that is not installed. pip install shtab."
    if (match := re.match(r"^--([\w.]+)\.help: ", flat)) is not None:
        return _no_help(parser, match.group(1))
    parsed = parse_error(message)
    if not parsed.reasons:
        return flat
    best = max(parsed.reasons, key=rank)
    setting = dotted(best.keys)
    if (match := UNKNOWN.match(best.text)) is not None:
        return _unknown_name(parser, best, setting, match)
    if (match := REQUIRED.match(best.text)) is not None and best.class_path is not None:
        names = [f"{setting}.init_args.{name}" for name in match.group(1).split(", ")]
        needs = f"{best.class_path.rpartition('.')[2]} needs {'it' if len(names) == 1 else 'them'}"
        added = " ".join(f"--{name} VALUE" for name in names)
        return f"{', '.join(names)}: {'is' if len(names) == 1 else 'are'} not set, and {needs}. Add {added}."
    if NO_CLASS.search(best.text):
        return _no_class(parser, best, setting, parsed)
    reasons = [reason for reason in parsed.reasons if reason.keys == best.keys]
    if RANGE.match(best.text):
        return _out_of_range(setting, reasons, parsed)
    if EXPECTED.match(best.text):
        return _wrong_value(setting, reasons, parsed)
    return f"{setting}: {' '.join(best.text.split())}"


def _no_help(parser: Any, setting: str) -> str:
    """Help was asked for something that is no class for the setting."""
    hint = next((getattr(action, "_typehint", None) for action in parser._actions if action.dest == setting), None)
    known = sorted({path.rpartition(".")[2] for base in classes_in(hint) for path in class_paths(base)})
    return f"{setting}.help: there is no such class. Use one of {', '.join(known)}, or the path of your own."


def _start_from(name: str) -> str:
    return f"Start from a config, e.g. --config configs/quickstart.yaml, or set it: --{name} VALUE."


def _unknown_option(parser: Any, option: str) -> str:
    name = option.partition("=")[0]
    if not name.startswith("--"):
        return f"{option}: belongs to no option. Settings are given as --NAME VALUE."
    return f"{name[2:]}: is no setting. {suggestion(parser, name[2:], '--')}"


def _unknown_name(parser: Any, reason: Reason, setting: str, match: re.Match[str]) -> str:
    name = match.group("name")
    if match.group("group"):
        name = f"{match.group('group')}.{name}"
    if reason.class_path is None:
        return f"{name}: is no setting. {suggestion(parser, name)}"
    module, _, cls = reason.class_path.rpartition(".")
    known = constructor_names(getattr(__import__(module, fromlist=[cls]), cls))
    near = did_you_mean(name, [f"{setting}.init_args.{other}" for other in known])
    return f"{setting}.init_args.{name}: {cls} takes no {name}. {near or 'It takes ' + ', '.join(known) + '.'}"


def _no_class(parser: Any, reason: Reason, setting: str, parsed: ParsedError) -> str:
    """A class or a file that is not there, or of the wrong kind."""
    value = parsed.missing_file or reason.class_path or parsed.value or ""
    if NESTED.match(value):
        value = NESTED.match(value).group(2)  # type: ignore[union-attr]
    if "/" in value or value.endswith((".yaml", ".yml")):
        return f"{setting}: {value} is not there. {file_beside(value) or 'Give a path.'}"
    if value in ("None", "null"):
        return f"{setting}: is not set. {_start_from(setting)}"
    hint = None
    if len(reason.keys) > 1:
        hint = argument_type(reason.owner, reason.keys[-1]) if reason.owner else None
    else:
        hint = next((getattr(a, "_typehint", None) for a in parser._actions if a.dest == reason.keys[-1]), None)
    bases = classes_in(hint)
    near = did_you_mean(value, [path for base in bases for path in class_paths(base)])
    wanted = " or ".join(dict.fromkeys(base.__name__ for base in bases)) or "class of the right kind"
    problem = "is abstract" if "abstract" in reason.text else f"is no {wanted}, nor a file with one"
    return f"{setting}: {shown(value) or 'its value'} {problem}. {near or 'Give a class_path or a YAML file.'}"


def _out_of_range(setting: str, reasons: list[Reason], parsed: ParsedError) -> str:
    """ "is 0. Use 1 or more, or null.": a number outside the range of its type; the last is the union's other type."""
    found = [match for reason in reasons if (match := RANGE.match(reason.text)) is not None]
    takes = list(dict.fromkeys(match.group("words") for match in found))
    element = next((match.group("value") for match in found if match.group("value") is not None), None)
    if element is None:  # the value itself, of a union
        others = [match.group("type") for reason in reasons if (match := EXPECTED.match(reason.text)) is not None]
        takes += [in_words(kind).removeprefix("one of ") for kind in others]
    return f"{setting}: is {parsed.value if element is None else element}. Use {', or '.join(takes)}."


def _wrong_value(setting: str, reasons: list[Reason], parsed: ParsedError) -> str:
    wanted, value = [], None
    for reason in reasons:
        match = EXPECTED.match(reason.text)
        if match is None:
            continue
        wanted.append(in_words(match.group("type")))
        value = value or match.group("value")
    value = value or parsed.value
    if value in ("None", "null"):
        return f"{setting}: is not set. {_start_from(setting)}"
    choices = [part for kind in wanted if kind.startswith("one of ") for part in kind[len("one of ") :].split(", ")]
    expected = [f"one of {', '.join(choices)}"] if choices else []
    expected += [kind for kind in dict.fromkeys(wanted) if not kind.startswith("one of ")]
    near = did_you_mean(str(value), choices) if choices else ""
    given = "has a value of the wrong kind" if shown(value) is None else f"is {value}"
    return f"{setting}: {given}. It takes {' or '.join(expected)}. {near}".strip()
