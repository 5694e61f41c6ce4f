"""Trajectories of several turns: whoever writes takes a turn, the environment replies, until done.

All live trajectories advance together, with one call of the engine and one of the environment a turn. Token in, token
out: what was generated goes into the next prompt as the very ids that were sampled, observations are encoded once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ovd_lightning import progress as watched
from ovd_lightning import thoughts
from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.engines.render import as_text, special_tokens
from ovd_lightning.seeds import seed_of
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.teachers.demonstrations import student_tokens
from ovd_lightning.tokens import decode, same_vocabulary
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.demonstrator import Demonstrator


@dataclass(slots=True, kw_only=True)
class Utterance:
    """What was written in one turn, in the student's tokens."""

    ids: list[int]
    text: str
    logprobs: list[float] | None = None
    """[len(ids)] under the sampling policy; None from a teacher."""
    truncated: bool = False
    """Stopped by the turn's token limit."""
    error: str | None = None
    """Why nothing was written; the episode ends."""


@dataclass(slots=True, kw_only=True)
class Episode:
    """A trajectory on its way. ``ids``, ``mask`` and ``logprobs`` grow together, [T]."""

    problem: Problem
    prompt_ids: list[int]
    seed: int
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    """False on observations."""
    logprobs: list[float] = field(default_factory=list)
    """NaN on observations and on what a teacher wrote."""
    said: str = ""
    """The completion so far as text, observations included."""
    written: str = ""
    """The same without observations, in the end with every mark of a thought: what is graded, so that neither a
    document nor a thought can answer for the student."""
    turns: int = 0
    """Generations so far."""
    invalid: int = 0
    failed: int = 0
    done: bool = False
    truncated: bool = False
    """Ended by the limit of the whole completion, or in the middle of its last turn."""
    error: str | None = None

    @property
    def turn_seed(self) -> int:
        """Of the next generation: the first has the episode's own."""
        return self.seed if self.turns == 0 else seed_of(self.seed, "turn", self.turns)

    @property
    def observed(self) -> int:
        """Observation tokens."""
        return len(self.mask) - sum(self.mask)


Speak = Callable[[Sequence[Episode], Sequence[int], tuple[str, ...]], list[Utterance]]
"""(live episodes, token limit of each, texts after which a turn ends) -> what each says next."""


def student_speaks(engine: Engine, sampling: Sampling) -> Speak:
    """Turns written by the student's engine, each with a seed of its own."""

    def speak(episodes: Sequence[Episode], limits: Sequence[int], stop: tuple[str, ...]) -> list[Utterance]:
        requests = [
            Request(prompt=[*e.prompt_ids, *e.ids], seed=e.turn_seed, max_tokens=limit)
            for e, limit in zip(episodes, limits, strict=True)
        ]
        completions = engine.generate(requests, replace(sampling, stop=(*sampling.stop, *stop)))
        return [_utterance(completion) for completion in completions]

    return speak


def teacher_speaks(teacher: Demonstrator, task: Task, tokenizer: PreTrainedTokenizerBase) -> Speak:
    """Turns written by a teacher, which sees text and has a vocabulary of its own; heard in the student's tokens."""
    same = same_vocabulary(tokenizer, teacher.demonstrator.tokenizer)

    def speak(episodes: Sequence[Episode], limits: Sequence[int], stop: tuple[str, ...]) -> list[Utterance]:
        completions = teacher.demonstrate(
            [task.prompt(e.problem) for e in episodes],
            [e.said for e in episodes],
            [e.turn_seed for e in episodes],
            limits,
            stop=stop,
            system=task.system,
        )
        said = []
        for completion, limit in zip(completions, limits, strict=True):
            stopped = bool(stop) and completion.text.endswith(stop)
            ended = False if stopped else None
            ids = [] if completion.error else student_tokens(completion, tokenizer, same, ended, limit)
            cut = len(ids) > limit
            said.append(
                Utterance(
                    ids=ids[:limit],
                    text=decode(tokenizer, ids[:limit]),
                    truncated=completion.truncated or cut,
                    error=completion.error,
                )
            )
        return said

    return speak


def _utterance(completion: Completion) -> Utterance:
    assert completion.token_ids is not None, "a student's engine returns token ids"
    return Utterance(
        ids=completion.token_ids,
        text=completion.text,
        logprobs=completion.logprobs,
        truncated=completion.truncated,
    )


def respond(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    progress: float | None = None,
    phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> list[Episode]:
    """The student's answer to each prompt: one generation, or turns with the task's environment.

    Args:
        prompts: the problems' prompts in the student's tokens.
        seeds: one a prompt; ignored when greedy.
        progress: see `Environment.reply`.
        phase: times what it encloses; asked for "generate" and "environment".
    """
    episodes = [
        Episode(problem=problem, prompt_ids=prompt, seed=seed)
        for problem, prompt, seed in zip(problems, prompts, seeds, strict=True)
    ]
    speak = student_speaks(engine, sampling)

    def timed(live: Sequence[Episode], limits: Sequence[int], stop: tuple[str, ...]) -> list[Utterance]:
        with phase("generate"):
            return speak(live, limits, stop)

    with phase("environment"):
        play(episodes, task.environment, tokenizer, timed, sampling.max_tokens, progress, engine.max_context)
    mark_thoughts(episodes, tokenizer)
    return episodes


def mark_thoughts(episodes: Sequence[Episode], tokenizer: PreTrainedTokenizerBase) -> None:
    """Let what is graded show every thought: also one that the prompt opened."""
    special = thoughts.special_marks(tokenizer)
    for e in episodes:
        e.written = thoughts.with_marks(tokenizer, special, e.prompt_ids, e.ids, e.mask, e.written)


def play(
    episodes: Sequence[Episode],
    environment: Environment | None,
    tokenizer: PreTrainedTokenizerBase,
    speak: Speak,
    max_tokens: int,
    progress: float | None = None,
    max_context: int | None = None,
) -> None:
    """Advance all episodes together to their ends, in place.

    Args:
        environment: None: one generation each.
        max_tokens: limit of a completion, observations included.
        progress: share of the training that is over; None: evaluation.
        max_context: prompt plus completion that the engine holds.
    """
    room = [max_tokens if max_context is None else min(max_tokens, max_context - len(e.prompt_ids)) for e in episodes]
    if environment is None:
        limits = [r - len(e.ids) for e, r in zip(episodes, room, strict=True)]
        for e, said in zip(episodes, speak(episodes, limits, ()), strict=True):
            _hear(e, said)
            e.turns, e.done = e.turns + 1, True
        return
    with environment.awake():
        _take_turns(episodes, room, environment, tokenizer, speak, progress)


def _take_turns(
    episodes: Sequence[Episode],
    room: Sequence[int],
    environment: Environment,
    tokenizer: PreTrainedTokenizerBase,
    speak: Speak,
    progress: float | None,
) -> None:
    """``room``: tokens that each completion may have."""
    watched.expect(len(episodes))
    while live := [(e, r) for e, r in zip(episodes, room, strict=True) if not e.done]:
        limits = [min(environment.max_turn_tokens, r - len(e.ids)) for e, r in live]
        history = [e.said for e, _ in live]
        with watched.phase(f"turn {live[0][0].turns + 1}"):
            utterances = speak([e for e, _ in live], limits, environment.stop)
        for (e, r), said in zip(live, utterances, strict=True):
            _hear(e, said)
            e.turns += 1
            e.done = e.done or e.turns > environment.max_turns or len(e.ids) >= r
        asking = [
            (e, r, Turn(
                problem=e.problem, index=e.turns - 1, text=e.said[len(before):], history=before,
                seed=seed_of(e.seed, "reply", e.turns - 1),
            ))
            for (e, r), before in zip(live, history, strict=True) if not e.done
        ]  # fmt: skip
        with watched.phase("reply"):
            replies = environment.reply([turn for *_, turn in asking], progress) if asking else []
        for (e, r, _), reply in zip(asking, replies, strict=True):
            e.invalid += not reply.valid
            e.failed += reply.failed
            if reply.done:
                e.done = True
                continue
            _observe(e, reply, tokenizer, environment.max_observation_tokens)
            if len(e.ids) >= r:  # no token left to answer with
                del e.ids[r:], e.mask[r:], e.logprobs[r:]
                e.said = decode(tokenizer, e.ids)
                e.done = e.truncated = True
        watched.finished(sum(e.done for e, _ in live))


def _hear(episode: Episode, said: Utterance) -> None:
    if said.error is not None:
        episode.done, episode.error = True, said.error
        return
    episode.ids += said.ids
    episode.mask += [True] * len(said.ids)
    episode.logprobs += said.logprobs if said.logprobs is not None else [math.nan] * len(said.ids)
    episode.said += said.text
    episode.written += said.text
    episode.truncated = said.truncated


def _observe(episode: Episode, reply: Reply, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """Append the observation, its body cut to ``limit`` tokens.

    The body is text and nothing else: what looks like a special token in it (an end of sequence, a marker of the chat
    template) is not one. Prefix and suffix are the environment's own: what looks like one there is one. As much as
    possible is encoded together, as text: all of it where prefix and suffix hold no special token.
    """
    special = special_tokens(tokenizer)
    head, before = _split_after_last(special, reply.prefix)
    after, tail = _split_before_first(special, reply.suffix)
    body = reply.body
    ids = as_text(tokenizer, body)
    if len(ids) > limit:
        body = decode(tokenizer, ids[:limit])
    ids = [
        *(tokenizer.encode(head, add_special_tokens=False) if head else []),
        *as_text(tokenizer, before + body + after),
        *(tokenizer.encode(tail, add_special_tokens=False) if tail else []),
    ]
    episode.ids += ids
    episode.mask += [False] * len(ids)
    episode.logprobs += [math.nan] * len(ids)
    # as decoding the ids would give it, special tokens left out
    left_out = special.sub if special is not None else lambda _, text: text
    episode.said += left_out("", head) + before + body + after + left_out("", tail)
    episode.truncated = False


def _split_after_last(special: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    end = max((found.end() for found in special.finditer(text)), default=0) if special is not None else 0
    return text[:end], text[end:]


def _split_before_first(special: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    found = special.search(text) if special is not None else None
    start = len(text) if found is None else found.start()
    return text[:start], text[start:]
