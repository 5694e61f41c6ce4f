"""OVD with its teacher behind a real OpenAI-compatible server, as a black box: text in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.callbacks.rollout import PHASES
from tests.served import serve
from tests.workflow import cli

ENGINE = "--method.init_args.teacher.init_args.engine"


@pytest.mark.vllm
@pytest.mark.slow
def test_a_black_box_teacher_scores_and_demonstrates(tmp_path: Path) -> None:
    """No tokenizer, no extension of the protocol: scores come from top_logprobs, demonstrations are re-tokenised."""
    with serve("ovd_lightning/assets/teacher", "teacher", 256, tmp_path / "log") as url:
        cli.fit(
            tmp_path / "run", *cli.HF, f"{ENGINE}=ovd_lightning.engines.openai.OpenAIEngine",
            f"{ENGINE}.init_args.model=teacher", f"{ENGINE}.init_args.base_url={url}",
            f"{ENGINE}.init_args.vllm_extensions=false", f"{ENGINE}.init_args.extra_body={{top_k: 0}}",
            f"--method.init_args.teacher.init_args.cache={tmp_path}/answers.sqlite", "--method.init_args.judged=all",
        )  # fmt: skip
    rounds = cli.rounds(tmp_path / "run")
    assert len(rounds) == 3
    for row in rounds:
        assert row["score/parse_failures"] == 0
        assert row["teacher/demonstration_failures"] == 0
        assert row["score/mass"] > 0.9
        assert row["reward/mixture"] >= row["reward/student"]
    assert sum(row["ovd/replaced_fraction"] for row in rounds) > 0
    written = [line for line in cli.transcripts(tmp_path / "run") if line["source"] == "teacher"]
    assert sum(line["correct"] for line in written) > 0.8 * len(written)
    assert not any(line["truncated"] for line in written)
    assert (tmp_path / "answers.sqlite").stat().st_size > 0


@pytest.mark.vllm
@pytest.mark.slow
def test_a_served_teacher_is_asked_while_the_student_is_sampled(tmp_path: Path) -> None:
    """With vLLM for both, the student's in this process: the same run as when it is asked afterwards. The server's
    log-probabilities depend on its batches in the last digits."""
    teacher = "ovd_lightning/assets/teacher"
    with serve(teacher, "teacher", 256, tmp_path / "log") as url:
        for overlap in ("true", "false"):
            cli.fit(
                tmp_path / overlap, f"{ENGINE}=ovd_lightning.engines.openai.OpenAIEngine",
                f"{ENGINE}.init_args.model=teacher", f"{ENGINE}.init_args.base_url={url}",
                f"{ENGINE}.init_args.tokenizer={teacher}", f"--rollout.overlap={overlap}",
            )  # fmt: skip
    beside, after = cli.rounds(tmp_path / "true"), cli.rounds(tmp_path / "false")
    assert all(row["time/overlapped"] > 0 for row in beside)
    assert not any("time/overlapped" in row for row in after)
    for row in beside:
        names = (*PHASES, "checkpoint", "other")
        assert row["time/round"] == pytest.approx(sum(row.get(f"time/{name}", 0.0) for name in names))
    assert len(beside) == len(after) == 3
    for a, b in zip(beside, after, strict=True):
        assert cli.timeless(a) == pytest.approx(cli.timeless(b), rel=1e-4)
        assert {k: v for k, v in a.items() if k.startswith(("reward/", "ovd/", "teacher/", "policy/", "loss"))} == {
            k: v for k, v in b.items() if k.startswith(("reward/", "ovd/", "teacher/", "policy/", "loss"))
        }
    lines = [[_without_distributions(y) for y in cli.transcripts(tmp_path / name)] for name in ("true", "false")]
    assert lines[0] == lines[1]
    assert sum(y["source"] == "teacher" for y in lines[0]) > 0


def _without_distributions(y: dict[str, Any]) -> dict[str, Any]:
    steps = [{k: v for k, v in step.items() if k != "distribution"} for step in y["steps"]]
    return {**{k: v for k, v in y.items() if k != "distribution"}, "steps": steps}
