"""How large the transcripts of a run of configs/math.yaml become: one round of its size is written and multiplied.

    python -m benchmarks.speed.transcripts                 # 128 problems x 8, half of them replaced, 20 steps each
    python -m benchmarks.speed.transcripts --text FILE     # steps cut from a text of yours, e.g. solutions

The steps are passages from random places of this repository's documentation: English, with numbers and formulas, and
few of them twice within the 32 KiB that gzip looks back.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from pathlib import Path

from ovd_lightning.round.transcripts import LEVEL, TranscriptWriter, read_file
from ovd_lightning.types import Grade, Group, Problem, Source, Step, Trajectory

ROOT = Path(__file__).resolve().parents[2]
GROUPS, SAMPLES, ROUNDS = 128, 8, 800
"""Of configs/math.yaml."""


class Writer:
    """Invents trajectories.

    Args:
        text: that steps are cut from.
        steps: of a trajectory.
        characters: of a step, on average.
    """

    def __init__(self, text: str, steps: int, characters: int) -> None:
        self.text, self.steps, self.characters = text, steps, characters
        self.rng = random.Random(0)

    def passage(self) -> str:
        start = self.rng.randrange(len(self.text) - 2 * self.characters)
        return self.text[start : start + self.rng.randrange(1, 2 * self.characters)].strip() or "so"

    def trajectory(self, problem: Problem, group: int, sample: int, source: Source) -> Trajectory:
        y = Trajectory(problem=problem, prompt_ids=[1], group=group, sample=sample, source=source)
        y.grade = Grade(reward=1.0, correct=True, answer="3")
        for i in range(self.steps):
            step = Step(start=50 * i, end=50 * i + 50, text=self.passage())
            if source == "student":
                weights = [self.rng.random() ** 4 for _ in range(10)]
                step.score, step.distribution = float(self.rng.randrange(10)), [w / sum(weights) for w in weights]
            y.steps.append(step)
        y.text = "\n\n".join(step.text for step in y.steps)
        y.completion_mask, y.advantages = [True] * 50 * self.steps, [1.0] * 50 * self.steps
        return y

    def group(self, index: int) -> Group:
        """Every second trajectory is replaced."""
        problem = Problem(id=str(index), question=self.passage(), answers=("3",))
        sampled = [self.trajectory(problem, index, j, "student") for j in range(SAMPLES)]
        written = [self.trajectory(problem, index, j, "teacher") for j in range(SAMPLES)]
        return Group(
            problem=problem,
            sampled=sampled,
            mixture=[(y, z)[j % 2] for j, (y, z) in enumerate(zip(sampled, written, strict=True))],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", type=Path, help="that steps are cut from; default: docs/*.md")
    add("--steps", type=int, default=20, help="of a trajectory (%(default)s)")
    add("--characters", type=int, default=170, help="of a step, on average (%(default)s)")
    options = parser.parse_args()
    files = [options.text] if options.text else sorted((ROOT / "docs").glob("*.md"))
    writer = Writer("\n".join(file.read_text(encoding="utf-8") for file in files), options.steps, options.characters)
    groups = [writer.group(index) for index in range(GROUPS)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        path = TranscriptWriter(Path(folder)).write(0, groups)
        seconds, size = time.process_time() - begun, path.stat().st_size
        once = len(gzip.decompress(path.read_bytes()))
        lines = [json.dumps(y, ensure_ascii=False) for y in read_file(path)]
    print(f"{len(lines)} trajectories a round, {ROUNDS} rounds; written in {seconds:.2f} s of processor time a round")
    for name, amount in (
        ("every line complete", sum(len(line.encode()) + 1 for line in lines)),
        ("every text once", once),
        (f"... and compressed (gzip, level {LEVEL})", size),
    ):
        print(f"{name:40}{amount / 1e6:8.1f} MB a round{amount * ROUNDS / 1e9:8.1f} GB a run")


if __name__ == "__main__":
    main()
