"""Runs side by side: which folders are runs, in which settings they differ, and groups of those that share them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError, did_you_mean, raise_errors
from ovd_lightning.report.read import Run, Series, read_run
from ovd_lightning.report.rounds import over_rounds

SEED = "seed_everything"
NO_SETTINGS = (
    SEED, "run.", "checkpoint.", "summary.", "ckpt_path", "weights_only", "trainer.default_root_dir", "trainer.logger",
    "trainer.enable_", "benchmark.folder", "benchmark.save", "benchmark.wandb", "rollout.transcripts", "rollout.wandb",
    "data.rounds",
)  # fmt: skip
"""Beginnings of settings that make no group unless they are asked for: the seed, names, where and how often something
is written, and how long a run goes on."""
HINT = "Give runs (runs/<name>/<time>, where config.yaml is), or folders that hold some."
SKIPPED = ("checkpoints", "evaluations", "student", "transcripts", "wandb")
"""Folders of a run in which there is no other."""


@dataclass(slots=True, kw_only=True)
class Member:
    """A run of the comparison."""

    run: Run
    name: str
    """Its folder, from the one that all runs are in."""
    settings: dict[str, Any]
    """Dotted name -> value."""
    metrics: dict[str, Series]
    """Over rounds."""
    axis: str
    """What they are over: "round", or "optimiser step" where no round was logged."""
    state: str
    """How the run stands: finished, or not finished."""

    @property
    def seed(self) -> str:
        return str(self.settings.get(SEED, "?"))

    @property
    def rounds(self) -> int:
        """That were logged."""
        return len(self.run.metrics.get("round", []))


@dataclass(slots=True, kw_only=True)
class Group:
    """Runs that share their settings, but for the seed."""

    label: str
    slot: int
    """Place in the palette."""
    members: list[Member] = field(default_factory=list)


def find_runs(given: Sequence[str]) -> tuple[list[Member], list[str]]:
    """Every run in or below the folders, in their order, each once; and why others are left out.

    Args:
        given: runs, folders with runs (of a sweep, say), and patterns of either.
    Raises: ConfigError where one of them names no folder, or no run is found.
    """
    found: dict[Path, None] = {}
    errors: list[ConfigError] = []
    for name in given:
        pattern = glob.has_magic(name) and not Path(name).exists()
        folders = [Path(p) for p in sorted(glob.glob(name)) if Path(p).is_dir()] if pattern else [Path(name)]
        runs = [run for folder in folders if folder.is_dir() for run in _runs_below(folder.resolve())]
        if not runs:
            what = "matches no run" if pattern else "holds no run" if Path(name).is_dir() else "is no folder"
            errors.append(ConfigError("compare", f"{name} {what}.", HINT))
        found |= dict.fromkeys(runs)
    raise_errors(errors)
    members, left_out = [], []
    common = os.path.commonpath([folder.parents[1] for folder in found])
    for folder in found:
        run, name = read_run(folder), os.path.relpath(folder, common)
        if not run.metrics:
            left_out.append(f"{name}: it has logged nothing yet")
            continue
        metrics, axis = over_rounds(run.metrics)
        settings = dict(_flat(run.config)) if run.config else {}
        if not settings:
            left_out.append(f"the settings of {name}: its config.yaml is missing or unreadable")
        members.append(Member(run=run, name=name, settings=settings, metrics=metrics, axis=axis, state=_state(folder)))
    if not members:
        raise ConfigError("compare", "no run has logged anything yet.", "Wait for their first rounds.")
    return members, left_out


def _runs_below(folder: Path) -> Iterator[Path]:
    for place, below, files in os.walk(folder):
        if "config.yaml" in files or "metrics.csv" in files:
            yield Path(place)
            below.clear()
        else:
            below[:] = sorted(
                name for name in below if name not in SKIPPED and not name.startswith((".", "superseded"))
            )


def _state(folder: Path) -> str:
    try:
        finished = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("finished", -1)
    except (OSError, ValueError):
        return "unknown"
    return "finished" if finished >= 0 else "not finished"


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of a config; a list is one."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def differing(members: Sequence[Member]) -> list[str]:
    """Names of the settings in which runs differ, sorted.

    A setting that only some classes have differs if it does among the runs of one class: that OVD has a threshold and
    GRPO has none is said by ``method.class_path`` alone.
    """
    names = sorted({name for member in members for name in member.settings})
    return [name for name in names if any(len(v) > 1 for v in _values(name, members).values())]


def _values(name: str, members: Sequence[Member]) -> dict[str, set[str]]:
    """The classes that a setting belongs to -> its values in their runs."""
    parts = name.split(".init_args.")
    owners = [".init_args.".join(parts[:i]) + ".class_path" for i in range(1, len(parts))]
    found: dict[str, set[str]] = {}
    for member in members:
        key = json.dumps([member.settings.get(owner) for owner in owners], default=str)
        if not owners or name in member.settings:
            found.setdefault(key, set()).add(_text(member.settings.get(name)))
    return found


def group_by(members: Sequence[Member], by: Sequence[str] = ()) -> tuple[list[Group], list[str], list[str]]:
    """(groups in the order of their settings' values, the settings that make them, those that differ beside them).

    Args:
        by: settings, by their whole name or its end; none: all that differ, without `NO_SETTINGS`.
    Raises: ConfigError for a setting that no run has.
    """
    differ = differing(members)
    chosen = [_named(name, members) for name in by] or [n for n in differ if not n.startswith(NO_SETTINGS)]
    if not by:  # one of several that go together says it
        seen: dict[str, str] = {}
        for name in chosen:
            seen.setdefault(json.dumps([_text(member.settings.get(name)) for member in members]), name)
        chosen = [name for name in chosen if name in seen.values()]
    short = _short(chosen)
    labelled: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        labelled.setdefault(tuple(_sortable(member.settings.get(name)) for name in chosen), []).append(member)
    groups = []
    for slot, key in enumerate(sorted(labelled)):
        first = labelled[key][0]
        parts = [f"{short[name]} {_text(first.settings[name])}" for name in chosen if name in first.settings]
        groups.append(Group(label=", ".join(parts) or "all runs", slot=slot, members=labelled[key]))
    within = {n for group in groups for n in differing(group.members)}
    ignored = (SEED, "run.", "trainer.default_root_dir", "ckpt_path")
    return groups, chosen, [name for name in differ if name in within and not name.startswith(ignored)]


def _named(name: str, members: Sequence[Member]) -> str:
    known = sorted({known for member in members for known in member.settings})
    matches = [name] if name in known else [other for other in known if other.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    problem, hint = f"no run has a setting {name}.", did_you_mean(name, known)
    if matches:
        problem, hint = f"{name} is the end of {' and of '.join(matches[:4])}.", "Give the complete name."
    raise ConfigError("--by", problem, hint)


def _short(names: Sequence[str]) -> dict[str, str]:
    """Setting -> the last part of its name that tells it from the others; of a class, what it is the class of."""
    parts = {name: name.removesuffix(".class_path").split(".") for name in names}
    short = {}
    for name, own in parts.items():
        length = 1
        while length < len(own) and [other[-length:] for other in parts.values()].count(own[-length:]) > 1:
            length += 1
        short[name] = ".".join(own[-length:])
    return short


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("ovd_lightning.") else value
    return json.dumps(value, default=str)


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers before texts, by size; nothing first."""
    if value is None:
        return (0, 0.0, "")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (1, float(value), "") if number else (2, 0.0, _text(value))
