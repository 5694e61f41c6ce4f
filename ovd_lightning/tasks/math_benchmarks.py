"""The test sets of mathematics, one named entry each: where its rows are, what they mean, how many there must be.

A set comes from the hub, in the fields of the reference evaluation (Qwen2.5-Math's, which One-Shot-RLVR and after it
the paper use), or from a local folder, in those fields or in the common shape that docs/benchmarks.md describes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ovd_lightning.tasks import math_formats as formats
from ovd_lightning.tasks.math_demonstrations import GAOKAO, MMLU_STEM, SAT_MATH, Demonstration, with_choices
from ovd_lightning.tasks.math_formats import Converted
from ovd_lightning.tasks.sources import Row, Source, check_size, load_rows, local_copy, make_problems
from ovd_lightning.types import Problem


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One test set."""

    name: str
    """What a config names, and the ``<benchmark>`` of ``eval/<benchmark>/accuracy``."""
    title: str
    """The head of its column in Table 4."""
    size: int
    """Rows there must be. Another number stops the run: the set has changed, or it is another set."""
    source: Source
    convert: Callable[[Row, int], Converted]
    """(row, its number) -> its content, for rows in the fields of the reference evaluation."""
    file: str
    """Of its file or folder in a local copy, without a suffix; also what ids of problems begin with."""
    show_choices: bool = False
    """Prompt style: the question is followed by "Answer Choices: (A) .. (B) .. (C) .. (D) .."."""
    shots: int = 0
    """Demonstrations that the reference evaluation shows before a single-choice question."""
    demonstrations: tuple[Demonstration, ...] = ()
    keep_units: bool = False
    """The reference evaluation's "qwen" grading leaves units in the answers of this set."""
    metric: str = "accuracy"
    origin: str
    """Where the set was first published, and under which licence."""
    note: str = ""


def load_problems(entry: Entry, folder: str | None, setting: str) -> list[Problem]:
    """All problems of a test set, from the hub or out of a local folder.

    Raises: ConfigError naming ``setting``: rows are not available, are not ``entry.size``, or cannot become problems.
    """
    files = (entry.file, f"{entry.file}/test")
    source = entry.source if folder is None else local_copy(folder, files, entry.name, setting)
    rows = load_rows(source, setting)
    check_size(entry.name, source, len(rows), range(entry.size, entry.size + 1), "docs/benchmarks.md", setting)
    hint = f"The fields of {entry.name} are described in docs/benchmarks.md."
    return make_problems(enumerate(rows), lambda row, number: to_problem(entry, row, number), setting, hint)


def to_problem(entry: Entry, row: Row, number: int) -> Problem:
    """The problem as the student and the teacher's scoring prompt show it. Raises: FieldError."""
    converted = formats.common(row) if formats.is_common(row) else entry.convert(row, number)
    question = with_choices(converted.question, converted.choices) if entry.show_choices else converted.question
    meta = {name: value for name, value in (converted.meta or {}).items() if value is not None}
    if converted.choices:
        meta["choices"] = list(converted.choices)
    if entry.keep_units:
        meta["keep_units"] = True
    return Problem(
        id=converted.id or f"{entry.file}-{number}",
        question=question + _expected_words(question, converted.answers),
        answers=converted.answers,
        meta={**meta, "benchmark": entry.name},
    )


def _expected_words(question: str, answers: tuple[str, ...]) -> str:
    """What the reference evaluation appends where the gold is a yes or no, so that "correct" is not an answer."""
    gold = answers[0].lower() if answers else ""
    suffix = {"yes": " (Yes or No)", "no": " (Yes or No)", "true": " (True or False)", "false": " (True or False)"}
    expected = suffix.get(gold, "")
    return "" if question.endswith(expected) else expected


# --------------------------------------------------------------------- the entries


def _harness(name: str) -> Source:
    """The reference evaluation's own file: same rows, same order. It was published as a collection on the hub."""
    return Source(
        data="HuggingFaceTB/math_tasks",
        file=f"data/{name}/test.jsonl",
        revision="3d34f1076f279000b9315583dcdacfd288898283",
    )


_ALL = (
    Entry(
        name="svamp",
        title="SVAMP",
        size=1000,
        source=_harness("svamp"),
        convert=formats.svamp,
        file="svamp",
        origin="ChilleD/SVAMP, train and test together; MIT",
    ),
    Entry(
        name="asdiv",
        title="ASDiv",
        size=2215,
        source=_harness("asdiv"),
        convert=formats.asdiv,
        file="asdiv",
        origin="EleutherAI/asdiv, validation; CC BY-NC 4.0",
        note="2,305 problems less the 90 with several golds. 131 golds are words, times or ratios.",
    ),
    Entry(
        name="mawps",
        title="MAWPS",
        size=2065,
        source=_harness("mawps"),
        convert=formats.mawps,
        file="mawps",
        origin="MAWPS: singleeq 508, singleop 562, addsub 395, multiarith 600; no licence stated",
        note="84 questions come twice, as in the reference.",
    ),
    Entry(
        name="tabmwp",
        title="TABMWP",
        size=1000,
        source=_harness("tabmwp"),
        convert=formats.tabmwp,
        file="tabmwp",
        origin="lupantech/PromptPG; CC BY-NC-SA 4.0",
        note="The reference drew 1,000 of the 7,686 test rows; the official test1k is another draw of 1,000.",
    ),
    Entry(
        name="minerva_math",
        title="Minerva",
        size=272,
        source=_harness("minerva_math"),
        convert=formats.minerva_math,
        file="minerva_math",
        keep_units=True,
        origin="OCWCourses of Minerva, from MIT OpenCourseWare; CC BY-NC-SA",
        note="The gold is the last box of the solution.",
    ),
    Entry(
        name="olympiadbench",
        title="OlympiadBench",
        size=675,
        source=_harness("olympiadbench"),
        convert=formats.olympiadbench,
        file="olympiadbench",
        origin="Hothan/OlympiadBench, OE_TO_maths_en_COMP (reported to have 674 rows); Apache-2.0",
        note="Open-ended, text only, English, competition mathematics.",
    ),
    Entry(
        name="sat_math",
        title="SAT-Math",
        size=32,
        source=_harness("sat_math"),
        convert=formats.sat_math,
        file="sat_math",
        show_choices=True,
        shots=5,
        demonstrations=SAT_MATH,
        origin="mcaleste/sat_multiple_choice_math_may_23; College Board questions, no licence stated",
    ),
    Entry(
        name="mmlu_stem",
        title="MMLU",
        size=3018,
        source=_harness("mmlu_stem"),
        convert=formats.mmlu_stem,
        file="mmlu_stem",
        show_choices=True,
        shots=5,
        demonstrations=MMLU_STEM,
        origin="cais/mmlu, all, test, 18 STEM subjects (without anatomy); MIT",
    ),
    Entry(
        name="gaokao",
        title="Gaokao",
        size=14,
        source=_harness("gaokao2024_I"),
        convert=formats.gaokao,
        file="gaokao2024_I",
        shots=5,
        demonstrations=GAOKAO,
        origin="2024 examination, national paper I; no licence stated",
        note="The paper does not say which set; see docs/benchmarks.md. The same rows as gaokao2024_I.",
    ),
    Entry(
        name="aime24",
        title="AIME24",
        size=30,
        source=_harness("aime24"),
        convert=formats.aime,
        file="aime24",
        origin="AI-MO/aimo-validation-aime, the 30 of 2024; MAA problems, no licence stated",
    ),
    Entry(
        name="gaokao2024_I",
        title="Gaokao 2024 I",
        size=14,
        source=_harness("gaokao2024_I"),
        convert=formats.gaokao,
        file="gaokao2024_I",
        shots=5,
        demonstrations=GAOKAO,
        origin="2024 examination, national paper I; no licence stated",
    ),
    Entry(
        name="gaokao2024_II",
        title="Gaokao 2024 II",
        size=14,
        source=_harness("gaokao2024_II"),
        convert=formats.gaokao,
        file="gaokao2024_II",
        shots=5,
        demonstrations=GAOKAO,
        origin="2024 examination, national paper II; no licence stated",
    ),
    Entry(
        name="gaokao2024_mix",
        title="Gaokao 2024 mix",
        size=91,
        source=_harness("gaokao2024_mix"),
        convert=formats.gaokao_mix,
        file="gaokao2024_mix",
        shots=5,
        demonstrations=GAOKAO,
        origin="2024 examinations; no licence stated",
    ),
    Entry(
        name="gaokao2023en",
        title="Gaokao 2023 En",
        size=385,
        source=_harness("gaokao2023en"),
        convert=formats.gaokao_en,
        file="gaokao2023en",
        origin="MARIO-Math-Reasoning/Gaokao2023-Math-En; MIT",
        note="Two rows have their gold glued to the question; it is put where it belongs.",
    ),
    Entry(
        name="math500",
        title="MATH-500",
        size=500,
        source=Source(
            data="HuggingFaceH4/MATH-500", file="test.jsonl", revision="ff5b20257d8185524591543f8ff5993951537bb8"
        ),
        convert=formats.math500,
        file="math500",
        origin="hendrycks/math, the 500 of PRM800K; MIT",
        note="Not of the paper: what to validate on during training.",
    ),
    Entry(
        name="gsm8k",
        title="GSM8K",
        size=1319,
        source=Source(data="openai/gsm8k", config="main", split="test"),
        convert=formats.gsm8k,
        file="gsm8k",
        origin="openai/grade-school-math; MIT",
        note="Not of the paper.",
    ),
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ALL}

TABLE_4 = (
    "svamp",
    "asdiv",
    "mawps",
    "tabmwp",
    "minerva_math",
    "olympiadbench",
    "sat_math",
    "mmlu_stem",
    "gaokao",
    "aime24",
)
"""The ten columns of the paper's Table 4, in its order."""
