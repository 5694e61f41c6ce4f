"""What a student's card is written from: the record of its run, and its base model's card."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ovd_lightning.packaged import PACKAGE, packaged
from ovd_lightning.pretrained import is_hub_id
from ovd_lightning.report.read import Run, read_run

RECORDED = ("config.yaml", "provenance.yaml", "metrics.csv")
"""Files of a run that go along, into the folder run/."""
LICENSE = ("license", "license_name", "license_link")


@dataclass(kw_only=True)
class Record:
    """Of a student.

    Args:
        run: None: the student's folder is in no run's folder.
        base: path or hub id of the initial student; None: not known.
        base_folder: where the base is on this machine; None: it is not, by its path.
        license: the keys of a model card that name it; empty: not known.
        whose: in the card, behind the licence: where it is from.
        adapter_of: id on the hub of the base of the adapter that is pushed; None: the student as a whole is.
        adapter_rank: of that adapter.
        notes: what could not be found out.
    """

    run: Run | None = None
    base: str | None = None
    base_folder: Path | None = None
    license: dict[str, str] = field(default_factory=dict)
    whose: str = ""
    adapter_of: str | None = None
    adapter_rank: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, student: Path) -> Record:
        """Read them, but for the licence."""
        folder = student.resolve().parent
        record = cls(run=read_run(folder) if (folder / "config.yaml").is_file() else None)
        if record.run is None:
            record.notes.append(f"{folder} is no run's folder: the card is about the weights alone")
        else:
            record.base = str((record.run.config.get("model") or {}).get("student") or "") or None
        if record.base is not None and Path(packaged(record.base)).expanduser().is_dir():
            record.base_folder = Path(packaged(record.base)).expanduser()
        return record

    def find_license(self, given: str | None, offline: bool) -> None:
        """``given``, or the base model's.

        Args:
            offline: nothing is asked of the hub.
        """
        if given:
            self.license = {"license": given}
        else:
            self.license, self.whose = self._base_license(offline), ", as the initial student"
        if not self.license:
            self.notes.append("the card names no licence, as the base model's does not: give one with --license")

    @property
    def base_name(self) -> str | None:
        """The base as the card calls it."""
        return None if self.base is None else _shown(self.base)

    @property
    def base_id(self) -> str | None:
        """The base on the hub."""
        if self.adapter_of is not None:
            return self.adapter_of
        return self.base if self.base and self.base_folder is None and is_hub_id(self.base) else None

    def _base_license(self, offline: bool) -> dict[str, str]:
        from huggingface_hub import ModelCard

        place: Path | str | None = None if self.base_folder is None else self.base_folder / "README.md"
        if isinstance(place, Path) and not place.is_file():
            place = self.adapter_of
        elif place is None:
            place = self.base_id
        if place is None or (offline and not isinstance(place, Path)):
            return {}
        try:
            data = ModelCard.load(place, ignore_metadata_errors=True).data
        except (OSError, ValueError) as error:  # no network, no card, no such repository, broken YAML
            self.notes.append(f"the card of {self.base_id or self.base} could not be read ({type(error).__name__})")
            return {}
        return {name: str(data.get(name)) for name in LICENSE if data.get(name)}

    @property
    def config(self) -> dict[str, Any]:
        return {} if self.run is None else dict(self.run.config)

    @property
    def provenance(self) -> dict[str, Any]:
        try:
            loaded = yaml.safe_load(self.run.provenance if self.run is not None else "")
        except yaml.YAMLError:
            return {}
        return loaded if isinstance(loaded, dict) else {}

    @property
    def command(self) -> str | None:
        """As it is typed, without the place of the interpreter's files."""
        recorded = self.provenance.get("command")
        if not recorded:
            return None
        words = shlex.split(str(recorded))
        return shlex.join(["ovd-lightning", *words[1:]])

    @property
    def datasets(self) -> list[str]:
        """Hub ids of what was trained on."""
        return sorted({data for data in _values(self.config.get("task"), "data") if is_hub_id(data)})

    @property
    def teachers(self) -> list[str]:
        """Models that judged or demonstrated."""
        return list(dict.fromkeys(_shown(model) for model in _values(self.config.get("method"), "model")))

    @property
    def task(self) -> str:
        return str((self.config.get("task") or {}).get("class_path", "")).rpartition(".")[2]

    @property
    def chat(self) -> bool:
        return bool((self.config.get("rollout") or {}).get("chat"))


def _shown(model: str) -> str:
    """A model's name without the folders of this machine: a hub id, a file of the package, or a folder's own name."""
    folder, package = Path(packaged(model)).expanduser().resolve(), PACKAGE.resolve()
    if not folder.is_dir():
        return model
    return f"ovd_lightning/{folder.relative_to(package)}" if folder.is_relative_to(package) else folder.name


def _values(tree: object, key: str) -> Iterator[str]:
    """Every text of a name in a config."""
    if isinstance(tree, dict):
        for name, child in tree.items():
            if name == key and isinstance(child, str):
                yield child
            else:
                yield from _values(child, key)
    elif isinstance(tree, list):
        for child in tree:
            yield from _values(child, key)
