"""GRPO, OVD by default, OVD as Algorithm 1 is printed, and thresholds, on the quickstart, over seeds.

    python benchmarks/quickstart_methods.py                    # everything, about an hour on 2 cores
    python benchmarks/quickstart_methods.py --only grpo ovd --seeds 0

Every run is `python -m ovd_lightning fit --config configs/quickstart.yaml` with flags, from the same initial
student, with the same number of student samples. A finished run is not repeated (runs/quickstart_methods keeps them).
Printed: held-out test accuracy after training, greedy and sampled, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OVERLAY = "--method=configs/method/{}.yaml"
METHODS: dict[str, tuple[str, list[str]]] = {
    "grpo": ("GRPO", [OVERLAY.format("grpo")]),
    "ovd_literal": ("OVD, Algorithm 1 as printed (theta 7)", [OVERLAY.format("ovd_literal")]),
    "ovd": ("OVD, default (eq. 7, theta 7)", []),
    "theta0": ("OVD, theta 0", ["--method.init_args.threshold=0"]),
    "theta5": ("OVD, theta 5", ["--method.init_args.threshold=5"]),
    "theta10": ("OVD, theta 10", ["--method.init_args.threshold=10"]),
    "score_theta0": (
        "OVD, score only, theta 0",
        ["--method.init_args.replace_when=score", "--method.init_args.threshold=0"],
    ),
    "score_theta5": (
        "OVD, score only, theta 5",
        ["--method.init_args.replace_when=score", "--method.init_args.threshold=5"],
    ),
    "score_theta7": ("OVD, score only, theta 7", ["--method.init_args.replace_when=score"]),
    "student_baseline": ("OVD, student's baseline", [OVERLAY.format("ovd_student_baseline")]),
    "one_replaced": ("OVD, at most one replaced", [OVERLAY.format("ovd_one_replaced")]),
    "added": ("OVD, teacher's added", [OVERLAY.format("ovd_added")]),
    "continuation": ("OVD, continuation", [OVERLAY.format("ovd_continuation")]),
    "step_rewards": ("OVD, step rewards (eq. 3)", [OVERLAY.format("ovd_step_rewards")]),
    "trajectory_score": ("OVD, trajectory score", [OVERLAY.format("ovd_trajectory_score")]),
}
DEFAULT = ["grpo", "ovd_literal", "theta0", "theta5", "ovd", "theta10", "score_theta0", "score_theta5", "score_theta7"]


def train(name: str, seed: int, out: Path, flags: list[str]) -> dict[str, float]:
    """One run; its measurements, also written to <out>/<name>-<seed>/result.json."""
    folder = out / f"{name}-{seed}"
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text())
    command = [
        sys.executable, "-m", "ovd_lightning", "fit", "--config=configs/quickstart.yaml", *METHODS[name][1], *flags,
        f"--data.seed={seed}", f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}",
        "--benchmark.every_n_rounds=0", "--benchmark.samples=4", "--run.wandb=disabled", "--summary.report=false",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    start = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}, failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    with (folder / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    measured = [r for r in rows if "test/arithmetic/accuracy" in r]
    rounds = [r for r in rows if "reward/student" in r]
    values = {
        "before": measured[0]["test/arithmetic/accuracy"],
        "before_sampled": measured[0]["test/arithmetic/sampled_accuracy"],
        "greedy": measured[-1]["test/arithmetic/accuracy"],
        "sampled": measured[-1]["test/arithmetic/sampled_accuracy"],
        "accepted_first": rounds[0].get("ovd/acceptance_rate", float("nan")),
        "accepted_last": rounds[-1].get("ovd/acceptance_rate", float("nan")),
        "zero_advantage": statistics.mean(r["ovd/zero_advantage_groups"] for r in rounds),
        "student_samples": rounds[-1]["samples"],
        "teacher_tokens": sum(r.get("teacher/completion_tokens", 0.0) for r in rounds),
        "seconds": time.perf_counter() - start,
    }
    result.write_text(json.dumps(values, indent=1))
    print(f"{name:18s} seed {seed}: greedy {values['greedy']:.1%} sampled {values['sampled']:.1%} "
          f"({values['seconds']:.0f} s)", flush=True)  # fmt: skip
    return values


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent."""
    mean = statistics.mean(values) * 100
    return f"{mean:.1f} ± {statistics.stdev(values) * 100:.1f}" if len(values) > 1 else f"{mean:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=DEFAULT)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, help="default: the quickstart's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "quickstart_methods")
    args = parser.parse_args()
    flags = [f"--data.rounds={args.rounds}"] if args.rounds else []
    wanted = [(name, seed) for seed in args.seeds for name in args.only]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(wanted, pool.map(lambda w: train(w[0], w[1], args.out, flags), wanted), strict=True))
    first = results[wanted[0]]
    print(f"\nbefore: greedy {first['before']:.1%}, sampled {first['before_sampled']:.1%}; "
          f"{first['student_samples']:.0f} student samples a run; {len(args.seeds)} seeds\n")  # fmt: skip
    print("| method | greedy % | sampled % | accepted, first → last | zero-advantage groups | teacher tokens |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.only:
        runs = [results[name, seed] for seed in args.seeds]
        mean = {key: statistics.mean(r[key] for r in runs) for key in runs[0]}
        accepted = "–" if mean["accepted_first"] != mean["accepted_first"] else (
            f"{mean['accepted_first']:.0%} → {mean['accepted_last']:.0%}"
        )  # fmt: skip
        greedy, sampled = (spread([r[kind] for r in runs]) for kind in ("greedy", "sampled"))
        print(f"| {METHODS[name][0]} | {greedy} | {sampled} | "
              f"{accepted} | {mean['zero_advantage']:.0%} | {mean['teacher_tokens']:,.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
