"""What a round asks of the teacher, and what a teacher of tokens would have had to hand over instead (section 2)."""

from __future__ import annotations

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


def calls_of_round(method: Method, problems: int, max_tokens: int, assumed: Assumptions, bound: bool) -> Calls:
    """The calls of one round over all ranks.

    Args:
        bound: every trajectory as long as allowed and every one rejected; ``assumed.steps`` is still assumed.
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


PAPER_LENGTH, PAPER_VOCABULARY = 8192, 152_064
"""Of Table 1: Qwen2.5-7B, whose "152K" is 152,064."""
PAPER_LAYERS, PAPER_KV_HEADS, PAPER_HEAD_DIM = 28, 4, 128
"""Of the same model, as Table 1 has them."""
PRINTED_ABOUT = 0.01
"""The paper prints two or three digits: a number is right within this share."""


def keys_and_values(length: int, layers: int = PAPER_LAYERS) -> int:
    """Bytes of one sequence's cache in bfloat16, [N_L, 2, H_kv, L, d] of Table 1."""
    return layers * 2 * PAPER_KV_HEADS * length * PAPER_HEAD_DIM * HALF


@dataclass(slots=True, kw_only=True, frozen=True)
class PaperFigure:
    """A number of section 2, and the same computed."""

    where: str
    what: str
    printed: str
    computed: str
    value: float
    """What is printed: bytes, a GB being 10^9 and an MB 10^6 of them, or a ratio."""
    exact: float
    """The same from the formula."""
    comment: str = ""

    @property
    def factor(self) -> float:
        """Computed over printed."""
        return self.exact / self.value

    @property
    def verdict(self) -> str:
        """By the numbers alone: right, right in binary units, or by how much it is wrong."""
        if abs(self.factor - 1) <= PRINTED_ABOUT:
            return "right"
        for unit, binary in (("MB", 1.024**2), ("GB", 1.024**3)):
            if self.printed.endswith(unit) and abs(self.factor / binary - 1) <= PRINTED_ABOUT:
                return f"unit wrong: it is {unit[0]}iB"
        times = self.factor if self.factor > 1 else 1 / self.factor
        return f"wrong: {times:.3g} times too {'small' if self.factor > 1 else 'large'}"


def paper_figures() -> list[PaperFigure]:
    """Table 1, figure 2 and the text of section 2 recomputed: GB are 10^9 bytes, MiB and GiB powers of two."""
    one = token_level(1, PAPER_LENGTH, PAPER_VOCABULARY, 10)
    batch = token_level(32, PAPER_LENGTH, PAPER_VOCABULARY, 10)
    layer, cache = keys_and_values(PAPER_LENGTH, layers=1), keys_and_values(PAPER_LENGTH)
    return [
        PaperFigure(
            where="Table 1",
            what="logits of one sequence, float32",
            printed="5.0 GB",
            computed=gb(one.single),
            value=5.0e9,
            exact=one.single,
        ),
        PaperFigure(
            where="Table 1",
            what="logits of one sequence, bfloat16",
            printed="2.5 GB",
            computed=gb(one.half),
            value=2.5e9,
            exact=one.half,
        ),
        PaperFigure(
            where="Table 1",
            what="keys and values, 1 layer",
            printed="16 MB",
            computed=f"{layer / 2**20:.0f} MiB = {layer / 1e6:.1f} MB",
            value=16e6,
            exact=layer,
            comment="printed in MiB",
        ),
        PaperFigure(
            where="Table 1",
            what="keys and values, 28 layers",
            printed="469 MB",
            computed=f"{cache / 1e6:.1f} MB = {cache / 2**20:.0f} MiB",
            value=469e6,
            exact=cache,
            comment="printed in MB: 28 x 16 is 448",
        ),
        PaperFigure(
            where="section 1",
            what="logits of B x N = 8 x 4 sequences",
            printed="around 160 GB",
            computed=f"{gb(batch.single)} in float32 alone, {gb(batch.total)} by eq. 1",
            value=160e9,
            exact=batch.single,
            comment="figure 2's 240 GB is eq. 1",
        ),
        PaperFigure(
            where="section 2",
            what="verbal scores take less by",
            printed="N V / v = 48000",
            computed=f"N V / v = {32 * 152_000 // 10:,}; L V / (K v) = {PAPER_LENGTH * 152_000 // 100:,}",
            value=48_000,
            exact=32 * 152_000 / 10,
            comment="N is in both, so it cancels; K = 10 steps",
        ),
    ]


def gb(bytes: float) -> str:
    return f"{bytes / 1e9:,.1f} GB"
