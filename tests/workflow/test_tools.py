"""Tool use through the command line: configs/quickstart_tools.yaml on real vLLM with a real sandbox."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.workflow import cli

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONFIG = "configs/quickstart_tools.yaml"
TEACHER = "ovd_lightning/assets/tools/teacher"
TWO = ["--data.rounds=2", "--checkpoint.every_n_rounds=2"]
EPOCHS = 2
METHODS = {
    "sod": ["--method=configs/method/sod.yaml", f"--method.init_args.teacher.init_args.model={TEACHER}"],
    "ovd": [],
}


def called(rows: Sequence[dict[str, float]]) -> None:
    """Programs ran, in turns, and the interpreter could run them."""
    for row in rows:
        assert row["environment/calls"] >= 4 * 8  # of 4 problems with 8 trajectories
        assert row["environment/failed_calls"] == row["environment/timed_out_calls"] == 0
        assert row["environment/turns_mean"] > 1.5
        assert row["environment/observation_tokens_mean"] > 5
        # A turn is generated after the very tokens that the trainer sees: more than rounding would be another history.
        assert row["mismatch/logprob_abs_max"] < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_two_rounds_on_real_vllm_with_a_real_sandbox(method: str, tmp_path: Path) -> None:
    cli.fit(tmp_path, *METHODS[method], *TWO, config=CONFIG)
    rows = cli.rounds(tmp_path)
    assert [row["round"] for row in rows] == [0, 1]
    called(rows)
    lines = cli.transcripts(tmp_path)
    for row in rows:
        mixture = [line for line in lines if line["round"] == row["round"] and line["in_mixture"]]
        assert sum(line["observation_tokens"] for line in mixture) > 100
        trained = row["throughput/trained_tokens_per_s"] * row["time/train"]
        assert round(trained) == EPOCHS * sum(line["tokens"] for line in mixture), "observations are never trained"
        assert row["policy/grad_norm"] > 0
    if method == "sod":
        later = [row["sod/step_weight_later"] for row in rows]
        assert all(math.isfinite(weight) and 0 < weight <= 1.2 for weight in later)
        assert all(row["sod/step_weight"] != row["sod/step_weight_later"] for row in rows), "the first step weighs 1"
        assert later[0] != later[1]
        assert {line["source"] for line in lines} == {"student"}
    else:
        assert all(row["score/parse_failures"] == 0 and row["score/mass"] > 0.9 for row in rows)
        # What the teacher copies wrongly, one problem in forty, may be wrong in all demonstrations: 8 of a round's 30.
        assert sum(row["ovd/teacher_reward"] for row in rows) / len(rows) > 0.7
        assert all(row["reward/mixture"] > row["reward/student"] for row in rows)
        taught = [line for line in lines if line["source"] == "teacher"]
        assert sum("<tool_response>" in line["text"] for line in taught) > 0.9 * len(taught), "in the same environment"
