"""The curves of a run as one picture: reward before replacement, acceptance, replaced share, validation accuracy.

    python -m benchmarks.compare.curve runs/quickstart_web/… --out docs/figures/quickstart_web.svg

Drawn from the run's metrics.csv. The run's report.html has these and more curves, interactively.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ovd_lightning.report.read import read_metrics

CURVES = {
    "reward/student": "reward, before replacement",
    "ovd/acceptance_rate": "accepted",
    "ovd/replaced_fraction": "replaced by the teacher",
}


def draw(run: Path, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "curve"  # the same picture from the same numbers, byte for byte
    import matplotlib.pyplot as plt

    metrics = read_metrics(run)
    figure, axes = plt.subplots(figsize=(7, 3))
    for name, label in CURVES.items():
        if name in metrics:
            axes.plot(*zip(*metrics[name], strict=True), label=label, linewidth=1.5)
    for name in sorted(n for n in metrics if n.startswith("eval/") and n.endswith("/accuracy") and "average" not in n):
        axes.plot(
            *zip(*metrics[name], strict=True), "o--", label=f"{name.split('/')[1]}, validation, greedy", color="black"
        )
    axes.set(xlabel="optimiser step", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help=".svg or .png")
    args = parser.parse_args()
    draw(args.run, args.out)


if __name__ == "__main__":
    main()
