"""Rows from the hub, a file or a folder; and problems from rows, with every check on the way.

JSON and CSV on this machine are read as they are written (``files.py``), Parquet and sets of the hub by ``datasets``.

A row that cannot become a problem stops the run with its number and what was found instead: rows are never dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.files import CSV, EXACT, JSON, FileError, read_file, suffix_of
from ovd_lightning.types import Problem

Row = Mapping[str, Any]

KINDS = (*JSON, ".parquet", *CSV)
"""Suffixes of what is read; the texts among them may be compressed by gzip (".jsonl.gz")."""

_SPACE = " \t\r\n\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Around a text; not a form feed, which is the "\\f" of a "\\frac" whose backslash was not doubled."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from.

    A hub set is loaded completely, by configuration and split; or one file of it, which works for repositories that are
    a bare collection of files, and, at a commit, without the network once it has been fetched.
    """

    data: str
    """A hub id, or the path of a .jsonl, .json, .parquet, .csv or .tsv file or of a folder of such."""
    config: str | None = None
    split: str = "train"
    """With ``datasets``' slices and sums: ``train[:100]``, ``train+test``. A single file is all one split."""
    file: str | None = None
    """Path of one file within a hub set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""

    def __str__(self) -> str:
        parts = [self.data, self.config, self.file or f"split {self.split}"]
        return ", ".join(part for part in parts if part) + (f" @ {self.revision[:7]}" if self.revision else "")


def load_rows(source: Source, setting: str, access: str = "") -> list[dict[str, Any]]:
    """All rows, in order, and at least one.

    Args:
        access: what to do where the hub refuses them.

    Raises: ConfigError naming ``setting``, when they are not available.
    """
    rows = _load(source, setting, access)
    if not rows:
        raise ConfigError(setting, f"{source}: no rows, no data.", "Check the file and the split.")
    return rows


def _load(source: Source, setting: str, access: str) -> list[dict[str, Any]]:
    path = Path(source.data).expanduser()
    if path.is_file():
        return _read(path, source.split, setting)
    if path.is_dir():
        return _read_folder(path, source, setting)
    if suffix_of(path) in KINDS or source.data.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source.data):
        raise ConfigError(
            setting, f"{source.data} is not there.", f"Give a {_kinds()} file, a folder, or a hub id like openai/gsm8k."
        )
    return _fetch(source, setting, access)


def _fetch(source: Source, setting: str, access: str) -> list[dict[str, Any]]:
    what = f"{source} (no file or folder of that name, so taken for a hub id)"
    hint = access or (
        "Check the id and the network; a gated set needs its terms accepted and `hf auth login`. Without a network, "
        f"fetch it elsewhere (`hf download {source.data} --repo-type dataset --local-dir FOLDER`) and give that folder."
    )
    with _loading(setting, what, hint, bars=True):
        if source.file is None:
            return _dataset(source.data, source.split, name=source.config, revision=source.revision)
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(source.data, source.file, repo_type="dataset", revision=source.revision)
    return _read(Path(path), source.split, setting)


def _read(path: Path, split: str, setting: str) -> list[dict[str, Any]]:
    """One file; ``split`` matters for its slice alone."""
    known = suffix_of(path) in KINDS and not (path.suffix == ".gz" and suffix_of(path) == ".parquet")
    name = re.match(r"\w+", split)
    if not known or name is None or "+" in split:
        problem = (
            f"split {split!r} cannot be taken of the single file {path}" if known else f"{path} is of no known kind"
        )
        raise ConfigError(setting, f"{problem}.", f'Give a {_kinds()} file, with split "train".')
    with _loading(setting, str(path), "Check file and split."):
        if suffix_of(path) == ".parquet":
            return _dataset("parquet", split, data_files={name.group(): str(path)})
        return _slices({name.group(): [path]}, split)


def _read_folder(path: Path, source: Source, setting: str) -> list[dict[str, Any]]:
    """A folder, whose files ``datasets`` assigns to splits by their names or by the folder's README."""
    from datasets import load_dataset_builder

    with _loading(setting, f"the folder {path}", f"Give a file, or a folder of {_kinds()} files."):
        found = load_dataset_builder(str(path), name=source.config).config.data_files or {}
        files = {str(split): [Path(file) for file in part] for split, part in found.items()}
        written = {suffix_of(file) in (*JSON, *CSV) for part in files.values() for file in part}
        if written != {True}:
            return _dataset(str(path), source.split, name=source.config)
    with _loading(setting, f"the folder {path}", "Check file and split."):
        return _slices(files, source.split)


def _slices(files: Mapping[str, Sequence[Path]], split: str) -> list[dict[str, Any]]:
    """What a split, with slices and sums, takes of files that are read as they are written."""
    from datasets import ReadInstruction

    parts: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for name in re.findall(r"(?:^|\+)\s*(\w+)", split):
        if name in files and name not in parts:
            parts[name] = [row for file in files[name] for row in _rows(file)]
    sizes = {name: len(parts.get(name, ())) for name in files}
    for part in ReadInstruction.from_spec(split).to_absolute(sizes):
        rows += parts[part.splitname][part.from_ : part.to]
    return rows


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_file(path)
    except FileError as error:
        raise FileError(f"{path.name}: {error}") from error


def _dataset(path: str, split: str, **options: Any) -> list[dict[str, Any]]:
    from datasets import load_dataset  # a second of imports, which `--help` need not pay

    return [dict(row) for row in load_dataset(path, split=split, **options)]


@contextmanager
def _loading(setting: str, what: str, hint: str, bars: bool = False) -> Iterator[None]:
    """Raises: ConfigError for whatever goes wrong: no network, no such set, file, split or revision, a gated set, a
    malformed file."""
    try:
        with _progress_bars(bars):
            yield
    except Exception as error:  # of many kinds, from `datasets`, the hub's client and the readers of file formats
        raise ConfigError(setting, f"{what} could not be loaded: {_reason(error)}.", hint) from error


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """With ``datasets``' progress bars only where something may be downloaded."""
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _kinds() -> str:
    return " or ".join(KINDS)


def local_copy(folder: str, files: Sequence[str], name: str, setting: str, access: str = "") -> Source:
    """A test set in a folder on this machine: the first of some files that is there.

    Args:
        files: paths in ``folder``, without suffixes.
        name: of the test set.
        access: what to do to get the set, for the error.

    Raises: ConfigError naming ``setting``.
    """
    root = Path(folder).expanduser()
    candidates = [f"{file}{suffix}" for file in files for suffix in KINDS]
    for candidate in candidates:
        if (root / candidate).is_file():
            return Source(data=str(root / candidate))
    problem = f"has no {name}" if root.is_dir() else "is not a folder"
    hint = f"Give a folder with one of {', '.join(candidates)}. {access}"
    raise ConfigError(setting, f"{folder} {problem}.", hint.strip())


def check_size(name: str, source: Source, rows: int, sizes: range, page: str, setting: str) -> None:
    """Raises: ConfigError for a test set with more or fewer rows than it must have; the last of ``sizes`` is all."""
    if rows not in sizes:
        least = "" if len(sizes) == 1 else f", or at least {sizes[0]} of them"
        raise ConfigError(
            setting,
            f"{name} from {source} has {rows} rows, not {sizes[-1]}{least}.",
            f"Numbers on another set cannot be compared: give a folder with the set of {page}.",
        )


def _reason(error: Exception) -> str:
    """What happened, on one line; ``datasets`` hides the reason of a malformed file in the cause."""
    if isinstance(error, FileError):
        return str(error)
    reason = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    text = " ".join(str(reason).split()).rstrip(".")
    return f"{type(reason).__name__}: {text[:300]}"


# --------------------------------------------------------------------- rows to problems


class FieldError(LookupError):
    """A row is not of the expected shape."""


@contextmanager
def row_errors(setting: str, number: int, hint: str) -> Iterator[None]:
    """Raises: ConfigError for a FieldError, with the row's number (counted from 0)."""
    try:
        yield
    except FieldError as error:
        raise ConfigError(setting, f"row {number} {error}.", hint) from error


def field(row: Row, name: str) -> Any:
    """A field by name, nested ones with dots (``reward_model.ground_truth``, ``prompt.0.content``).

    Raises: FieldError that lists the fields there are.
    """
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, Sequence) and not isinstance(value, str) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise FieldError(f"has no field {name!r}; it has {', '.join(row)}")
    return value


def first_field(row: Row, *names: str) -> Any:
    """The first of several fields that the row has. Raises: FieldError."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise FieldError(f"has none of the fields {', '.join(names)}; it has {', '.join(row)}")


def text(value: Any, name: str) -> str:
    """A text, or a number as it is written by hand: 145.0 is "145".

    Raises: FieldError for anything else, for no number (NaN) and for one that was rounded; a reader of Parquet may
        have dates, and large integers as floats.
    """
    if isinstance(value, str):
        return value.strip(_SPACE)
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise FieldError(f"holds no number but {value} in {name!r}")
        if isinstance(value, float) and abs(value) >= EXACT:
            raise FieldError(f"holds {value!r} in {name!r}, which may be a rounded integer: keep it as a text")
        if value == int(value):
            return str(int(value))
        return repr(value) if isinstance(value, float) else format(value.normalize(), "f")
    if isinstance(value, (bool, int)):
        return str(value)
    if value is None:
        return ""
    raise FieldError(f"holds a {type(value).__name__} in {name!r}, where a text or a number should be: {value!r:.80}")


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A text, or a list of texts that are alternatives."""
    return tuple(text(v, name) for v in value) if isinstance(value, (list, tuple)) else (text(value, name),)


def meta_of(row: Row) -> dict[str, Any]:
    """What the row's "meta" holds, nulls left out; nothing where it has none. Raises: FieldError."""
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise FieldError(f"holds a {type(meta).__name__} in 'meta', where an object should be: {meta!r:.80}")
    return {name: value for name, value in meta.items() if value is not None}


def make_problems(
    rows: Iterable[tuple[int, Row]],
    convert: Callable[[Row, int], Problem],
    setting: str,
    hint: str,
    graded: bool = True,
) -> list[Problem]:
    """One problem a row, in order; ``rows`` come with their numbers.

    Args:
        graded: problems must have an answer.

    Raises: ConfigError naming ``setting`` and the row's number (counted from 0) when a field is missing or not of the
        right kind, a question or an answer is empty, or an id comes twice.
    """
    problems: dict[str, Problem] = {}
    numbers: dict[str, int] = {}
    for number, row in rows:
        with row_errors(setting, number, hint):
            problem = convert(row, number)
            _check(problem, graded)
            if problem.id in numbers:
                raise FieldError(f"has the id of row {numbers[problem.id]}, {problem.id!r}; ids must differ")
        numbers[problem.id] = number
        problems[problem.id] = problem
    return list(problems.values())


def _check(problem: Problem, graded: bool) -> None:
    """Raises: FieldError for a question or an answer that is empty, or an answer that lost a backslash."""
    if not problem.question.strip():
        raise FieldError(f"({problem.id}) has an empty question")
    if graded and not (problem.answers and all(answer.strip() for answer in problem.answers)):
        raise FieldError(f"({problem.id}) has an empty answer: {problem.question[:80]!r}")
    if any("\b" in answer or "\f" in answer for answer in problem.answers):
        raise FieldError(
            f"({problem.id}) has a control character in its answer: {problem.answers!r:.80}. In JSON, LaTeX's "
            'backslash is written twice: "\\\\frac", not "\\frac"'
        )


class Splits:
    """Training, validation and test problems from one set of data, each loaded when first asked for.

    Args:
        task: the task's class, for the names of settings in errors.
        data: what the splits are taken of.
        parts: split -> the part of the data, with slices as in "train[:90%]"; None: there is none.
        load: makes the problems of a split from its part.
    """

    def __init__(
        self, task: str, data: str, parts: Mapping[Split, str | None], load: Callable[[Split, str], list[Problem]]
    ) -> None:
        self._task, self._data, self._parts, self._load = task, data, parts, load
        self._problems: dict[Split, list[Problem]] = {}

    def problems(self, split: Split) -> list[Problem]:
        """Raises: ConfigError for a split that is not set, and for one that shares a question with training."""
        if split in self._problems:
            return self._problems[split]
        part = self._parts[split]
        problems = [] if part is None else self._load(split, part)
        known = set() if split == "train" else {problem.question for problem in self.problems("train")}
        shared = [problem.id for problem in problems if problem.question in known]
        if part is None or shared:
            problem = f"is not set, so there is nothing of {self._data} to evaluate on."
            if part is not None:
                problem = f"is {part!r}; {len(shared)} of its questions are trained on, the first is {shared[0]!r}."
            hint = "Choose a split that shares no question with training, or in data.benchmarks what to evaluate."
            raise ConfigError(f"{self._task}.{split}_split", problem, hint)
        self._problems[split] = problems
        return problems
