"""lm-evaluation-harness answers as the run's own evaluation does, by the recipe of docs/student.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow import cli

PAGE = (cli.ROOT / "docs/student.md").read_text(encoding="utf-8")
pytest.importorskip("lm_eval", reason="the extra [lm-eval] is not installed: make test-extras")


def block(title: str) -> str:
    (found,) = re.findall(rf'^```\w+ title="{title}"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.slow
@pytest.mark.extras
def test_every_problem_is_answered_and_judged_as_by_the_run(tmp_path: Path) -> None:
    cli.fit(tmp_path / "runs/first", *cli.HF, "--run.wandb=disabled", "--data.test_limit=48", "--benchmark.samples=0")
    last = sorted((tmp_path / "runs/first/evaluations").glob("test-*.jsonl"))[-1]
    own = [json.loads(line) for line in last.read_text().splitlines()]
    assert len(own) == 48
    assert 0 < sum(answer["correct"] for answer in own) < 48  # both kinds are compared

    rows = [json.dumps({"question": answer["question"], "answer": answer["reference"][0]}) for answer in own]
    (tmp_path / "chains.jsonl").write_text("\n".join(rows))
    (tmp_path / "chains.yaml").write_text(block("chains.yaml"))
    (recipe,) = re.findall(r"^# needs lm_eval\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    command, *words = shlex.split(recipe.replace("\\\n", " "))
    done = subprocess.run(
        [sys.executable, "-m", command, *words, "--log_samples"], cwd=tmp_path,
        env=cli.environment(HF_HOME=str(tmp_path / "home")), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    (samples,) = (tmp_path / "chains").rglob("samples_chains_*.jsonl")
    theirs = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda s: s["doc_id"])
    assert [sample["doc"]["question"] for sample in theirs] == [answer["question"] for answer in own]
    assert [sample["resps"][0][0].strip() for sample in theirs] == [answer["response"].strip() for answer in own]
    assert [sample["exact_match"] == 1 for sample in theirs] == [answer["correct"] for answer in own]
