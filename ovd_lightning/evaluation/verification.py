"""Answers that student and teacher write together, step by step: the student drafts, the teacher verifies and rewrites.

Token in, token out: the student's steps keep the ids that were sampled; only the teacher's steps are tokenised, where
its vocabulary is another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.judges.base import Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.round.turns import Generation, mark_thoughts, rollout
from ovd_lightning.seeds import seed_of
from ovd_lightning.tasks.base import Task
from ovd_lightning.teachers.demonstrations import student_tokens
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tokens import decode, from_first_word, same_vocabulary
from ovd_lightning.types import StopReason, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Read = Callable[[Judgement, random.Random], float | None]
"""A step's score from the teacher's judgement; the generator is for scores that are drawn. None: there is no score."""
LEAST_PROMPTS = 16
"""Scoring prompts after which too large a share without a score ends the run; calls are small here."""


@dataclass(slots=True)
class VerifiedStep:
    """A step of an answer, and who wrote it."""

    text: str
    score: float | None
    """Verbal score of the student's draft; None where none was asked for, or none could be parsed."""
    source: Literal["student", "teacher"]
    tokens: int
    """Tokens of the completion that its source wrote."""
    draft: str | None = None
    """What the student had written, where the teacher rewrote it."""
    draft_tokens: int = 0
    """... and its tokens, which are not part of the completion."""


@dataclass(slots=True)
class Record:
    """Counts of one answer in progress; see `VerifiedCompletion`."""

    steps: list[VerifiedStep] = field(default_factory=list)
    drafts: int = 0
    wasted: int = 0
    unscored: int = 0
    failed: int = 0
    unchecked: int = 0
    generated: int = 0


@dataclass(slots=True, kw_only=True)
class VerifiedCompletion:
    """An answer of the student whose steps the teacher verified."""

    text: str
    """Special tokens left out; with the environment's observations, where the task has one."""
    written: str
    """The text without observations: what is graded."""
    token_ids: list[int]
    """In the student's vocabulary."""
    truncated: bool
    completion_tokens: int
    """Tokens that student and teacher wrote; observations are not among them."""
    steps: list[VerifiedStep]
    turns: int = 1
    wasted_tokens: int = 0
    """Drafted by the student and discarded."""
    unscored_steps: int = 0
    """Accepted because the teacher gave them no score."""
    failed_rewrites: int = 0
    """Rejected, but kept because the teacher's step failed: no response, or one that did not end."""
    unchecked_steps: int = 0
    """Accepted without a score, after ``max_steps`` drafts."""
    teacher_generated_tokens: int = 0
    """All that the teacher's engine generated for it, in its own vocabulary, thoughts and discarded tokens included."""

    @property
    def teacher_step_share(self) -> float:
        """Share of the steps that the teacher wrote, [0, 1]."""
        return sum(s.source == "teacher" for s in self.steps) / max(len(self.steps), 1)

    @property
    def teacher_token_share(self) -> float:
        """Share of the written tokens that the teacher wrote, [0, 1]."""
        return sum(s.tokens for s in self.steps if s.source == "teacher") / max(self.completion_tokens, 1)

    @classmethod
    def of(cls, y: Trajectory, record: Record) -> VerifiedCompletion:
        return cls(
            text=y.text,
            written=y.written,
            token_ids=y.completion_ids,
            truncated=y.truncated,
            completion_tokens=y.trainable_tokens,
            turns=y.turns,
            steps=record.steps,
            wasted_tokens=record.wasted,
            unscored_steps=record.unscored,
            failed_rewrites=record.failed,
            unchecked_steps=record.unchecked,
            teacher_generated_tokens=record.generated,
        )


@dataclass(slots=True)
class _Turn:
    """One turn of a trajectory in progress; without an environment, the complete answer."""

    trajectory: Trajectory
    record: Record
    room: int
    """Tokens that the turn may have."""
    final: list[int] = field(default_factory=list)
    """Tokens of the turn that are final."""
    draft: list[int] = field(default_factory=list)
    """Tokens after them that the student wrote and that are not verified yet."""
    last: bool = False
    """The draft ends the turn."""
    truncated: bool = False
    done: bool = False

    @property
    def ids(self) -> list[int]:
        """The completion's final tokens."""
        return [*self.trajectory.completion_ids, *self.final]

    def accept(self, step: _Step, score: float | None) -> None:
        """The draft's first step becomes final."""
        self.final += self.draft[: step.tokens]
        del self.draft[: step.tokens]
        self.record.steps.append(VerifiedStep(step.text, score, "student", step.tokens))

    def finish(self) -> None:
        """The last draft becomes final; its remainder (an end of sequence) belongs to the student's last step."""
        if self.draft and self.record.steps and self.record.steps[-1].source == "student":
            self.record.steps[-1].tokens += len(self.draft)
        self.final += self.draft
        self.draft = []
        self.done = True


@dataclass(slots=True)
class _Step:
    """A complete step of a draft."""

    tokens: int
    text: str
    """What the student wrote."""
    request: JudgeRequest
    """What the judge is asked."""


class Verification:
    """Generates turns for `ovd_lightning.round.turns.rollout`: drafts, scores them, and rewrites rejected steps.

    Args:
        threshold, max_steps: see `TestingRejection`.
        read: the score of a judgement.
    """

    def __init__(
        self,
        *,
        threshold: float,
        max_steps: int,
        read: Read,
        engine: Engine,
        teacher: VerbalTeacher,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
    ) -> None:
        self.threshold, self.max_steps, self.read = threshold, max_steps, read
        self.engine, self.teacher, self.task = engine, teacher, task
        self.tokenizer, self.sampling = tokenizer, sampling
        self.same = same_vocabulary(tokenizer, teacher.demonstrator.tokenizer)
        # Where a task splits steps itself, a draft goes to the end of the turn, and its steps are found afterwards.
        splits_itself = type(task).split_steps is not Task.split_steps
        self.step_stops: tuple[str, ...] = () if splits_itself else (task.step_separator,)
        self.probe = list(tokenizer.encode("0", add_special_tokens=False))
        self.unparsed = UnparsedScores(least=LEAST_PROMPTS)
        self.records: dict[int, Record] = {}

    def answer(self, trajectories: Sequence[Trajectory]) -> None:
        """Advance all trajectories to their ends, in place; ``records`` holds their counts, by identity."""
        self.records = {id(y): Record() for y in trajectories}
        limit, context = self.sampling.max_tokens, self.engine.max_context
        rollout(trajectories, self.task.environment, self.tokenizer, self.generate, limit, max_context=context)
        mark_thoughts(trajectories, self.tokenizer)

    def generate(
        self, trajectories: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]
    ) -> list[Generation]:
        """See `ovd_lightning.round.turns.Policy`."""
        ends = (*self.sampling.stop, *stop)
        turns = [_Turn(y, self.records[id(y)], room) for y, room in zip(trajectories, limits, strict=True)]
        while live := [t for t in turns if not t.done]:
            checked = [t for t in live if t.record.drafts < self.max_steps]
            unchecked = [t for t in live if t.record.drafts >= self.max_steps]
            self._draft(checked, (*self.step_stops, *ends), ends)
            self._verify(checked, ends)
            self._draft(unchecked, ends, ends)
            for t in unchecked:
                for step in self._steps(t):
                    t.accept(step, None)
                    t.record.unchecked += 1
                t.finish()
        return [
            Generation(ids=t.final, text=decode(self.tokenizer, t.final), stop_reason=self._stop_reason(t, ends))
            for t in turns
        ]

    def _stop_reason(self, turn: _Turn, ends: tuple[str, ...]) -> StopReason:
        if turn.truncated:
            return "token_limit"
        return "stop_text" if self._over(turn.final, ends) else "end_of_sequence"

    def _draft(self, turns: Sequence[_Turn], stop: tuple[str, ...], ends: tuple[str, ...]) -> None:
        """Let the student continue up to one of ``stop``; one of ``ends`` ends the turn."""
        if not turns:
            return
        requests = []
        for t in turns:
            ids = [*t.ids, *t.draft]
            seed = seed_of(t.trajectory.seed, "draft", len(ids))
            left = t.room - len(t.final) - len(t.draft)
            requests.append(Request(prompt=[*t.trajectory.prompt_ids, *ids], seed=seed, max_tokens=left))
        completions = self.engine.generate(requests, replace(self.sampling, stop=stop))
        for t, completion in zip(turns, completions, strict=True):
            assert completion.token_ids is not None, "a student's engine returns token ids"
            t.draft += completion.token_ids
            t.record.drafts += 1
            text = decode(self.tokenizer, completion.token_ids)
            stopped = any(s in text for s in stop)
            ended = self._over([*t.final, *t.draft], ends) or not (completion.truncated or stopped)
            t.truncated = not ended and (completion.truncated or len(t.final) + len(t.draft) >= t.room)
            t.last = ended or t.truncated

    def _over(self, final: list[int], ends: tuple[str, ...]) -> bool:
        """Whether a turn holds one of ``ends``, which may have come in two drafts."""
        return bool(ends) and any(s in decode(self.tokenizer, final) for s in ends)

    def _steps(self, turn: _Turn) -> list[_Step]:
        """The draft's complete steps, as `Task.split_steps` splits all tokens so far.

        Before the turn's last draft, a step is complete only if a token with a letter or digit begins another one: a
        separator without text before it, for example, ends none. A step that continues after the environment's reply
        is scored at the end of the turn, and again when it is complete.
        """
        settled = len(turn.ids)
        ids = [*turn.ids, *turn.draft]
        probe = [] if turn.last else self.probe
        mask = [*turn.trajectory.completion_mask, *[True] * (len(turn.final) + len(turn.draft) + len(probe))]
        spans = self.task.split_steps([*ids, *probe], self.tokenizer, mask)
        texts = [decode(self.tokenizer, ids[a:b]).strip() for a, b in spans]
        steps: list[_Step] = []
        begin = settled
        for k, (a, b) in enumerate(spans):
            if not settled < b <= len(ids):
                continue
            text = decode(self.tokenizer, ids[begin:b]).strip()
            if a < settled and not from_first_word(text):
                continue  # belongs to a final step
            request = JudgeRequest(problem=turn.trajectory.problem, previous=tuple(texts[:k]), step=texts[k])
            steps.append(_Step(b - begin, text, request))
            begin = b
        return steps

    def _verify(self, turns: Sequence[_Turn], ends: tuple[str, ...]) -> None:
        """Accept the steps of each draft up to the first that scores below theta_test, which is rewritten."""
        found = [(t, self._steps(t)) for t in turns]
        requests = [step.request for _, steps in found for step in steps]
        judgements = iter(self.teacher.score(requests, seed_of("test"), self.unparsed))
        rejected: list[tuple[_Turn, _Step, float]] = []
        for t, steps in found:
            for step, judgement in [(step, next(judgements)) for step in steps]:
                score = self._read(judgement, t)
                if score is not None and score < self.threshold:
                    rejected.append((t, step, score))
                    break
                t.record.unscored += score is None
                t.accept(step, score)
            else:
                self._close(t)
        self._rewrite(rejected, ends)

    def _read(self, judgement: Judgement, turn: _Turn) -> float | None:
        return self.read(judgement, random.Random(seed_of(turn.trajectory.seed, "score", len(turn.ids))))

    @staticmethod
    def _close(turn: _Turn) -> None:
        """After all steps of a draft are final: the turn is over if it was the last draft, or if no token is left."""
        if turn.last:
            turn.finish()
        elif len(turn.final) >= turn.room:
            turn.done = turn.truncated = True

    def _rewrite(self, rejected: Sequence[tuple[_Turn, _Step, float]], ends: tuple[str, ...]) -> None:
        completions = self.teacher.demonstrate(
            [self.task.prompt(t.trajectory.problem) for t, *_ in rejected],
            [decode(self.tokenizer, t.ids) for t, *_ in rejected],
            [seed_of(t.trajectory.seed, "rewrite", len(t.ids)) for t, *_ in rejected],
            [t.room - len(t.final) for t, *_ in rejected],
            stop=(*self.step_stops, *ends),
            system=self.task.system,
        )
        for (t, step, score), completion in zip(rejected, completions, strict=True):
            t.record.generated += completion.completion_tokens
            replacement = self._teacher_step(t, completion, ends)
            if replacement is None:
                t.record.failed += 1
                t.accept(step, score)
                if t.draft:  # further steps, which were not verified
                    t.record.wasted += len(t.draft)
                    t.draft, t.last, t.truncated = [], False, False
                self._close(t)
                continue
            ids, t.last, t.truncated = replacement
            t.record.wasted += len(t.draft)
            text = decode(self.tokenizer, ids).strip()
            t.record.steps.append(VerifiedStep(text, score, "teacher", len(ids), step.text, step.tokens))
            t.final += ids
            t.draft = []
            self._close(t)

    def _teacher_step(
        self, turn: _Turn, completion: Completion, ends: tuple[str, ...]
    ) -> tuple[list[int], bool, bool] | None:
        """(tokens of the teacher's first step, whether the turn ends with them, whether the token limit ended it);
        None where the teacher failed."""
        if completion.error is not None:
            return None
        stopped = any(s in completion.text for s in (*self.step_stops, *ends))
        ended = not stopped and not completion.truncated
        ids = student_tokens(completion, self.tokenizer, self.same, ended, turn.room - len(turn.final))
        settled, room = len(turn.ids), turn.room - len(turn.final)
        mask = [*turn.trajectory.completion_mask, *[True] * (len(turn.final) + len(ids) + len(self.probe))]
        spans = self.task.split_steps([*turn.ids, *ids, *self.probe], self.tokenizer, mask)
        complete = next((b - settled for _, b in spans if settled < b <= settled + len(ids)), None)
        if complete is not None and decode(self.tokenizer, ids[complete:]).strip():
            ids, ended = ids[:complete], False  # more than a step, of a task that splits steps itself
        elif self._over([*turn.final, *ids], ends):
            ended = True
        if not ids:
            return None
        if len(ids) > room:
            return ids[:room], True, True
        if complete is None and not ended:  # neither a complete step nor the end: cut off
            by_limit = self.teacher.demonstration_tokens is None or len(ids) == room
            return (ids, True, True) if by_limit else None
        return ids, ended, False
