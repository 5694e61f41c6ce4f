"""Section 3.5 of the paper, checked: Theorem 3.1 and Propositions 3.2 to 3.4, as printed and as they hold.

    python -m benchmarks.paper.theory                  # the table
    python -m benchmarks.paper.theory --figures docs/figures

The worlds are small enough to enumerate (27 trajectories, `benchmarks/paper/theorems/world.py`), so every comparison is
exact. Only the package's own OVD is sampled; its gradients come with their standard error.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.paper.finding import Finding, table
from benchmarks.paper.theorems import convergence, granularity, unbiased, variance


def sections(figures: Path | None) -> dict[str, list[Finding]]:
    """Every check, and its figure where a folder is given."""
    theorem, mixture = unbiased.check(), unbiased.check_mixture()
    reduction, runs, scores = variance.check(), convergence.check(), granularity.check()
    if figures is not None:
        unbiased.draw(theorem, figures / "theory_3_1_gradient.svg")
        unbiased.draw_mixture(mixture, figures / "theory_eq_6_mixture.svg")
        variance.draw(reduction, figures / "theory_3_2_variance.svg")
        convergence.draw(runs, figures / "theory_3_3_convergence.svg")
        granularity.draw(scores, figures / "theory_3_4_granularity.svg")
    return {
        "Theorem 3.1: unbiased gradients": unbiased.findings(theorem),
        "Equations 6 and 11: the mixture": unbiased.mixture_findings(mixture),
        "Proposition 3.2: variance": variance.findings(reduction),
        "Proposition 3.3: convergence": convergence.findings(runs),
        "Proposition 3.4: granularity": granularity.findings(scores),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="folder for one SVG a statement; needs matplotlib")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    start = time.perf_counter()
    for title, findings in sections(arguments.figures).items():
        print(f"## {title}\n\n{table(findings)}\n")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
