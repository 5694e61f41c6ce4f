"""What a round asks of the teacher, and what a teacher of tokens would have had to hand over instead (section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.shape import HALF, SINGLE
from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.calls import ExpectedRound


@dataclass(slots=True, kw_only=True, frozen=True)
class Calls:
    """What is asked of the teacher; see `TeacherCalls`."""

    scores: int
    read: int
    demonstrations: int
    requests: int
    """HTTP requests, 0 where the teacher runs in this process."""
    tokens_in: int
    tokens_out: int
    added: int
    notes: tuple[str, ...]

    def cost(self, assumed: Assumptions) -> float | None:
        """In the prices' currency; None without a price."""
        if assumed.input_price is None and assumed.output_price is None:
            return None
        return (self.tokens_in * (assumed.input_price or 0) + self.tokens_out * (assumed.output_price or 0)) / 1e6

    def times(self, rounds: int) -> Calls:
        counts: Any = {name: rounds * value for name, value in asdict(self).items() if isinstance(value, int)}
        return replace(self, **counts)


def calls_of_round(
    method: Method,
    problems: int,
    max_tokens: int,
    assumed: Assumptions,
    bound: bool,
    shares: Mapping[str, float] | None = None,
) -> Calls:
    """The calls of one round over all ranks.

    Args:
        bound: every trajectory as long as allowed and every one rejected; ``assumed.steps`` is still assumed.
        shares: of the problems, by part of a mixture of tasks.
    """
    asked = method.teacher_calls(
        ExpectedRound(
            problems=problems,
            max_tokens=max_tokens,
            prompt_tokens=assumed.prompt_tokens,
            response_tokens=max_tokens if bound else assumed.response_tokens or max(max_tokens // 3, 1),
            steps=assumed.steps,
            rejected=1.0 if bound else 1 - assumed.acceptance,
            demonstration_tokens=assumed.demonstration_tokens,
            at_most=bound,
            shares=shares or {},
        )
    )
    return Calls(
        scores=asked.scores,
        read=asked.read,
        demonstrations=asked.demonstrations,
        requests=sum(_requests(engine, prompts) for engine, prompts in asked.prompts),
        tokens_in=asked.tokens_in,
        tokens_out=asked.tokens_out,
        added=asked.added,
        notes=asked.notes,
    )


def _requests(engine: Engine, prompts: int) -> int:
    if not isinstance(engine, OpenAIEngine):
        return 0
    return prompts if engine.api == "chat" else -(-prompts // engine.prompts_per_request)


@dataclass(slots=True, kw_only=True, frozen=True)
class TokenLevel:
    """Eq. 1: the logits of all trajectories at once, in float32 and bfloat16, against verbal scores. Bytes."""

    trajectories: int
    """B x N"""
    length: int
    """L"""
    vocabulary: int
    """V"""
    single: int
    """B N L V x 4"""
    half: int
    """B N L V x 2"""
    verbal: int
    """B N K v x 4: what the scores' distributions take."""

    @property
    def total(self) -> int:
        return self.single + self.half

    @property
    def ratio(self) -> float:
        return self.total / self.verbal


def token_level(trajectories: int, length: int, vocabulary: int, steps: float, values: int = 10) -> TokenLevel:
    """Eq. 1 for one batch; ``values``: v, the size of the score vocabulary."""
    logits = trajectories * length * vocabulary
    return TokenLevel(
        trajectories=trajectories,
        length=length,
        vocabulary=vocabulary,
        single=SINGLE * logits,
        half=HALF * logits,
        verbal=max(round(SINGLE * trajectories * steps * values), 1),
    )
