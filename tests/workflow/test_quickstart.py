"""The whole algorithm on the embedded models and real vLLM, through the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from tests.workflow import cli
from tests.workflow.wandb_file import records

LOGGED = {
    "reward/student", "reward/mixture", "ovd/acceptance_rate", "ovd/replaced_fraction", "ovd/zero_advantage_groups",
    "score/mean", "score/entropy", "score/parse_failures", "policy/kl", "policy/clip_fraction", "policy/entropy",
    "policy/ratio_max", "mismatch/logprob_abs_mean", "completion/length_mean", "completion/truncated_fraction",
    "time/sync", "time/generate", "time/grade", "time/score", "time/replace", "time/train",
    "throughput/generated_tokens_per_s", "throughput/trained_tokens_per_s",
}  # fmt: skip

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quickstart")
    done = cli.fit(folder)
    return folder, done.stdout


def test_every_round_logs_every_metric_and_they_are_possible(quickstart: tuple[Path, str]) -> None:
    rounds = cli.rounds(quickstart[0])
    assert [row["round"] for row in rounds] == [0, 1, 2]
    for row in rounds:
        assert row.keys() >= LOGGED
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["ovd/acceptance_rate"] <= 1
        assert row["reward/mixture"] >= row["reward/student"]
        assert row["score/parse_failures"] == 0
        assert row["score/mass"] > 0.9
    # vLLM's and the trainer's log-probabilities are of the same weights: 1e-4 is float32 rounding, a stale sync is 0.1.
    assert max(row["mismatch/logprob_abs_max"] for row in rounds) < 1e-3
    # The student of the second update is not the one that generated.
    assert rounds[0]["policy/ratio_max"] > 1


def test_the_replaced_are_exactly_those_under_the_threshold_or_wrong(quickstart: tuple[Path, str]) -> None:
    lines = cli.transcripts(quickstart[0])
    sampled = [line for line in lines if line["source"] == "student"]
    assert len(sampled) == 3 * 4 * 8
    for line in sampled:
        assert line["in_mixture"] is (line["correct"] and line["accepted"])
        assert line["correct"] or line["accepted"] is None, "what is wrong is not judged"
        scores = [step["score"] for step in line["steps"] if step["score"] is not None]
        if line["accepted"]:
            assert line["score"] == min(scores) >= 7
            assert len(scores) == len(line["steps"])
        elif line["correct"]:
            assert scores[-1] < 7, "the last step that was judged decides"
        for step in line["steps"]:
            assert step["distribution"] is None or abs(sum(step["distribution"]) - 1) < 1e-3
    for line in lines:
        if line["in_mixture"]:
            assert line["advantage"] == pytest.approx(line["reward"])  # eq. 7
    assert sum(line["in_mixture"] for line in lines) == len(sampled)
    assert any(line["source"] == "teacher" for line in lines)


def test_the_student_changes_and_its_export_is_a_checkpoint(quickstart: tuple[Path, str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = AutoModelForCausalLM.from_pretrained(cli.ROOT / "ovd_lightning/assets/student", dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(quickstart[0] / "student", dtype=torch.float32)
    moved = max(
        float((a - b).detach().abs().max()) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert 1e-5 < moved < 0.1
    saved = torch.load(quickstart[0] / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    for name, value in after.state_dict().items():
        assert torch.equal(value, saved[f"student.hf.{name}"])
    assert AutoTokenizer.from_pretrained(quickstart[0] / "student").encode("1+2=?\n")


def test_the_run_ends_with_its_table_and_says_where_everything_is(quickstart: tuple[Path, str]) -> None:
    folder, out = quickstart
    for words in (
        "greedy accuracy",
        "sampled accuracy",
        "acceptance rate",
        "zero advantage",
        "The time of 3 rounds",
        "accepted:",  # the progress bar
        "tokens_per_s:",
        "round 2 |",
    ):
        assert words in out
    flat = out.replace("\n", "")
    for place in ("report.html", "metrics.csv", "transcripts", "checkpoints/last.ckpt", "student"):
        assert (folder / place).exists()
        assert place in flat
    assert "wandb sync" in flat


def test_the_record_says_what_ran(quickstart: tuple[Path, str]) -> None:
    config = yaml.safe_load((quickstart[0] / "config.yaml").read_text())
    assert config["method"]["init_args"]["threshold"] == 7
    assert config["data"]["rounds"] == 3
    provenance = yaml.safe_load((quickstart[0] / "provenance.yaml").read_text())
    assert provenance["packages"]["torch"].startswith("2.")
    assert any(name.startswith("vllm") for name in provenance["packages"])


def test_wandb_offline_files_hold_metrics_histograms_and_config(quickstart: tuple[Path, str]) -> None:
    (path,) = (quickstart[0] / "wandb").glob("offline-run-*/*.wandb")
    names: set[str] = set()
    config: dict[str, object] = {}
    histogram = None
    for record in records(path):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            names.add(name)
            if name.startswith("score/histogram"):
                histogram = json.loads(item.value_json)
        for update in (*record.config.update, *record.run.config.update):
            config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
    assert names >= LOGGED
    assert "eval/arithmetic/accuracy" in names
    assert histogram is not None
    assert "git_commit" in config
    assert "packages" in config
    assert config["data"]["rounds"] == 3  # type: ignore[index]
    assert config["method"]["init_args"]["threshold"] == 7  # type: ignore[index]


def test_the_test_command_answers_with_the_trained_weights(quickstart: tuple[Path, str], tmp_path: Path) -> None:
    folder = quickstart[0]
    final = cli.metrics(folder)[-1]
    args = ("--config=configs/quickstart.yaml", *cli.SMALL, f"--ckpt_path={folder}/checkpoints/last.ckpt")
    done = cli.run("test", *args, f"--trainer.default_root_dir={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert cli.metrics(tmp_path)[-1]["test/arithmetic/accuracy"] == final["test/arithmetic/accuracy"]
    answers = [json.loads(line) for line in (tmp_path / "evaluations/test-000000.jsonl").read_text().splitlines()]
    during = [json.loads(line) for line in (folder / "evaluations/test-000006.jsonl").read_text().splitlines()]
    assert [a["response"] for a in answers] == [a["response"] for a in during]
