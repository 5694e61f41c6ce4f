"""Data on which a language model learns to play the search engine, from the transcripts of a run that searched.

    python -m ovd_lightning.simulator_data runs/web_search_r1/... --out data/simulator

ZeroSearch's procedure (arXiv 2505.04588, which section 3.2 and A.6.2 follow): pairs of a query and its documents are
taken from trajectories with a real search engine; those of a trajectory with the right answer are useful, those of a
wrong one noisy; the prompt requests one kind or the other. Here the prompt is the one that
`SimulatedSearch` will send. Written: ``train.jsonl`` and ``validation.jsonl``, one ``{"messages": [...]}`` a line,
which any trainer of chat data takes. With TRL:

    trl sft --model_name_or_path Qwen/Qwen2.5-7B --dataset_name data/simulator --assistant_only_loss true \\
      --dataset_test_split validation --eval_strategy epoch --output_dir simulator
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.files import write_text
from ovd_lightning.metrics import sub_exact_match
from ovd_lightning.round.transcripts import read_transcripts
from ovd_lightning.search.base import Document
from ovd_lightning.search.simulated import FIELDS, WITH_ANSWER, WITHOUT_ANSWER
from ovd_lightning.settings.yaml_files import read_yaml
from ovd_lightning.tasks.search import SearchEnvironment

TEXTS = (
    "observation_prefix", "observation_suffix", "document_format", "untitled_format", "failed_message",
    "empty_message",
)  # fmt: skip
"""Settings of a SearchEnvironment that its observations are written with."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Pair:
    """A query and what was found for it, in a trajectory that ended right (useful) or wrong (noisy)."""

    question: str
    answers: tuple[str, ...]
    query: str
    documents: tuple[Document, ...]
    useful: bool

    @property
    def holds_answer(self) -> bool:
        """Some alias is a substring of the documents (both normalised): how well the label fits."""
        return bool(sub_exact_match(" ".join(f"{d.title} {d.text}" for d in self.documents), self.answers))


@dataclass(slots=True, kw_only=True, frozen=True)
class Form:
    """How a run's environment wrote its observations."""

    observation_prefix: str
    observation_suffix: str
    document_format: str
    untitled_format: str
    failed_message: str
    empty_message: str
    simulated: bool
    """The documents were written by a simulator themselves."""

    @classmethod
    def of(cls, run: Path) -> Form:
        """From ``<run>/config.yaml``; what it leaves out has the environment's default.

        Raises: ConfigError for a folder without the file, or a run that did not search.
        """
        config = read_yaml(run / "config.yaml", "runs", "Give the folder of a run, runs/<name>/<time>.", dict)
        environment = (config["task"].get("init_args") or {}).get("environment")
        settings = (environment or {}).get("init_args") or {}
        if "search" not in settings:
            raise ConfigError("runs", f"{run} had no search engine.", "Give a run whose task has a SearchEnvironment.")
        classes = (environment or {}).get("class_path", ""), settings["search"]["class_path"]
        if any(name.endswith((".AgenticSearchEnvironment", ".ReasonInDocuments")) for name in classes):
            problem = f"{run} searched as RA-Agent or Search-o1 of Table 3, which is not read here."
            raise ConfigError("runs", problem, "Give one whose task has a SearchEnvironment that shows the documents.")
        defaults = inspect.signature(SearchEnvironment.__init__).parameters
        texts = {name: settings.get(name, defaults[name].default) for name in TEXTS}
        return cls(simulated=settings["search"]["class_path"].endswith(".SimulatedSearch"), **texts)

    def searches(self, text: str) -> Iterator[tuple[str, str]]:
        """(query, body of the observation) of each search that was replied to.

        A turn ends at its first ``</search>``, so what follows one directly was written by the environment; an
        information block anywhere else is the policy's own invention.
        """
        prefix, suffix = re.escape(self.observation_prefix.strip()), re.escape(self.observation_suffix.strip())
        pattern = rf"<search>((?:(?!</?search>).)*)</search>\s*{prefix}(.*?){suffix}"
        for found in re.finditer(pattern, text, re.DOTALL):
            yield " ".join(found[1].split()), found[2]

    def documents(self, body: str) -> tuple[Document, ...]:
        """Those of an observation, one a line as the environment writes them; none for a search that failed or found
        nothing. The last may be cut off, at the environment's token limit."""
        if body in (self.failed_message, self.empty_message):
            return ()
        patterns = [_line_pattern(template) for template in (self.document_format, self.untitled_format)]
        found = [_read(line, patterns) for line in body.split("\n")]
        return tuple(document for document in found if document is not None)


@lru_cache
def _line_pattern(template: str) -> re.Pattern[str]:
    """What a document's format writes, e.g. "Doc {rank}(Title: {title}) {text}"."""
    parts = re.split(r"\{(rank|title|text|id|score)\}", template.replace("{{", "{").replace("}}", "}"))
    named = {"rank": r"\d+", "title": "(?P<title>.*?)", "text": "(?P<text>.+)"}
    body = "".join(named.get(part, ".*?") if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(body)


def _read(line: str, patterns: Sequence[re.Pattern[str]]) -> Document | None:
    for pattern in patterns:
        if (found := pattern.fullmatch(line)) is not None:
            groups = found.groupdict()
            return Document(title=(groups.get("title") or "").strip(), text=groups["text"].strip())
    return None


# ------------------------------------------------------------------ pairs


def pairs_of(records: Iterable[Mapping[str, Any]], form: Form, counts: Counter[str]) -> Iterator[Pair]:
    """Every pair of some lines of a transcript; ``counts`` counts what was seen and what was left out."""
    for record in records:
        counts["trajectories"] += 1
        if not record["observation_tokens"]:
            counts["trajectories without a search"] += 1
            continue
        for query, body in form.searches(record["text"]):
            counts["searches"] += 1
            documents = form.documents(body)
            if not query or not documents:
                counts["searches without a document"] += 1
                continue
            yield Pair(
                question=record["question"],
                answers=tuple(record["answers"]),
                query=query,
                documents=documents,
                useful=bool(record["correct"]),
            )


def distinct(pairs: Iterable[Pair], counts: Counter[str]) -> list[Pair]:
    """Each (question, query, documents) once, in the order of first appearance.

    Where a pair comes in right and in wrong trajectories it is useful: its documents were enough for the answer at
    least once, and a simulator of noise should not write them.
    """
    found: dict[tuple[Any, ...], Pair] = {}
    contradicted: set[tuple[Any, ...]] = set()
    for pair in pairs:
        key = (pair.question, pair.query.casefold(), pair.documents)
        known = found.setdefault(key, pair)
        counts["repeated"] += known is not pair
        if known.useful != pair.useful:
            contradicted.add(key)
            found[key] = pair if pair.useful else known
    counts["of right and of wrong trajectories, kept as useful"] += len(contradicted)
    return list(found.values())


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, validation), which share no question. ``share``: of the questions that validate, in [0, 1)."""
    questions = list(dict.fromkeys(pair.question for pair in pairs))
    held_out = set(random.Random(seed).sample(questions, round(share * len(questions))))
    return (
        [pair for pair in pairs if pair.question not in held_out],
        [pair for pair in pairs if pair.question in held_out],
    )


# ------------------------------------------------------------------ messages


@dataclass(slots=True, kw_only=True, frozen=True)
class Asking:
    """What `SimulatedSearch` sends: its prompt, and a system message before it (None: the chat template's own)."""

    prompt: str = WITH_ANSWER
    system: str | None = None

    @classmethod
    def of(cls, path: Path | None) -> Asking:
        """From a config of a simulated search (configs/search/simulated.yaml); None: `SimulatedSearch`'s defaults.

        Raises: ConfigError for a file that is no such config.
        """
        if path is None:
            return cls()
        hint = "Give one like configs/search/simulated.yaml."
        search = (read_yaml(path, "--search", hint, dict).get("init_args") or {}).get("search")
        search = search if isinstance(search, dict) else {}
        settings = search.get("init_args") or {}
        if not str(search.get("class_path")).endswith("SimulatedSearch") or settings.get("chat") is False:
            raise ConfigError("--search", f"{path} is no config of a SimulatedSearch with chat: true.", hint)
        prompt = settings.get("prompt") or (WITH_ANSWER if settings.get("tell_answer", True) else WITHOUT_ANSWER)
        return cls(prompt=prompt, system=settings.get("system"))

    def messages(self, pair: Pair) -> list[dict[str, str]]:
        """The prompt, and the documents as `SimulatedSearch` reads them."""
        kind = "useful" if pair.useful else "noisy"
        values = {
            "query": pair.query,
            "question": pair.question,
            "answer": pair.answers[0] if pair.answers else "",
            "count": len(pair.documents),
            "kind": kind,
            "Kind": kind.capitalize(),
        }
        assert values.keys() == FIELDS
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [
            *system,
            {"role": "user", "content": self.prompt.format(**values)},
            {"role": "assistant", "content": written(pair.documents)},
        ]


def written(documents: Sequence[Document]) -> str:
    """Documents in a simulator's hand: "Doc 1: ..." or "Doc 1(Title: ...) ...", one a line."""
    lines = []
    for rank, document in enumerate(documents, 1):
        head = f"Doc {rank}(Title: {document.title})" if document.title else f"Doc {rank}:"
        lines.append(f"{head} {document.text}")
    return "\n".join(lines)


def save(path: Path, pairs: Sequence[Pair], asking: Asking) -> None:
    lines = [json.dumps({"messages": asking.messages(pair)}, ensure_ascii=False) + "\n" for pair in pairs]
    write_text(path, "".join(lines))


def summary(name: str, pairs: Sequence[Pair]) -> str:
    """ "train: 812 pairs of 300 questions; 500 useful (64 % with the answer in them), 312 noisy (12 %)"."""
    kinds = []
    for kind, chosen in (("useful", [p for p in pairs if p.useful]), ("noisy", [p for p in pairs if not p.useful])):
        share = sum(p.holds_answer for p in chosen) / len(chosen) if chosen else 0.0
        kinds.append(f"{len(chosen)} {kind} ({share:.0%} with the answer in the documents)")
    questions = len({pair.question for pair in pairs})
    return f"{name}: {len(pairs)} pairs of {questions} questions; {', '.join(kinds)}"


# ------------------------------------------------------------------ command


def main(argv: Sequence[str] | None = None) -> None:
    """Reads runs, writes two files, prints what was counted."""
    parser = argparse.ArgumentParser(
        prog="python -m ovd_lightning.simulator_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="folders of runs with transcripts, best of a real search engine")
    add("--out", type=Path, required=True, help="folder to write train.jsonl and validation.jsonl to")
    add("--search", type=Path, help="config of the simulated search that the model is for; default: our own prompt")
    add("--validation", type=float, default=0.05, help="share of the questions that validate (%(default)s)")
    add("--seed", type=int, default=0, help="of the split (%(default)s)")
    options = parser.parse_args(argv)
    if not 0 <= options.validation < 1:
        parser.error(f"--validation is {options.validation}; use a share from 0 to below 1")
    counts: Counter[str] = Counter()
    pairs: list[Pair] = []
    try:
        asking = Asking.of(options.search)
        for run in options.runs:
            form = Form.of(run)
            if form.simulated:
                print(f"{run}: its documents were written by a simulator; a real engine's are better", file=sys.stderr)
            pairs += pairs_of(read_transcripts(run / "transcripts"), form, counts)
    except ConfigError as error:
        parser.error(str(error))
    pairs = distinct(pairs, counts)
    for name, count in counts.items():
        print(f"{count:>8} {name}")
    if not pairs:
        parser.error("no search with documents in the transcripts of these runs (rollout.transcripts: true?)")
    train, validation = split(pairs, options.validation, options.seed)
    for name, chosen in (("train", train), ("validation", validation)):
        save(options.out / f"{name}.jsonl", chosen, asking)
        print(f"{summary(name, chosen)}; {options.out / name}.jsonl")


if __name__ == "__main__":
    main()
