"""Table 3 and Figure 4 of the paper: Web Q&A by every method, under several thresholds, beside the paper's numbers.

    python -m benchmarks.paper.table3                  # the paper's grid: Qwen2.5-3B and Llama-3.2-3B, on GPUs
    python -m benchmarks.paper.table3 --only 'ovd_train5*' zerosearch --students qwen
    python -m benchmarks.paper.table3 --figure4        # also the prompt-based environment agent of Figure 4a
    python -m benchmarks.paper.table3 --corpus FILE    # RAG and Search-R1 on a local corpus instead of a server
    python -m benchmarks.paper.table3 --measure_with configs/search/http.yaml    # by a search engine without the answer
    python -m benchmarks.paper.table3 --quickstart     # the small world and its embedded models, on a laptop
    python -m benchmarks.paper.table3 --list           # the rows, and what each needs
    python -m benchmarks.paper.table3 --show           # the table of what is finished

Flags after `--` are passed to every run. A row is one overlay of configs/web/: a `test` of a student trained by one
`fit`, which rows with other testing thresholds share. Interrupted runs continue, and finished ones in --out are not
repeated. Written after every row: <out>/table3.md, table3.csv (a line a row and test set),
figure4.csv, and figure4.svg where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks import ROOT
from benchmarks.paper.grid import claim, evaluate, fit, result_of
from benchmarks.paper.table3_render import STUDENTS as ALL
from benchmarks.paper.table3_render import Results, write_results

Agent = Literal["", "14b", "prompted"]
"""The environment agent: fine-tuned 7B, fine-tuned 14B, or prompted."""
LABELS = {
    "untrained": "Searching, untrained (ours)",
    "direct": "Direct Answer",
    "cot": "CoT",
    "rag": "RAG",
    "ra_agent": "RA-Agent",
    "search_o1": "Search-o1",
    "r1": "R1",
    "search_r1": "Search-R1",
    "zerosearch": "ZeroSearch",
}
UNTRAINED = ("untrained", "direct", "cot", "rag", "ra_agent", "search_o1")
RETRIEVING = ("rag", "ra_agent", "search_o1", "search_r1")
"""Rows with a real search engine."""
ENGINE = {
    "ra_agent": "environment.init_args.search",
    "search_o1": "environment.init_args.search.init_args.search",
}
"""Where a row whose environment is its own has its search engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table."""

    method: str
    train: int | None = None
    """theta_train of OVD."""
    test: int | None = None
    """theta_test of OVD."""
    agent: Agent = ""
    sampled: bool = False
    """The dagger: scores are drawn while testing."""

    @property
    def trained(self) -> str | None:
        """Name of the training whose student is tested; None: the student as it is."""
        if self.method in UNTRAINED:
            return None
        return f"ovd_train{self.train}{self.agent and '_' + self.agent}" if self.method == "ovd" else self.method

    @property
    def name(self) -> str:
        """Of its overlay: configs/web/<name>.yaml."""
        if self.method != "ovd":
            return self.method
        return f"{self.trained}_test{self.test}{'_sampled' if self.sampled else ''}"

    @property
    def label(self) -> str:
        if self.method != "ovd":
            return LABELS[self.method]
        agent = {"": "", "14b": ", 14B", "prompted": ", prompt-based"}[self.agent]
        return f"OVD{'†' if self.sampled else ''} (Training Rej={self.train}, Testing Rej={self.test}{agent})"


def ovd(train: int, test: int, agent: Agent = "", sampled: bool = False) -> Row:
    return Row(method="ovd", train=train, test=test, agent=agent, sampled=sampled)


ROWS = (
    *(Row(method=method) for method in LABELS),
    *(ovd(train, test) for train in (10, 5) for test in (0, 5, 10)),
    *(ovd(10, test, "14b") for test in (10, 5, 0)),
    ovd(5, 5, sampled=True),
    ovd(10, 5, sampled=True),
)
"""As in the paper."""
FIGURE_4A = tuple(ovd(5, test, "prompted") for test in (0, 5, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How the rows come about."""

    corpus: str | None = None
    """A local corpus for the rows with a real search engine; None: a retrieval server."""
    measure_with: str | None = None
    """Config of the search engine with which all searching rows are measured; None: the one that trained them."""

    def skipped(self, row: Row, student: str) -> str | None:
        """Why a row is not run; None: it is."""
        if row.agent == "14b" and student == "llama":
            return "the paper has no such row of Llama"
        return None

    def flags(self, student: str, name: str) -> list[str]:
        """Of the training or row of that name."""
        overlay = "zerosearch" if name == "untrained" else name
        flags = [f"--config=configs/web_qa_{student}.yaml", f"--config=configs/web/{overlay}.yaml"]
        if self.corpus is not None and name in RETRIEVING:
            for place in ("task", "data.benchmarks"):
                flags.append(searched(place, name, "configs/search/bm25.yaml"))
                engine = ENGINE.get(name, "environment.init_args.search")
                flags.append(f"--{place}.init_args.{engine}.init_args.corpus={self.corpus}")
        return flags

    def test_flags(self, student: str, row: Row) -> list[str]:
        flags = self.flags(student, row.name)
        if self.measure_with is not None and row.method not in ("direct", "cot", "r1"):
            flags.append(searched("data.benchmarks", row.name, self.measure_with))
        return flags

    def test_name(self, student: str, row: Row) -> str:
        by = f"-by-{Path(self.measure_with).stem}" if self.measure_with is not None else ""
        return f"test-{student}-{row.name}{by}"


def searched(place: str, name: str, config: str) -> str:
    """The flag by which the row of a name searches as in the config of an environment: a row with an environment of its
    own takes the search engine alone."""
    if name not in ENGINE:
        return f"--{place}.init_args.environment={config}"
    engine = yaml.safe_load((ROOT / config).read_text())["init_args"]["search"]
    return f"--{place}.init_args.{ENGINE[name]}={json.dumps(engine)}"


REJECTION = "ovd_lightning.evaluation.rejection.TestingRejection"


class Quickstart(Grid):
    """The small world: one test set, one embedded student, an embedded teacher, BM25."""

    __slots__ = ()

    def skipped(self, row: Row, student: str) -> str | None:
        if row.method == "cot":
            return "the embedded student knows one prompt, in which it always reasons: see Direct Answer"
        if row.method == "r1":
            return "nobody can know the facts of an invented world without a search"
        if row.method == "zerosearch" or row.agent:
            return "no embedded model plays a search engine"
        if row.method == "ra_agent":
            return "the embedded student knows one protocol, in which it reasons and searches in turn: see Searching"
        return None

    def flags(self, student: str, name: str) -> list[str]:
        flags = ["--config=configs/quickstart_web.yaml", "--benchmark.samples=4", "--trainer.enable_progress_bar=false"]
        if not name.startswith("ovd"):
            flags.append("--method=configs/method/grpo.yaml")
        if name == "direct":
            flags.append("--task.init_args.environment=null")
        if name == "rag":  # the embedded student's way to be shown documents: a search with the question itself
            searched = "<search> {question}</search>\n<information>{documents}</information>\n"
            flags.append("--task.init_args.template=" + "Question: {question}\n" + searched)
        if name == "search_o1":
            flags.append("--config=benchmarks/paper/table3_search_o1.yaml")
        if name.startswith("ovd"):
            flags.append(f"--method.init_args.threshold={name.split('_')[1].removeprefix('train')}")
        return flags

    def test_flags(self, student: str, row: Row) -> list[str]:
        flags = self.flags(student, row.name)
        if row.method == "ovd":
            settings = {"threshold": row.test, "score_reading": "sample" if row.sampled else "argmax"}
            flags.append(f"--benchmark.rejection={json.dumps({'class_path': REJECTION, 'init_args': settings})}")
        return flags


def train(grid: Grid, student: str, name: str, out: Path, extra: Sequence[str]) -> Path:
    """The trained student's folder; a training that is finished has exported it."""
    folder = out / f"train-{student}-{name}"
    settings = [*grid.flags(student, name), f"--run.name=table3-{student}-{name}", *extra]
    exported = folder / "student"
    if (exported / "config.json").exists() and (folder / "report.html").exists():
        claim(folder, settings)
    else:
        fit(folder, settings)
    return exported


def test(grid: Grid, student: str, row: Row, out: Path, extra: Sequence[str]) -> dict[str, Any]:
    """The evaluation's JSON of one row."""
    flags = grid.test_flags(student, row)
    if row.trained is not None:
        flags.append(f"--ckpt_path={train(grid, student, row.trained, out, extra)}")
    name = grid.test_name(student, row)
    return evaluate(out / name, [*flags, f"--run.name=table3-{name}", *extra])


def finished(grid: Grid, student: str, row: Row, out: Path) -> dict[str, Any] | None:
    """What a row came to, if it was run."""
    path = result_of(out / grid.test_name(student, row))
    return json.loads(path.read_text()) if path.exists() else None


def chosen(rows: Sequence[Row], patterns: Sequence[str] | None) -> list[Row]:
    """Rows whose name fits a pattern. Raises: SystemExit for a pattern that fits none."""
    for pattern in patterns or ():
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            raise SystemExit(f"--only {pattern}: there are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quickstart", action="store_true", help="the small world, on the CPU")
    add("--students", nargs="+", choices=["qwen", "llama"], default=["qwen", "llama"])
    add("--only", nargs="+", metavar="ROW", help="rows by name, * for any text; see --list")
    add("--figure4", action="store_true", help="also the prompt-based rows of Figure 4a")
    add("--corpus", help="local corpus of RAG and Search-R1 instead of a retrieval server")
    add("--measure_with", metavar="CONFIG", help="search engine that all searching rows are measured with")
    add("--list", action="store_true", help="print the rows and run nothing")
    add("--show", action="store_true", help="render what is finished and run nothing")
    add("--out", type=Path, help="default: runs/table3 or runs/table3_quickstart")
    add("flags", nargs="*", help="behind --: further flags of every run")
    args = parser.parse_args(argv)
    if args.quickstart and (args.corpus or args.measure_with):
        parser.error("--quickstart has one search engine, without --corpus and --measure_with")
    grid = Quickstart() if args.quickstart else Grid(corpus=args.corpus, measure_with=args.measure_with)
    students = ["small"] if args.quickstart else args.students
    rows = chosen([*ROWS, *(FIGURE_4A if args.figure4 else ())], args.only)
    out: Path = (args.out or ROOT / "runs" / ("table3_quickstart" if args.quickstart else "table3")).absolute()
    work = [(student, row) for student in students for row in rows if grid.skipped(row, student) is None]
    if args.list:
        for student, row in work:
            needs = f"fit {row.trained}, test" if row.trained else "test"
            done = "finished" if finished(grid, student, row, out) else ""
            print(f"{student:<6} {row.name:<28} {needs:<32} {done}".rstrip())
        return
    start = time.perf_counter()
    beside = not args.quickstart
    for student, row in [] if args.show else work:
        test(grid, student, row, out, args.flags)
        write_results(everything(grid, out), out, beside)
    reasons = {f"{row.label}: {why}" for s in students for row in rows if (why := grid.skipped(row, s)) is not None}
    text = write_results(everything(grid, out), out, beside, sorted(reasons))
    print("\n" + text)
    print(f"{time.perf_counter() - start:.0f} s; {out}/table3.md, table3.csv, figure4.csv")


def everything(grid: Grid, out: Path) -> Results:
    """All rows that are finished, also those that were not asked for now."""
    found: dict[str, list[tuple[Row, dict[str, Any]]]] = {}
    for student in ALL:
        for row in (*ROWS, *FIGURE_4A):
            if (result := finished(grid, student, row, out)) is not None:
                found.setdefault(student, []).append((row, result))
    return found


if __name__ == "__main__":
    main()
