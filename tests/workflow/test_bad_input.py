"""Bad input ends at once with the setting and the hint, before any model is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import measured
from tests.workflow import cli

LITERAL = ["--method=configs/method/ovd_literal.yaml"]
TEACHER = "--method.init_args.teacher.init_args.engine"


@pytest.mark.parametrize(
    ("args", "setting"),
    [
        (["--method.init_args.threshold=12"], "method.init_args.threshold"),
        ([*LITERAL, "--method.init_args.group_size=1"], "method.init_args.group_size"),
        ([*cli.GRPO, "--method.init_args.group_size=1"], "method.init_args.group_size"),
        (["--method.init_args.tau=3"], "method.init_args.tau: OVD takes no tau."),
        (["--model.student=nowhere/at/all"], "model.student"),
        (["--model.student=configs"], "model.student"),
        (["--model.student=nobody/nothing"], "model.student: nobody/nothing cannot be loaded"),
        ([f"{TEACHER}.init_args.tokenizer=nobody/nothing"], f"{TEACHER[2:]}.init_args.tokenizer: nobody"),
        (
            [f"{TEACHER}=ovd_lightning.engines.openai.OpenAIEngine", f"{TEACHER}.init_args.model=m",
             f"{TEACHER}.init_args.base_url=http://127.0.0.1:9/v1"],
            "base_url",
        ),
        ([f"{TEACHER}.init_args.model=ovd_lightning/assets/none"], "ovd_lightning/assets/none"),
        (["--method.init_args.teacher.init_args.judge.init_args.scale=one_to_ten"], "judge.init_args.scale"),
        (["--rollout.max_tokens=300"], "rollout.max_tokens"),
        (["--trainer.accumulate_grad_batches=64"], "trainer.accumulate_grad_batches"),
        (["--task=tests.workflow.bad_task.NoReference"], "no reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_clear_error(args: list[str], setting: str, tmp_path: Path) -> None:
    with measured() as used:
        done = cli.run(
            "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *args, f"--trainer.default_root_dir={tmp_path}"
        )
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert setting in last
    assert "Traceback" not in done.stderr
    assert "usage:" not in done.stderr
    assert not (tmp_path / "checkpoints").exists()
    assert used.seconds < 60


def test_help_is_quick_and_lists_the_commands() -> None:
    with measured() as used:
        done = subprocess.run(
            [sys.executable, "-m", "ovd_lightning", "--help"], cwd=cli.ROOT, capture_output=True, text=True, check=True
        )
    assert used.seconds < 1
    assert all(word in done.stdout for word in ("fit", "validate", "test", "predict", "method"))
