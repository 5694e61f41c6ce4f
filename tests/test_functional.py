"""The mathematics, against numbers worked out by hand (the working stands beside each)."""

from __future__ import annotations

import math

import pytest
import torch

from ovd_lightning import functional as F


def test_sample_std_divides_by_n_minus_one() -> None:
    # mean 2.5, squared deviations 2.25 + 0.25 + 0.25 + 2.25 = 5, 5 / 3
    assert F.sample_std([1, 2, 3, 4]) == pytest.approx(math.sqrt(5 / 3))
    # mean 0.5, 0.25 + 0.25 = 0.5, 0.5 / 1
    assert F.sample_std([0, 1]) == pytest.approx(math.sqrt(0.5))
    assert F.sample_std([3.0]) == 0
    assert F.sample_std([]) == 0


def test_group_advantages() -> None:
    # mu = 1/4; squared deviations 9/16 + 3 (1/16) = 12/16; sigma = sqrt((12/16) / 3) = 1/2
    # (1 - 1/4) / (1/2) = 1.5; (0 - 1/4) / (1/2) = -0.5; epsilon moves them by 2 in a million
    assert F.group_advantages([1, 0, 0, 0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)


def test_group_advantages_hold_epsilon_beside_sigma() -> None:
    # mu = 0.5, sigma = sqrt(0.5): 0.5 / (0.70710678 + 0.000001)
    assert F.group_advantages([1, 0])[0] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-6), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7])
def test_a_constant_group_has_no_advantage(value: float) -> None:
    # 0.1 + 0.1 + 0.1 is not 0.3 in binary: what is left is rounding, far below 1e-8
    assert max(map(abs, F.group_advantages([value] * 3))) < 1e-8


def test_the_reference_group_gives_baseline_and_scale() -> None:
    # reference 0, 0, 0, 1: mu = 1/4, sigma = 1/2. Rewards 1 -> 1.5 each, though they are all equal.
    assert F.group_advantages([1, 1, 1, 1], reference=[0, 0, 0, 1]) == pytest.approx([1.5] * 4, rel=1e-5)
    # more rewards than references: (0.5 - 0.25) / 0.5 = 0.5
    assert F.group_advantages([0.5] * 5, reference=[0, 0, 0, 1]) == pytest.approx([0.5] * 5, rel=1e-5)


def test_sigma_floor() -> None:
    # reference all 0: mu = 0, sigma = 0, floor 1/4: 1 / 0.25 = 4
    assert F.group_advantages([1, 0], reference=[0, 0], sigma_floor=0.25) == pytest.approx([4, 0], rel=1e-5)
    # sigma of 0, 0, 0, 1 is 1/2, above the floor, which then changes nothing
    assert F.group_advantages([1], reference=[0, 0, 0, 1], sigma_floor=0.25) == pytest.approx([1.5], rel=1e-5)
    # rewards equal to a constant reference
    assert F.group_advantages([1, 1], reference=[1, 1], sigma_floor=0.25) == [0, 0]


def test_without_std() -> None:
    # mu = 1/4
    assert F.group_advantages([1, 0, 0, 0], scale_by_std=False) == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize(
    ("rho", "advantage", "value", "clipped"),
    [
        # min(rho A, clip(rho, 0.8, 1.28) A), A = 2 or -2
        (1.5, 2.0, 2.56, True),  # min(3.0, 1.28 * 2): above, and wanted even likelier: cut
        (0.5, 2.0, 1.00, False),  # min(1.0, 0.8 * 2 = 1.6): below, but wanted likelier: goes on
        (1.5, -2.0, -3.00, False),  # min(-3.0, -2.56): above, but wanted less likely: goes on
        (0.5, -2.0, -1.60, True),  # min(-1.0, -1.6): below, and wanted even less likely: cut
        (1.1, 2.0, 2.20, False),  # inside
        (0.9, -2.0, -1.80, False),
        (1.0, 0.0, 0.00, False),
    ],
)
def test_clipped_surrogate(rho: float, advantage: float, value: float, clipped: bool) -> None:
    logprob = torch.tensor([math.log(rho) - 1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss, ratio, cut = F.clipped_surrogate(logprob, old, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.28)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-value)
    assert ratio.item() == pytest.approx(rho)
    assert cut.tolist() == [clipped]
    # d(-rho A) / d logprob = -rho A where nothing was cut
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(0.0 if clipped else -rho * advantage)
    assert old.grad is None
    assert not ratio.requires_grad


def test_the_gradient_is_whole_where_rho_is_one() -> None:
    logprob = torch.tensor([-2.0, -0.5], requires_grad=True)
    loss, _, _ = F.clipped_surrogate(logprob, logprob.detach(), torch.tensor([3.0, -1.0]))
    loss.sum().backward()
    assert logprob.grad is not None
    assert logprob.grad.tolist() == pytest.approx([-3.0, 1.0])  # -A, the policy gradient of eq. 7


def test_trajectory_ratio() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -5.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    old = torch.tensor([[-1.5, -1.0, 0.0], [-1.0, -2.0, -3.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    # row 0: (-1 + 1.5) + (-2 + 1) = -0.5, the third token is not trained on; row 1: (-1 + 2) + (-1 + 3) = 3
    ratio = F.trajectory_log_ratio(logprobs, old, mask)
    assert ratio.tolist() == [[-0.5] * 3, [3.0] * 3]
    ratio[0, 0].backward()  # one value depends on every trained token of its row, and on no other
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_k3() -> None:
    logprobs = torch.tensor([math.log(0.5), math.log(0.25), math.log(0.3)], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([math.log(0.25), math.log(0.5), math.log(0.3)], dtype=torch.float64)
    kl = F.k3_kl(logprobs, reference)
    # d = log(0.25 / 0.5) = -log 2: 1/2 + log 2 - 1 = 0.193147; d = log 2: 2 - log 2 - 1 = 0.306853; d = 0: 0
    assert kl.tolist() == pytest.approx([math.log(2) - 0.5, 1 - math.log(2), 0.0])
    kl.sum().backward()
    # d k3 / d logprob = 1 - exp(d): 1 - 1/2, 1 - 2, and 0 where the two agree
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.5, -1.0, 0.0])


def test_k3_is_never_negative_and_its_mean_is_the_kl() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    k3 = F.k3_kl(policy.log(), reference.log())
    assert (k3 >= 0).all()
    # E_policy[k3] = sum p (r/p - log(r/p) - 1) = 1 + KL - 1, exactly
    assert (policy * k3).sum().item() == pytest.approx((policy * (policy / reference).log()).sum().item(), rel=1e-5)


def test_soft_acceptance() -> None:
    # exp(9/3) / 20 = 20.0855 / 20 > 1; exp(6/3) / 20 = 7.38906 / 20; exp(0) / 20
    assert F.soft_acceptance(9, 3, 20) == 1
    assert F.soft_acceptance(6, 3, 20) == pytest.approx(0.369453, abs=1e-6)
    assert F.soft_acceptance(0, 3, 20) == pytest.approx(0.05)
    assert F.soft_acceptance(9, 0.001, 20) == 1, "exp(9000) does not overflow"


def test_temper() -> None:
    # 0.8^(1/0.7) = exp(-0.223144 / 0.7) = 0.727025; 0.2^(1/0.7) = exp(-1.609438 / 0.7) = 0.100341
    assert F.temper([0.8, 0.2], 0.7) == pytest.approx([0.727025 / 0.827366, 0.100341 / 0.827366], abs=1e-5)
    # T = 1/2 squares: 0.64 : 0.04 = 16 : 1
    assert F.temper([0.8, 0.2], 0.5) == pytest.approx([16 / 17, 1 / 17])
    assert F.temper([0.5, 0.3, 0.2], 1.0) == pytest.approx([0.5, 0.3, 0.2])


def test_temper_keeps_zeros_and_ends_in_the_argmax() -> None:
    tempered = F.temper([0.0, 0.6, 0.4, 0.0], 0.7)
    assert tempered[0] == tempered[3] == 0
    assert sum(tempered) == pytest.approx(1)
    assert F.temper([0.0, 0.6, 0.4, 0.0], 1e-3) == pytest.approx([0, 1, 0, 0])
    assert F.temper([1.0, 0.0], 0.7) == [1, 0]


def test_entropy() -> None:
    # uniform over four: log 4; 1/2, 1/4, 1/4: 1/2 log 2 + 1/2 log 4 = 1.5 log 2
    assert F.entropy([0.25] * 4) == pytest.approx(math.log(4))
    assert F.entropy([0.5, 0.25, 0.25, 0.0]) == pytest.approx(1.5 * math.log(2))
    assert F.entropy([1.0, 0.0]) == 0


def test_token_entropy_and_its_gradient() -> None:
    # logits (0, log 3): p = (1/4, 3/4); H = 1/4 log 4 + 3/4 log 4/3 = 0.346574 + 0.215762
    logits = torch.tensor([0.0, math.log(3)], requires_grad=True)
    value = F.token_entropy(logits)
    assert value.item() == pytest.approx(0.562335, abs=1e-6)
    assert F.token_entropy(logits, torch.tensor(math.log(4))).item() == pytest.approx(0.562335, abs=1e-6)
    # dH/dz_i = -p_i (log p_i + H): -1/4 (-1.386294 + 0.562335) = 0.205990, and its opposite for the other
    value.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0.205990, -0.205990], abs=1e-6)
    # uniform: log V, and no gradient
    flat = torch.zeros(2, 5, requires_grad=True)
    assert F.token_entropy(flat).tolist() == pytest.approx([math.log(5)] * 2)


def test_dual_clip() -> None:
    # A = -1: rho = 5 costs 5 without the bound, 3 with c = 3, and no gradient reaches it; A > 0 knows no such bound
    logprobs = torch.tensor([math.log(5.0), math.log(2.0), math.log(5.0)], requires_grad=True)
    advantages = torch.tensor([-1.0, -1.0, 1.0])
    loss, _, clipped = F.clipped_surrogate(logprobs, torch.zeros(3), advantages, 0.2, 0.2, dual_clip=3.0)
    assert loss.tolist() == pytest.approx([3.0, 2.0, -1.2])
    assert clipped.tolist() == [True, False, True]
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, 2.0, 0.0])


def test_infinite_clips_clip_nothing() -> None:
    loss, _, clipped = F.clipped_surrogate(
        torch.tensor([2.0, -2.0]), torch.zeros(2), torch.tensor([1.0, -1.0]), math.inf, math.inf
    )
    assert loss.tolist() == pytest.approx([-math.exp(2), math.exp(-2)])
    assert not clipped.any()


def test_truncated_ratio_and_sequence_mask() -> None:
    factor, cut = F.truncated_ratio(torch.tensor([0.0, math.log(3), math.log(0.1)]), 2.0)
    assert factor.tolist() == pytest.approx([1.0, 2.0, 0.1])
    assert cut.tolist() == [False, True, False]
    # geometric means: sqrt(4 * 1) = 2 stays at C = 2.1 although the product is 4; 1/3 leaves; nothing sampled stays
    logs = torch.tensor([[4.0, 1.0, 9.0], [1 / 3, 1.0, 1.0], [9.0, 9.0, 9.0]]).log()
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    factor, masked = F.sequence_mask(logs, mask, 2.1)
    assert factor.tolist() == [[1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert masked[:, 0].tolist() == [False, True, False]


def test_overlong_penalty() -> None:
    # DAPO's numbers: 16384 expected, a buffer of 4096, a limit of 20480
    lengths = (100, 16384, 18432, 20480, 30000)
    assert [F.overlong_penalty(n, 20480, 4096) for n in lengths] == [0, 0, -0.5, -1, -1]


def test_generalised_jsd_by_hand() -> None:
    student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    # KL(T||S) = .25 log .5 + .75 log 1.5 = 0.130812; KL(S||T) = .5 log 2 + .5 log 2/3 = 0.143841
    assert F.generalised_jsd(student, teacher, 0.0).item() == pytest.approx(0.130812, abs=1e-6)
    assert F.generalised_jsd(student, teacher, 1.0).item() == pytest.approx(0.143841, abs=1e-6)
    # M = (.375, .625): .5 (.25 log 2/3 + .75 log 1.2) + .5 (.5 log 4/3 + .5 log .8) = .5 (.035374 + .032269)
    assert F.generalised_jsd(student, teacher, 0.5).item() == pytest.approx(0.033822, abs=1e-6)
    assert F.generalised_jsd(student, student, 0.3).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_the_gradient_of_the_jsd_is_checked_numerically(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    taught = torch.log_softmax(teacher, dim=-1)
    assert torch.autograd.gradcheck(
        lambda logits: F.generalised_jsd(torch.log_softmax(logits, dim=-1), taught, beta), (student,)
    )
    held = taught.clone().requires_grad_()
    F.generalised_jsd(torch.log_softmax(student, dim=-1), held, beta).sum().backward()
    assert held.grad is None, "none reaches the teacher"


def test_sign_gate() -> None:
    a1 = torch.tensor([1.5, 1.5, -0.5, -0.5, 0.0, 1.5])
    a2 = torch.tensor([0.3, -0.3, -0.3, 0.3, 0.3, 0.0])
    assert F.sign_gate(a1, a2, 1.8, 0.6).tolist() == pytest.approx([1.8, 0.6, 1.8, 0.6, 1.0, 0.6])


def test_held_then_cosine() -> None:
    values = [F.held_then_cosine(s, 0.5, 0.1, 0.3) for s in (0.0, 0.0999, 0.1, 0.15, 0.2, 0.3, 0.9)]
    # half a cosine: (1 + cos(pi / 4)) / 2 = 0.853553
    assert values == pytest.approx([0.5, 0.5, 0.5, 0.5 * 0.853553, 0.25, 0, 0], abs=1e-6)
    assert F.held_then_cosine(0.1, 1.0, 0.1, 0.1) == 0, "no decay at all"


def test_sod_steps_and_weights_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0], [0] * 8], dtype=torch.bool)
    assert F.step_index(mask).tolist() == [
        [0, 0, -1, 1, -1, -1, 2, 2], [-1, 0, -1, -1, -1, -1, -1, -1], [-1] * 8
    ]  # fmt: skip
    gaps = torch.tensor([[0.3, 0.1, 9.0, 0.4, 9.0, 9.0, 0.1, 0.1], [9.0, 0.7] + [9.0] * 6, [9.0] * 8])
    # d = 0.2, 0.4, 0.1: w = 1, 0.2 / 0.4 = 0.5, min(0.2/0.4 * 0.4/0.1, 1.2) = 1.2
    weights = F.step_weights(gaps, mask, delta=0.2, epsilon=1e-6)
    assert weights[0].tolist() == pytest.approx([1, 1, 0, 0.5, 0, 0, 1.2, 1.2], rel=1e-4)
    assert weights[1].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 0, 0])
    assert not weights[2].any()
    assert not F.step_weights(gaps, torch.zeros_like(mask), 0.2, 1e-6).any()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_gradient_of_the_divergence_is_automatic_differentiations(beta: float) -> None:
    logits, teacher = torch.randn(2, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    own, taught = logits.log_softmax(-1), teacher.log_softmax(-1)
    F.generalised_jsd(own, taught, beta).sum().backward()
    torch.testing.assert_close(F.generalised_jsd_gradient(own.detach(), taught, beta), logits.grad)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_log_partition_and_the_entropy_come_together(temperature: float) -> None:
    logits = 8 * torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    log_z, entropy = F.log_partition(logits, temperature, entropy=True)
    torch.testing.assert_close(log_z, torch.logsumexp(logits / temperature, dim=-1))
    assert entropy is not None
    torch.testing.assert_close(entropy, F.token_entropy(logits / temperature), atol=1e-5, rtol=1e-5)
    assert F.log_partition(logits, temperature, entropy=False)[1] is None
