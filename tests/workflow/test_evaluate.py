"""validate and predict, and evaluation's denominators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflow import cli

LIMITS = ["--data.validation_limit=7", "--data.test_limit=5", "--data.eval_batch_size=3"]


@pytest.mark.parametrize(("verb", "split", "count"), [("validate", "validation", 7), ("predict", "predict", 5)])
def test_every_problem_is_answered_once(verb: str, split: str, count: int, tmp_path: Path) -> None:
    args = [*cli.HF, *cli.GRPO, *LIMITS, "--benchmark.samples=2", f"--trainer.default_root_dir={tmp_path}"]
    done = cli.run(verb, "--config=configs/quickstart.yaml", *args)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / f"evaluations/{split}-000000.jsonl").read_text().splitlines()]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    assert len({row["id"] for row in greedy}) == len(greedy) == count
    assert len(rows) == 3 * count
    if verb == "validate":
        last = cli.metrics(tmp_path)[-1]
        assert last["eval/arithmetic/accuracy"] == pytest.approx(sum(row["correct"] for row in greedy) / count)
        sampled = [row["correct"] for row in rows if row["decoding"] != "greedy"]
        assert last["eval/arithmetic/sampled_accuracy"] == pytest.approx(sum(sampled) / len(sampled))
        assert "greedy accuracy" in done.stdout
