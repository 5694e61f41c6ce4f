"""The package's own OVD on an enumerable world: sample, score, replace, credit, collate, loss.

Only the two models are not language models but tables: a student whose log-probabilities are looked up, and a teacher
that samples from its own distribution and reads its scores from the world's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks import ROOT
from benchmarks.paper.theorems.world import World, prefixes, trajectories
from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.round.collate import collate
from ovd_lightning.round.context import Round
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Grade, Problem

ASSETS = ROOT / "ovd_lightning" / "assets"
PROBLEM = Problem(id="world", question="1+1=?", answers=())


class WorldTask(Task):
    """A trajectory is written as its actions' digits, and its reward looked up."""

    name = "world"

    def __init__(self, world: World) -> None:
        self.world = world

    def problems(self, split: Split) -> list[Problem]:
        return [PROBLEM]

    def prompt(self, problem: Problem) -> str:
        return problem.question

    def grade(self, response: str, problem: Problem) -> Grade:
        reward = float(self.world.reward[int(response, self.world.actions)])
        return Grade(reward=reward, correct=reward > 0.5, answer=response)


class TableEngine(Engine):
    """Samples trajectories from a distribution over all of them, and judges one by the world's score table."""

    def __init__(self, world: World, policy: Tensor, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        super().__init__()
        self.policy, self._tokenizer, self._name = policy.tolist(), tokenizer, name
        digits = trajectories(world.actions, world.depth).tolist()
        self.texts = ["".join(map(str, row)) for row in digits]
        self.scores = dict(zip(self.texts, world.scores.tolist(), strict=True))

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    @property
    def max_context(self) -> int | None:
        return None

    def check(self) -> None: ...

    def start(self) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Each from its request's own seed."""
        drawn = [Random(r.seed).choices(range(len(self.texts)), self.policy)[0] for r in requests]
        return [self._completion(y) for y in drawn]

    def _completion(self, y: int) -> Completion:
        ids = [*self._tokenizer.encode(self.texts[y], add_special_tokens=False), self._tokenizer.eos_token_id]
        return Completion(text=self.texts[y], token_ids=ids, logprobs=None, truncated=False, completion_tokens=len(ids))

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        rows = []
        for prompt in prompts:
            assert isinstance(prompt, str)
            distribution = self.scores[prompt.split("Solution: ")[1].split("\n")[0]]
            given = [distribution[int(text)] if text.isdigit() else 0.0 for text in texts]
            rows.append([math.log(max(probability, 1e-300)) for probability in given])
        return torch.tensor(rows, dtype=torch.float64)

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        return self.next_text_logprobs(prompts, [str(self._tokenizer.decode([token])) for token in token_ids])

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        raise NotImplementedError("no reference model is used here")


class TableStudent:
    """What a loss asks of a student: [B, L-1] log-probabilities of trained tokens, differentiable in ``logits``."""

    def __init__(self, world: World, logits: Tensor, prompt: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.world, self.logits, self.prompt = world, logits, prompt
        digits = [tokenizer.encode(str(a), add_special_tokens=False) for a in range(world.actions)]
        self.action_of = {ids[0]: a for a, ids in enumerate(digits)}

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, temperature: float, **hints: Any
    ) -> tuple[Any, Any]:
        world, p = self.world, self.prompt
        chosen = torch.tensor([[self.action_of[t] for t in row[p : p + world.depth]] for row in input_ids.tolist()])
        y = (chosen * torch.tensor([world.actions ** (world.depth - 1 - k) for k in range(world.depth)])).sum(dim=1)
        table = torch.log_softmax(self.logits, dim=-1)
        logprobs = torch.zeros(mask.shape, dtype=torch.float64)  # the end of sequence is certain
        logprobs[:, p - 1 : p - 1 + world.depth] = table[prefixes(world.actions, world.depth)[y], chosen]
        return logprobs, torch.zeros_like(logprobs)


@dataclass(frozen=True, slots=True)
class Measured:
    """A Monte Carlo mean beside what it is held against."""

    mean: Tensor
    """[D] mean gradient over rounds, of which D = X (A - 1) components are free (see :func:`free`)."""
    error: Tensor
    """[D] its standard error."""
    exact: Tensor
    """[D]"""
    trajectories: int

    @property
    def z(self) -> Tensor:
        """[D] deviation in standard errors; 0 where no trajectory with a reward ever comes and both are exactly 0."""
        return (self.mean - self.exact) / torch.where((self.error == 0) & (self.mean == self.exact), 1.0, self.error)

    @property
    def z_rms(self) -> float:
        """About 1 for an unbiased estimator; grows with the square root of the number of rounds for another."""
        return float(self.z.square().mean().sqrt())


def free(gradient: Tensor, world: World) -> Tensor:
    """[..., X A] -> [..., X (A - 1)]: a softmax's gradient sums to 0 in every state, so its last entry says nothing."""
    return gradient.unflatten(-1, world.logits.shape)[..., :-1].flatten(start_dim=-2)


def measure(world: World, exact: Tensor, rounds: int, groups: int = 16, group_size: int = 8, **ovd: Any) -> Measured:
    """Gradients of ``rounds`` independent first updates of OVD at the world's student.

    Args:
        exact: [X A] the gradient, to ascend, that the mean is held against.
        ovd: settings of `OVD`, by default those of eq. 7: rejected by score alone, A = R, no KL.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(ASSETS / "student"))
    teacher = VerbalTeacher(TableEngine(world, world.teacher, tokenizer, "teacher"))
    settings = {"replace_when": "score", "kl_coefficient": 0.0, **ovd}
    method = OVD(
        teacher,
        threshold=world.threshold,
        scoring=Scoring(level="trajectory", temperature=1.0),  # the world's a(y) is that of the distribution as it is
        group_size=group_size,
        aggregation="trajectory_mean",
        **settings,
    )
    task = WorldTask(world)
    engine = TableEngine(world, world.student, tokenizer, "student")
    gradients, count = [], 0
    for index in range(rounds):
        round = Round(
            index=index,
            run_seed=0,
            task=task,
            engine=engine,
            tokenizer=tokenizer,
            sampling=Sampling(max_tokens=world.depth + 1),
            policy_version=index,
        )
        sampled = method.sample([PROBLEM] * groups, round)
        method.consult(sampled, round)
        method.annotate(sampled, round)
        ((batch,),) = collate(
            sampled,
            mini_batches=1,
            accumulate=1,
            aggregation=method.aggregation,
            max_tokens=world.depth + 1,
            pad_id=int(tokenizer.pad_token_id),
            temperature=1.0,
            round=index,
            policy_version=index,
        )
        logits = world.logits.clone().requires_grad_()
        student: Any = TableStudent(world, logits, len(sampled[0].sampled[0].prompt_ids), tokenizer)
        (gradient,) = torch.autograd.grad(method.loss(student, batch).loss, logits)
        # Ascent is the negative; each trajectory's K + 1 tokens were averaged, eq. 7 has their sum.
        gradients.append(-gradient.flatten() * (world.depth + 1))
        count += groups * group_size
    stacked = free(torch.stack(gradients), world)
    return Measured(
        mean=stacked.mean(dim=0),
        error=stacked.std(dim=0) / math.sqrt(rounds),
        exact=free(exact, world),
        trajectories=count,
    )
