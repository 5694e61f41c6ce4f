"""The adapter of a student alone, for a base model that is on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.lora import ADAPTER
from ovd_lightning.pretrained import is_hub_id
from ovd_lightning.push.record import Record

CONFIG = "adapter_config.json"
SHAPE = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Of a config.json, by which another model than the base is noticed."""


def adapter_errors(student: Path) -> Iterator[ConfigError]:
    """That a student's folder holds no adapter."""
    if not (student / ADAPTER / CONFIG).is_file():
        yield ConfigError(
            "push",
            f"{student} holds no adapter.",
            "A run with model.lora writes one; without --adapter the student goes as a whole.",
        )


def settings_of(student: Path) -> dict[str, Any]:
    """The adapter's, as peft wrote them. Raises: ConfigError for a file that is no JSON."""
    path = student / ADAPTER / CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError("push", f"{path} cannot be read: {error}.", "Export the student again.") from error


def base_of(student: Path, record: Record, given: str | None) -> str:
    """The base model's id on the hub: ``given``, or what the run was given as its student.

    Raises: ConfigError where only a folder of this machine is known, or ``given`` is no id.
    """
    if given is not None:
        if not is_hub_id(given):
            problem = f"--base {given} is no id of the hub, or a folder here."
            raise ConfigError("push", problem, "Write ENTITY/NAME, of the model that the adapter was trained over.")
        return given
    known = record.base if record.run is not None else str(settings_of(student).get("base_model_name_or_path") or "")
    if known and record.base_folder is None and is_hub_id(known):
        return known
    raise ConfigError(
        "push",
        f"the adapter was trained over {known}, a folder of this machine." if known else "the base is not known.",
        "Name that model on the hub: --base ENTITY/NAME.",
    )


def check_base(student: Path, base: str, notes: list[str]) -> None:
    """Compare the base on the hub with the student, whose shape is the same. What cannot be read there is a note.

    Raises: ConfigError where they differ.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

    hint = "Name the model that the adapter was trained over: --base ENTITY/NAME."
    try:
        there = json.loads(Path(hf_hub_download(base, "config.json")).read_text(encoding="utf-8"))
    except (RepositoryNotFoundError, RemoteEntryNotFoundError, OSError, ValueError) as error:
        missing = isinstance(error, RepositoryNotFoundError | RemoteEntryNotFoundError)
        if missing and not isinstance(error, GatedRepoError):
            raise ConfigError("push", f"the hub has no {base} with a config.json.", hint) from error
        notes.append(f"{base} could not be looked at ({type(error).__name__})")  # gated, no network, no JSON
        return
    here = json.loads((student / "config.json").read_text(encoding="utf-8"))
    raise_errors(
        ConfigError(
            "push",
            f"{base} has {name} {there[name]}, and the student {here[name]}.",
            hint,
        )
        for name in SHAPE
        if name in there and name in here and there[name] != here[name]
    )


def files_of(student: Path, base: str) -> dict[str, Path | bytes]:
    """The adapter's files; its settings name the base on the hub in place of a path of this machine."""
    folder = student / ADAPTER
    settings = {**settings_of(student), "base_model_name_or_path": base}
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    files.pop("README.md", None)  # peft's, with blanks to fill in
    return files | {CONFIG: (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()}
