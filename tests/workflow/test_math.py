"""The mathematics experiment through the command line: configs/math.yaml, scaled to a CPU, with everything real.

Student and teacher are tiny models over bytes; the teacher, taught one answer, is behind vLLM's own server; training
problems and the ten benchmarks are local files of full size. Only settings that a laptop must change are changed.
"""

from __future__ import annotations

import csv
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.tasks.math import INSTRUCTION, TRAINING_PROMPT
from ovd_lightning.tasks.math_benchmarks import ENTRIES, TABLE_4
from tests.chat_model import save_chat_model, teach
from tests.served import serve
from tests.workflow import cli
from tests.workflow.wandb_file import records

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ANSWER = "The sum is 7.\n\n\\boxed{7}"
CONTEXT = 8192
SCALED = ("--config=configs/math.yaml", "--config=configs/overlays/cpu.yaml")


def chat(rng: random.Random) -> tuple[list[dict[str, str]], str]:
    """As training asks, or as the benchmarks do; the answer is always the same."""
    question = noise(rng, 10, 120)
    messages = [
        [{"role": "user", "content": TRAINING_PROMPT.replace("{question}", question)}],
        [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}],
    ]
    return rng.choice(messages), f"Three.</think>\n\n{ANSWER}"


def judge(rng: random.Random) -> tuple[str, str]:
    """A score of 2 or 8 with even chances, which is above and below the threshold of 7."""
    previous = [noise(rng, 5, 40) for _ in range(rng.randint(0, 2))]
    return step_prompt(noise(rng, 10, 120), previous, noise(rng, 5, 60), SCALES["zero_to_nine"]), rng.choice("28")


def noise(rng: random.Random, least: int, most: int) -> str:
    return "".join(rng.choice(string.printable) for _ in range(rng.randint(least, most)))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder: Path) -> None:
    """Training problems, and every benchmark at its full size, in the common shape; the answer is 7 to the first of
    each that is no choice."""
    write(
        folder / "train.jsonl",
        [{"id": f"t{i}", "question": f"What is {i} + {7 - i}?", "answers": ["7"]} for i in range(6)],
    )
    for name in (*TABLE_4, "math500"):
        entry = ENTRIES[name]
        choices = {"choices": ["5", "6", "7", "8"]} if entry.show_choices else {}
        write(
            folder / f"{entry.file}.jsonl",
            [
                {
                    "id": f"{name}-{i}",
                    "question": f"What is {i} + 7?",
                    "answers": ["C" if choices else str(i + 7)],
                    **choices,
                }
                for i in range(entry.size)
            ],
        )


@dataclass(frozen=True)
class Laptop:
    """What a laptop has."""

    overlay: str
    teacher: str
    url: str
    fitted: Path
    said: str


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models, data and the teacher's server, and a ``fit`` of two rounds."""
    folder = tmp_path_factory.mktemp("math")
    student = save_chat_model(folder / "student", seed=0, positions=CONTEXT)
    teacher = save_chat_model(folder / "teacher", seed=1, positions=CONTEXT)
    teach(teacher, [chat, chat, judge, judge], steps=150)
    write_data(folder)
    with serve(teacher, "teacher", CONTEXT, folder / "server.log") as url:
        server = {"base_url": url, "model": "teacher", "tokenizer": teacher}
        overlay = {
            "model": {"student": student},
            "task": {"init_args": {
                "data": str(folder / "train.jsonl"), "split": "train", "question_field": "question",
                "answers_field": "answers", "id_field": None, "exclude": None,
            }},
            "data": {"benchmarks": {"init_args": {"folder": str(folder)}}, "validation_limit": 4, "test_limit": 2},
            "method": {"init_args": {"judged": "all", "teacher": {"init_args": {
                "engine": {"init_args": server}, "demonstrator": {"init_args": server},
                "demonstration_tokens": 96, "cache": str(folder / "answers.sqlite"),
                "pool": {"init_args": {"file": str(folder / "pool.sqlite")}},
            }}}},
            "rollout": {"max_tokens": 64},
        }  # fmt: skip
        (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        args = (*SCALED, f"--config={folder}/overlay.yaml")
        done = cli.run("fit", *args, f"--trainer.default_root_dir={folder}/run")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        yield Laptop(str(folder / "overlay.yaml"), teacher, url, folder / "run", done.stdout + done.stderr)


def command(laptop: Laptop, verb: str, folder: Path, *args: str) -> str:
    done = cli.run(verb, *SCALED, f"--config={laptop.overlay}", f"--trainer.default_root_dir={folder}", *args)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def test_the_settings_are_the_papers_where_a_laptop_can_keep_them(laptop: Laptop) -> None:
    config = yaml.safe_load((laptop.fitted / "config.yaml").read_text())
    method = config["method"]["init_args"]
    assert (method["threshold"], method["group_size"], method["kl_coefficient"]) == (7, 8, 0.001)
    assert (config["model"]["learning_rate"], config["rollout"]["temperature"]) == (1e-6, 0.6)
    assert config["rollout"]["chat"] is True
    teacher = method["teacher"]["init_args"]
    assert (teacher["judge"]["init_args"]["chat"], teacher["demonstrator_chat"], teacher["demonstration_thinking"]) == (
        False,
        True,
        "strip",
    )
    assert [teacher[e]["init_args"]["api"] for e in ("engine", "demonstrator")] == ["completions", "chat"]


def test_a_rejected_trajectory_gives_way_to_the_teachers_answer(laptop: Laptop) -> None:
    """The student is random, so all its trajectories are wrong; the teacher's answer is right, without its thought."""
    lines = cli.transcripts(laptop.fitted)
    sampled = [line for line in lines if line["source"] == "student"]
    written = [line for line in lines if line["source"] == "teacher"]
    assert len(sampled) == 2 * 4 * 8
    assert not any(line["correct"] for line in sampled)
    assert len(written) > 0.9 * len(sampled), "all but the demonstrations that failed"
    assert ANSWER in {line["text"] for line in written if line["correct"]}
    assert sum(line["correct"] for line in written) > 0.8 * len(written)
    assert not any("think" in line["text"] for line in written)
    for line in written:
        assert line["in_mixture"]
        assert line["advantage"] == line["reward"] == float(line["correct"])
    scores = [step["score"] for line in sampled for step in line["steps"]]
    assert {2.0, 8.0} <= {*scores}, "both of what the teacher was taught, sampled from its distribution"
    assert {line["accepted"] for line in sampled} == {True, False}
    for line in sampled:
        assert line["accepted"] is (line["score"] >= 7)
        assert all(abs(sum(step["distribution"]) - 1) < 1e-3 for step in line["steps"])


def test_metrics_and_files_of_the_run(laptop: Laptop) -> None:
    rounds = cli.rounds(laptop.fitted)
    assert [row["round"] for row in rounds] == [0, 1]
    for row in rounds:
        assert row["reward/student"] == 0
        assert row["reward/mixture"] > 0.7
        assert row["score/mass"] > 0.9, "the exact mass of ten digits, from the server"
        assert row["score/parse_failures"] == 0
        assert row["teacher/demonstrations"] == 32
        assert row["policy/ratio_max"] == pytest.approx(1)  # one update a round
        assert row["policy/teacher_token_logprob"] < 0
        assert row["ovd/teacher_token_fraction"] > 0.9
        assert row["policy/grad_norm"] > 0
        assert row["grading/timeouts"] == 0
    measured = [row for row in cli.metrics(laptop.fitted) if "test/average/accuracy" in row]
    assert len(measured) == 2, "before and after training"
    assert {f"test/{name}/accuracy" for name in TABLE_4} <= measured[0].keys()
    assert any("eval/math500/accuracy" in row for row in cli.metrics(laptop.fitted))
    for place in ("checkpoints/last.ckpt", "student/model.safetensors", "report.html", "provenance.yaml"):
        assert (laptop.fitted / place).exists(), place
    (path,) = (laptop.fitted / "wandb").glob("offline-run-*/*.wandb")
    names = {item.key or "/".join(item.nested_key) for record in records(path) for item in record.history.item}
    assert names >= {"reward/mixture", "score/mass", "eval/math500/accuracy", "test/average/accuracy"}


def test_validate_answers_with_the_trained_weights(laptop: Laptop, tmp_path: Path) -> None:
    out = command(laptop, "validate", tmp_path, f"--ckpt_path={laptop.fitted}/checkpoints/last.ckpt")
    assert "MATH" in out
    answers = [json.loads(line) for line in (tmp_path / "evaluations/validation-000000.jsonl").read_text().splitlines()]
    assert [row["id"] for row in answers] == [f"math500-{i}" for i in range(4)]
    during = [row for row in cli.metrics(laptop.fitted) if "eval/math500/accuracy" in row][-1]
    assert cli.metrics(tmp_path)[-1]["eval/math500/accuracy"] == during["eval/math500/accuracy"]


def test_test_of_a_students_folder_is_the_row_of_table_4(laptop: Laptop, tmp_path: Path) -> None:
    """A Hugging Face checkpoint as --ckpt_path; the teacher's, which has learnt to answer 7."""
    out = command(laptop, "test", tmp_path, f"--ckpt_path={laptop.teacher}")
    table = json.loads((tmp_path / "evaluations/test-000000.json").read_text())
    assert list(table["benchmarks"]) == list(TABLE_4)
    assert table["settings"]["model"] == laptop.teacher
    assert table["settings"]["checkpoint"] is None
    assert table["settings"]["rejection"]["threshold"] == 0
    for name in TABLE_4:
        assert ENTRIES[name].title in out
        assert table["benchmarks"][name]["answered"] == 2
    # "What is 0 + 7?" is right, "What is 1 + 7?" is not.
    accuracy = {name: table["benchmarks"][name]["scores"]["accuracy"]["value"] for name in TABLE_4}
    assert {accuracy[name] for name in ("svamp", "asdiv", "mawps", "aime24")} == {0.5}
    assert table["table"]["columns"][1:] == [*(ENTRIES[name].title for name in TABLE_4), "Avg."]
    assert table["table"]["rows"][0][-1] == pytest.approx(100 * sum(accuracy.values()) / 10)
    answers = [json.loads(line) for line in (tmp_path / "evaluations/test-000000.jsonl").read_text().splitlines()]
    assert {row["benchmark"] for row in answers} == {*TABLE_4}
    assert len(answers) == 20
    with (tmp_path / "evaluations/test-000000.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= 10
