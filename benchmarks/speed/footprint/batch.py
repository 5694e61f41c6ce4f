"""One micro-batch that every method is measured on, made by the package's own OVD round.

What the trajectories say makes no difference to memory, so they are written by rule: rows of exactly T tokens in K
steps. They are sampled, split, graded, scored step by step, replaced, credited and collated by the package; the engine
counts what goes to the teacher and what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks import ROOT
from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import Capped
from ovd_lightning.round.collate import collate
from ovd_lightning.round.context import Round
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Batch, Grade, Problem, Trajectory

TOKENIZER = ROOT / "ovd_lightning" / "assets" / "student"
"""One token a character; its 32 ids exist in every vocabulary that is measured."""
PROBLEM = Problem(id="sum", question="1+2", answers=("3",))
WRONG, RIGHT = "12456789", "3"
"""The characters that trajectories of the student, one each, and of the teacher repeat."""


class Rows(Task):
    """A trajectory is right where it ends with the answer; a line is a step."""

    name = "rows"

    def problems(self, split: Split) -> list[Problem]:
        return [PROBLEM]

    def prompt(self, problem: Problem) -> str:
        return f"{problem.question}=?\n"

    def grade(self, response: str, problem: Problem) -> Grade:
        answer = response.strip()[-1:]
        return Grade(reward=float(answer in problem.answers), correct=answer in problem.answers, answer=answer)


class Writer(Engine):
    """Writes rows of T tokens in K lines; as a judge it gives digits, higher ones for what is right.

    Args:
        characters: one for each completion of a call, in turn, which its lines consist of.
        tokens: T, the end of sequence included.
        steps: K.
    """

    def __init__(self, characters: str, tokens: int, steps: int, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        if tokens < 2 * steps + 1:
            raise ValueError(f"{tokens} tokens do not make {steps} lines and an end of sequence")
        self.lengths = [(tokens - 1) // steps + (k < (tokens - 1) % steps) for k in range(steps)]  # line ends included
        self.characters = characters
        self._tokenizer = tokenizer
        self.sent = self.answered = 0
        """Bytes of scoring prompts, and digits that came back."""

    @property
    def name(self) -> str:
        return f"writer-{self.characters}"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    @property
    def max_context(self) -> int | None:
        return None

    def check(self) -> None: ...

    def start(self) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        texts = [
            "".join(self.characters[i % len(self.characters)] * (n - 1) + "\n" for n in self.lengths)
            for i in range(len(requests))
        ]
        rows = [
            [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id] for text in texts
        ]
        return [
            Completion(text=text, token_ids=ids, logprobs=None, truncated=False, completion_tokens=len(ids))
            for text, ids in zip(texts, rows, strict=True)
        ]

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        rows = []
        for prompt in prompts:
            assert isinstance(prompt, str)
            self.sent += len(prompt.encode())
            self.answered += 1
            likeliest = "9" if f"Current Step: {RIGHT}" in prompt else "2"
            rows.append([0.91 if text.strip() == likeliest else 0.01 for text in texts])
        return torch.tensor(rows).log()

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        return self.next_text_logprobs(prompts, [str(self._tokenizer.decode([token])) for token in token_ids])

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        raise NotImplementedError("token-level teachers are real models here")


@dataclass(frozen=True, slots=True)
class Sampled:
    """The micro-batch and what its verbal scores took; a trajectory each."""

    batch: Batch
    judge: VerbalTeacher
    sampled: list[Trajectory]
    """The student's N, scored."""
    sent: float
    """Bytes of scoring prompts."""
    answered: float
    """Digits that came back, a byte each."""
    shown: float
    """Bytes of the demonstrations that replaced rejected trajectories, as text."""


def judge(tokens: int = 32, steps: int = 10) -> VerbalTeacher:
    """The verbal teacher of the measurements; sizes are those of the demonstrations that it writes."""
    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER), model_max_length=2**20)
    return VerbalTeacher(Writer(RIGHT, tokens, steps, tokenizer))


def sample(tokens: int, steps: int, rows: int, replaced: int) -> Sampled:
    """N = ``rows`` trajectories of one problem, ``replaced`` of them rejected by the teacher and written anew.

    Args:
        tokens: T, completion tokens of every row.
        steps: K, lines of every row.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER), model_max_length=2**20)
    student, teacher = Writer(WRONG, tokens, steps, tokenizer), judge(tokens, steps)
    method = OVD(teacher, group_size=rows, replacement=Capped(replaced))
    round = Round(
        index=0,
        run_seed=0,
        task=Rows(),
        engine=student,
        tokenizer=tokenizer,
        sampling=Sampling(max_tokens=tokens),
        policy_version=0,
    )
    (group,) = method.sample([PROBLEM], round)
    method.consult([group], round)
    method.annotate([group], round)
    ((batch,),) = collate(
        [group],
        mini_batches=1,
        accumulate=1,
        aggregation=method.aggregation,
        max_tokens=tokens,
        pad_id=int(tokenizer.pad_token_id),
        temperature=1.0,
        round=0,
        policy_version=0,
    )
    shown = sum(len(y.text.encode()) for y in group.mixture if y.source == "teacher")
    asked = teacher.engine
    assert isinstance(asked, Writer)
    return Sampled(batch, teacher, group.sampled, asked.sent / rows, asked.answered / rows, shown / rows)
