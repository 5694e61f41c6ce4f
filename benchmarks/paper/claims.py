"""The paper's numbers about memory (eq. 1, Table 1, Figures 1 and 2, section 2), recomputed from its own settings.

A number comes with a verdict that follows from the printed and the computed value. Statements without a number are
checked against numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.paper.finding import Finding
from ovd_lightning.dry_run.calls import token_level
from ovd_lightning.dry_run.shape import HALF, SINGLE, ModelShape, shape_of

ORDER = ("section 1", "eq. 1", "Table 1", "section 2", "Figure 1", "Figure 2")
"""Places as they follow one another in the paper."""
PAPER_LENGTH, PAPER_VOCABULARY = 8192, 152_064
"""Of Table 1: Qwen2.5-7B, whose "152K" is 152,064."""
PAPER_LAYERS, PAPER_KV_HEADS, PAPER_HEAD_DIM = 28, 4, 128
"""Of the same model, as Table 1 has them."""
PRINTED_ABOUT = 0.01
"""The paper prints two or three digits: a number is right within this share."""
SCORES = 10
"""v"""
WORDS = 152_000
"""V as the ratio of section 2 has it."""
STEPS = 10
"""K, assumed: the paper gives none."""
TRAIN_BYTES = 16
"""Of a parameter in mixed precision: float32 weight, gradient and AdamW's two moments."""

QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
"""Sizes from the config.json of Qwen/Qwen2.5-7B, ..."""
QWEN_MATH_1_5B = {
    "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
"""... of Qwen/Qwen2.5-Math-1.5B, the student of A.6.2, ..."""
QWQ_32B = {
    "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
    "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
"""... and of Qwen/QwQ-32B, its teacher."""


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


@cache
def shapes() -> dict[str, ModelShape]:
    """Counted on the meta device."""
    from transformers import Qwen2Config

    sizes = {"Qwen2.5-7B": QWEN_7B, "Qwen2.5-Math-1.5B": QWEN_MATH_1_5B, "QwQ-32B": QWQ_32B}
    return {name: shape_of(name, Qwen2Config(**size)) for name, size in sizes.items()}  # type: ignore[arg-type]


def numbers() -> list[PaperFigure]:
    """Every number of the paper about memory, in its order."""
    one = token_level(1, PAPER_LENGTH, PAPER_VOCABULARY, STEPS, SCORES)
    batch = token_level(32, PAPER_LENGTH, PAPER_VOCABULARY, STEPS, SCORES)
    layer, cache = keys_and_values(PAPER_LENGTH, layers=1), keys_and_values(PAPER_LENGTH)
    by_precision = f"float32 alone {one.single / cache:.1f}, bfloat16 alone {one.half / cache:.1f}"
    figures = [
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
        PaperFigure(
            where="eq. 1",
            what="float32 and bfloat16 together, in float32's",
            printed="1.5",
            computed=f"({SINGLE} + {HALF}) / {SINGLE} = {one.total / one.single:g}",
            value=1.5,
            exact=one.total / one.single,
            comment="as arithmetic; whether both copies are kept, below",
        ),
        PaperFigure(
            where="Figure 1",
            what="logits grow faster than keys and values by",
            printed="~16x",
            computed=f"{one.total / cache:.1f} with both copies of eq. 1",
            value=16,
            exact=one.total / cache,
            comment=by_precision + ", which is the cache's own precision",
        ),
        PaperFigure(
            where="Figure 2",
            what="logits over keys and values",
            printed="~16x",
            computed=f"{batch.total / (32 * cache):.1f} with both copies of eq. 1",
            value=16,
            exact=batch.total / (32 * cache),
            comment="N is in both",
        ),
        PaperFigure(
            where="Figure 2",
            what="logits of N = 32 rollouts",
            printed="240 GB",
            computed=gb(batch.total),
            value=240e9,
            exact=batch.total,
            comment="the same 32 sequences are 160 GB in section 1: float32 alone there, eq. 1 here",
        ),
    ]
    return sorted(figures, key=lambda f: ORDER.index(f.where))


def statements() -> list[Finding]:
    """What the paper claims about memory without a number, checked against numbers."""
    one = token_level(1, PAPER_LENGTH, PAPER_VOCABULARY, STEPS, SCORES)
    many = token_level(32, PAPER_LENGTH, PAPER_VOCABULARY, STEPS, SCORES)
    cache, chunk = keys_and_values(PAPER_LENGTH), 1024 * PAPER_VOCABULARY * SINGLE
    logprobs = PAPER_LENGTH * SINGLE
    training = TRAIN_BYTES * shapes()["Qwen2.5-7B"].parameters
    wanted = PAPER_LENGTH * WORDS / (SCORES * 48_000)  # K with which L V / (K v) is 48000
    linear = token_level(1, 2 * PAPER_LENGTH, PAPER_VOCABULARY, STEPS).total == 2 * one.total and 2 * one.total == (
        token_level(2, PAPER_LENGTH, PAPER_VOCABULARY, STEPS).total
    )
    return [
        Finding(
            "section 1, Figures 1 and 2",
            "logits and keys and values are linear in L and in N",
            linear and keys_and_values(2 * PAPER_LENGTH) == 2 * cache,
            f"a token: {one.total // PAPER_LENGTH:,} B of logits in both copies, {cache // PAPER_LENGTH:,} B of keys "
            "and values",
        ),
        Finding(
            "section 2",
            "V ≈ 32K-128K",
            32_000 <= PAPER_VOCABULARY <= 128 * 1024,
            f"the paper's own example has {PAPER_VOCABULARY:,}",
        ),
        Finding(
            "section 1 and Figure 2",
            "32 trajectories of 8192 tokens take one amount of memory",
            many.single == many.total,
            f"{gb(many.single)} (printed as 160) and {gb(many.total)} (printed as 240)",
        ),
        Finding(
            "section 2",
            "the reduction grows with N: “N · V/v”",
            many.ratio > one.ratio,
            f"(N L V) / (N K v) = L V / (K v) = {PAPER_LENGTH * WORDS / (STEPS * SCORES):,.0f} for K = "
            f"{STEPS}, with any N; 48000 would need K = {wanted:,.0f}, a step every {PAPER_LENGTH / wanted:.1f} tokens",
        ),
        Finding(
            "section 2 (iii)",
            "token-level supervision “requires storing logits over the entire vocabulary”",
            logprobs >= one.single,
            f"OPD takes one log-probability a token: {logprobs / 2**10:.0f} KiB a trajectory, "
            f"{one.single / logprobs:,.0f} times less than {gb(one.single)}; GKD takes a chunk at a time",
        ),
        Finding(
            "section 2, eq. 1",
            "all B N trajectories’ logits are kept “simultaneously”",
            chunk >= many.total,
            f"a chunk of 1,024 tokens is {gb(chunk)} in float32, however many trajectories there are",
        ),
        Finding(
            "Figure 1",
            "logits are “the primary memory bottleneck”",
            one.total > training,
            f"one trajectory has {gb(one.total)}; weights, gradients and AdamW of Qwen2.5-7B have {gb(training)}, and "
            f"only 32 trajectories' logits at once, {gb(many.total)}, are more",
        ),
    ]


NOT_DERIVABLE = (
    ("Figures 1 and 2", "the plotted points", "no number is printed but those of the captions"),
    ("section 2", "K, the number of steps", "no experiment states it, so no reduction can be computed from the paper"),
    ("Table 2", "Mem.: Low, High, Med.", "it is not said what is counted, nor where Med. begins"),
    ("eq. 1", "“frameworks maintain both” copies", "of the student’s logits in training (its source is about these); "
     "a teacher’s, stored, need one"),
    ("A.4", "“dramatically reduces memory overhead”", "no number; a digit is 1 byte a step, see the signal below"),
    ("everywhere", "time or bytes of communication", "no number; measured below"),
)  # fmt: skip
"""(place, claim, why it cannot be recomputed)"""


def numbers_table(figures: Sequence[PaperFigure]) -> str:
    """A Markdown table."""
    rows = ["| where | what | printed | computed | verdict | |", "| --- | --- | --- | --- | --- | --- |"]
    for f in figures:
        verdict = f.verdict if f.verdict == "right" else f"**{f.verdict}**"
        rows.append(f"| {f.where} | {f.what} | {f.printed} | {f.computed} | {verdict} | {f.comment} |")
    return "\n".join(rows)


def not_derivable_table() -> str:
    rows = ["| where | claim | why it cannot be recomputed |", "| --- | --- | --- |"]
    return "\n".join([*rows, *(f"| {' | '.join(row)} |" for row in NOT_DERIVABLE)])


def gb(bytes: float) -> str:
    return f"{bytes / 1e9:,.1f} GB"
