"""A W&B sweep file: what it says, the runs that it stands for, their names and their command lines."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError

Values = dict[str, Any]
"""One run's parameters: dotted name -> value."""

KEYS = {"apiVersion", "command", "description", "entity", "kind", "method", "metric", "name", "parameters", "program",
        "project", "run_cap"}  # fmt: skip
"""Top-level keys that are understood here, or that concern W&B's service alone."""
AGENTS = {"controller", "early_terminate", "image_uri", "job", "metrics", "scheduler"}
"""Keys of W&B's schema that change which runs there are, or where; only W&B's own agent knows how."""
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
SEED = "seed_everything"
"""The parameter that ``--seeds`` sets."""
FOLDER = "trainer.default_root_dir"
"""The parameter by which a run is told its folder."""
RECORD = "sweep_run.json"
"""File of a run's folder: its parameters, and how it ended."""
DISTRIBUTIONS = ("uniform", "int_uniform", "log_uniform_values")
UNDERSTOOD = {"grid": {"value", "values"}, "random": {"value", "values", "probabilities", "min", "max", "distribution"}}
"""Keys of one parameter, by method."""
BY_AGENT = "Use `wandb agent` for it, or leave it out."


@dataclass(slots=True, kw_only=True)
class Sweep:
    """A sweep file that has been checked."""

    name: str
    method: str
    command: list[str]
    program: str
    parameters: dict[str, dict[str, Any]]
    metric: str | None
    run_cap: int | None
    directory: Path
    """Where the runs start: relative paths of the command are meant from here."""


def read_sweep(path: Path) -> Sweep:
    """Raises: ConfigError for a file that is missing, that W&B would refuse, or that needs W&B's service."""
    import yaml

    if not path.is_file():
        raise ConfigError("sweep file", f"{path} is not there.", "Try configs/sweeps/threshold.yaml.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError("sweep file", f"{path} is not YAML: {error}.", "Correct its syntax.") from None
    if not isinstance(tree, dict):
        raise ConfigError("sweep file", f"{path} is not a mapping.", "See configs/sweeps/threshold.yaml.")
    if found := sorted(AGENTS & set(tree)):
        raise ConfigError("sweep file", f"{', '.join(found)} is not supported here.", BY_AGENT)
    if unknown := sorted(map(str, set(tree) - KEYS)):
        raise ConfigError(
            "sweep file", f"has unknown keys: {', '.join(unknown)}.", f"Known: {', '.join(sorted(KEYS))}."
        )
    method = tree.get("method")
    if method not in UNDERSTOOD:
        raise ConfigError("method", f"is {method!r}.", "Use grid or random here; the others need `wandb agent`.")
    parameters = tree.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError("parameters", "is missing or empty.", "Give at least one, with its values.")
    for name, parameter in parameters.items():
        _check_parameter(str(name), parameter, method)
    metric = tree.get("metric") or {}
    if not isinstance(metric, dict) or not isinstance(metric.get("name", ""), str):
        raise ConfigError("metric", f"is {metric!r}.", "Write name: eval/..., goal: maximize below it.")
    cap = tree.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise ConfigError("run_cap", f"is {cap!r}.", "Use a whole number of runs, 1 or more.")
    command = tree.get("command") or list(DEFAULT_COMMAND)
    if not isinstance(command, list):
        raise ConfigError("command", "is not a list.", "Write one part a line, as in configs/sweeps/threshold.yaml.")
    command, program = [str(part) for part in command], str(tree.get("program") or "")
    _check_command(command)
    return Sweep(
        name=str(tree.get("name") or path.stem),
        method=method,
        command=command,
        program=program,
        parameters={str(name): parameter for name, parameter in parameters.items()},
        metric=metric.get("name"),
        run_cap=cap,
        directory=_directory(path, program, command),
    )


def _check_command(command: Sequence[str]) -> None:
    if not any(re.fullmatch(r"\$\{args\w*\}", part) for part in command):
        raise ConfigError("command", "has no ${args}: no parameter would reach a run.", "Add it as the last part.")
    if any(FOLDER in part for part in command):
        raise ConfigError("command", f"sets {FOLDER}: every run would write there.", "Leave it out; see --root.")


def _directory(path: Path, program: str, command: Sequence[str]) -> Path:
    """The working directory where the program is, else the nearest folder above the sweep file where it is.

    Raises: ConfigError when the command names the program and it is in neither.
    """
    here = Path.cwd()
    if not program or (here / program).exists():
        return here
    for folder in path.resolve().parents:
        if (folder / program).exists():
            return folder
    if "${program}" in command:
        raise ConfigError(
            "program", f"{program} is neither in {here} nor above {path}.", "Name it relative to where runs start."
        )
    return here


def _check_parameter(name: str, parameter: Any, method: str) -> None:
    setting = f"parameters.{name}"
    if name == FOLDER:
        raise ConfigError(setting, "is set by the sweep, a folder for every run.", "Leave it out; see --root.")
    if not isinstance(parameter, dict):
        raise ConfigError(setting, "is not a mapping.", "Write values: [...], or value: ...")
    if parameter.get("distribution") in ("categorical", "constant") and {"value", "values"} & set(parameter):
        parameter = {key: value for key, value in parameter.items() if key != "distribution"}  # says nothing new
    ranged = {"min", "max", "distribution"} & set(parameter)
    if method == "grid" and ranged and not {"value", "values"} & set(parameter):
        raise ConfigError(setting, "has neither value nor values.", "A grid needs them; or use random.")
    if unknown := sorted(map(str, set(parameter) - UNDERSTOOD[method])):
        raise ConfigError(setting, f"{', '.join(unknown)} is not supported here.", BY_AGENT)
    if len({"value", "values"} & set(parameter)) + bool(ranged) > 1:
        raise ConfigError(setting, f"has {', '.join(sorted(parameter))} at once.", "Give one of them.")
    if "probabilities" in parameter:
        weights, values = parameter["probabilities"], parameter.get("values")
        if not isinstance(weights, list) or not isinstance(values, list) or len(weights) != len(values):
            raise ConfigError(setting, "has probabilities that are not one a value.", "Give as many as values.")
    if "value" in parameter:
        return
    if "values" in parameter:
        if not isinstance(parameter["values"], list) or not parameter["values"]:
            raise ConfigError(setting, f"values is {parameter['values']!r}.", "Write a list: values: [0, 5].")
        return
    if method == "grid":
        raise ConfigError(setting, "has neither value nor values.", "A grid needs them; or use random.")
    _check_range(setting, parameter)


def _check_range(setting: str, parameter: Mapping[str, Any]) -> None:
    if "min" not in parameter or "max" not in parameter:
        raise ConfigError(setting, "has no values, and no min with max.", "Give one of them.")
    low, high, kind = parameter["min"], parameter["max"], parameter.get("distribution")
    if kind not in (None, *DISTRIBUTIONS):
        raise ConfigError(setting, f"distribution {kind!r} is not known here.", "Use `wandb agent`.")
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high)):
        raise ConfigError(setting, f"min {low!r} or max {high!r} is not a number.", "YAML reads 1e-6 as text: 1.0e-6.")
    if kind is None and isinstance(low, int) != isinstance(high, int):
        raise ConfigError(setting, "mixes a whole number with a fraction.", "Write both alike.")
    if low > high:
        raise ConfigError(setting, f"has min {low} above max {high}.", "Swap them.")
    if kind == "log_uniform_values" and low <= 0:
        raise ConfigError(setting, f"has min {low} on a logarithmic scale.", "Use a positive one.")


def expand(sweep: Sweep, *, count: int | None = None, seeds: Sequence[int] = (), sample_seed: int = 0) -> list[Values]:
    """The runs' parameters. ``seeds`` stand in for whatever the file says of ``seed_everything``.

    grid: every combination, the last parameter fastest. random: ``count`` draws (default: the file's run_cap) that
    depend on ``sample_seed`` alone, each under every seed. Raises: ConfigError for random without a count.
    """
    parameters = dict(sweep.parameters)
    if seeds:
        parameters.pop(SEED, None)
    if count is not None and count < 1:
        raise ConfigError("--count", f"is {count}.", "Use 1 or more.")
    cap = sweep.run_cap if count is None else count
    if sweep.method == "grid":
        choices = [[p["value"]] if "value" in p else list(p["values"]) for p in parameters.values()]
        drawn = [dict(zip(parameters, row, strict=True)) for row in itertools.product(*choices)]
    else:
        if cap is None:
            raise ConfigError("--count", "is not given and the sweep has no run_cap.", "Say how many runs to draw.")
        rng = random.Random(sample_seed)
        drawn = [{name: _draw(rng, parameter) for name, parameter in parameters.items()} for _ in range(cap)]
    drawn = drawn if cap is None else drawn[:cap]
    return [{**values, SEED: seed} for values in drawn for seed in dict.fromkeys(seeds)] if seeds else drawn


def _draw(rng: random.Random, parameter: Mapping[str, Any]) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return rng.choices(parameter["values"], weights=parameter.get("probabilities"))[0]
    low, high = parameter["min"], parameter["max"]
    kind = parameter.get("distribution") or ("int_uniform" if isinstance(low, int) else "uniform")
    if kind == "int_uniform":
        return rng.randint(int(low), int(high))
    if kind == "log_uniform_values":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return rng.uniform(low, high)


def command_line(sweep: Sweep, values: Values) -> list[str]:
    """What W&B's agent would run. Raises: ConfigError for a macro that only makes sense under the agent."""
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
        part = re.sub(r"\$\{envvar:(\w+)\}", lambda match: os.environ.get(match[1], match[1]), part)
        if part.startswith("${") and part.endswith("}"):
            if part[2:-1] not in macros:
                raise ConfigError("command", f"{part} is not known here.", f"Use one of {', '.join(macros)}.")
            line += macros[part[2:-1]]
        else:
            line.append(part)
    return line


def short_names(runs: Sequence[Values]) -> dict[str, str]:
    """Parameter -> its last component, or the whole name where two end alike."""
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
