"""All methods on the quickstart, over seeds and initial students, at equal student samples and equal teacher tokens.

    python -m benchmarks.compare.quickstart_methods                    # 66 runs: about an hour on two cores
    python -m benchmarks.compare.quickstart_methods --only grpo ovd --seeds 0
    python -m benchmarks.compare.quickstart_methods --task tools       # arithmetic with the interpreter; or web
    python -m benchmarks.compare.quickstart_methods --students first --rates 1e-4 3e-4 1e-3 --seeds 0 1 2 3 4 \
        --only grpo seqkd ovd decoupled luffy judge_reward --plot runs/first.svg    # learning rates of equal number
    python -m benchmarks.compare.quickstart_methods --students first \
        --only theta0 theta5 ovd theta10 score_theta0 score_theta5 score_theta7    # thresholds

Every run is `python -m ovd_lightning fit` with a config and flags, and the same number of groups of eight (LUFFY: of
seven, and one of the teacher). A finished run is not repeated (runs/quickstart_methods keeps them), so that an
interrupted comparison goes on where it stopped. With `--rates`, every method runs with each learning rate; the table of
a method has the rate with the best validation accuracy (greedy, after the last round, mean over seeds), and a second
table all of them. Printed, as mean and standard deviation over seeds:

- held-out test accuracy after the last round, greedy and sampled, at equal student samples. (For SeqKD and half of GKD
  the teacher samples, and DAPO resamples groups without variance; the number of student samples is a column.)
- held-out validation accuracy at an equal budget of teacher tokens, interpolated between two evaluations of a run. The
  budget is the smallest total of any method with a teacher. Tokens read and written both count, as an endpoint would
  bill them.
- CPU seconds of a run, its evaluations and imports included.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.compare import picture
from benchmarks.compare.settings import METHODS, SETTINGS, Setting


def train(
    setting: Setting, student: str, name: str, rate: str | None, seed: int, out: Path, flags: list[str]
) -> dict[str, Any]:
    """One run; what it measured, also written to <out>/<student>/<name>[-<rate>]-<seed>/result.json."""
    folder = out / student / "-".join([name, *([] if rate is None else [rate]), str(seed)])
    result = folder / "result.json"
    if result.exists():
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    folder.mkdir(parents=True)
    chosen = [] if rate is None else [f"--model.learning_rate={rate}"]
    command = [
        sys.executable, "-m", "ovd_lightning", "fit", f"--config={setting.config}", *METHODS[name][1],
        *setting.flags.get(name, []), f"--model.student={setting.students[student]}", *chosen, *flags,
        f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", "--benchmark.every_n_rounds=10",
        "--benchmark.samples=2", "--run.wandb=disabled", "--summary.report=false", "--rollout.transcripts=false",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    with (folder / "output.txt").open("w") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)  # whose CPU time holds its own children's
    if status:
        raise RuntimeError(f"{folder.name}, {student} student, failed; {output.name} ends:\n{tail(output.name)}")
    measured = read(folder / "metrics.csv", setting.benchmark)
    measured["cpu_seconds"] = used.ru_utime + used.ru_stime
    result.write_text(json.dumps(measured, indent=1))
    print(f"{folder.name}, {student} student: greedy {measured['greedy']:.1%} sampled {measured['sampled']:.1%} "
          f"({measured['cpu_seconds']:.0f} s)", flush=True)  # fmt: skip
    return measured


def tail(path: str) -> str:
    return Path(path).read_text()[-4000:]


def read(path: Path, benchmark: str) -> dict[str, Any]:
    """From metrics.csv: accuracies, the teacher's tokens, and the curve of both."""
    with path.open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    names = {kind: f"{benchmark}/{metric}" for kind, metric in KINDS.items()}
    tested = [r for r in rows if f"test/{names['greedy']}" in r]
    curve, spent = [], 0.0  # in the order in which the rows were written
    for r in rows:
        spent += r.get("teacher/prompt_tokens", 0.0) + r.get("teacher/completion_tokens", 0.0)
        if f"eval/{names['greedy']}" in r:
            curve.append({"spent": spent, **{kind: r[f"eval/{name}"] for kind, name in names.items()}})
    rounds = [r for r in rows if "loss" in r]
    return {
        **{f"{kind}_before": tested[0][f"test/{name}"] for kind, name in names.items()},
        **{kind: tested[-1][f"test/{name}"] for kind, name in names.items()},
        "curve": curve,
        "read": sum(r.get("teacher/prompt_tokens", 0.0) for r in rounds),
        "written": sum(r.get("teacher/completion_tokens", 0.0) for r in rounds),
        "student_samples": sum(map(student_samples, rounds)),
        "zero_advantage": mean([r["ovd/zero_advantage_groups"] for r in rounds if "ovd/zero_advantage_groups" in r]),
        "accepted_first": rounds[0].get("ovd/acceptance_rate"),
        "accepted_last": rounds[-1].get("ovd/acceptance_rate"),
    }


def student_samples(row: dict[str, float]) -> int:
    """Trajectories that the student wrote in a round: DAPO draws some groups again, GKD draws half."""
    tokens = row.get("throughput/generated_tokens_per_s", 0.0) * row["time/generate"]
    return round(tokens / row["completion/length_mean"]) if "completion/length_mean" in row else 0


KINDS = {"greedy": "accuracy", "sampled": "sampled_accuracy"}


def mean(values: list[float]) -> float | None:
    return statistics.mean(values) if values else None


def at(curve: list[dict[str, float]], spent: float, kind: str) -> float | None:
    """Accuracy when ``spent`` tokens of the teacher were spent, linear between two evaluations; None: never spent."""
    for a, b in pairwise(curve):
        if a["spent"] <= spent <= b["spent"] and b["spent"] > a["spent"]:
            return a[kind] + (b[kind] - a[kind]) * (spent - a["spent"]) / (b["spent"] - a["spent"])
    return None


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent."""
    average = statistics.mean(values) * 100
    return f"{average:.1f} ± {statistics.stdev(values) * 100:.1f}" if len(values) > 1 else f"{average:.1f}"


def validated(runs: Sequence[Mapping[str, Any]]) -> float:
    """Mean greedy validation accuracy after the last round: what a learning rate is chosen by."""
    return statistics.mean(run["curve"][-1]["greedy"] for run in runs)


def best_rate(by_rate: Mapping[str | None, list[dict[str, Any]]]) -> str | None:
    """The learning rate with the best validation accuracy; of equal ones the first."""
    return max(by_rate, key=lambda rate: validated(by_rate[rate]))


def rates_table(by_method: Mapping[str, Mapping[str | None, list[dict[str, Any]]]]) -> list[str]:
    """Every learning rate of every method in Markdown: validation, which chooses, and test."""
    lines = ["| method | learning rate | validation, greedy % | test, greedy % | sampled % |", "| --- " * 5 + "|"]
    for name, by_rate in by_method.items():
        for rate, own in by_rate.items():
            chosen = "**" if rate == best_rate(by_rate) else ""
            values = [[r["curve"][-1]["greedy"] for r in own], *([r[kind] for r in own] for kind in KINDS)]
            cells = [METHODS[name][0], f"{chosen}{rate}{chosen}", *map(spread, values)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def table(names: list[str], runs: dict[str, list[dict[str, Any]]], budget: float) -> list[str]:
    """One initial student's rows in Markdown; ``runs`` holds the seeds of each method."""
    lines = [
        "| method | greedy % | sampled % | same teacher tokens: greedy % | sampled % | student's samples "
        "| teacher reads | writes | zero-advantage groups | accepted, first → last | CPU s |",
        "| --- " * 11 + "|",
    ]
    for name in names:
        own = runs[name]
        afterwards = [spread([r[kind] for r in own]) for kind in KINDS]
        equal = []
        for kind in KINDS:
            values = [v for r in own if (v := at(r["curve"], budget, kind)) is not None]
            equal.append(spread(values) if len(values) == len(own) else "–")
        idle = mean([r["zero_advantage"] for r in own if r["zero_advantage"] is not None])
        asked = [(r["accepted_first"], r["accepted_last"]) for r in own if r["accepted_first"] is not None]
        accepted = " → ".join(f"{statistics.mean(values):.0%}" for values in zip(*asked, strict=True)) or "–"
        tokens = [f"{statistics.mean(r[key] for r in own) / 1000:,.0f} k" for key in ("read", "written")]
        samples = f"{statistics.mean(r['student_samples'] for r in own):,.0f}"
        cells = [
            METHODS[name][0],
            *afterwards,
            *equal,
            samples,
            *tokens,
            "–" if idle is None else f"{idle:.0%}",
            accepted,
        ]
        lines.append("| " + " | ".join([*cells, f"{statistics.mean(r['cpu_seconds'] for r in own):.0f}"]) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=SETTINGS, default="arithmetic")
    parser.add_argument("--only", nargs="+", choices=METHODS, help="default: all methods of the task")
    parser.add_argument("--students", nargs="+", help="default: all of the task")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, help="default: the config's")
    parser.add_argument("--rates", nargs="+", help="learning rates; default: the config's alone")
    parser.add_argument("--budget", type=float, help="teacher tokens; default: the least that a method here spends")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "quickstart_methods")
    parser.add_argument("--plot", type=Path, help=".svg or .png of accuracy by teacher tokens; <student> is added")
    args = parser.parse_args()
    setting = SETTINGS[args.task]
    names, students = args.only or setting.methods, args.students or list(setting.students)
    if unknown := set(students) - set(setting.students):
        parser.error(f"--students: {', '.join(sorted(unknown))}; {args.task} has {', '.join(setting.students)}")
    flags = [f"--data.rounds={args.rounds}"] if args.rounds else []
    rates: list[str | None] = args.rates or [None]
    # Seed by seed, so that what is there after an interruption covers every method.
    wanted = [(student, name, r, seed) for seed in args.seeds for student in students for name in names for r in rates]

    def one(run: tuple[str, str, str | None, int]) -> dict[str, Any]:
        student, name, rate, seed = run
        return train(setting, student, name, rate, seed, args.out / args.task, flags)

    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(one, wanted)
        results = dict(zip(wanted, done, strict=True))
    for student in students:
        by_method: dict[str, dict[str | None, list[dict[str, Any]]]] = {
            name: {rate: [results[student, name, rate, seed] for seed in args.seeds] for rate in rates}
            for name in names
        }
        report(student, setting, by_method, args.budget, args.plot)


def report(
    student: str,
    setting: Setting,
    by_method: Mapping[str, Mapping[str | None, list[dict[str, Any]]]],
    budget: float | None,
    plot: Path | None,
) -> None:
    """Prints one initial student's tables and draws its picture."""
    runs = {name: by_rate[best_rate(by_rate)] for name, by_rate in by_method.items()}
    totals = [statistics.mean(r["read"] + r["written"] for r in own) for own in runs.values()]
    budget = budget or min((t for t in totals if t), default=0)
    first = next(iter(runs.values()))
    print(f"\n{student} student ({setting.students[student]}): before training greedy "
          f"{first[0]['greedy_before']:.1%}, sampled {first[0]['sampled_before']:.1%}; "
          f"{len(first)} seeds; same teacher tokens: {budget / 1000:,.0f} k\n")  # fmt: skip
    print("\n".join(table(list(runs), runs, budget)))
    if any(len(by_rate) > 1 for by_rate in by_method.values()):
        print("\n" + "\n".join(rates_table(by_method)))
    if plot is not None:
        named = {METHODS[name][0]: own for name, own in runs.items()}
        kinds = {"greedy": "validation accuracy, greedy %", "sampled": "sampled %"}
        picture.draw(named, kinds, plot.with_stem(f"{plot.stem}-{student}"))


if __name__ == "__main__":
    main()
