"""The pure mathematics of the methods. Shapes: ``N`` rewards of a group, ``*`` any shape of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

EPSILON = 1e-6
"""The epsilon of A = (R - mu) / (sigma + epsilon), section 3.4; its value is not in the paper (One-Shot-RLVR: 1e-6)."""


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation with Bessel's correction (n - 1); 0 for fewer than two values."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = sum(values) / n
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))


def group_advantages(
    rewards: Sequence[float],
    reference: Sequence[float] | None = None,
    sigma_floor: float = 0.0,
    scale_by_std: bool = True,
) -> list[float]:
    """Group-normalised advantages, section 3.4: A_j = (R_j - mu) / (sigma + epsilon).

    Args:
        rewards: [N] what is credited.
        reference: values that mu and sigma are taken from; the rewards themselves when None.
        sigma_floor: lower bound of sigma, so that a constant reference cannot blow A up.
        scale_by_std: False gives R - mu (Dr. GRPO).
    Returns:
        [N]; all zero when rewards equal a constant reference.
    """
    base = list(rewards if reference is None else reference)
    mean = sum(base) / len(base)
    if not scale_by_std:
        return [r - mean for r in rewards]
    sigma = max(sample_std(base), sigma_floor)
    return [(r - mean) / (sigma + EPSILON) for r in rewards]


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 4, negated: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), elementwise.

    Args:
        logprobs, old_logprobs, advantages: [*]; only ``logprobs`` carries a gradient.
        clip_low, clip_high: infinity clips nothing: -rho A.
        dual_clip: c > 1; where A < 0 the objective is no less than c A (dual clip, arXiv 1912.09729).
    Returns:
        (loss [*], rho [*] detached, clipped [*] bool: where a clip removed the gradient).
    """
    ratio = torch.exp(logprobs - old_logprobs.detach())
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective, removed = torch.minimum(unclipped, clipped), clipped < unclipped
    if dual_clip is not None:
        floor = dual_clip * advantages
        bounded = (advantages < 0) & (objective < floor)
        objective, removed = torch.where(bounded, floor, objective), removed | bounded
    return -objective, ratio.detach(), removed.detach()


def shaped_probability(logprobs: Tensor, gamma: float) -> Tensor:
    """LUFFY's f(pi) = pi / (pi + gamma), elementwise, with gradient: of a token with pi = 0.01 its gradient with
    respect to log pi is f (1 - f) = 0.08 at gamma = 0.1, eight times that of pi itself. In (0, 1).

    Args:
        logprobs: [*] log pi.
        gamma: above 0.
    """
    return torch.sigmoid(logprobs - math.log(gamma))


def bradley_terry(preferred: Tensor, other: Tensor) -> Tensor:
    """-log sigma(a_i - b_j) of every pair, the Bradley-Terry loss of "a is preferred to b": [n], [m] -> [n, m]."""
    return torch.nn.functional.softplus(other[None, :] - preferred[:, None])


def trajectory_log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log of eq. 4's rho = pi(y|x) / pi_old(y|x), one value a row, spread over its tokens: [B, L] -> [B, L].

    Written as the literal paper has it: the product over a whole trajectory.
    """
    total = ((logprobs - old_logprobs.detach()) * mask).sum(dim=-1, keepdim=True)
    return total.expand_as(logprobs)


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Low-variance estimate of KL(pi || pi_ref) per sampled token (A.6.2): exp(d) - d - 1, d = l_ref - l. >= 0."""
    difference = reference_logprobs.detach() - logprobs
    return torch.exp(difference) - difference - 1


def token_entropy(logits: Tensor, log_z: Tensor | None = None) -> Tensor:
    """Entropy in nats of softmax(logits), which the entropy bonus adds to the objective: [*, V] -> [*].

    Args:
        log_z: [*] logsumexp of the logits, where it is known already.
    """
    log_z = torch.logsumexp(logits, dim=-1) if log_z is None else log_z
    return log_z - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)


def log_partition(logits: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """log sum exp(logits / temperature), and the entropy in nats of softmax(logits / temperature) if it is wanted: both
    from one exponential. [*, V] -> [*] each."""
    z = logits if temperature == 1 else logits / temperature
    top = z.amax(dim=-1, keepdim=True)
    powers = (z - top).exp_()
    total = powers.sum(dim=-1)
    log_z = top[..., 0] + total.log()
    return log_z, log_z - powers.mul_(z).sum(dim=-1) / total if entropy else None


def soft_acceptance(score: float, beta: float, bound: float) -> float:
    """Acceptance probability of appendix A.1.1: a(y) = min(1, exp(S / beta) / M)."""
    return min(1.0, math.exp(min(score / beta, 700.0)) / bound)


def temper(distribution: Sequence[float], temperature: float) -> list[float]:
    """p_i^(1/T) / sum_j p_j^(1/T): the score distribution at another temperature (A.6.2: 0.7), [v] -> [v]."""
    logs = [math.log(p) / temperature if p > 0 else -math.inf for p in distribution]
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    total = sum(weights)
    return [w / total for w in weights]


def entropy(distribution: Sequence[float]) -> float:
    """Shannon entropy in nats."""
    return -sum(p * math.log(p) for p in distribution if p > 0)


# ------------------------------------------------------- sampler against trainer


def truncated_ratio(log_ratio: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Token truncation of the sampler-trainer ratio r = pi_old / pi_engine: min(r, C).

    Args:
        log_ratio: [*] log r a token; 0 where no engine sampled it.
    Returns:
        (factor [*] in (0, C], whether it was truncated [*] bool).
    """
    ratio = log_ratio.exp()
    return ratio.clamp(max=bound), ratio > bound


def sequence_mask(log_ratio: Tensor, mask: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Sequence masking: 0 for a row whose ratio leaves [1/C, C], else 1, spread over the row.

    The row's ratio is the geometric mean over its tokens, exp(mean log r), not their product: a product leaves any
    bound with the length alone.

    Args:
        log_ratio: [B, L] log r a token.
        mask: [B, L] bool, tokens that an engine sampled; a row without any is kept.
    Returns:
        (factor [B, L], whether it was masked [B, L] bool).
    """
    total = torch.where(mask, log_ratio, 0.0).sum(dim=-1, keepdim=True)
    mean = total / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    outside = (mean.abs() > math.log(bound)).expand_as(log_ratio)
    return (~outside).to(log_ratio.dtype), outside


# ---------------------------------------------------------------- rewards


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment of length (arXiv 2503.14476, eq. 13): 0 up to ``limit - buffer`` tokens, then linear,
    -1 from ``limit`` on."""
    return -min(max((length - (limit - buffer)) / buffer, 0.0), 1.0)


def tool_reward(correct: bool, rounds: int) -> float:
    """SOD's reward: 1, or -1 raised by 0.1 with each tool round, up to -0.6: in [-1, -0.6] or 1.

    Args:
        rounds: results that the environment returned, 0 or more.
    """
    return 1.0 if correct else min(-0.6, -1 + 0.1 * rounds)


# ------------------------------------------------------------- distillation


def generalised_jsd(student_logprobs: Tensor, teacher_logprobs: Tensor, beta: float) -> Tensor:
    """GKD's divergence over the whole vocabulary, [*, V] -> [*], in nats, >= 0.

    beta KL(p_T || M) + (1 - beta) KL(p_S || M) with M = beta p_T + (1 - beta) p_S. Divided by nothing, so it goes to 0
    at both ends; there it stands for what it is proportional to: beta = 0 is KL(p_T || p_S), beta = 1 KL(p_S || p_T).

    Args:
        student_logprobs, teacher_logprobs: normalised; the gradient reaches the student's alone.
        beta: in [0, 1].
    """
    teacher = teacher_logprobs.detach()
    if beta == 0:
        return (teacher.exp() * (teacher - student_logprobs)).sum(dim=-1)
    if beta == 1:
        return (student_logprobs.exp() * (student_logprobs - teacher)).sum(dim=-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student_logprobs + math.log1p(-beta))
    from_teacher = (teacher.exp() * (teacher - mixture)).sum(dim=-1)
    from_student = (student_logprobs.exp() * (student_logprobs - mixture)).sum(dim=-1)
    return beta * from_teacher + (1 - beta) * from_student


def generalised_jsd_gradient(student_logprobs: Tensor, teacher_logprobs: Tensor, beta: float) -> Tensor:
    """Gradient of `generalised_jsd` with respect to the logits of the student's softmax, [*, V].

    p_S (r - sum p_S r) with r = (1 - beta) log(p_S / M); at beta = 1, r = log(p_S / p_T), and p_S - p_T at beta = 0.
    """
    if beta == 0:
        return student_logprobs.exp() - teacher_logprobs.exp()
    if beta == 1:
        slope = student_logprobs - teacher_logprobs
    else:
        mixture = torch.logaddexp(teacher_logprobs + math.log(beta), student_logprobs + math.log1p(-beta))
        slope = mixture.neg_().add_(student_logprobs).mul_(1 - beta)
    student = student_logprobs.exp()
    return slope.sub_((student * slope).sum(dim=-1, keepdim=True)).mul_(student)


@dataclass(frozen=True, slots=True)
class Bridge:
    """OPRD's frozen projections of hidden states of two widths into one space of r dimensions."""

    teacher: Tensor
    """[d_T, r] P_T, principal directions, orthonormal."""
    teacher_mean: Tensor
    """[d_T] mu_T."""
    student: Tensor
    """[d_S, r] P_S."""
    student_bias: Tensor
    """[r] b."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(z_S, z_T), [M, r] each, from [M, d_S] and [M, d_T]."""
        return student @ self.student + self.student_bias, (teacher - self.teacher_mean) @ self.teacher


def fit_bridge(student: Tensor, teacher: Tensor, rank: int) -> Bridge:
    """PCA of the teacher's rows, and the least-squares map of the student's onto its projections, in float64.

    Args:
        student, teacher: [M, d_S], [M, d_T] hidden states at the same tokens.
        rank: r, cut to what M and d_T allow.
    """
    x, y = student.double(), teacher.double()
    mean = y.mean(dim=0)
    _, _, directions = torch.linalg.svd(y - mean, full_matrices=False)
    basis = directions[:rank].T  # [d_T, r]
    inputs = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    # the pseudo-inverse: rows may be fewer than dimensions
    solution = torch.linalg.pinv(inputs) @ ((y - mean) @ basis)  # [d_S + 1, r]
    parts = (basis, mean, solution[:-1], solution[-1])
    return Bridge(*(part.to(student.dtype).contiguous() for part in parts))


def hidden_distance(student: Tensor, teacher: Tensor, normalise: bool) -> Tensor:
    """Mean over dimensions of (z_S - z_T)^2, [M] from [M, r] each; the gradient reaches the student's alone.

    Args:
        normalise: both have length 1 before.
    """
    teacher = teacher.detach()
    if normalise:
        student, teacher = (torch.nn.functional.normalize(z, dim=-1) for z in (student, teacher))
    return (student - teacher).square().mean(dim=-1)


def sign_gate(outcome: Tensor, teacher: Tensor, agree: float, conflict: float) -> Tensor:
    """SG-OPD's kappa_t, elementwise: ``agree`` (lambda) where the verifier's and the teacher's advantage have the same
    sign, ``conflict`` (beta) where not, 1 where the verifier says nothing (``outcome`` = 0).

    Args:
        outcome: [*] a_1, the group-normalised correctness.
        teacher: [*] a_2 = l_T - l_S.
    """
    kappa = torch.where(outcome * teacher > 0, agree, conflict)
    return torch.where(outcome == 0, 1.0, kappa)


def held_then_cosine(progress: float, start: float, hold: float, end: float) -> float:
    """c(s): ``start`` until ``hold``, a half cosine down to 0 at ``end``, 0 from there on; shares of the run."""
    if progress < hold:
        return start
    if progress >= end:
        return 0.0
    return start * (1 + math.cos(math.pi * (progress - hold) / (end - hold))) / 2


def step_index(mask: Tensor) -> Tensor:
    """SOD's steps: maximal runs of True in each row, numbered from 0: [B, L] bool -> [B, L] int64, -1 outside."""
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    return torch.where(mask, (mask & ~before).cumsum(dim=-1) - 1, -1)


def step_weights(divergence: Tensor, mask: Tensor, delta: float, epsilon: float) -> Tensor:
    """SOD's w_k at every token: min((d_1 + epsilon) / (d_k + epsilon), 1 + delta), d_k the step's mean divergence.

    The product over u < k of (d_u + epsilon) / (d_{u+1} + epsilon) telescopes to this.

    Args:
        divergence: [B, L] |l_S_old - l_T| a token.
        mask: [B, L] bool, tokens of the student; a step is a run of them.
    Returns:
        [B, L], 0 outside the mask.
    """
    index = step_index(mask)
    if not mask.any():
        return torch.zeros_like(divergence)
    steps = int(index.max()) + 1
    where = index.clamp(min=0)
    totals = divergence.new_zeros(mask.shape[0], steps).scatter_add(1, where, divergence * mask)
    counts = divergence.new_zeros(mask.shape[0], steps).scatter_add(1, where, mask.to(divergence.dtype))
    mean = totals / counts.clamp(min=1)  # [B, K]
    weight = ((mean[:, :1] + epsilon) / (mean + epsilon)).clamp(max=1 + delta)
    return torch.where(mask, weight.gather(1, where), 0.0)
