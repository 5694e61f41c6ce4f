"""A world small enough to enumerate: every trajectory of a tabular student, its reward, score and teacher.

Legend for shapes: ``A`` actions of a step, ``K`` steps of a trajectory, ``Y`` = A^K trajectories, ``X`` prefixes (the
states in which the student chooses), ``v`` scores (10). Everything is float64 and exact. The student's parameters are
called phi here: the paper writes theta for them and for the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

SCORES = 10
"""v, the scores 0-9."""


def trajectories(actions: int, depth: int) -> Tensor:
    """[Y, K] the actions of every trajectory; trajectory y is the number y written in base A."""
    y = torch.arange(actions**depth)
    return torch.stack([y // actions ** (depth - 1 - k) % actions for k in range(depth)], dim=1)


def prefixes(actions: int, depth: int) -> Tensor:
    """[Y, K] index in [0, X) of the prefix that each step of each trajectory follows; 0 is the empty one."""
    y = torch.arange(actions**depth)
    shorter = [sum(actions**j for j in range(k)) for k in range(depth)]  # prefixes with fewer than k actions
    return torch.stack([shorter[k] + y // actions ** (depth - k) for k in range(depth)], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One problem with all that can happen in it."""

    actions: int
    depth: int
    logits: Tensor
    """[X, A] phi: the student's."""
    teacher: Tensor
    """[Y] pi_T(y)."""
    reward: Tensor
    """[Y] R(y) in [0, 1]."""
    scores: Tensor
    """[Y, v] the teacher's distribution over the score of each trajectory."""
    threshold: int
    """theta in 0 .. v; v rejects all."""

    # ---------------------------------------------------------------- policies

    def log_policy(self, logits: Tensor | None = None) -> Tensor:
        """[Y] log pi_S(y); differentiable in ``logits``."""
        table = torch.log_softmax(self.logits if logits is None else logits, dim=-1)
        return table[prefixes(self.actions, self.depth), trajectories(self.actions, self.depth)].sum(dim=1)

    @property
    def student(self) -> Tensor:
        """[Y] pi_S(y)."""
        return self.log_policy().exp()

    def score_function(self) -> Tensor:
        """[Y, X A] grad_phi log pi_S(y), in closed form: one-hot minus softmax in every state that y visits."""
        states, chosen = prefixes(self.actions, self.depth), trajectories(self.actions, self.depth)
        table = torch.softmax(self.logits, dim=-1)
        result = torch.zeros(len(states), *self.logits.shape, dtype=torch.float64)
        rows = torch.arange(len(states))
        for k in range(self.depth):
            result[rows, states[:, k]] -= table[states[:, k]]
            result[rows, states[:, k], chosen[:, k]] += 1
        return result.flatten(start_dim=1)

    # ------------------------------------------------------------- the mixture

    @property
    def accept(self) -> Tensor:
        """[Y] a(y) = Pr(S >= theta | y), eq. 5 for a score that is sampled."""
        return self.scores[:, self.threshold :].sum(dim=1)

    @property
    def alpha(self) -> float:
        """alpha_t, the acceptance rate (eq. 24)."""
        return float(self.student @ self.accept)

    @property
    def mixture(self) -> Tensor:
        """[Y] p_RS(y) of eq. 25: what Algorithm 1 trains on."""
        return self.student * self.accept + (1 - self.alpha) * self.teacher

    @property
    def printed_mixture(self) -> Tensor:
        """[Y] "p_train" as eq. 6 and 11 print it, with alpha_t before a term that is not normalised."""
        return self.alpha * self.student * self.accept + (1 - self.alpha) * self.teacher

    def value(self, p: Tensor) -> float:
        """J(p) = E_p[R]."""
        return float(p @ self.reward)

    @property
    def delta(self) -> float:
        """delta_t of eq. 14: relative gap between teacher and accepted student trajectories; needs alpha_t > 0."""
        accepted = self.student * self.accept
        return 1 - self.value(accepted / accepted.sum()) / self.value(self.teacher)

    # --------------------------------------------------------------- gradients

    def surrogate_gradient(self) -> Tensor:
        """[X A] the right side of eq. 7: E_{p_RS}[R grad log pi_S]."""
        return (self.mixture * self.reward) @ self.score_function()

    def policy_gradient(self) -> Tensor:
        """[X A] grad_phi E_{pi_S}[R]: what "grad J(pi_S)" is read as."""
        return (self.student * self.reward) @ self.score_function()

    def mixture_gradient(self) -> Tensor:
        """[X A] grad_phi E_{p_RS}[R], the J of eq. 31, which depends on phi through pi_S and alpha:
        E_{pi_S}[a (R - J(pi_T)) grad log pi_S]."""
        weights = self.student * self.accept * (self.reward - self.value(self.teacher))
        return weights @ self.score_function()

    # ------------------------------------------------------------------ change

    def with_logits(self, logits: Tensor) -> World:
        return replace(self, logits=logits)

    def with_threshold(self, threshold: int) -> World:
        return replace(self, threshold=threshold)


def judge(quality: Tensor, spread: float) -> Tensor:
    """[Y, v] score distributions of a judge that sees qualities in [0, 1] with a normal error of ``spread``."""
    levels = torch.arange(SCORES, dtype=torch.float64) / (SCORES - 1)
    return torch.softmax(-((levels - quality[:, None]) ** 2) / (2 * spread**2), dim=-1)


def certain(accepted: Tensor) -> Tensor:
    """[Y, v] score distributions that give a 9 with probability ``accepted`` and a 0 otherwise."""
    result = torch.zeros(len(accepted), SCORES, dtype=torch.float64)
    result[:, 0], result[:, -1] = 1 - accepted, accepted
    return result


def bandit(
    student: list[float], teacher: list[float], reward: list[float], accept: list[float], threshold: int = 7
) -> World:
    """A world of one step, in which a(y) is given."""
    return World(
        actions=len(student),
        depth=1,
        logits=torch.tensor(student, dtype=torch.float64).log()[None],
        teacher=torch.tensor(teacher, dtype=torch.float64),
        reward=torch.tensor(reward, dtype=torch.float64),
        scores=certain(torch.tensor(accept, dtype=torch.float64)),
        threshold=threshold,
    )


def random_world(seed: int, actions: int = 3, depth: int = 3, binary: bool = True, sharpness: float = 1.0) -> World:
    """A student, a teacher that prefers what is rewarded, and a judge that mostly sees it; how much varies by seed.

    Args:
        binary: R in {0, 1} (mathematics), else uniform on [0, 1] (an F1).
        sharpness: multiplies the teacher's logits; at 10 it nearly always shows the same trajectory.
    """
    rng = torch.Generator().manual_seed(seed)
    size = actions**depth

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=rng, dtype=torch.float64))

    reward = torch.rand(size, generator=rng, dtype=torch.float64)
    if binary:
        reward = (reward < uniform(0.15, 0.6)).double()
        reward[int(torch.randint(size, (1,), generator=rng))] = 1.0  # something can be right
    quality = (reward + uniform(0.0, 0.4) * normal(size)).clamp(0, 1)
    return World(
        actions=actions,
        depth=depth,
        logits=uniform(0.5, 1.5) * normal((actions**depth - 1) // (actions - 1), actions),
        teacher=torch.softmax(sharpness * (uniform(1.0, 5.0) * reward + normal(size)), dim=0),
        reward=reward,
        scores=judge(quality, uniform(0.05, 0.3)),
        threshold=int(torch.randint(1, SCORES, (1,), generator=rng)),
    )
