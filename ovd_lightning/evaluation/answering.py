"""Problems -> answers: what is already on the disk is taken from there, the rest is generated and graded.

Knows no Lightning. Randomness is a function of (run seed, problem, sample), so that a repeated evaluation asks for
the same answers, independently of what was answered before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Engine, Sampling
from ovd_lightning.errors import RunError
from ovd_lightning.evaluation.answers import AnswerFiles, Row, key_of, verdict_key
from ovd_lightning.evaluation.names import SHARES
from ovd_lightning.progress import finished, phase
from ovd_lightning.round.turns import respond
from ovd_lightning.seeds import seed_of
from ovd_lightning.tokens import encode_prompt
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.evaluation.rejection import TestingRejection, VerifiedCompletion
    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.verbal import VerbalTeacher

COUNTS = ("wasted_tokens", "unscored_steps", "failed_rewrites", "unchecked_steps", "teacher_generated_tokens")
"""Of an answer under testing rejection: `VerifiedCompletion` describes each."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Decoding:
    """How the answers of an evaluation are drawn."""

    greedy: bool
    """One answer a problem at temperature 0."""
    samples: int
    """Further answers a problem, drawn with ``temperature`` and ``top_p``."""
    max_tokens: int
    temperature: float
    top_p: float
    chat: bool
    """Prompts go through the student's chat template."""
    seed: int

    def sampling(self, greedy: bool) -> Sampling:
        if greedy:
            return Sampling(max_tokens=self.max_tokens, temperature=0.0, logprobs=False)
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, logprobs=False)

    def settings(self) -> dict[str, Any]:
        """For results: what does not apply is null."""
        sampled = self.samples > 0
        return {
            "greedy": self.greedy,
            "samples": self.samples,
            "temperature": self.temperature if sampled else None,
            "top_p": self.top_p if sampled else None,
            "max_tokens": self.max_tokens,
            "chat": self.chat,
            "seed": self.seed,
        }


@dataclass(slots=True)
class Wanted:
    """One answer that is asked for."""

    problem: Problem
    prompt: list[int]
    sample: int | None
    """None: the greedy answer."""
    seed: int | None
    key: str = ""
    row: Row | None = None
    """The answer, once there is one."""


@dataclass(slots=True)
class Response:
    """What was generated for one `Wanted`."""

    text: str
    """Observations of an environment included."""
    written: str
    """Without them, with every mark of a thought: what is graded."""
    truncated: bool
    tokens: int
    """Generated ones."""
    turns: int
    verification: dict[str, Any] = field(default_factory=dict)
    """What testing rejection adds to the answer's line."""


@dataclass(slots=True, kw_only=True)
class Answering:
    """Answers the problems of one evaluation, with the engine awake and holding the student's weights.

    A line holds: benchmark, id, question, decoding ("greedy" or "sample"), sample (its index), response, answer (the
    extracted one), how, reference, reward, correct, timed_out, metrics, truncated, tokens, step, weights, grading,
    key; of tasks with an environment also written and turns (written also where the prompt opened a thought); under
    testing rejection also steps, shares and counts of `VerifiedCompletion`. Problems without a reference have no
    verdict: reward and correct are null.
    """

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding
    step: int
    """global_step of the trainer."""
    weights: str
    """Fingerprint of the student's."""
    batch_size: int
    """Answers that are asked of the engine in one call; they are on the disk before the next call."""
    files: AnswerFiles | None
    """None: nothing is kept, nothing is found."""
    rejection: TestingRejection | None = None
    """None where it would accept everything."""
    teacher: VerbalTeacher | None = None
    reused: int = 0
    """Answers that were found, so far."""
    generated: int = 0
    _hows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def answer(self, benchmark: str, task: Task, problems: Sequence[Problem]) -> list[list[Row]]:
        """The lines of each problem: the greedy one first, then the samples in order."""
        wanted = self._wanted(benchmark, task, problems)
        missing = [want for want in wanted if not self._find(want, task)]
        self._grade_again([want for want in missing if want.row is not None], task)
        ungenerated = [want for want in missing if want.row is None]
        self.reused += len(wanted) - len(ungenerated)
        self.generated += len(ungenerated)
        finished(len(wanted) - len(ungenerated))
        for greedy in (True, False):
            for chunk in chunks([want for want in ungenerated if (want.sample is None) is greedy], self.batch_size):
                responses = self._generate(task, chunk, greedy)
                grades = graded(task, [want.problem for want in chunk], [response.written for response in responses])
                for want, response, grade in zip(chunk, responses, grades, strict=True):
                    want.row = self._row(benchmark, task, want, response, grade)
                self._keep(chunk)
        each = (self.decoding.greedy + self.decoding.samples) or 1
        rows = [want.row for want in wanted if want.row is not None]
        assert len(rows) == len(wanted)
        return list(chunks(rows, each))

    # ---------------------------------------------------------------- finding

    def _wanted(self, benchmark: str, task: Task, problems: Sequence[Problem]) -> list[Wanted]:
        found = []
        samples = [*([None] if self.decoding.greedy else []), *range(self.decoding.samples)]
        for problem in problems:
            prompt = encode_prompt(task.prompt(problem), self.tokenizer, self.decoding.chat, task.system)
            for sample in samples:
                want = Wanted(problem, prompt, sample, self._seed(task, problem, sample))
                sampling = asdict(self.decoding.sampling(sample is None))
                want.key = key_of(benchmark, problem.id, sample, prompt, sampling, want.seed, self._how(task))
                found.append(want)
        return found

    def _seed(self, task: Task, problem: Problem, sample: int | None) -> int | None:
        """Plain greedy decoding needs none; a score that is drawn, or an environment, may."""
        if sample is not None:
            return seed_of(self.decoding.seed, "eval", problem.id, sample)
        if self.rejection is None and task.environment is None:
            return None
        return seed_of(self.decoding.seed, "eval", problem.id, "greedy")

    def _how(self, task: Task) -> dict[str, Any]:
        """What else an answer depends on; read once, before a first answer can change a counter in it."""
        if id(task) in self._hows:
            return self._hows[id(task)]
        how: dict[str, Any] = {
            "weights": self.weights,
            "engine": type(self.engine).__name__,
            "dtype": getattr(self.engine, "dtype", None),
            "context": self.engine.max_context,
        }
        if self.rejection is not None:
            how |= {"rejection": self.rejection.settings(self.teacher), "separator": task.step_rule}
        if task.environment is not None:
            how["environment"] = describe(task.environment)
        self._hows[id(task)] = how
        return how

    def _find(self, want: Wanted, task: Task) -> bool:
        """Look the answer up; False where it is missing, or has a verdict of another grading (then it is the row)."""
        if self.files is None:
            return False
        verdict = verdict_key({"grading": grading_of(task), "reference": list(want.problem.answers)})
        row = self.files.find(want.key, verdict)
        if row is not None and row["metrics"].keys() >= ({*task.metrics} if row["correct"] is not None else set()):
            want.row = row
            return True
        want.row = self.files.find(want.key)
        return False

    def _grade_again(self, wanted: Sequence[Wanted], task: Task) -> None:
        rows: list[Row] = [want.row for want in wanted if want.row is not None]
        responses = [str(row.get("written", row["response"])) for row in rows]
        grades = graded(task, [want.problem for want in wanted], responses)
        for want, row, grade in zip(wanted, rows, grades, strict=True):
            want.row = {**row, **verdict_fields(task, want.problem, grade)}
        self._keep(wanted)

    def _keep(self, wanted: Sequence[Wanted]) -> None:
        if self.files is not None:
            self.files.append([want.row for want in wanted if want.row is not None])

    # ------------------------------------------------------------- generating

    def _generate(self, task: Task, wanted: Sequence[Wanted], greedy: bool) -> list[Response]:
        problems, prompts = [want.problem for want in wanted], [want.prompt for want in wanted]
        sampling = self.decoding.sampling(greedy)
        if self.rejection is not None and self.teacher is not None:
            seeds = [want.seed for want in wanted]
            with phase("requests"):
                verified = self.rejection.generate(self.engine, self.teacher, task, problems, prompts, sampling, seeds)
            finished(len(wanted))
            return [
                Response(v.text, v.written, v.truncated, v.completion_tokens, v.turns, verification_of(v))
                for v in verified
            ]
        trajectories = respond(
            self.engine, self.tokenizer, task, problems, prompts, [want.seed or 0 for want in wanted], sampling
        )
        for y in trajectories:
            if y.error is not None:
                raise RunError(f"{self.engine.name} did not answer problem {y.problem.id!r}: {y.error}")
        return [Response(y.text, y.written, y.truncated, y.trainable_tokens, y.turns) for y in trajectories]

    def _row(self, benchmark: str, task: Task, want: Wanted, response: Response, grade: Grade | None) -> Row:
        return {
            "benchmark": benchmark,
            "id": want.problem.id,
            "question": want.problem.question,
            "decoding": "greedy" if want.sample is None else "sample",
            "sample": want.sample,
            "response": response.text,
            **verdict_fields(task, want.problem, grade),
            "truncated": response.truncated,
            "tokens": response.tokens,
            "step": self.step,
            "weights": self.weights,
            "key": want.key,
            **({} if task.environment is None and response.written == response.text else {"written": response.written}),
            **({} if task.environment is None else {"turns": response.turns}),
            **response.verification,
        }


def chunks(items: Sequence[Any], size: int) -> Iterable[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def graded(task: Task, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade | None]:
    """A grade each, in order; None for a problem without a reference."""
    pairs = [(response, problem) for response, problem in zip(responses, problems, strict=True) if problem.answers]
    if not pairs:
        return [None] * len(problems)
    with phase("grade"):
        grades = iter(task.grade_many([response for response, _ in pairs], [problem for _, problem in pairs]))
    return [next(grades) if problem.answers else None for problem in problems]


def verdict_fields(task: Task, problem: Problem, grade: Grade | None) -> Row:
    """The part of a row that the checker decides."""
    return {
        "answer": grade.answer if grade else None,
        "how": grade.how if grade else None,
        "reference": list(problem.answers),
        "reward": grade.reward if grade else None,
        "correct": grade.correct if grade else None,
        "timed_out": grade.timed_out if grade else False,
        "metrics": dict(grade.metrics) if grade else {},
        "grading": grading_of(task),
    }


def grading_of(task: Task) -> str | None:
    """A task's grading mode, None where it has one way only."""
    mode = getattr(task, "grading", None)
    return None if mode is None else str(mode)


def verification_of(completion: VerifiedCompletion) -> dict[str, Any]:
    """What testing rejection adds to an answer's line."""
    return {
        "steps": [asdict(step) for step in completion.steps],
        **{name: getattr(completion, name) for name in (*SHARES, *COUNTS)},
    }


def describe(thing: Any) -> dict[str, Any]:
    """Class and settings of an environment: what its ``settings()`` says, or else those of its public attributes that
    are numbers, texts or flags."""
    name = {"class": type(thing).__name__}
    if callable(getattr(thing, "settings", None)):
        return {**name, **thing.settings()}
    plain = (str, int, float, bool, type(None))
    return {**name, **{k: v for k, v in sorted(vars(thing).items()) if not k.startswith("_") and isinstance(v, plain)}}
