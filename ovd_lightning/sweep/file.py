"""A W&B sweep file: its content, the runs that it describes, their names and command lines."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.packaged import config_named
from ovd_lightning.settings.yaml_files import read_yaml

Values = dict[str, Any]
"""One run's parameters: dotted name -> value."""

DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
SEED = "seed_everything"
"""The parameter that ``--seeds`` sets."""
FOLDER = "trainer.default_root_dir"
"""The parameter that sets a run's folder."""
RECORD = "sweep_run.json"
"""File of a run's folder: its parameters, and how it ended."""
MACROS = ("env", "interpreter", "program", "args", "args_no_hyphens", "args_no_equals", "args_no_boolean_flags",
          "args_json")  # fmt: skip
"""What a part ``${name}`` of a command stands for; others make sense under W&B's agent alone."""
MACRO = re.compile(r"\$\{([^:}]*)\}")
ENVIRONMENT = re.compile(r"\$\{envvar:(\w+)\}")
BY_AGENT = "For anything else use W&B's own agent: wandb sweep FILE, then wandb agent."


def _text(value: Any) -> bool:
    return isinstance(value, str)


SHAPE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: value == "grid", f"grid. {BY_AGENT}"),
    "parameters": (lambda value: isinstance(value, dict) and len(value) > 0, "a mapping: name -> values: [0, 5]."),
    "metric": (lambda value: isinstance(value, dict) and _text(value.get("name")), "name: eval/..., goal: maximize."),
    "run_cap": (lambda value: type(value) is int and value >= 1, "a whole number of runs, 1 or more."),
    "command": (lambda value: isinstance(value, list) and len(value) > 0, "a list with one part a line."),
    "program": (_text, "a path."),
    "name": (_text, "a text."),
    **dict.fromkeys(("apiVersion", "description", "entity", "kind", "project"), (lambda value: True, "")),
}
"""Top-level key -> whether a value is one, and what to write. Those of the last line concern W&B's service alone."""


@dataclass(slots=True, kw_only=True)
class Sweep:
    """A sweep file that has been checked."""

    name: str
    command: list[str]
    program: str
    parameters: dict[str, list[Any]]
    """Name -> values."""
    metric: str | None
    run_cap: int | None
    directory: Path
    """Where the runs start: relative paths of the command are meant from here."""


def read_sweep(path: Path) -> Sweep:
    """Raises: ConfigError for a file that does not exist, that W&B would refuse, or that only W&B's agent can run."""
    named = None if path.is_file() else config_named(str(path)) or config_named(f"sweeps/{path}")
    path = named or path
    tree = read_yaml(path, "sweep file", "Write one like configs/sweeps/threshold.yaml.", dict)
    tree = {key: value for key, value in tree.items() if value is not None}
    raise_errors(_key_errors(tree))
    command, program = [str(part) for part in tree.get("command", DEFAULT_COMMAND)], tree.get("program", "")
    parameters = {str(name): _choices(parameter) for name, parameter in tree["parameters"].items()}
    directory = _directory(path, program)
    found = list(_content_errors(tree["parameters"], command))
    if directory is None and "${program}" in command:
        problem = f"{program} is neither in {Path.cwd()} nor above {path}."
        found.append(ConfigError("program", problem, "Name it relative to where runs start."))
    raise_errors(found)
    return Sweep(
        name=tree.get("name", path.stem),
        command=command,
        program=program,
        parameters={name: choices for name, choices in parameters.items() if choices is not None},
        metric=tree.get("metric", {}).get("name"),
        run_cap=tree.get("run_cap"),
        directory=Path.cwd() if named or directory is None else directory,
    )


def _key_errors(tree: dict[str, Any]) -> Iterator[ConfigError]:
    """Top-level keys that are unknown, missing or of the wrong kind."""
    for key in dict.fromkeys(["method", "parameters", *tree]):
        if key not in SHAPE:
            yield ConfigError(
                "sweep file", f"{key} is not supported here.", f"Known are {', '.join(SHAPE)}. {BY_AGENT}"
            )
        elif not (shape := SHAPE[key])[0](tree.get(key)):
            yield ConfigError(key, f"is {tree.get(key)!r}.", f"Write {shape[1]}")


def _content_errors(parameters: dict[Any, Any], command: Sequence[str]) -> Iterator[ConfigError]:
    """Parameters and command lines that no run can be made of here."""
    for name, parameter in parameters.items():
        if _choices(parameter) is None:
            hint = f"Write value: 5, or values: [0, 5]. {BY_AGENT}"
            yield ConfigError(f"parameters.{name}", f"is {parameter!r}.", hint)
    if any(FOLDER in text for text in (*command, *map(str, parameters))):
        yield ConfigError("sweep file", f"sets {FOLDER}, which the sweep sets for every run.", "Leave it out: --root.")
    if not any(re.fullmatch(r"\$\{args\w*\}", part) for part in command):
        yield ConfigError("command", "has no ${args}: no parameter would reach a run.", "Add it as the last part.")
    for part in command:
        if (macro := MACRO.fullmatch(part)) and macro[1] not in MACROS:
            yield ConfigError("command", f"{part} is not known here.", f"Use one of {', '.join(MACROS)}.")


def _choices(parameter: Any) -> list[Any] | None:
    """The values of a parameter; None for what only W&B's agent can draw from."""
    match parameter:
        case {"value": value, **rest} if not rest or rest == {"distribution": "constant"}:
            return [value]
        case {"values": [_, *_] as values, **rest} if not rest or rest == {"distribution": "categorical"}:
            return list(values)
    return None


def _directory(path: Path, program: str) -> Path | None:
    """The working directory where the program is, else the nearest folder above the sweep file where it is."""
    if not program:
        return Path.cwd()
    return next((folder for folder in (Path.cwd(), *path.resolve().parents) if (folder / program).exists()), None)


def expand(sweep: Sweep, *, count: int | None = None, seeds: Sequence[int] = ()) -> list[Values]:
    """The runs' parameters: every combination, the last parameter fastest, the first ``count`` of them (default: the
    file's run_cap). With ``seeds`` each under every seed, whatever the file sets for ``seed_everything``."""
    choices = {name: values for name, values in sweep.parameters.items() if not (seeds and name == SEED)}
    grid = [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]
    grid = grid[: sweep.run_cap if count is None else count]
    return [{**values, SEED: seed} for values in grid for seed in dict.fromkeys(seeds)] if seeds else grid


def command_line(sweep: Sweep, values: Values) -> list[str]:
    """What W&B's agent would run."""
    flags = [f"--{name}={value}" for name, value in values.items()]
    macros: dict[str, list[str]] = {
        "env": ["/usr/bin/env"] if os.name == "posix" else [],
        "interpreter": ["python"],
        "program": [sweep.program],
        "args": flags,
        "args_no_hyphens": [flag[2:] for flag in flags],
        "args_no_equals": [part for name, value in values.items() for part in (f"--{name}", str(value))],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in values.items()
            if value is not False
        ],
        "args_json": [json.dumps(values)],
    }
    line: list[str] = []
    for part in sweep.command:
        macro = MACRO.fullmatch(part)
        line += macros[macro[1]] if macro else [ENVIRONMENT.sub(lambda m: os.environ.get(m[1], m[1]), part)]
    return line


def short_names(runs: Sequence[Values]) -> dict[str, str]:
    """Parameter -> its last component, or its full name where two end alike."""
    names = list(dict.fromkeys(name for values in runs for name in values))
    last = ["seed" if name == SEED else name.rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)}


def label(values: Values, without: Sequence[str] = ()) -> str:
    """A run in words, from its parameters: ``threshold=5,seed=1``. Made of what a folder's name may hold."""
    short = short_names([values])
    parts = (
        f"{short[name]}={value:.6g}" if isinstance(value, float) else f"{short[name]}={value}"
        for name, value in values.items()
        if name not in without
    )
    return re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))[:120]


def folder_names(runs: Sequence[Values]) -> list[str]:
    """A folder's name for every run, from its parameters; repeated ones get a number."""
    taken: dict[str, int] = {}
    found = []
    for values in runs:
        name = label(values)
        taken[name] = taken.get(name, 0) + 1
        found.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return found


def parameters_of_run(folder: Path) -> Values:
    """What the sweep set for the run in ``folder``; empty for a run of its own.

    A sweep of ours left a file in the run's folder. W&B's agent names one in the environment of the run.
    """
    file = folder / RECORD
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8"))["values"])
    agents = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not (os.environ.get("WANDB_SWEEP_ID") and agents and Path(agents).is_file()):
        return {}
    import yaml

    tree = yaml.safe_load(Path(agents).read_text(encoding="utf-8")) or {}
    return {name: entry["value"] for name, entry in tree.items() if isinstance(entry, dict) and "value" in entry}
