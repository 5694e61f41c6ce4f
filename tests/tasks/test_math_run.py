"""A run of the command line on mathematical problems: trained on one, evaluated on two sets, every answer graded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovd_lightning.tasks.math_benchmarks import ENTRIES
from tests.helpers import save_tiny_model
from tests.tasks.math_rows import common_rows, write_jsonl
from tests.workflow import cli

CONFIG = """
run: {{name: math}}
task:
  class_path: ovd_lightning.tasks.math.MathTask
  init_args: {{data: {folder}/pool.jsonl, ids: [lock], config: null}}
method: {{class_path: ovd_lightning.methods.grpo.GRPO, init_args: {{group_size: 2}}}}
engine: {{class_path: ovd_lightning.engines.hf.HFEngine}}
model: {{student: {folder}/student}}
data:
  benchmarks:
    class_path: ovd_lightning.tasks.math.MathSuite
    init_args: {{names: [aime24, gaokao], validation: [gaokao2024_II], folder: {folder}/copies, style: plain}}
  problems_per_round: 3
  rounds: 1
rollout: {{max_tokens: 8, temperature: 1.0}}
trainer: {{accelerator: cpu, devices: 1, enable_model_summary: false, default_root_dir: {folder}/run}}
"""


@pytest.mark.slow
def test_a_reference_that_cannot_be_graded_stops_the_run_before_the_model_is_loaded(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "student", tied=True, context=1024)
    rows = [{"id": "lock", "question": "What is 1 + 1?", "answers": [r"\frac{1}{2"]}]
    write_jsonl(tmp_path / "pool.jsonl", rows)
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    done = cli.run("fit", f"--config={tmp_path}/config.yaml", "--data.benchmarks=null")
    assert done.returncode != 0
    assert "'lock'" in done.stderr + done.stdout
    assert "no response meets its reference" in done.stderr + done.stdout


@pytest.mark.slow
def test_one_example_trains_and_every_problem_of_the_sets_is_answered(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "student", tied=True, context=1024)
    pool = [("other", "What is 0 + 1?", "1"), ("lock", "What is 1 + 1?", "2")]
    write_jsonl(tmp_path / "pool.jsonl", [{"id": i, "question": q, "answers": [a]} for i, q, a in pool])
    for name in ("aime24", "gaokao", "gaokao2024_II"):
        write_jsonl(tmp_path / "copies" / f"{ENTRIES[name].file}.jsonl", common_rows(ENTRIES[name]))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))

    done = cli.run("fit", f"--config={tmp_path}/config.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    trained_on = [line["problem_id"] for line in cli.transcripts(tmp_path / "run")]
    assert trained_on == ["lock"] * 6, "3 groups of 2 of the one example"

    lines = [line for path in tmp_path.rglob("evaluations/test-*.jsonl") for line in path.read_text().splitlines()]
    answers = [answer for answer in map(json.loads, lines) if answer["step"] == 1]
    assert sorted(answer["id"] for answer in answers) == sorted(
        [f"aime24-{i}" for i in range(30)] + [f"gaokao2024_I-{i}" for i in range(14)]
    )
    assert {answer["grading"] for answer in answers} == {"qwen"}
