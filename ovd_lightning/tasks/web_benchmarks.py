"""The test sets of Web Q&A, one named entry each: where its rows are, what they mean, how many there must be.

Seven sets come from the hub in FlashRAG's form, the split that Search-R1, ZeroSearch and Search-o1 start from; GAIA,
which is gated, in its own. A local folder may hold them in that form or in the common shape of docs/web_qa.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ovd_lightning.tasks import base
from ovd_lightning.tasks.sources import (
    Row,
    Source,
    check_size,
    field,
    load_rows,
    local_copy,
    make_problems,
    meta_of,
    text,
    texts,
)
from ovd_lightning.types import Problem

logger = logging.getLogger(__name__)

SAMPLE = 500
"""Rows of a set that the papers evaluate on, where it has more."""


class Converted(NamedTuple):
    """The content of a row."""

    question: str
    answers: tuple[str, ...]
    """The reference and its aliases."""
    meta: dict[str, Any]
    id: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One test set."""

    name: str
    """What a config names, and the ``<benchmark>`` of ``eval/<benchmark>/accuracy``."""
    other_names: tuple[str, ...] = ()
    """By which it is found, too."""
    title: str
    """The head of its column in Table 3."""
    size: int
    """Rows of the complete split. With another number from the hub the run stops: the set has changed."""
    source: Source
    convert: Callable[[Row, int], Converted]
    """(row, its number) -> its content, in the fields of ``source``."""
    aliases: str
    """The field with the reference and its aliases, any of which is right."""
    files: tuple[str, ...]
    """Where it may lie in a local folder, without a suffix."""
    hops: str
    """"single" or "multi", as Table 3 groups them."""
    origin: str
    """Where the set was first published, and under which licence."""
    note: str = ""
    access: str = ""
    """What to do where the hub refuses it; empty: it is open to all."""

    def rows(self, limit: int | None) -> int:
        """The denominator: problems there are under a limit."""
        return self.size if limit is None else min(limit, self.size)


def flashrag(row: Row, number: int) -> Converted:
    """FlashRAG's form: ``{"id", "question", "golden_answers", "metadata"?}``. The id is the place in the split."""
    id = text(field(row, "id"), "id")
    return Converted(_text(row, "question"), aliases(row, "golden_answers"), {"flashrag_id": id}, id)


def gaia(row: Row, number: int) -> Converted:
    """GAIA's own form. A question whose attachment cannot be read with a search engine is kept and marked."""
    id = _text(row, "task_id")
    file = text(row.get("file_name"), "file_name")
    meta = {"level": text(field(row, "Level"), "Level"), "has_attachment": bool(file)}
    if file:
        meta["file_name"] = file
    return Converted(_text(row, "Question"), aliases(row, "Final answer"), meta, id)


def common(row: Row, number: int) -> Converted:
    """The common shape: ``{"id", "question", "answers", "meta"?}``."""
    return Converted(_text(row, "question"), aliases(row, "answers"), meta_of(row), _text(row, "id"))


def _text(row: Row, name: str) -> str:
    return text(field(row, name), name)


def aliases(row: Row, name: str) -> tuple[str, ...]:
    """The alternatives in a field, each once. An empty one, which would be part of any answer, is no alternative."""
    written = texts(field(row, name), name)
    return tuple(dict.fromkeys(alias for alias in written if alias.strip())) or written


# --------------------------------------------------------------------- loading


def load_problems(entry: Entry, folder: str | None, limit: int | None, setting: str) -> list[Problem]:
    """The first ``limit`` problems of a test set, from the hub or out of a local folder.

    From the hub, all of the split must be there. A folder may hold a part of it that is large enough; which part it is
    cannot be known in general, so one that is not the head of the split is logged.

    Raises: ConfigError naming ``setting``: rows are not available, are too few, or cannot become problems.
    """
    source = entry.source if folder is None else local_copy(folder, entry.files, entry.name, setting, entry.access)
    rows = load_rows(source, setting, entry.access)
    least = entry.size if folder is None else entry.rows(limit)
    check_size(entry.name, source, len(rows), range(least, entry.size + 1), "docs/web_qa.md", setting)
    problems = make_problems(
        enumerate(rows[: entry.rows(limit)]),
        lambda row, number: _problem(entry, row, number),
        setting,
        f"The fields of {entry.name} are described in docs/web_qa.md.",
    )
    if folder is not None and entry.size > len(problems) and not _is_head(problems):
        logger.warning(
            "%s from %s: these %d problems are not the first of the split, on which papers report: compare with care",
            entry.name, source, len(problems),
        )  # fmt: skip
    return problems


def _problem(entry: Entry, row: Row, number: int) -> Problem:
    """Raises: FieldError."""
    convert = common if "answers" in row else entry.convert
    question, answers, meta, id = convert(row, number)
    id = id if id.startswith(f"{entry.name}-") else f"{entry.name}-{id}"
    return Problem(id=id, question=question, answers=answers, meta={**meta, "benchmark": entry.name})


def _is_head(problems: list[Problem]) -> bool:
    """Whether these are the first of a split, by ids of FlashRAG, which count its rows."""
    return all(str(p.meta.get("flashrag_id", "")).endswith(f"_{i}") for i, p in enumerate(problems))


# --------------------------------------------------------------------- the entries


def _flashrag(name: str, split: str) -> dict[str, Any]:
    """Source and places of a set in FlashRAG's collection: a file a split."""
    return {
        "source": Source(data="RUC-NLPIR/FlashRAG_datasets", file=f"{name}/{split}.jsonl", split=split),
        "convert": flashrag,
        "aliases": "golden_answers",
        "files": (name, f"{name}/{split}"),
    }


_GAIA = "2023/validation/metadata"

_ALL = (
    Entry(
        name="nq",
        other_names=("natural_questions",),
        title="NQ",
        size=3610,
        **_flashrag("nq", "test"),
        hops="single",
        origin="google-research-datasets/natural-questions, nq_open dev; CC BY-SA 3.0",
        note="Questions are lower case, without a question mark.",
    ),
    Entry(
        name="triviaqa",
        title="TriviaQA",
        size=11313,
        **_flashrag("triviaqa", "test"),
        hops="single",
        origin="mandarjoshi90/triviaqa, unfiltered dev; licence of the copy not stated",
        note="Up to dozens of aliases; questions keep the source's doubled quotation marks.",
    ),
    Entry(
        name="popqa",
        title="PopQA",
        size=14267,
        **_flashrag("popqa", "test"),
        hops="single",
        origin="AlexTMallen/adaptive-retrieval; MIT",
    ),
    Entry(
        name="hotpotqa",
        other_names=("hotpot",),
        title="HotpotQA",
        size=7405,
        **_flashrag("hotpotqa", "dev"),
        hops="multi",
        origin="hotpotqa/hotpot, dev (distractor); CC BY-SA 4.0",
    ),
    Entry(
        name="2wikimultihopqa",
        other_names=("2wiki",),
        title="2Wiki",
        size=12576,
        **_flashrag("2wikimultihopqa", "dev"),
        hops="multi",
        origin="Alab-NII/2wikimultihop, dev; Apache-2.0",
    ),
    Entry(
        name="musique",
        title="Musique",
        size=2417,
        **_flashrag("musique", "dev"),
        hops="multi",
        origin="StonyBrookNLP/musique, dev, answerable; CC BY 4.0",
    ),
    Entry(
        name="bamboogle",
        title="Bamboogle",
        size=125,
        **_flashrag("bamboogle", "test"),
        hops="multi",
        origin="ofirpress/self-ask; MIT",
    ),
    Entry(
        name="gaia",
        title="GAIA",
        size=165,
        source=Source(data="gaia-benchmark/GAIA", file=f"{_GAIA}.parquet", split="validation"),
        convert=gaia,
        aliases="Final answer",
        files=("gaia", _GAIA, "gaia/validation", "gaia/metadata", f"gaia/{_GAIA}", f"GAIA/{_GAIA}"),
        hops="multi",
        origin="gaia-benchmark/GAIA, 2023_all, validation; gated, not to be reshared in a crawlable form",
        note="38 of the questions need an attachment, which a search engine cannot read: meta.has_attachment.",
        access=(
            "GAIA is gated: accept its terms at https://huggingface.co/datasets/gaia-benchmark/GAIA and run "
            "`hf auth login`. Without a network, fetch it elsewhere (`hf download gaia-benchmark/GAIA "
            f"{_GAIA}.parquet --repo-type dataset --local-dir FOLDER`) and give that folder. Or leave gaia out of the "
            "names."
        ),
    ),
    Entry(
        name="nq_dev",
        title="NQ dev",
        size=8757,
        **{**_flashrag("nq", "dev"), "files": ("nq_dev", "nq/dev")},
        hops="single",
        origin="google-research-datasets/natural-questions, the part of nq_open train that DPR holds out; CC BY-SA 3.0",
        note="Not of the paper: to validate on without looking at a test set.",
    ),
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ALL}

TABLE_3 = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "gaia")
"""The eight columns of the paper's Table 3, in its order."""


def find_entry(name: str, setting: str) -> Entry:
    """The entry of that name, or of that other name. Raises: ConfigError with the names there are."""
    others = {other: entry.name for entry in _ALL for other in entry.other_names}
    return base.find_entry(ENTRIES, others.get(name, name), setting)
