"""docs/comparing.md: its commands, in order, at a small size; W&B's table of trajectories."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.workflow import cli
from tests.workflow.wandb_file import records

DOCUMENT = cli.ROOT / "docs/comparing.md"
SIZE = [
    "--data.rounds=4", "--data.problems_per_round=2", "--data.validation_limit=4", "--data.test_limit=4",
    "--benchmark.every_n_rounds=1", "--checkpoint.every_n_rounds=1", "--trainer.callbacks.init_args.patience=1",
    "--trainer.callbacks.init_args.stopping_threshold=-1",
]  # fmt: skip


def commands() -> list[list[str]]:
    """The words behind ``python -m ovd_lightning`` of those that need no service."""
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    prefix = "python -m ovd_lightning "
    return [
        shlex.split(line.removeprefix(prefix)) for line in lines if line.startswith(prefix) and "--wandb" not in line
    ]


@pytest.mark.slow
def test_the_commands_do_what_the_document_says(tmp_path: Path) -> None:
    found = commands()
    assert [words[0] for words in found] == ["fit", "fit", "compare", "compare", "fit", "fit", "fit", "test"]
    for words in found:
        placed = [word.replace("runs/", f"{tmp_path}/") for word in words]
        if words[0] == "compare":
            if "--out" in placed:
                placed[placed.index("--out") + 1] = str(tmp_path / "thresholds.html")
            else:
                placed += ["--out", str(tmp_path / "comparison.html")]
        else:
            size = [s for s in SIZE if "callbacks" not in s or "EarlyStopping" in " ".join(words)]
            placed += [*cli.HF, *size, f"--run.root={tmp_path}", "--run.wandb=disabled"]
        done = cli.run(*placed)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]

    assert "threshold 7" in (tmp_path / "comparison.html").read_text()
    assert "policy/kl" in (tmp_path / "thresholds.html").read_text()
    logged = sorted(path.name for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert [name.split(".")[0] for name in logged] == ["events", "hparams", "hparams", "metrics"]
    assert all("threshold: 7" in path.read_text() for path in (tmp_path / "logs").rglob("hparams.yaml"))
    csv = next((tmp_path / "logs").rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"reward/student", "eval/arithmetic/sampled_accuracy", "score/histogram/9"} <= set(csv)
    events = scalars(next((tmp_path / "logs").rglob("events*")))
    assert {"reward/student", "eval/arithmetic/sampled_accuracy", "score/histogram/9"} <= events
    # With a threshold that every accuracy is above, the run ends at its first evaluation, between two rounds.
    (trained,) = (path for path in (tmp_path / "best").iterdir() if (path / "transcripts").is_dir())
    assert [path.name.split(".")[0] for path in (trained / "transcripts").iterdir()] == ["round-000000"]
    assert json.loads((trained / "run.json").read_text())["finished"] == 1
    assert (trained / "report.html").is_file()
    assert "step-000002.ckpt" in done.stdout.replace("\n", "")


def scalars(file: Path) -> set[str]:
    """Names of the scalars of a TensorBoard file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(file))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_wandb_gets_tables_of_trajectories(tmp_path: Path) -> None:
    cli.fit(tmp_path, *cli.HF, "--run.wandb=offline", "--rollout.wandb_every_n_rounds=2", "--rollout.wandb_problems=2")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    paths = []
    totals = []
    for record in records(file):
        cells = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "rollouts/path" in cells:
            paths.append(json.loads(cells["rollouts/path"]))
        if "teacher/total_tokens" in cells:
            totals.append(json.loads(cells["teacher/total_tokens"]))
    tables = [json.loads((file.parent / "files" / path).read_text()) for path in paths]
    assert [len(table["data"]) for table in tables] == [16, 16]  # 2 problems x 8, of rounds 0 and 2 of three
    assert [table["data"][0][0] for table in tables] == [0, 2]
    used = [row["teacher/prompt_tokens"] + row["teacher/completion_tokens"] for row in cli.rounds(tmp_path)]
    assert totals == [sum(used[: n + 1]) for n in range(3)]

    lines = {
        (line["round"], line["question"], line["sample"], line["source"]): line for line in cli.transcripts(tmp_path)
    }
    for table in tables:
        for cells in table["data"]:
            row = dict(zip(table["columns"], cells, strict=True))
            own = lines[row["round"], row["question"], row["sample"], "student"]
            assert (row["reward"], row["score"], row["accepted"]) == (own["reward"], own["score"], own["accepted"])
            assert row["replaced"] is not own["in_mixture"]
            first = own["steps"][0]
            scored = "" if first["score"] is None else f"[{first['score']:g}] "
            assert row["steps"].startswith(scored + first["text"].rstrip("\n"))
            if row["replaced"]:
                other = lines[row["round"], row["question"], row["sample"], "teacher"]
                assert row["teacher's text"] == other["text"]
                assert row["advantage"] == other["advantage"]
            else:
                assert row["teacher's text"] is None
                assert row["advantage"] == own["advantage"]
