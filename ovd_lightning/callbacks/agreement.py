"""Whether the engine answers with the student's probabilities, once a run, after the first weight sync."""

from __future__ import annotations

from itertools import islice

import lightning as L
import torch
from torch import Tensor

from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.module import OVDModule
from ovd_lightning.student import Student
from ovd_lightning.tasks.base import Split
from ovd_lightning.tokens import encode_prompt

PROMPTS, LONGEST, TOKENS = 8, 64, 8
"""As many prompts, of as many tokens at most, get as many tokens each."""
EXACT = 1e-3
"""Largest difference in nats of a token where both sides compute in float32 on the CPU: most architectures of
docs/models.md stay below 1e-5, the least exact of those accepted is at 1e-4."""
ROUNDED = 0.1
"""Mean difference in nats where one side computes in less, or on a GPU, whose float32 products may be of TF32: 20 times
the 0.005 of a tiny model in bfloat16 against float32. Not the largest: one token whose expert a rounding decides
differently may be off by a nat."""


def check_agreement(
    engine: Engine, trainer: L.Trainer, module: OVDModule, data: OVDDataModule, temperature: float, chat: bool
) -> dict[str, float]:
    """Compare the log-probabilities of a few dozen tokens that the engine samples. Collective: every rank enters.

    Draws from no shared random state, counts no tokens and leaves nothing in the engine's cache.

    Returns: metrics, over all ranks.
    Raises: ConfigError where they differ by more than rounding explains.
    """
    architecture = type(module.student.hf).__name__
    mend = "Use the hf engine (--engine=configs/engine/hf.yaml), or another model."
    prompts = _prompts(engine, trainer, data, chat)
    try:
        answers = sample(engine, prompts, temperature)
    except Exception as error:  # whatever an engine raises that cannot run a model
        raise ConfigError("engine", f"{engine.name} cannot run {architecture}: {error}.", mend) from error
    with trainer.precision_plugin.forward_context():
        differences = distances(answers, module.student, prompts, temperature)

    def highest(value: torch.Tensor) -> float:
        return float(trainer.strategy.reduce(value.to(module.device), reduce_op="max"))

    largest, mean = highest(differences.max()), highest(differences.mean())
    exact = {engine.dtype_name, *module.computes_in(trainer)} == {"float32"} and not torch.cuda.is_available()
    if largest > EXACT if exact else mean > ROUNDED:
        raise ConfigError(
            "engine",
            f"{engine.name} does not answer as the student does: with the same weights, log-probabilities of "
            f"{architecture} differ by up to {largest:.2g} nats, {mean:.2g} on average "
            f"({'at most' if exact else 'on average at most'} {EXACT if exact else ROUNDED:g} is rounding).",
            mend,
        )
    return {"mismatch/first_sync_abs_max": largest, "mismatch/first_sync_abs_mean": mean}


def sample(engine: Engine, prompts: list[list[int]], temperature: float) -> list[Completion]:
    requests = [Request(prompt=ids, seed=i) for i, ids in enumerate(prompts)]
    with engine.awake(), engine.unrecorded():
        return engine.generate(requests, Sampling(max_tokens=TOKENS, temperature=temperature))


def distances(answers: list[Completion], student: Student, prompts: list[list[int]], temperature: float) -> Tensor:
    """Of each sampled token, in nats; inf for one that is no number."""
    own = student.score(prompts, [answer.token_ids or [] for answer in answers], temperature)
    pairs = zip(answers, own, strict=True)
    return torch.cat([(torch.tensor(a.logprobs or []) - s).abs() for a, s in pairs]).nan_to_num(nan=torch.inf)


def _prompts(engine: Engine, trainer: L.Trainer, data: OVDDataModule, chat: bool) -> list[list[int]]:
    """Beginnings, of several lengths, of what the run will ask."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    if trainer.state.fn == "fit":
        tasks = [(data.task, data.train_problems())]
    else:
        split: Split = "validation" if trainer.state.fn == "validate" else "test"
        problems = data.eval_problems(split)
        tasks = [(task, problems[name]) for name, task in data.benchmarks(split).items()]
    asked = (encode_prompt(t.prompt(p), tokenizer, chat, t.system) for t, of in tasks for p in of)
    room = LONGEST if engine.max_context is None else min(LONGEST, engine.max_context - TOKENS)
    return [ids[: max(room - 6 * i, 1)] for i, ids in enumerate(islice(asked, PROMPTS))]
