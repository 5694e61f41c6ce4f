"""What was measured on tiny bodies, at the paper's sizes: computed, with the copies that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.paper.claims import PAPER_LENGTH, PAPER_VOCABULARY, SCORES, STEPS, keys_and_values, shapes
from benchmarks.speed.footprint.batch import judge
from benchmarks.speed.footprint.measure import Form
from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.calls import calls_of_round
from ovd_lightning.dry_run.memory import Setup, account
from ovd_lightning.dry_run.shape import HALF, SINGLE
from ovd_lightning.methods.ovd import OVD

CHUNK = 1024
"""`model.chunk_size` by default."""
ROWS, LENGTH = 4, 4096
"""Micro-batch of `configs/math.yaml`: prompts of up to 1024 tokens, responses of up to 3072 (A.6.2)."""
PROMPT = 150
"""Tokens of a problem, assumed."""
TEXT = 4
"""Bytes of a token, as an id or as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAtScale:
    """The device of one step of Qwen2.5-Math-1.5B. Bytes."""

    form: Form
    state: int
    """Parameters, gradients, AdamW's moments."""
    reference: int
    teacher: int
    """QwQ-32B in bfloat16, where it has to be on the device."""
    step: int
    """Activations and loss at their peak."""

    @property
    def total(self) -> int:
        return self.state + self.reference + self.teacher + self.step


def steps_at_scale(copies: Mapping[Form, float]) -> list[StepAtScale]:
    """The dry run's account for `configs/math.yaml` on one GPU, with as many copies of the logits as were measured."""
    student, teacher = shapes()["Qwen2.5-Math-1.5B"], shapes()["QwQ-32B"]
    found = []
    for form, count in copies.items():
        setup = Setup(
            parameter_bytes=SINGLE,
            autocast=True,
            gradient_checkpointing=True,
            chunk=ROWS * LENGTH if form.naive else CHUNK,
            rows=ROWS,
            length=LENGTH,
            reference=form.method == "OVD",
            sharding="none",
            ranks=1,
            loss_copies=round(count),
        )
        all_of_it = account(student, setup, [], [])
        static = {part.name: part.bytes for part in all_of_it.static}
        reference = static.pop("reference model", 0)
        found.append(
            StepAtScale(
                form=form,
                state=sum(static.values()),
                reference=reference,
                teacher=0 if form.method == "OVD" else HALF * teacher.parameters,
                step=all_of_it.step_peak,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Signal:
    """The teacher's signal for one trajectory, in bytes."""

    name: str
    how: str
    kept: int
    """Until the loss, on the training device."""
    sent: int | None
    """To a teacher that is elsewhere; None: there is no such way here."""
    back: int | None


def signals(length: int = PAPER_LENGTH, vocabulary: int = PAPER_VOCABULARY, steps: int = STEPS) -> list[Signal]:
    """At the size of Table 1, the teacher's hidden rows being those of QwQ-32B in bfloat16."""
    assumed = Assumptions(steps=steps, acceptance=1, prompt_tokens=PROMPT, response_tokens=length)
    asked = calls_of_round(OVD(judge(), group_size=1), problems=1, max_tokens=length, assumed=assumed, bound=False)
    rows = length * shapes()["QwQ-32B"].hidden * HALF
    read = TEXT * (PROMPT + length)
    logits = length * vocabulary
    return [
        Signal("OVD, digits", "K x 1 B", steps, TEXT * asked.tokens_in, steps),
        Signal(
            "OVD, distributions",
            "K x v x 4 B",
            steps * SCORES * SINGLE,
            TEXT * asked.tokens_in,
            steps * SCORES * SINGLE,
        ),
        Signal("OPD, log-probabilities", "L x 4 B", SINGLE * length, read, SINGLE * length),
        Signal("GKD in chunks, the teacher's hidden rows", "L x d_T x 2 B", rows, None, None),
        Signal("whole logits, one bfloat16 copy", "L x V x 2 B", HALF * logits, read, HALF * logits),
        Signal("whole logits, one float32 copy", "L x V x 4 B", SINGLE * logits, read, SINGLE * logits),
        Signal("whole logits, both copies: eq. 1", "L x V x 6 B", (SINGLE + HALF) * logits, None, None),
    ]


def lines(copies: Mapping[Form, float]) -> dict[str, Callable[[float, float], float]]:
    """Name -> bytes of (trajectories N, length L) for Qwen2.5-7B, as the figures draw them; a step has all N in one
    micro-batch, and its logits alone are counted."""

    def at_once(form: Form) -> Callable[[float, float], float]:
        def size(n: float, length: float) -> float:
            positions = n * length if form.naive else min(CHUNK, n * length)
            return copies[form] * positions * PAPER_VOCABULARY * SINGLE

        return size

    per_token = keys_and_values(1)
    return {
        "eq. 1": lambda n, length: n * length * PAPER_VOCABULARY * (SINGLE + HALF),
        "keys and values": lambda n, length: n * length * per_token,
        **{form.name: at_once(form) for form in copies},
        "OPD's signal": lambda n, length: n * length * SINGLE,
        "OVD's signal": lambda n, length: n * STEPS,
    }
