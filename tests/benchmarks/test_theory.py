"""Section 3.5, on worlds small enough for pencil and paper, and the checks of `benchmarks.paper.theory` themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.paper.finding import Finding, table
from benchmarks.paper.theorems import convergence, granularity, unbiased, variance
from benchmarks.paper.theorems.live import measure
from benchmarks.paper.theorems.world import bandit, certain, prefixes, random_world, trajectories

# ----------------------------------------------------------------------- world
from ovd_lightning.methods.rules import MixedGroup


def test_every_trajectory_is_enumerated_with_the_prefixes_it_passes() -> None:
    assert trajectories(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    # prefix 0 is empty, 1 is "0", 2 is "1"
    assert prefixes(2, 2).tolist() == [[0, 1], [0, 1], [0, 2], [0, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_policies_are_distributions_and_the_score_function_is_their_gradient(seed: int) -> None:
    world = random_world(seed)
    for p in (world.student, world.teacher, world.mixture):
        assert float(p.sum()) == pytest.approx(1)
        assert float(p.min()) >= 0
    jacobian = torch.autograd.functional.jacobian(world.log_policy, world.logits).flatten(start_dim=1)
    assert torch.allclose(world.score_function(), jacobian, atol=1e-12)


def test_the_mixture_by_hand() -> None:
    # the student plays 0.2, 0.3, 0.5; 1/2, 0 and 1 of these are accepted: alpha = 0.1 + 0 + 0.5
    world = bandit([0.2, 0.3, 0.5], [0.75, 0.25, 0.0], [1, 0, 1], [0.5, 0.0, 1.0])
    assert world.alpha == pytest.approx(0.6)
    # 0.1 + 0.4 0.75, 0 + 0.4 0.25, 0.5 + 0
    assert world.mixture.tolist() == pytest.approx([0.4, 0.1, 0.5])
    # 0.6 0.1 + 0.3, 0.1, 0.6 0.5: eq. 6 as printed has a mass of 0.76 = 1 - 0.6 0.4
    assert world.printed_mixture.tolist() == pytest.approx([0.36, 0.1, 0.3])
    # accepted ones are all right, J(pi_T) = 0.75: (0.75 - 1) / 0.75
    assert world.delta == pytest.approx(-1 / 3)
    # p R = (0.4, 0, 0.5), less pi (0.4 + 0.5)
    assert world.surrogate_gradient().tolist() == pytest.approx([0.4 - 0.18, -0.27, 0.5 - 0.45])
    # pi_i (R_i - J), J = 0.7
    assert world.policy_gradient().tolist() == pytest.approx([0.2 * 0.3, -0.3 * 0.7, 0.5 * 0.3])


def test_thresholds_reject_from_nothing_to_all() -> None:
    world = random_world(0)
    rates = [world.with_threshold(t).alpha for t in range(11)]
    assert rates[0] == pytest.approx(1)
    assert rates[10] == 0
    assert rates == sorted(rates, reverse=True)


# ----------------------------------------------------------------- theorem 3.1


def test_equation_7_is_the_gradient_of_the_surrogate_and_of_neither_reading() -> None:
    r = unbiased.readings(40)
    assert max(r.surrogate) < 1e-12
    assert min(r.policy) > 0.01
    assert min(r.mixture) > 0.01
    assert r.closed_forms < 1e-9


def test_without_rejection_equation_7_is_the_policy_gradient() -> None:
    world = random_world(1).with_threshold(0)
    assert torch.allclose(world.surrogate_gradient(), unbiased.autograd(world, "policy"), atol=1e-12)


def test_equation_7_can_point_against_the_students_reward() -> None:
    assert unbiased.cosine(unbiased.AGAINST.surrogate_gradient(), unbiased.AGAINST.policy_gradient()) < -0.3


def test_the_packages_own_gradients_are_those_of_equation_7() -> None:
    world = unbiased.LIVE
    right = measure(world, world.surrogate_gradient(), rounds=60)
    assert right.z_rms < unbiased.UNBIASED
    assert unbiased.distance(right.mean, right.exact) < 0.1
    # ... and it is the teacher's half that makes them so: against the student's own gradient they are far off
    assert measure(world, world.policy_gradient(), rounds=20).z_rms > 5
    incorrect = replace(world, scores=certain(world.accept * world.reward))
    either = measure(world, incorrect.surrogate_gradient(), rounds=30, replace_when="score_or_incorrect")
    assert either.z_rms < unbiased.UNBIASED
    assert measure(world, world.surrogate_gradient(), rounds=20, credit=MixedGroup()).z_rms > 4


def test_equation_6_has_too_little_mass() -> None:
    result = unbiased.check_mixture(worlds=5)
    assert all(mass == pytest.approx(1) for mass in result.normalised)
    assert len(result.normalised) < len(result.alpha), "where nothing is accepted it is not defined"
    for alpha, printed, corrected in zip(result.alpha, result.printed, result.corrected, strict=True):
        assert printed == pytest.approx(1 - alpha * (1 - alpha))
        assert corrected == pytest.approx(1)


# ------------------------------------------------------------- proposition 3.2


def test_variances_by_hand() -> None:
    # pi = (0.1, 0.9), R = (1, 0); G(0) = 0.9 (1, -1), |G|^2 = 1.62, and G(1) = 0.
    # V[g_0] = 0.1 0.9 1.62. The teacher is right half the time and all wrong ones are rejected: p = 0.1 + 0.9 / 2
    v = variance.variances(bandit([0.1, 0.9], [0.5, 0.5], [1, 0], [1.0, 0.0]))
    assert v.vanilla == pytest.approx(0.1458)
    assert v.mixed == pytest.approx(0.55 * 0.45 * 1.62)
    assert v.rejected == 0
    assert v.teacher == pytest.approx(0.81)
    assert v.mixed > v.bound


def test_a_bound_can_hold_and_does_not_in_general() -> None:
    # one right answer, which the teacher always gives: every gradient is the same
    holds = variance.variances(bandit([0.1, 0.9], [1.0, 0.0], [1, 0], [1.0, 0.0]))
    assert holds.mixed == pytest.approx(0, abs=1e-15)
    assert holds.mixed < holds.bound
    fails = variance.variances(variance.TWO_ANSWERS)
    assert fails.rejected == pytest.approx(0, abs=1e-15)
    assert fails.mixed > 3 * fails.vanilla


def test_rejecting_all_would_need_a_negative_variance() -> None:
    v = variance.variances(random_world(0).with_threshold(10))
    assert v.bound == pytest.approx(-v.signal_vanilla)
    assert v.bound < 0 < v.mixed


def test_the_corrected_variance_is_exact_and_its_bound_holds() -> None:
    result = variance.check(worlds=6)
    for v in (v for some in (result.varied, result.sure) for worlds in some.values() for v in worlds):
        assert v.identity == pytest.approx(v.mixed, abs=1e-12)
        assert v.mixed <= v.corrected_bound + 1e-12


def test_what_is_credited_changes_the_variances() -> None:
    # pi = (0.1, 0.9) and nothing else is accepted than the right one, which the teacher always gives: every trajectory
    # of the mixture is the same, so V[g_RS] = 0 whatever is credited. V[g_0] by hand: with R, 0.1 0.9 1.62; with +-1,
    # G = 0.9 (1, -1) and 0.1 (1, -1), so 0.09 0.64 2
    world = bandit([0.1, 0.9], [1.0, 0.0], [1, 0], [1.0, 0.0])
    found = {n: variance.variances(replace(world, reward=f(world))) for n, f in variance.REWARDS.items()}
    assert found["R"].vanilla == pytest.approx(0.1458)
    assert found["±1"].vanilla == pytest.approx(0.09 * 0.64 * 2)
    assert all(v.mixed == pytest.approx(0, abs=1e-12) for v in found.values())


# ------------------------------------------------------------- proposition 3.3


@pytest.mark.parametrize("seed", range(6))
def test_the_best_fit_is_at_least_as_good_as_the_mixture(seed: int) -> None:
    world = random_world(seed, binary=seed % 2 == 0)
    fitted = convergence.fit(world)
    assert world.value(fitted) >= world.value(world.mixture)
    assert world.value(world.mixture) == pytest.approx((1 - world.alpha * world.delta) * world.value(world.teacher))
    # it maximises the surrogate: no other policy has a higher E_p[R log pi]
    objective = (world.mixture * world.reward) @ fitted.clamp(min=1e-300).log()
    for other in (world.student, world.teacher, world.mixture):
        assert objective >= (world.mixture * world.reward) @ other.clamp(min=1e-300).log()


def test_the_student_can_end_above_its_teacher_with_alpha_below_1() -> None:
    run = convergence.train(convergence.fair_judge(), 300)
    assert run.student[-1] > 0.98 > run.teacher + 0.3
    assert run.alpha[-1] == pytest.approx(0.9, abs=0.01)
    assert run.delta[-1] < 0


def test_the_student_can_get_better_while_less_of_it_is_accepted() -> None:
    run = convergence.train(convergence.fooled_judge(), 300)
    assert run.student[-1] > run.student[0] + 0.5
    assert run.alpha[-1] < run.alpha[0] - 0.5


def test_the_student_can_end_below_its_teacher_with_alpha_at_1() -> None:
    run = convergence.train(convergence.half_right(), 600)
    assert run.alpha[-1] > 0.99
    # 0.7 - 0.5 of 0.7
    assert run.delta[-1] == pytest.approx(2 / 7)
    assert run.student[0] == pytest.approx(0.75)
    assert run.student[-1] == pytest.approx(0.5, abs=0.01)
    assert run.student[-1] < run.teacher


# ------------------------------------------------------------- proposition 3.4


def test_scores_by_hand() -> None:
    q = torch.tensor([0.0, 0.34, 0.5, 1.0], dtype=torch.float64)
    # v = 4: levels at 0, 1/3, 2/3, 1
    assert granularity.floor(q, 4).argmax(dim=1).tolist() == [0, 1, 1, 3]
    assert granularity.nearest(q, 4).argmax(dim=1).tolist() == [0, 1, 2, 3]
    for judge in (granularity.neighbours, granularity.extremes):
        assert torch.allclose(granularity.mean_error(q, judge(q, 4)), torch.zeros_like(q), atol=1e-12)
    # 2 Q (1 - Q) at Q = 0.5
    assert float(granularity.error(q, granularity.extremes(q, 4))[2]) == pytest.approx(0.5)


def test_rounding_keeps_the_bound_and_the_floor_breaks_it() -> None:
    result = granularity.check()
    for i, v in enumerate(granularity.LEVELS):
        bound = granularity.bound(v)
        assert result.worst["nearest"][i] <= bound + 1e-9
        assert result.worst["neighbours"][i] <= bound + 1e-9
        assert result.uniform["floor"][i] == pytest.approx(bound, rel=1e-3)
        assert result.worst["floor"][i] > 1.9 * bound
    assert result.narrow > 1.9 * granularity.bound(10)


def test_more_levels_do_not_help_a_sampled_score() -> None:
    result = granularity.check()
    # a normal error of s has a mean size of s sqrt(2 / pi); less at both ends of the scale, where it is cut off
    assert 0.85 < result.uniform["blurred"][-1] / (granularity.SPREAD * math.sqrt(2 / math.pi)) < 1
    assert result.uniform["blurred"][-1] > 10 * granularity.bound(200)
    assert result.accepted == sorted(result.accepted, reverse=True)
    assert result.accepted[2] == pytest.approx(result.accepted[0] ** 4)


# ---------------------------------------------------------------------- report

PROVED = "corrected"


def test_what_is_corrected_holds_and_what_is_printed_is_judged_by_numbers() -> None:
    findings = [
        *unbiased.mixture_findings(unbiased.check_mixture(5)),
        *variance.findings(variance.check(8)),
        *convergence.findings(convergence.check(20, 300)),
        *granularity.findings(granularity.check()),
    ]
    assert all(f.holds for f in findings if f.where == PROVED)
    failed = {f.where for f in findings if not f.holds}
    assert {"eq. 6, 11", "eq. 8", "eq. 14", "eq. 19", "eq. 20", "eq. 22", "eq. 10, 46"} <= failed


def test_the_theorems_verdicts(tmp_path: Path) -> None:
    result = unbiased.check(worlds=10, rounds=20)
    verdicts = [(f.where, f.holds) for f in unbiased.findings(result)]
    assert verdicts == [
        ("eq. 7", False),
        ("eq. 31–32", False),
        *[(PROVED, True)] * 4,
        ("Algorithm 1, last line", False),
    ]
    pytest.importorskip("matplotlib", reason="figures need the dev extra's matplotlib")
    unbiased.draw(result, tmp_path / "t.svg")
    assert (tmp_path / "t.svg").stat().st_size > 1000


def test_a_verdict_follows_the_numbers() -> None:
    # one world in which eq. 8 holds: had the printed bound held everywhere, the table would say so
    holds = variance.variances(bandit([0.1, 0.9], [1.0, 0.0], [1, 0], [1.0, 0.0]))
    everywhere = {name: [holds] for name in variance.REWARDS}
    findings = variance.findings(variance.Variance(everywhere, everywhere, holds))
    assert next(f for f in findings if f.where == "eq. 8").holds


def test_the_table_is_markdown() -> None:
    text = table([Finding("eq. 1", "|x| is 1", False, "2")])
    assert text.splitlines()[-1] == r"| eq. 1 | \|x\| is 1 | **no** | 2 |"


def test_figures_are_svg_and_repeatable(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the dev extra's matplotlib")
    result = granularity.check()
    for name in ("a.svg", "b.svg"):
        granularity.draw(result, tmp_path / name)
    variance.draw(variance.check(2), tmp_path / "v.svg")
    convergence.draw(convergence.check(2, 5), tmp_path / "c.svg")
    unbiased.draw_mixture(unbiased.check_mixture(2), tmp_path / "m.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    for path in tmp_path.iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
