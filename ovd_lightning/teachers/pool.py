"""A pool of demonstrations: a few whole trajectories a problem, written once and drawn again and again.

A whole trajectory of the teacher does not depend on the student, so that rounds, runs and methods may share it. The
rest of a trajectory that the student began does, and is never drawn from a pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.tasks.files import FileError, read_file
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

SETTING = "method.init_args.teacher.init_args.pool"
SHAPE = "Give one object a line: the problem's `id` or its `question`, and the `text` of a demonstration."


class Draw(NamedTuple):
    """The ``number``-th demonstration of a problem."""

    problem: Problem
    number: int


class Pool:
    """Up to ``size`` demonstrations a problem. Each is asked for when it is first drawn, and kept.

    Which one is drawn is a function of run seed, round, problem, group and sample; what it says is one of problem and
    number, whoever asked for it first. Within a group none is drawn twice before all were drawn. Entries of another
    model, prompt, temperature or token limit have other keys and are never drawn.

    Args:
        file: where demonstrations are kept, each with what it cost and how it was drawn. Ranks and runs of one machine
            may share it; it must not lie on a network file system. null keeps them for this run.
        size: M, demonstrations a problem.
        written: JSONL of demonstrations that somebody else wrote, {"id" or "question", "text"} a line. They are a
            problem's first; the teacher's engine adds to them up to ``size``, where there is one.
    """

    def __init__(self, file: str | None = None, size: PositiveInt = 8, written: str | None = None) -> None:
        self.file, self.size, self.written = file, size, written
        self.grades: dict[tuple[str, str], Grade] = {}
        """(problem's id, text) -> the task's grade: a demonstration is graded once a run."""
        self._kept: AnswerCache | None = None
        self._texts: dict[tuple[str, str], list[str]] | None = None

    @property
    def kept(self) -> AnswerCache:
        if self._kept is None:
            self._kept = AnswerCache(self.file, f"{SETTING}.init_args.file")
        return self._kept

    def texts(self, problem: Problem) -> list[str]:
        """What somebody else wrote about a problem. Raises: ConfigError for a file that cannot be read."""
        if self._texts is None:
            self._texts = {} if self.written is None else read_written(self.written)
        return self._texts.get(("id", problem.id)) or self._texts.get(("question", problem.question)) or []

    def check(self) -> None:
        """Opens its files. Raises: ConfigError."""
        self.texts(Problem(id="", question="", answers=()))
        if self.file is not None:
            rank_zero_info(f"pool of demonstrations: {len(self.kept)} in {self.file}")

    def check_problems(self, task: Task, problems: Sequence[Problem], filled: bool) -> None:
        """Args:
            filled: an engine writes what is missing.
        Raises: ConfigError for problems without a demonstration, and for a task with an environment.
        """
        raise_errors(self._problem_errors(task, problems, filled))

    def _problem_errors(self, task: Task, problems: Sequence[Problem], filled: bool) -> Iterator[ConfigError]:
        if task.environment is not None:
            yield ConfigError(
                SETTING,
                f"is set, but in {type(task).__name__} a demonstration holds replies of the environment, which change.",
                "Set it to null.",
            )
        without = [] if filled else [p.id for p in problems if not self.texts(p)]
        if without:
            yield ConfigError(
                f"{SETTING}.init_args.written",
                f"{self.written} has no demonstration of {len(without)} of {len(problems)} problems, the first is "
                f"{without[0]!r}, and there is no engine to write one.",
                "Add them, leave the problems out, or name an engine.",
            )

    def number(self, problem: Problem, start: int, sample: int, filled: bool = True) -> int:
        """Which demonstration of a problem is drawn for the ``sample``-th of those that begin at ``start``."""
        there = len(self.texts(problem))
        return (start + sample) % (max(there, self.size) if filled else max(there, 1))

    def completions(
        self, engine: Engine, wanted: Sequence[tuple[Request, Draw]], sampling: Sampling
    ) -> tuple[list[Completion], int]:
        """(what was drawn, how many demonstrations were asked for). Failures are not kept."""
        found: list[Completion | None] = [None] * len(wanted)
        missing: dict[str, tuple[Request, Draw]] = {}
        places: dict[str, list[int]] = defaultdict(list)
        for i, (request, draw) in enumerate(wanted):
            texts = self.texts(draw.problem)
            if draw.number < len(texts):
                found[i] = Completion(text=texts[draw.number], token_ids=None, logprobs=None, truncated=False)
                continue
            # Seeded by what it is, so that it is the same whoever writes it.
            seeded = Request(
                prompt=request.prompt,
                seed=seed_of("pool", draw.problem.id, draw.number),
                max_tokens=request.max_tokens,
            )
            key = AnswerCache.key(engine.identity(), "pool", draw.number, asdict(seeded), asdict(sampling))
            missing[key] = seeded, draw
            places[key].append(i)

        def put(key: str, completion: Completion) -> None:
            for i in places[key]:
                found[i] = completion

        for key, entry in self.kept.get(list(missing)).items():
            put(key, _completion(entry))
            del missing[key]
        order = list(missing)

        def ready(index: int, completion: Completion) -> None:
            key = order[index]
            if completion.error is None and completion.text:
                entry = _entry(completion, missing[key][1], engine, sampling)
                cost = completion.prompt_tokens, completion.completion_tokens
                completion = _completion(self.kept.add(key, entry))  # another process may have been first
                completion.prompt_tokens, completion.completion_tokens = cost
            put(key, completion)

        if order:
            engine.generate_as_ready([missing[key][0] for key in order], sampling, ready)
        return [c for c in found if c is not None], len(order)

    def settings(self) -> dict[str, Any]:
        return {"size": self.size, "written": self.written}

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


def read_written(file: str) -> dict[tuple[str, str], list[str]]:
    """("id" or "question", its value) -> texts, in the order of the file. Raises: ConfigError."""
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    try:
        for number, row in enumerate(read_file(Path(file).expanduser()), 1):
            by = next((name for name in ("id", "question") if row.get(name) not in (None, "")), None)
            if by is None or not isinstance(row.get("text"), str) or not row["text"].strip():
                raise FileError(f"row {number} is no demonstration: {str(row)[:100]}")
            texts[by, str(row[by])].append(row["text"])
    except (OSError, FileError) as error:
        raise ConfigError(f"{SETTING}.init_args.written", f"{file} cannot be read: {error}.", SHAPE) from error
    return texts


def _entry(completion: Completion, draw: Draw, engine: Engine, sampling: Sampling) -> dict[str, Any]:
    """A row of the pool: the demonstration, and the ledger of what it cost and how it was drawn."""
    return {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "truncated": completion.truncated,
        "problem": draw.problem.id,
        "number": draw.number,
        "model": engine.name,
        "temperature": sampling.temperature,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }


def _completion(entry: dict[str, Any]) -> Completion:
    return Completion(text=entry["text"], token_ids=entry["token_ids"], logprobs=None, truncated=entry["truncated"])


class NoEngine(Engine):
    """Takes the place of an engine where every demonstration was written before."""

    trainable = False

    @property
    def name(self) -> str:
        return "no engine"

    @property
    def tokenizer(self) -> None:
        return None

    @property
    def max_context(self) -> None:
        return None

    def check(self) -> None: ...

    def start(self) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [Completion(text="", token_ids=None, logprobs=None, truncated=False, error=self.name) for _ in requests]

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> NoReturn:
        raise NotImplementedError("no engine scores")

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> NoReturn:
        raise NotImplementedError("no engine scores")
