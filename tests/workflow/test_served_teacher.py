"""OVD with its teacher behind a real OpenAI-compatible server, as a black box: text in, text out."""

from __future__ import annotations

from pathlib import Path

import pytest

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
            f"--method.init_args.teacher.init_args.cache={tmp_path}/answers.sqlite",
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
