"""Rollouts of several turns: the policy generates a turn, the environment replies, until the trajectory is over.

All unfinished trajectories advance together, with one call of the engine and one of the environment a turn. Token in,
token out: generated tokens go into the next prompt as the very ids that were sampled; observations are encoded once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ovd_lightning import progress as watched
from ovd_lightning import thoughts
from ovd_lightning.engines.base import Completion, Engine, Poll, Request, Sampling, ignore
from ovd_lightning.engines.render import as_text, special_tokens
from ovd_lightning.seeds import seed_of
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.teachers.demonstrations import student_tokens
from ovd_lightning.tokens import decode, same_vocabulary
from ovd_lightning.types import Problem, StopReason, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.demonstrator import Demonstrator
    from ovd_lightning.teachers.pool import Draw


@dataclass(slots=True, kw_only=True)
class Generation:
    """What a policy generated in one turn, in the student's tokens."""

    ids: list[int]
    text: str
    stop_reason: StopReason
    """``token_limit``: the turn's."""
    logprobs: list[float] | None = None
    """[len(ids)] under the sampling policy; None from a teacher."""
    error: str | None = None
    """Why nothing was generated, where the stop reason is ``error``."""


Policy = Callable[[Sequence[Trajectory], Sequence[int], tuple[str, ...]], list[Generation]]
"""(unfinished trajectories, token limit of each, texts that end a turn) -> the next turn of each."""


def student_policy(engine: Engine, sampling: Sampling) -> Policy:
    """pi_S: turns from the student's engine, each with a seed of its own."""

    def generate(trajectories: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]) -> list[Generation]:
        requests = [_request(y, limit) for y, limit in zip(trajectories, limits, strict=True)]
        stop = (*sampling.stop, *stop)
        completions = engine.generate(requests, replace(sampling, stop=stop))
        return [_generation(completion, stop) for completion in completions]

    return generate


def _request(y: Trajectory, limit: int) -> Request:
    return Request(prompt=[*y.prompt_ids, *y.completion_ids], seed=y.turn_seed, max_tokens=limit)


def _generation(completion: Completion, stop: tuple[str, ...]) -> Generation:
    assert completion.token_ids is not None, "a student's engine returns token ids"
    stopped = any(text in completion.text for text in stop)
    reason: StopReason = "stop_text" if stopped else "end_of_sequence"
    return Generation(
        ids=completion.token_ids,
        text=completion.text,
        logprobs=completion.logprobs,
        stop_reason="token_limit" if completion.truncated else reason,
    )


def teacher_policy(
    teacher: Demonstrator,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    draws: Mapping[tuple[int, int], Draw] | None = None,
) -> Policy:
    """pi_T: turns from a teacher, which reads text and has a vocabulary of its own, in the student's tokens.

    Args:
        draws: what comes from the teacher's pool instead, by a trajectory's key.
    """
    same = same_vocabulary(tokenizer, teacher.demonstrator.tokenizer)

    def generate(trajectories: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]) -> list[Generation]:
        completions = teacher.demonstrate(
            [task.prompt(y.problem) for y in trajectories],
            [y.text for y in trajectories],
            [y.turn_seed for y in trajectories],
            limits,
            stop=stop,
            system=task.system,
            draws=[draws.get(y.key) for y in trajectories] if draws else None,
        )
        return [translate(completion, limit, stop) for completion, limit in zip(completions, limits, strict=True)]

    def translate(completion: Completion, limit: int, stop: tuple[str, ...]) -> Generation:
        if completion.error is not None:
            return Generation(ids=[], text="", stop_reason="error", error=completion.error)
        stopped = bool(stop) and completion.text.endswith(stop)
        ids = student_tokens(completion, tokenizer, same, False if stopped else None, limit)
        reason: StopReason = "stop_text" if stopped else "end_of_sequence"
        return Generation(
            ids=ids[:limit],
            text=decode(tokenizer, ids[:limit]),
            stop_reason="token_limit" if completion.truncated or len(ids) > limit else reason,
        )

    return generate


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
    ready: Callable[[int, Trajectory], None] = ignore,
    poll: Poll = ignore,
) -> list[Trajectory]:
    """The student's response to each prompt: one generation, or turns with the task's environment.

    Args:
        prompts: the problems' prompts in the student's tokens.
        seeds: one a prompt; ignored when greedy.
        progress: see `Environment.reply`.
        phase: times what it encloses; asked for "generate" and "environment".
        ready: called with each trajectory and its index as soon as it is finished; with an environment, at the end.
        poll: see `Engine.generate_as_ready`.
    Returns:
        One finished trajectory a prompt, without steps and grade.
    """
    trajectories = [
        Trajectory(problem=problem, prompt_ids=prompt, seed=seed)
        for problem, prompt, seed in zip(problems, prompts, seeds, strict=True)
    ]
    special = thoughts.special_marks(tokenizer)

    def ended(index: int, completion: Completion) -> None:
        y, generation = trajectories[index], _generation(completion, sampling.stop)
        append(y, generation)
        y.stop_reason = generation.stop_reason
        _mark(y, tokenizer, special)
        ready(index, y)

    if task.environment is None:
        limits = _room(trajectories, sampling.max_tokens, engine.max_context)
        requests = [_request(y, limit) for y, limit in zip(trajectories, limits, strict=True)]
        with phase("generate"):
            engine.generate_as_ready(requests, sampling, ended, poll)
        return trajectories
    policy = student_policy(engine, sampling)

    def timed(unfinished: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]) -> list[Generation]:
        with phase("generate"):
            return policy(unfinished, limits, stop)

    with phase("environment"), task.environment.asking(engine):
        rollout(trajectories, task.environment, tokenizer, timed, sampling.max_tokens, progress, engine.max_context)
    mark_thoughts(trajectories, tokenizer)
    for index, y in enumerate(trajectories):
        ready(index, y)
    return trajectories


def mark_thoughts(trajectories: Sequence[Trajectory], tokenizer: PreTrainedTokenizerBase) -> None:
    """Let what is graded show every thought: also one that the prompt opened."""
    special = thoughts.special_marks(tokenizer)
    for y in trajectories:
        _mark(y, tokenizer, special)


def _mark(y: Trajectory, tokenizer: PreTrainedTokenizerBase, special: dict[int, str]) -> None:
    y.written = thoughts.with_marks(tokenizer, special, y.prompt_ids, y.completion_ids, y.completion_mask, y.written)


def _room(trajectories: Sequence[Trajectory], max_tokens: int, max_context: int | None) -> list[int]:
    """Tokens that each completion may have."""
    if max_context is None:
        return [max_tokens] * len(trajectories)
    return [min(max_tokens, max_context - len(y.prompt_ids)) for y in trajectories]


def rollout(
    trajectories: Sequence[Trajectory],
    environment: Environment | None,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    max_tokens: int,
    progress: float | None = None,
    max_context: int | None = None,
) -> None:
    """Advance all trajectories together to their ends, in place.

    Args:
        trajectories: without a completion, or with a prefix that is continued.
        environment: None: one generation each.
        max_tokens: limit of a completion, observations included.
        progress: share of the training that is over; None: evaluation.
        max_context: prompt plus completion that the engine holds.
    """
    room = _room(trajectories, max_tokens, max_context)
    if environment is None:
        limits = [r - len(y.completion_ids) for y, r in zip(trajectories, room, strict=True)]
        for y, generation in zip(trajectories, policy(trajectories, limits, ()), strict=True):
            append(y, generation)
            y.stop_reason = generation.stop_reason
        return
    with environment.awake():
        _take_turns(trajectories, room, environment, tokenizer, policy, progress)


def _take_turns(
    trajectories: Sequence[Trajectory],
    room: Sequence[int],
    environment: Environment,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    progress: float | None,
) -> None:
    """``room``: tokens that each completion may have."""
    watched.expect(len(trajectories))
    while unfinished := [(y, r) for y, r in zip(trajectories, room, strict=True) if y.stop_reason is None]:
        limits = [min(environment.max_turn_tokens, r - len(y.completion_ids)) for y, r in unfinished]
        history = [y.text for y, _ in unfinished]
        with watched.phase(f"turn {unfinished[0][0].turns + 1}"):
            generations = policy([y for y, _ in unfinished], limits, environment.stop)
        turns = []
        for (y, r), before, generation in zip(unfinished, history, generations, strict=True):
            append(y, generation)
            y.stop_reason = _own_end(y, generation, r, environment.max_turns)
            if y.stop_reason is None:
                turn = Turn(
                    problem=y.problem,
                    index=y.turns - 1,
                    text=y.text[len(before) :],
                    history=before,
                    seed=seed_of(y.seed, "reply", y.turns - 1),
                )
                turns.append((y, r, generation, turn))
        with watched.phase("reply"):
            replies = environment.reply([turn for *_, turn in turns], progress) if turns else []
        for (y, r, generation, _), reply in zip(turns, replies, strict=True):
            y.invalid += not reply.valid
            y.failed += reply.failed
            if reply.done:
                y.stop_reason = generation.stop_reason
                continue
            observe(y, reply, tokenizer, environment.max_observation_tokens)
            if len(y.completion_ids) >= r:  # no token is left to answer with
                del y.completion_ids[r:], y.completion_mask[r:], y.behaviour_logprobs[r:]
                y.text = decode(tokenizer, y.completion_ids)
                y.stop_reason = "token_limit"
        watched.finished(sum(y.stop_reason is not None for y, _ in unfinished))


def _own_end(y: Trajectory, generation: Generation, room: int, max_turns: int) -> StopReason | None:
    """Why a trajectory ends with this generation, whatever the environment would reply; None: it may go on."""
    if generation.stop_reason == "error":
        return "error"
    if y.turns > max_turns:  # the generation after the last reply
        used_up = max_turns > 0 and generation.stop_reason != "token_limit"
        return "turn_limit" if used_up else generation.stop_reason
    return generation.stop_reason if len(y.completion_ids) >= room else None


def append(y: Trajectory, generation: Generation) -> None:
    """Append a turn's tokens, to be trained on, and its text."""
    y.turns += 1
    y.error = generation.error
    y.completion_ids += generation.ids
    y.completion_mask += [True] * len(generation.ids)
    y.behaviour_logprobs += _unknown(generation.ids) if generation.logprobs is None else generation.logprobs
    y.text += generation.text
    y.written += generation.text


def observe(y: Trajectory, reply: Reply, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """Append the observation, its body cut to ``limit`` tokens. It is context and never trained on.

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
    y.completion_ids += ids
    y.completion_mask += [False] * len(ids)
    y.behaviour_logprobs += _unknown(ids)
    # as decoding the ids would give it, special tokens left out
    left_out = special.sub if special is not None else lambda _, text: text
    y.text += left_out("", head) + before + body + after + left_out("", tail)


def _unknown(ids: Sequence[int]) -> list[float]:
    """Log-probabilities of tokens that the student's engine did not sample."""
    return [math.nan] * len(ids)


def _split_after_last(special: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    end = max((found.end() for found in special.finditer(text)), default=0) if special is not None else 0
    return text[:end], text[end:]


def _split_before_first(special: re.Pattern[str] | None, text: str) -> tuple[str, str]:
    found = special.search(text) if special is not None else None
    start = len(text) if found is None else found.start()
    return text[:start], text[start:]
