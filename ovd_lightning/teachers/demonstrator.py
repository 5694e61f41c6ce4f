"""A demonstrator writes trajectories, or the rest of one: text in, text out, whatever its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning import thoughts
from ovd_lightning.engines.asked import Asked
from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.engines.prompting import as_prompt, chat_errors, hint, longest, room_errors
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.judges.base import Ledger
from ovd_lightning.settings.ranges import NonNegativeFloat, PositiveInt
from ovd_lightning.teachers import demonstrations as D
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.pool import Draw, NoEngine, Pool
from ovd_lightning.tokens import from_first_word
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task

T = TypeVar("T")
SETTING = "method.init_args.teacher.init_args"


class Demonstrator(Teacher):
    """A teacher that only writes.

    Args:
        engine: writes, unless ``demonstrator`` is given; null: nobody does, and the pool's file has all demonstrations.
        demonstrator: another engine for writing.
        demonstrator_chat: send the task's prompts as a user message through the engine's chat template.
        demonstration_temperature: at which trajectories are written.
        demonstration_tokens: token limit of a demonstration, its thought included; null for the student's limit. What
            exceeds the student's limit is cut off afterwards.
        demonstration_thinking: "keep" demonstrations as they are, or "strip" what stands before the last </think>; a
            thought that never ended is then a failed demonstration.
        cache: file of the disk cache; null keeps answers in memory only.
        pool: whole trajectories are drawn from a pool, which keeps a few a problem; null: each is written anew. The
            rest of a trajectory that was begun is always written anew.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        demonstrator: Engine | None = None,
        demonstrator_chat: bool = False,
        demonstration_temperature: NonNegativeFloat = 0.7,
        demonstration_tokens: PositiveInt | None = None,
        demonstration_thinking: Literal["keep", "strip"] = "keep",
        cache: str | None = None,
        pool: Pool | None = None,
    ) -> None:
        if engine is None and demonstrator is None and (pool is None or pool.written is None):
            raise ConfigError(
                f"{SETTING}.engine", "is null: nobody demonstrates.", "Name an engine, or a pool with a file `written`."
            )
        self.engine = engine or demonstrator or NoEngine()
        self.demonstrator = demonstrator or self.engine
        self.pool = pool
        self.demonstrator_chat = demonstrator_chat
        self.demonstration_temperature = demonstration_temperature
        self.demonstration_tokens = demonstration_tokens
        self.demonstration_thinking = demonstration_thinking
        self.cache = AnswerCache(cache, f"{SETTING}.cache")
        self.demonstrations = self.pooled = 0
        """Wanted since the ledger was last taken; those of them that the pool had."""

    @property
    def members(self) -> Mapping[str, Demonstrator]:
        return {"": self}

    def of(self, problem: Problem) -> Demonstrator:
        """The member that teaches a problem."""
        return self

    def shared(self, count: float, shares: Mapping[str, float]) -> Iterator[tuple[Demonstrator, float]]:
        """(member, how much of a count is its own).

        Args:
            shares: part of the task -> its share of the problems, in [0, 1].
        """
        yield self, count

    @property
    def engines(self) -> list[Engine]:
        return [self.demonstrator]

    def check(self) -> None:
        """Raises: ConfigError, also for a chat template that is not there, or a thought whose end would go unseen."""
        super().check()
        self._check_writing()

    @property
    def writes(self) -> bool:
        """Whether it can write at all, and so go on from what somebody began."""
        return not isinstance(self.demonstrator, NoEngine)

    def _check_writing(self) -> None:
        if self.pool is not None:
            self.pool.check()
        raise_errors(self._writing_errors())

    def _writing_errors(self) -> Iterator[ConfigError]:
        yield from chat_errors(f"{SETTING}.demonstrator_chat", self.demonstrator, self.demonstrator_chat)
        if self.demonstration_thinking == "strip" and self.demonstrator.tokenizer is not None:
            special = getattr(self.demonstrator.tokenizer, "all_special_tokens", [])
            if hidden := [token for token in special if thoughts.is_mark(token)]:
                yield ConfigError(
                    f"{SETTING}.demonstration_thinking",
                    f"is strip, but {hidden[-1]} is a special token of {self.demonstrator.name}, which no text shows.",
                    "Use keep, or a tokenizer in which it is an ordinary token.",
                )

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Whether the longest problem fits the demonstrator's context with all that it may write, its thought
        included. Counted in its own tokens for the prompt. Raises: ConfigError."""
        if self.pool is not None:
            self.pool.check_problems(task, problems, self.writes)
        for problem in longest(problems):
            prompt = as_prompt(task.prompt(problem), self.demonstrator_chat, task.system)
            written = max(self.demonstration_tokens or max_tokens, max_tokens)  # a prefix may be as long as max_tokens
            raise_errors(room_errors(f"{SETTING}.demonstrator", self.demonstrator, prompt, written, 0, problem.id))

    def demonstrate(
        self,
        prompts: Sequence[str],
        prefixes: Sequence[str],
        seeds: Sequence[int],
        max_tokens: Sequence[int],
        stop: tuple[str, ...] = (),
        system: str | None = None,
        draws: Sequence[Draw | None] | None = None,
    ) -> list[Completion]:
        """Trajectories y ~ pi_T(. | x), or the rest of those that begin with a prefix.

        Args:
            prompts: task prompts, as text: the teacher has a vocabulary of its own.
            prefixes: what the answer already says; "" for a whole trajectory. It is not repeated in the result.
            seeds, max_tokens: one a prompt; ``demonstration_tokens``, where set, is the limit instead.
            stop: a demonstration ends with the first of these texts that follows a letter or digit (one step).
            system: the task's system message, for a demonstrator with a chat template.
            draws: what comes from the pool instead, one a prompt; None: nothing does.
        """
        if not prompts:
            return []
        requests = [
            Request(
                prompt=as_prompt(p, self.demonstrator_chat, system, begun=prefix),
                seed=seed,
                max_tokens=self.demonstration_tokens or limit,
            )
            for p, prefix, seed, limit in zip(prompts, prefixes, seeds, max_tokens, strict=True)
        ]
        self.demonstrations += len(requests)
        stops = self._stops and bool(stop)
        completions = self._write(requests, stop if stops else (), draws)
        if stops:
            # A stop text before any word ends no step. The rest is written without one: a chat template that trims what
            # was begun would make the teacher write the same again and again.
            bare = [
                i for i, c in enumerate(completions) if not from_first_word(c.text) and any(s in c.text for s in stop)
            ]
            for i, completion in zip(bare, self._write([requests[i] for i in bare], ()), strict=True):
                completion.completion_tokens += completions[i].completion_tokens
                completions[i] = D.cut_step(completion, stop, stopped=False)
        if self.demonstrator_chat:
            completions = [D.drop_repeated_lines_end(c, p) for c, p in zip(completions, prefixes, strict=True)]
        completions = [D.cut_step(c, stop, stopped=stops) for c in completions]
        # An answer that has begun may be complete as it is; one that never began is no demonstration.
        return [
            D.failed(c, "an empty answer") if c.error is None and not (c.text.strip() or begun.strip()) else c
            for c, begun in zip(completions, prefixes, strict=True)
        ]

    @property
    def _stops(self) -> bool:
        """Whether the demonstrator's engine may stop at a text: not inside a thought that is to be stripped, and not
        where the text is cut off, as OpenAI's protocol has it, so that a step's end looks like the trajectory's."""
        return self.demonstration_thinking == "keep" and self.demonstrator.keeps_stop

    def _write(
        self, requests: Sequence[Request], stop: tuple[str, ...], draws: Sequence[Draw | None] | None = None
    ) -> list[Completion]:
        if not requests:
            return []
        sampling = Sampling(temperature=self.demonstration_temperature, stop=stop, logprobs=False)
        given = draws or [None] * len(requests)
        wanted = [(r, draw) for r, draw in zip(requests, given, strict=True) if draw is not None]
        anew = [r for r, draw in zip(requests, given, strict=True) if draw is None]
        drawn: list[Completion] = []
        written: list[Completion] = []
        if self.pool is not None and wanted:
            drawn, new = self.pool.completions(self.demonstrator, wanted, sampling)
            self.pooled += len(drawn) - new
        if anew:
            written, _ = Asked(self.demonstrator, self.cache).completions(anew, sampling, lambda c: bool(c.text))
        old, fresh = iter(drawn), iter(written)
        completions = [next(fresh if draw is None else old) for draw in given]
        if self.demonstration_thinking == "keep":
            return completions
        tokenizer = self.demonstrator.tokenizer
        opened = [None if tokenizer is None else D.opens_thought(tokenizer, r.prompt) for r in requests]
        return [D.strip_thought(c, o) for c, o in zip(completions, opened, strict=True)]

    # -------------------------------------------------------------- self-test

    def self_test(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """A real demonstration of the first problem, before the first round: what only an answer can show, such as a
        key that the list of models does not ask for, or a model that answers with nothing. Nothing stays in cache or
        ledger.

        Args:
            max_tokens: the student's limit.
        Raises: ConfigError, with the answer quoted.
        """
        cache, self.cache, asked = self.cache, AnswerCache(), self.demonstrations
        try:
            with ExitStack() as stack:
                stack.enter_context(self.awake())
                for engine in self.engines:
                    stack.enter_context(engine.impatient())
                rank_zero_info(f"teacher: {self._try(task, problems[0], max_tokens)}")
        finally:
            self.cache, self.demonstrations = cache, asked
            for engine in self.engines:
                engine.take_troubles()

    def _try(self, task: Task, problem: Problem, max_tokens: int) -> str:
        """What came back, in words."""
        return self._try_demonstration(task, problem, max_tokens)[1]

    def _try_demonstration(self, task: Task, problem: Problem, max_tokens: int) -> tuple[str, str]:
        """(the demonstration, what it was in words)."""
        if not self.writes and self.pool is not None:
            (text, *_) = self.pool.texts(problem)
            return text, f"demonstrations from {self.pool.written}"
        setting = f"{SETTING}.{'engine' if self.demonstrator is self.engine else 'demonstrator'}"
        stop = task.environment.stop if task.environment is not None else ()
        (written,) = called(
            setting,
            lambda: self.demonstrate([task.prompt(problem)], [""], [0], [max_tokens], stop=stop, system=task.system),
        )
        if written.error is None:
            return written.text, f"demonstration of {written.completion_tokens} tokens: {_quote(written.text)}"
        if "thought" not in written.error:
            raise ConfigError(
                setting, f"{self.demonstrator.name} wrote no demonstration: {written.error}.", hint(written.error)
            )
        return written.text, f"no demonstration of the problem that was tried: {written.error}"

    def settings(self) -> dict[str, Any]:
        """What its answers depend on, as JSON can hold it."""
        return {
            "demonstrator": self.demonstrator.name,
            "demonstrator_chat": self.demonstrator_chat,
            "demonstration_temperature": self.demonstration_temperature,
            "demonstration_tokens": self.demonstration_tokens,
            "demonstration_thinking": self.demonstration_thinking,
            **({} if self.pool is None else {"pool": self.pool.settings()}),
        }

    def take_ledger(self) -> Ledger:
        """What was asked since the last call."""
        ledger = Ledger(demonstrations=self.demonstrations, pooled=self.pooled)
        self.demonstrations = self.pooled = 0
        return ledger

    def close(self) -> None:
        self.cache.close()
        if self.pool is not None:
            self.pool.close()
        super().close()


def called(setting: str, call: Callable[[], T]) -> T:
    """Raises: ConfigError where the engine could not be asked."""
    try:
        return call()
    except RuntimeError as error:
        raise ConfigError(setting, f"{error}.", hint(str(error))) from error


def _quote(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 120 else f"{flat[:117]}...")
