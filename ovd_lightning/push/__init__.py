"""A trained student, or its adapter, on the Hugging Face hub, with a model card made from its run's record."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ovd_lightning.errors import ConfigError, RunError, collecting, raise_errors
from ovd_lightning.pretrained import check_checkpoint
from ovd_lightning.push.adapter import CONFIG, adapter_errors, base_of, check_base, files_of, settings_of
from ovd_lightning.push.card import CURVES, card
from ovd_lightning.push.record import RECORDED, Record
from ovd_lightning.report.picture import draw

STUDENT = "student"
"""Of a run's folder, where ``summary.export`` writes."""
WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Of files that an earlier push may have left in a repository: of two sets of weights, one would be loaded unseen."""
KINDS = ("config.json", CONFIG)
"""By which a loader knows whether a repository holds a model or an adapter: what another push left would mislead it."""
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of a base model on this machine that go along."""


@dataclass(frozen=True)
class Upload:
    """What a push sends."""

    repo: str
    files: dict[str, Path | bytes]
    """Path in the repository -> a file here, or its content."""
    card: str
    notes: list[str] = field(default_factory=list)
    """What is not in it, and how it would be."""
    what: str = "Student"
    """In the message of the commit."""


def prepare(
    folder: Path,
    repo: str,
    license: str | None = None,
    offline: bool = False,
    adapter: bool = False,
    base: str | None = None,
) -> Upload:
    """Look at everything that can be wrong, write the card, and send nothing.

    Args:
        folder: of a run, or of its exported student.
        repo: ENTITY/NAME.
        license: of the student; None: that of the base model, where its card names one.
        offline: the base model is not looked up on the hub.
        adapter: the student's adapter alone goes.
        base: id on the hub of the model that the adapter is for; None: the run's own, if it was given by its id.
    Raises: ConfigError.
    """
    student = student_of(folder)
    raise_errors([*repo_errors(repo), *student_errors(folder, student, adapter)])
    record = Record.of(student)
    if adapter:
        record.adapter_of = base_of(student, record, base)
        record.adapter_rank = int(settings_of(student).get("r") or 0)
        if not offline:
            check_base(student, record.adapter_of, record.notes)
        files = files_of(student, record.adapter_of)
    else:
        files = {path.name: path for path in sorted(student.iterdir()) if path.is_file()}
        files.pop("README.md", None)
    record.find_license(license, offline)
    if record.run is not None:
        files |= {f"run/{name}": record.run.path / name for name in RECORDED if (record.run.path / name).is_file()}
    if record.base_folder is not None:
        files |= {path.name: path for pattern in TERMS for path in sorted(record.base_folder.glob(pattern))}
    notes = list(record.notes)
    picture = None if record.run is None else draw(record.run)
    if picture is not None:
        files[CURVES] = picture
    elif record.run is not None and importlib.util.find_spec("matplotlib") is None:
        notes.append("no picture of the curves: pip install matplotlib")
    text = card(repo, record, curves=picture is not None)
    return Upload(repo, {"README.md": text.encode(), **files}, text, notes, "Adapter" if adapter else "Student")


def student_of(folder: Path) -> Path:
    """The folder itself, or the student in a run's folder."""
    return folder / STUDENT if not (folder / "config.json").is_file() and (folder / STUDENT).is_dir() else folder


def student_errors(folder: Path, student: Path, adapter: bool = False) -> Iterator[ConfigError]:
    """What is wrong with it, and that it has no ``adapter`` where that is wanted."""
    if not folder.is_dir():
        yield ConfigError("push", f"{folder} is no folder.", "Give runs/<name>/<time>, or a student's folder.")
    elif (folder / "config.yaml").is_file() and student == folder:
        yield ConfigError(
            "push",
            f"{folder} holds no student.",
            "It is written when the run ends, with summary.export: true; "
            f"`fit ... --ckpt_path last --trainer.default_root_dir {folder}` goes on to the end.",
        )
    else:
        found: list[ConfigError] = []
        with collecting(found):
            check_checkpoint("push", str(student))
        yield from found
        if adapter and not found:
            yield from adapter_errors(student)


def repo_errors(repo: str) -> Iterator[ConfigError]:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        yield ConfigError("push", f"{repo!r} is no name on the hub: {error}", "Write ENTITY/NAME.")
    else:
        if "/" not in repo:
            yield ConfigError("push", f"{repo!r} has no owner.", "Write ENTITY/NAME: your user name, or a group's.")


def access_errors() -> Iterator[ConfigError]:
    """What keeps this machine from writing to the hub."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield ConfigError(
            "push", "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network.", "Unset it, or look with --dry_run."
        )
    if get_token() is None:
        yield ConfigError(
            "push", "needs a token of the hub with the right to write.", "`hf auth login`, or set HF_TOKEN."
        )


def send(upload: Upload, private: bool = False) -> str:
    """One commit with everything; the repository is made if there is none. Weights of an earlier push go, and what
    would name a student where an adapter is, or the other way round.

    Args:
        private: who may see a repository that is made now; one that exists stays as it is.
    Returns: the commit's address.
    Raises: ConfigError where the hub refuses the token or the name, RunError where it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="ovd_lightning")
    try:
        api.create_repo(upload.repo, private=private or None, exist_ok=True)
        stale = [
            name
            for name in api.list_repo_files(upload.repo)
            if (name.endswith(WEIGHTS) or name in KINDS) and "/" not in name and name not in upload.files
        ]
        commit = api.create_commit(
            upload.repo,
            [
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(name, content) for name, content in upload.files.items()),
            ],
            commit_message=f"{upload.what} trained with ovd_lightning",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                "push",
                f"the hub refuses to write to {upload.repo} ({status}: {error.server_message}).",
                "Check the owner's name, and that the token may write there (`hf auth whoami`).",
            ) from error
        raise RunError(f"push: the hub answered {status}: {error.server_message or _line(error)}") from error
    except Exception as error:  # of the network, by the HTTP client that huggingface_hub has; a card that is rejected
        raise RunError(f"push: {api.endpoint}: {type(error).__name__}: {_line(error)}") from error
    return str(commit.commit_url)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
