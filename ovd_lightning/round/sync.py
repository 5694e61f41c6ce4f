"""The student's weights in the engine, and whether the engine then samples with the student's probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.student import Student
    from ovd_lightning.tasks.base import Task

PROMPTS, LONGEST, TOKENS = 8, 64, 8
"""Prompts that are tried, the tokens of each at most, and the tokens sampled after each."""
EXACT = 1e-3
"""Largest difference in nats of a token where both sides compute in float32 on the CPU: most architectures of
docs/models.md stay below 1e-5, the least exact of those accepted is at 1e-4."""
ROUNDED = 0.1
"""Mean difference in nats where one side computes in less, or on a GPU, whose float32 products may be of TF32: 20 times
the 0.005 of a tiny model in bfloat16 against float32. Not the largest: one token whose expert a rounding decides
differently may be off by a nat."""
HINT = "Use the hf engine (--engine=configs/engine/hf.yaml), or another model."


def send_weights(engine: Engine, student: Student, version: int, first: bool) -> None:
    """Replace the engine's weights by the student's of step ``version``. Collective: every rank enters.

    Raises: ConfigError where the engine cannot load them the first time.
    """
    try:
        engine.sync(student.named_weights(checkpoint=engine.checkpoint_names), version=version)
    except Exception as error:  # whatever an engine raises that cannot load a model's weights
        if not first:
            raise
        architecture = type(student.hf).__name__
        raise ConfigError(
            "engine", f"{engine.name} cannot be given the weights of {architecture}: {error}.", HINT
        ) from error


def check_agreement(
    engine: Engine,
    student: Student,
    prompts: list[list[int]],
    temperature: float,
    trained_in: set[str],
    forward_context: Callable[[], AbstractContextManager[None]],
    maximum: Callable[[Tensor], float],
) -> dict[str, float]:
    """Compare the log-probabilities of a few dozen tokens that the engine samples. Collective: every rank enters.

    Draws from no shared random state, counts no tokens and leaves nothing in the engine's cache.

    Args:
        prompts: see :func:`first_prompts`.
        trained_in: dtypes of the student's parameters and products.
        forward_context: of the trainer's precision.
        maximum: of a number over ranks.
    Returns: metrics, over all ranks.
    Raises: ConfigError where they differ by more than rounding explains.
    """
    architecture = type(student.hf).__name__
    try:
        completions = sample(engine, prompts, temperature)
    except Exception as error:  # whatever an engine raises that cannot run a model
        raise ConfigError("engine", f"{engine.name} cannot run {architecture}: {error}.", HINT) from error
    with forward_context():
        differences = distances(completions, student, prompts, temperature)
    largest, mean = maximum(differences.max()), maximum(differences.mean())
    exact = {engine.dtype_name, *trained_in} == {"float32"} and not torch.cuda.is_available()
    if largest > EXACT if exact else mean > ROUNDED:
        raise ConfigError(
            "engine",
            f"{engine.name} does not answer as the student does: with the same weights, log-probabilities of "
            f"{architecture} differ by up to {largest:.2g} nats, {mean:.2g} on average "
            f"({'at most' if exact else 'on average at most'} {EXACT if exact else ROUNDED:g} is rounding).",
            HINT,
        )
    return {"mismatch/first_sync_abs_max": largest, "mismatch/first_sync_abs_mean": mean}


def sample(engine: Engine, prompts: list[list[int]], temperature: float) -> list[Completion]:
    requests = [Request(prompt=ids, seed=i) for i, ids in enumerate(prompts)]
    with engine.awake(), engine.unrecorded():
        return engine.generate(requests, Sampling(max_tokens=TOKENS, temperature=temperature))


def distances(completions: list[Completion], student: Student, prompts: list[list[int]], temperature: float) -> Tensor:
    """Of each sampled token, in nats; inf for one that is no number."""
    own = student.score(prompts, [completion.token_ids or [] for completion in completions], temperature)
    pairs = zip(completions, own, strict=True)
    return torch.cat([(torch.tensor(c.logprobs or []) - s).abs() for c, s in pairs]).nan_to_num(nan=torch.inf)


def first_prompts(engine: Engine, tasks: Iterable[tuple[Task, Sequence[Problem]]], chat: bool) -> list[list[int]]:
    """Beginnings, of several lengths, of the prompts of a run."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    encoded = (encode_prompt(t.prompt(p), tokenizer, chat, t.system) for t, problems in tasks for p in problems)
    room = LONGEST if engine.max_context is None else min(LONGEST, engine.max_context - TOKENS)
    return [ids[: max(room - 6 * i, 1)] for i, ids in enumerate(islice(encoded, PROMPTS))]
