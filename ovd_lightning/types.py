"""The nouns of the project.

Legend for shapes: ``T`` completion tokens of one trajectory, ``K`` its steps, ``N`` trajectories of a
group, ``B`` rows of a micro-batch, ``L`` its padded length, ``v`` the size of the score vocabulary (10).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ovd_lightning.seeds import seed_of

Source = Literal["student", "teacher", "mixed", "dataset"]
"""Who wrote a trajectory; ``mixed`` is a student prefix that the teacher continued, ``dataset`` a problem's own
solution."""
StopReason = Literal["end_of_sequence", "stop_text", "token_limit", "turn_limit", "error"]
"""Why a generation, or a whole trajectory, ended.

- ``end_of_sequence``: the model emitted its end-of-sequence token.
- ``stop_text``: at a text that ends a turn, after which the environment said that the trajectory is over.
- ``token_limit``: at the limit of the completion, of the turn or of the engine's context: it is truncated.
- ``turn_limit``: the environment's replies are used up, and the generation after the last one was complete.
- ``error``: nothing was generated, e.g. because the endpoint failed.
"""


@dataclass(slots=True, kw_only=True, frozen=True)
class Problem:
    """A question with its reference."""

    id: str
    question: str
    """The question as the student and the teacher's scoring prompt show it, without any template."""
    answers: tuple[str, ...]
    """Alternatives; any one is correct. Empty means that the problem cannot be graded."""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, frozen=True)
class Grade:
    """What a task's checker says of one response."""

    reward: float
    """Outcome reward R(y), eq. 2: 0/1 for mathematics, F1 for Web Q&A."""
    correct: bool
    """The "incorrect" of Algorithm 1 is ``not correct``."""
    answer: str | None
    """The extracted answer, None when there is none."""
    how: str | None = None
    """How the answer was found, e.g. "boxed"; None when there is none, or where the task knows one way only."""
    timed_out: bool = False
    """The checker was stopped at its time limit, or died at its memory limit: counted as wrong, and as
    ``grading/timeouts``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further scores of the response in [0, 1] that ``Task.metrics`` names, e.g. em and f1."""


@dataclass(slots=True, kw_only=True)
class Step:
    """A scored span s_k of a trajectory."""

    start: int
    end: int
    """Half-open token span in ``Trajectory.completion_ids``."""
    text: str
    distribution: list[float] | None = None
    """The teacher's probabilities over the score vocabulary, [v]; None until scored or unparseable."""
    score: float | None = None
    """Verbal score S(s_k) on the method's scale; None until scored, or when it could not be parsed."""
    judged: bool = False
    """The judge was asked."""


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """One response to a problem, from its first token to its grade. Token in, token out: ``completion_ids`` are what
    was generated. ``completion_ids``, ``completion_mask`` and ``behaviour_logprobs`` grow together, turn by turn.
    """

    problem: Problem
    prompt_ids: list[int]
    group: int = 0
    """Index of its group in the round, over all ranks. A problem may have several groups (one-example training)."""
    sample: int = 0
    """Index within the group, 0 .. N-1."""
    seed: int = 0
    """Of its first generation; those of later turns follow from it."""
    completion_ids: list[int] = field(default_factory=list)
    """[T]; ends with the end-of-sequence token when the model emitted one."""
    completion_mask: list[bool] = field(default_factory=list)
    """[T]; True on tokens the student trains on. Observations (environment text) are False."""
    behaviour_logprobs: list[float] = field(default_factory=list)
    """[T]; log-probabilities under the sampling policy at the sampling temperature; NaN on tokens that the student's
    engine did not sample. Empty: on all of them."""
    text: str = ""
    """``completion_ids`` decoded, special tokens left out."""
    written: str = ""
    """The text without observations and with every mark of a thought. This is what is graded, so that neither a
    document nor a thought can answer for the student."""
    turns: int = 0
    """Generations so far."""
    invalid: int = 0
    """Turns that the environment could not read as an action."""
    failed: int = 0
    """Turns whose action the environment could not carry out."""
    stop_reason: StopReason | None = None
    """None while it is being generated."""
    error: str | None = None
    """What went wrong, where the stop reason is ``error``."""
    source: Source = "student"
    policy_version: int = -1
    """``global_step`` of the weights that generated it; -1 for the teacher."""
    student_tokens: int = 0
    """Leading completion tokens that the student wrote (all, none, or the kept prefix when ``mixed``)."""
    grade: Grade | None = None
    steps: list[Step] = field(default_factory=list)
    score: float | None = None
    """Trajectory score S(y), aggregated over steps or asked for as a whole; None also where the steps that were judged
    do not settle it."""
    judged: bool = False
    """The judge was asked for S(y) as a whole."""
    distribution: list[float] | None = None
    """The teacher's distribution for S(y) when the whole trajectory was scored at once, [v]."""
    accepted: bool | None = None
    """The decision a(y), eq. 5; None when nothing was decided: no teacher, or nothing depends on it."""
    rejected: bool | None = None
    """To be replaced: by its score, or as incorrect. None when nothing was decided."""
    advantages: list[float] = field(default_factory=list)
    """[T]; constant over tokens for trajectory-level rewards."""
    imitation: float | None = None
    """Weight of the cross-entropy that this trajectory trains by instead of the method's objective; None: by that.
    Averaged over the imitated tokens alone."""
    teacher_prompt_ids: list[int] | None = None
    """Another prompt under which a teacher reads the same completion, e.g. with the reference solution; None: the
    student's."""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """(group, sample): what names a trajectory within its round; a replacement has its predecessor's."""
        return self.group, self.sample

    @property
    def truncated(self) -> bool:
        """Cut off by a token limit: of the whole completion, or in the middle of its last turn."""
        return self.stop_reason == "token_limit"

    @property
    def reward(self) -> float:
        if self.grade is None:
            raise RuntimeError(f"trajectory {self.problem.id}/{self.sample} has not been graded yet")
        return self.grade.reward

    @property
    def trainable_tokens(self) -> int:
        return self.completion_mask.count(True)

    @property
    def observation_tokens(self) -> int:
        return len(self.completion_mask) - self.trainable_tokens

    @property
    def turn_seed(self) -> int:
        """Of the next generation."""
        return self.seed if self.turns == 0 else seed_of(self.seed, "turn", self.turns)

    def turns_before(self, token: int) -> int:
        """Generations that the environment had replied to before a token: observations that begin before it."""
        mask = [True, *self.completion_mask[:token]]
        return sum(before and not after for before, after in pairwise(mask))


@dataclass(slots=True, kw_only=True)
class Group:
    """The trajectories of one problem: what the student sampled, and what it trains on."""

    problem: Problem
    index: int = 0
    """In the round, over all ranks."""
    sampled: list[Trajectory]
    """The student's N trajectories, never altered: rewards before replacement are read here."""
    demonstrations: list[Trajectory] = field(default_factory=list)
    """What `Method.consult` got from the teacher: its trajectories, graded, those that replace another under its
    key."""
    mixture: list[Trajectory] = field(default_factory=list)
    """What trains: N (substituted) or more (added) trajectories; accepted ones are the same objects."""


@dataclass(slots=True, kw_only=True)
class TeacherInputs:
    """Rows of a micro-batch as a teacher with other prompts reads them; right-padded to a length of their own."""

    input_ids: Tensor
    """[B, L'] int64"""
    attention_mask: Tensor
    """[B, L'] int64"""
    completion_mask: Tensor
    """[B, L'-1] bool: as many tokens a row, in the same order, as the batch's own mask has."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TeacherInputs:
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return TeacherInputs(**moved)

    def some(self, rows: slice) -> TeacherInputs:
        """See `Batch.some`."""
        unused = self.input_ids.shape[1] - int(self.attention_mask[rows].sum(dim=-1).max())
        return TeacherInputs(**{f.name: _cut(getattr(self, f.name), rows, unused) for f in fields(self)})


@dataclass(slots=True, kw_only=True)
class Batch:
    """One micro-batch, right-padded. Row = trajectory; position j of a row predicts token j+1."""

    input_ids: Tensor
    """[B, L] int64: prompt, completion, padding."""
    attention_mask: Tensor
    """[B, L] int64: 1 on prompt and completion."""
    completion_mask: Tensor
    """[B, L-1] bool: True where the *predicted* token is trained on."""
    advantages: Tensor
    """[B, L-1] float32, 0 outside ``completion_mask``."""
    teacher_mask: Tensor
    """[B, L-1] bool: trained tokens that the student did not write."""
    weights: Tensor
    """[B, L-1] float32: each token's weight in the loss. Sums to 1 over one optimiser step, all ranks and
    micro-batches, times the factor by which Lightning averages, so micro-batching cannot change the loss. Imitated
    tokens have a sum of their own, their trajectories' ``imitation``."""
    behaviour_logprobs: Tensor
    """[B, L-1] float32: the engine's log-probabilities; NaN where it gave none (teacher tokens)."""
    old_logprobs: Tensor | None = None
    """[B, L-1] float32 under the student that starts the round; None in the round's first update: rho = 1."""
    kept_logprobs: Tensor | None = None
    """[B, L-1] where the first update leaves its log-probabilities: the ``old_logprobs`` of the same rows in the later
    passes over them; None where there are none."""
    reference_logprobs: Tensor | None = None
    """[B, L-1] float32 under the initial student; None without a KL term."""
    imitation_mask: Tensor | None = None
    """[B, L-1] bool: trained tokens of imitated trajectories, whose loss is the cross-entropy; None: there are none."""
    teacher_logprobs: Tensor | None = None
    """[B, L-1] float32 under a token-level teacher; None without one."""
    teacher_inputs: TeacherInputs | None = None
    """The same completions behind the teacher's own prompts; None where the teacher reads what the student read."""
    temperature: float = 1.0
    """Sampling temperature: every log-probability here is of softmax(logits / temperature)."""
    policy_version: int = 0
    """``global_step`` of the weights that generated the round."""
    round: int = 0
    update: int = 0
    """Index of this micro-batch's optimiser step within the round."""
    last_in_round: bool = False

    @property
    def policy_mask(self) -> Tensor:
        """[B, L-1] bool: trained tokens whose loss is the method's objective: all but the imitated ones."""
        if self.imitation_mask is None:
            return self.completion_mask
        return self.completion_mask & ~self.imitation_mask

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, (Tensor, TeacherInputs)):
                moved[name] = value.to(device, non_blocking=non_blocking)
        return Batch(**moved)

    def some(self, rows: slice) -> Batch:
        """Some of its rows, as views without the padding that they do not need."""
        unused = self.input_ids.shape[1] - int(self.attention_mask[rows].sum(dim=-1).max())
        cut = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in cut.items():
            if isinstance(value, TeacherInputs):
                cut[name] = value.some(rows)
            elif isinstance(value, Tensor):
                cut[name] = _cut(value, rows, unused)
        return Batch(**cut)

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def _cut(value: Tensor, rows: slice, unused: int) -> Tensor:
    """Rows of [B, L], without the last ``unused`` columns."""
    return value[rows, : value.shape[1] - unused]
