"""Proposition 3.4 (eq. 10, proof A.1.4): how far a score S_v / (v - 1) lies from the quality Q it stands for.

Errors are exact sums over scores, and over Q midpoints of a fine grid on [0, 1] (or one Q, where the worst is asked).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper.finding import BLUE, GREEN, GREY, ORANGE, RED, Finding, panels, save

LEVELS = (2, 3, 5, 10, 20, 50, 100, 200)
GRID = 18_000
"""Points of Q."""
SPREAD = 0.15
"""Standard deviation of the judge's error in units of Q, for a judge that samples its score."""
STEPS = (1, 2, 4, 8, 16)
QUALITY = 0.9
"""Of every step, where K step scores make a trajectory's."""
THRESHOLD = 7


def one_hot(level: Tensor, v: int) -> Tensor:
    return torch.nn.functional.one_hot(level.long(), v).double()


def floor(q: Tensor, v: int) -> Tensor:
    """[Q] qualities -> [Q, v]: eq. 46. A hair is added, since 0.7 * 10 is below 7 in binary."""
    return one_hot(((v - 1) * q + 1e-9).floor().clamp(max=v - 1), v)


def nearest(q: Tensor, v: int) -> Tensor:
    """[Q] -> [Q, v]: rounding."""
    return one_hot(((v - 1) * q).round(), v)


def neighbours(q: Tensor, v: int) -> Tensor:
    """[Q] -> [Q, v]: one of both neighbours, drawn so that the mean is Q."""
    low = ((v - 1) * q).floor().clamp(max=v - 2)
    up = ((v - 1) * q - low)[:, None]
    return (1 - up) * one_hot(low, v) + up * one_hot(low + 1, v)


def extremes(q: Tensor, v: int) -> Tensor:
    """[Q] -> [Q, v]: the top score with probability Q, else the lowest. Perfectly calibrated: its mean is Q."""
    return (1 - q[:, None]) * one_hot(torch.zeros_like(q), v) + q[:, None] * one_hot(torch.full_like(q, v - 1), v)


def blurred(q: Tensor, v: int) -> Tensor:
    """[Q] -> [Q, v]: a normal error of `SPREAD` around Q, at the v levels."""
    levels = torch.arange(v, dtype=torch.float64) / (v - 1)
    return torch.softmax(-((levels - q[:, None]) ** 2) / (2 * SPREAD**2), dim=-1)


JUDGES = {"floor": floor, "nearest": nearest, "neighbours": neighbours, "extremes": extremes, "blurred": blurred}


def error(q: Tensor, scores: Tensor) -> Tensor:
    """[Q] E|Q - S / (v - 1)| over the score, at each quality."""
    v = scores.shape[1]
    levels = torch.arange(v, dtype=torch.float64) / (v - 1)
    return (scores * (q[:, None] - levels).abs()).sum(dim=1)


def mean_error(q: Tensor, scores: Tensor) -> Tensor:
    """[Q] |Q - E[S] / (v - 1)|: the same where the mean is read instead of one sample."""
    v = scores.shape[1]
    return (q - scores @ (torch.arange(v, dtype=torch.float64) / (v - 1))).abs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Granularity:
    uniform: dict[str, list[float]]
    """Judge -> E|Q - S / (v - 1)| for Q uniform on [0, 1], one a level of `LEVELS`."""
    worst: dict[str, list[float]]
    """... for the single Q at which it is largest."""
    mean_read: dict[str, list[float]]
    """... Q uniform, when the mean of the distribution is read."""
    narrow: float
    """Floor, v = 10, for a density of 100 on [0.101, 0.111] (bounded, as the proof asks): its expected error."""
    top: float
    """Share of uniform Q that the floor gives the top score, v = 10."""
    accepted: list[float]
    """Pr(min over K steps >= `THRESHOLD`) where each step's true quality is `QUALITY`, sampled scores, v = 10; a K of
    `STEPS` each."""
    least: list[float]
    """E[min over K steps] / 9 of the same."""


def bound(v: int) -> float:
    """Right side of eq. 10."""
    return 1 / (2 * (v - 1))


def check() -> Granularity:
    q = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    uniform: dict[str, list[float]] = {name: [] for name in JUDGES}
    worst: dict[str, list[float]] = {name: [] for name in JUDGES}
    mean_read: dict[str, list[float]] = {name: [] for name in JUDGES}
    for name, assign in JUDGES.items():
        for v in LEVELS:
            scores = assign(q, v)
            errors = error(q, scores)
            uniform[name].append(float(errors.mean()))
            worst[name].append(float(errors.max()))
            mean_read[name].append(float(mean_error(q, scores).mean()))
    some = 0.101 + 0.01 * q  # 1/9 is 0.1111: all of it is rounded down to 0
    one = blurred(torch.tensor([QUALITY], dtype=torch.float64), 10)[0]
    tail = one.flip(0).cumsum(0).flip(0)  # Pr(S >= s)
    return Granularity(
        uniform=uniform,
        worst=worst,
        mean_read=mean_read,
        narrow=float(error(some, floor(some, 10)).mean()),
        top=float(floor(q, 10)[:, -1].mean()),
        accepted=[float(tail[THRESHOLD] ** k) for k in STEPS],
        least=[float((tail[1:] ** k).sum()) / 9 for k in STEPS],
    )


def findings(result: Granularity) -> list[Finding]:
    ten, last = LEVELS.index(10), len(LEVELS) - 1
    bounds = [bound(v) for v in LEVELS]

    def within(errors: list[float]) -> bool:
        return all(e <= b * (1 + 1e-6) for e, b in zip(errors, bounds, strict=True))

    return [
        Finding(
            "eq. 10, 46",
            "E|Q − S/(v − 1)| ≤ 1/(2(v − 1)) for S = ⌊(v − 1) Q⌋, any Q of bounded density",
            result.narrow <= bound(10),
            f"Q uniform on [0.101, 0.111], v = 10: {result.narrow:.4f}, bound {bound(10):.4f}; worst Q: "
            f"{result.worst['floor'][ten]:.4f}, twice the bound",
        ),
        Finding(
            "eq. 52",
            "it is 1/(2(v − 1)) for uniform Q",
            all(abs(e / b - 1) < 1e-3 for e, b in zip(result.uniform["floor"], bounds, strict=True)),
            f"v = 10: {result.uniform['floor'][ten]:.4f}; over v − 1 intervals, not v; the top score is given to "
            f"{100 * result.top:.0f} % of Q",
        ),
        Finding(
            "corrected",
            "eq. 10 holds for every Q with S rounded to the nearest",
            within(result.worst["nearest"]),
            f"v = 10: worst {result.worst['nearest'][ten]:.4f}, uniform {result.uniform['nearest'][ten]:.4f} "
            "= 1/(4(v − 1))",
        ),
        Finding(
            "corrected",
            "and for every Q with S drawn from both neighbours so that its mean is Q",
            within(result.worst["neighbours"]),
            f"v = 10: worst {result.worst['neighbours'][ten]:.4f}",
        ),
        Finding(
            "eq. 10, section 3.3",
            "it holds for sampled scores",
            within(result.uniform["blurred"]) and within(result.uniform["extremes"]),
            f"judge with error {SPREAD}: v = 10 {result.uniform['blurred'][ten]:.3f}, v = {LEVELS[last]} "
            f"{result.uniform['blurred'][last]:.3f}, does not fall; calibrated judge that says only 0 or v − 1: "
            f"{result.uniform['extremes'][ten]:.3f} at every v",
        ),
        Finding(
            "corrected",
            "reading the mean removes what is noise: it is within 1/(2(v − 1)) where the judge is calibrated",
            within(result.mean_read["extremes"]) and within(result.mean_read["neighbours"]),
            f"0 or v − 1: {result.mean_read['extremes'][ten]:.4f}; judge with error {SPREAD}, v = 10: "
            f"{result.mean_read['blurred'][ten]:.3f} (its bias at both ends of the scale)",
        ),
        Finding(
            "not in the paper",
            "the least of K sampled step scores (`scoring.aggregation: min`) accepts as one score does",
            result.accepted[-1] > 0.9 * result.accepted[0],
            f"every step of quality {QUALITY}, θ = {THRESHOLD}: accepted {result.accepted[0]:.2f} at K = 1, "
            f"{result.accepted[3]:.2f} at 8, {result.accepted[-1]:.2f} at 16; mean of the least "
            f"{9 * result.least[0]:.1f}, {9 * result.least[3]:.1f}, {9 * result.least[-1]:.1f}",
        ),
    ]


def draw(result: Granularity, path: Path) -> None:
    """Left: error by v. Right: what the minimum over sampled step scores does to acceptance."""
    figure, (left, right) = panels(2)
    lines = (
        ("floor, worst Q", result.worst["floor"], RED, "-"),
        ("nearest, worst Q", result.worst["nearest"], BLUE, "-"),
        ("floor, uniform Q", result.uniform["floor"], RED, "--"),
        ("nearest, uniform Q", result.uniform["nearest"], BLUE, "--"),
        (f"sampled, judge's error {SPREAD}", result.uniform["blurred"], GREEN, "-"),
        ("sampled, only 0 or v − 1", result.uniform["extremes"], ORANGE, "-"),
    )
    for label, values, colour, style in lines:
        left.plot(LEVELS, values, color=colour, ls=style, lw=1.6, label=label)
    left.plot(LEVELS, [bound(v) for v in LEVELS], "o", ms=4, color=GREY, label="bound of eq. 10")
    left.set(xscale="log", yscale="log", xlabel="scores v", ylabel="E|Q − S/(v − 1)|")
    left.legend(frameon=False, fontsize=7)
    right.plot(STEPS, result.accepted, "o-", color=BLUE, label=f"accepted, θ = {THRESHOLD}")
    right.plot(STEPS, result.least, "o-", color=RED, label="mean of the least score / 9")
    right.axhline(QUALITY, color=GREY, lw=1, ls="--", label="quality of every step")
    right.set(xlabel="steps K", xscale="log", xticks=STEPS, ylim=(0, 1.02))
    right.set_xticklabels([str(k) for k in STEPS])
    right.minorticks_off()
    right.legend(frameon=False, fontsize=8)
    save(figure, path)
