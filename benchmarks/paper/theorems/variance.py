"""Proposition 3.2 (eq. 8, proof A.1.3): does rejection reduce the variance of the gradient, and by how much?

Variance is the trace of the covariance, as in eq. 37; G(y) = R(y) grad log pi_S(y).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from benchmarks.paper.finding import BLUE, GREEN, GREY, RED, Finding, panels, save
from benchmarks.paper.theorems.world import World, bandit, random_world

TWO_ANSWERS = bandit([0.05, 0.05, 0.90], [0.5, 0.5, 0.0], [1, 1, 0], [1.0, 1.0, 0.0])
"""A perfect judge and a perfect teacher that knows two right answers. All that is rejected has R = 0, so the promised
reduction is 0; the teacher's choice between its answers is new variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variances:
    """Exact moments of both estimators in one world."""

    alpha: float
    vanilla: float
    """V[g_0], eq. 37."""
    mixed: float
    """V[g_RS], eq. 39."""
    rejected: float
    """E_S[1[S < theta] |G|^2], what eq. 8 subtracts."""
    teacher: float
    """E_T[|G|^2], the paper's V_T (a second moment)."""
    signal_vanilla: float
    """|E g_0|^2."""
    signal_mixed: float
    """|E g_RS|^2."""

    @property
    def bound(self) -> float:
        """Right side of eq. 8."""
        return self.vanilla - self.rejected

    @property
    def identity(self) -> float:
        """V[g_RS] from the other terms: V[g_0] - rejected + (1 - alpha) V_T + |E g_0|^2 - |E g_RS|^2."""
        return self.corrected_bound - self.signal_mixed

    @property
    def corrected_bound(self) -> float:
        """Eq. 45 with its constant: V[g_0] - rejected + (1 - alpha) V_T + |E g_0|^2."""
        return self.bound + (1 - self.alpha) * self.teacher + self.signal_vanilla


def variances(world: World) -> Variances:
    g = world.score_function() * world.reward[:, None]  # [Y, X A]
    square = g.square().sum(dim=1)

    def variance(p: Tensor) -> float:
        return float(p @ (g - p @ g).square().sum(dim=1))

    def signal(p: Tensor) -> float:
        return float((p @ g).square().sum())

    return Variances(
        alpha=world.alpha,
        vanilla=variance(world.student),
        mixed=variance(world.mixture),
        rejected=float((world.student * (1 - world.accept)) @ square),
        teacher=float(world.teacher @ square),
        signal_vanilla=signal(world.student),
        signal_mixed=signal(world.mixture),
    )


REWARDS: dict[str, Callable[[World], Tensor]] = {
    "R": lambda world: world.reward,
    "R − J(π_S)": lambda world: world.reward - world.value(world.student),
    "±1": lambda world: 2 * world.reward - 1,
}
"""What is credited: the reward (eq. 7), less its mean under the student, and 1 for right and -1 for wrong."""


@dataclass(frozen=True, slots=True)
class Variance:
    varied: dict[str, list[Variances]]
    """What is credited -> worlds whose teacher shows many trajectories."""
    sure: dict[str, list[Variances]]
    """The same with a teacher that nearly always shows the same one: the best case for the proposition."""
    two_answers: Variances


def check(worlds: int = 60) -> Variance:
    """Thresholds 1 to 10 in every world: those that reject something."""

    def of(sharpness: float, credited: Callable[[World], Tensor]) -> list[Variances]:
        some = [random_world(seed, sharpness=sharpness) for seed in range(worlds)]
        changed = [replace(world, reward=credited(world)) for world in some]
        return [variances(world.with_threshold(t)) for world in changed for t in range(1, 11)]

    varied, sure = ({name: of(s, credited) for name, credited in REWARDS.items()} for s in (1, 10))
    return Variance(varied, sure, variances(TWO_ANSWERS))


SLACK = 1e-12


def findings(result: Variance) -> list[Finding]:
    two, worlds = result.two_answers, [w for some in (result.varied, result.sure) for w in some["R"]]

    def tally(condition: Callable[[Variances], bool], credited: str = "R") -> str:
        varied, sure = result.varied[credited], result.sure[credited]
        counts = [f"{sum(map(condition, some))} of {len(some)}" for some in (varied, sure)]
        return f"in {counts[0]} with a varied teacher, {counts[1]} with a sure one"

    def broken(w: Variances) -> bool:
        return w.mixed > w.bound + SLACK

    def greater(w: Variances) -> bool:
        return w.mixed > w.vanilla + SLACK

    def weaker(w: Variances) -> bool:
        return w.signal_mixed < w.signal_vanilla

    def noisier(w: Variances) -> bool:
        return w.mixed / w.signal_mixed > w.vanilla / w.signal_vanilla

    negative = sum(w.bound < -SLACK for w in worlds)
    error = max(abs(w.identity - w.mixed) for w in worlds)
    over = max(w.mixed - w.corrected_bound for w in worlds)
    return [
        Finding(
            "eq. 8",
            "V[g_RS] ≤ V[g_0] − E_S[1[S < θ] ‖G‖²]",
            not any(map(broken, worlds)),
            f"broken {tally(broken)}; the right side is below 0, which no variance is, in {negative} of {len(worlds)}",
        ),
        Finding(
            "3.2, its name",
            "V[g_RS] ≤ V[g_0]",
            not any(map(greater, worlds)),
            f"greater {tally(greater)}; perfect judge and teacher with two right answers: {two.vanilla:.3f} "
            f"becomes {two.mixed:.3f}, promised reduction {two.rejected:.3f}",
        ),
        *(
            Finding(
                f"the same, crediting {credited}",
                "V[g_RS] ≤ V[g_0]",
                not any(map(greater, [*result.varied[credited], *result.sure[credited]])),
                f"greater {tally(greater, credited)}; eq. 8 broken {tally(broken, credited)}",
            )
            for credited in REWARDS
            if credited != "R"
        ),
        Finding(
            "eq. 43",
            "‖E g_0‖² and ‖E g_RS‖² may be left out: ‖E g_RS‖ ≥ ‖E g_0‖",
            not any(map(weaker, worlds)),
            f"less {tally(weaker)}",
        ),
        Finding(
            "corrected",
            "V[g_RS] = V[g_0] − E_S[1[S < θ] ‖G‖²] + (1 − α) E_T[‖G‖²] + ‖E g_0‖² − ‖E g_RS‖²",
            error < 1e-9,
            f"within {error:.0e}; so eq. 8 holds exactly where (1 − α) E_T[‖G‖²] ≤ ‖E g_RS‖² − ‖E g_0‖²",
        ),
        Finding(
            "eq. 45, its constant",
            "V[g_RS] ≤ V[g_0] − E_S[1[S < θ] ‖G‖²] + (1 − α) V_T + ‖E g_0‖², V_T ≥ E_T[‖G‖²]",
            over <= SLACK,
            f"closest by {-over:.1e}",
        ),
        Finding(
            "no theorem",
            "noise to signal V[g]/‖E g‖² falls",
            not any(map(noisier, worlds)),
            f"it rises {tally(noisier)}; two right answers: {two.vanilla / two.signal_vanilla:.1f} becomes "
            f"{two.mixed / two.signal_mixed:.2f}",
        ),
    ]


def draw(result: Variance, path: Path) -> None:
    """Left: eq. 8 against the truth, both in units of V[g_0]. Right: what rejection does to the variance, by alpha."""
    figure, (left, right) = panels(2)
    varied, sure = result.varied["R"], result.sure["R"]
    for worlds, colour, label in ((varied, RED, "varied teacher"), (sure, BLUE, "sure teacher")):
        few = worlds[:300]
        ratio = [w.mixed / w.vanilla for w in few]
        left.scatter([w.bound / w.vanilla for w in few], ratio, s=4, color=colour, label=label)
        right.scatter([w.alpha for w in few], ratio, s=4, color=colour, label=f"variance, {label}")
    noise = [w.mixed / w.signal_mixed * w.signal_vanilla / w.vanilla for w in varied[:300]]
    right.scatter([w.alpha for w in varied[:300]], noise, s=4, color=GREEN, label="noise to signal, varied")
    left.axline((0, 0), slope=1, color=GREY, lw=1)
    left.text(0.02, 0.02, "eq. 8 holds below the line", transform=left.transAxes, fontsize=8, color=GREY)
    left.set(xlabel="eq. 8's bound / V[g₀]", ylabel="V[g_RS] / V[g₀]", ylim=(-1, 12))
    left.legend(frameon=False, fontsize=8)
    right.axhline(1, color=GREY, lw=1)
    right.set(xlabel="acceptance rate α", ylabel="with rejection / without", yscale="log", ylim=(1e-3, None))
    right.legend(frameon=False, fontsize=8, loc="lower left")
    save(figure, path)
