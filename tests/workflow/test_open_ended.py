"""A task without references: a rubric gives the reward, through real vLLM; and rules, judges and tasks of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.chat_model import save_chat_model
from tests.workflow import cli

SMALL = ["--data.rounds=2", "--data.problems_per_round=2", "--summary.report=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "instructions.jsonl"
    rows = [
        {"instruction": f"Say {word}.", "rubric": [f"says {word}", {"criterion": "is short", "weight": 2}]}
        for word in ("hello", "goodbye", "yes", "no")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task(data: Path) -> dict:
    return {"class_path": "ovd_lightning.tasks.instructions.InstructionsTask", "init_args": {"data": str(data)}}


@pytest.mark.vllm
@pytest.mark.slow
def test_a_rubric_rewards_open_ended_instructions_with_vllm(data: Path, tmp_path: Path) -> None:
    """Student and judge are random models over bytes: what is tested is a reward's way, criterion by criterion."""
    student, judge = (save_chat_model(tmp_path / name, seed) for seed, name in enumerate(("student", "judge")))
    engine = {
        "class_path": "ovd_lightning.engines.vllm.VLLMEngine",
        "init_args": {"model": judge, "kv_cache_memory_bytes": 64 << 20, "max_model_len": 1024},
    }
    method = {
        "class_path": "ovd_lightning.methods.judge_reward.JudgeReward",
        "init_args": {
            "group_size": 4,
            "teacher": {
                "class_path": "ovd_lightning.teachers.verbal.VerbalTeacher",
                "init_args": {
                    "engine": engine,
                    "judge": {
                        "class_path": "ovd_lightning.judges.rubric.RubricJudge",
                        "init_args": {"answer": "scale", "chat": True, "min_mass": 1e-6},
                    },
                },
            },
        },
    }
    overlay = tmp_path / "open.yaml"
    overlay.write_text(yaml.safe_dump({"task": task(data), "method": method}))
    done = cli.run(
        "fit", "--config=configs/quickstart.yaml", f"--config={overlay}", *SMALL, f"--model.student={student}",
        "--rollout.max_tokens=16", "--rollout.chat=true", f"--trainer.default_root_dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    rounds = cli.metrics(tmp_path / "run")
    rewards = [row["reward/judge"] for row in rounds if "reward/judge" in row]
    assert len(rewards) == 2
    assert all(0 < reward < 1 for reward in rewards), "weighted means of criteria"
    asked = [row["teacher/scores"] for row in rounds if "teacher/scores" in row]
    assert asked == [2 * 4 * 2] * 2, "two criteria a response"
    before = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["state_dict"]
    assert before, "and the student was trained"


def test_a_method_that_needs_references_is_refused_before_anything_loads(data: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "open.yaml"
    overlay.write_text(yaml.safe_dump({"task": task(data)}))
    done = cli.run("fit", "--config=configs/quickstart.yaml", f"--config={overlay}", *SMALL,
                   f"--trainer.default_root_dir={tmp_path}/run")  # fmt: skip
    assert done.returncode == 2
    assert "error: task: InstructionsTask has no reference answers, and OVD" in done.stderr


MINE = '''
from ovd_lightning.engines.base import Engine
from ovd_lightning.judges.base import Judge, Judgement
from ovd_lightning.methods.rules import Acceptance, Credit, Replacement


class Lenient(Acceptance):
    def accepts(self, y, score, threshold, rng):
        return score >= threshold - 2


class Twice(Credit):
    needs_group = False

    def advantages(self, rewards, before):
        return [2 * r for r in rewards]


class Nobody(Replacement):
    def choose(self, rejected):
        return []


class LengthJudge(Judge):
    """No model at all: short steps are good."""

    def judge(self, requests, seed=0, unparsed=None):
        self.ledger.scores += len(requests)
        texts = [request.step or request.response for request in requests]
        return [Judgement(None, 1.0, float(max(0, 9 - len(text)))) for text in texts]

    def self_test(self, problem, response):
        return "length is known"
'''


def test_rules_and_a_judge_of_somebody_else(tmp_path: Path) -> None:
    """One file each, named by its class_path; no file of the package is touched."""
    (tmp_path / "mine.py").write_text(MINE)
    rules = {"acceptance": "mine.Lenient", "credit": "mine.Twice", "replacement": "mine.Nobody"}
    done = cli.run(
        "fit", "--config=configs/quickstart.yaml", "--config=configs/overlays/no_vllm.yaml", *cli.SMALL,
        *(f"--method.init_args.{name}={path}" for name, path in rules.items()),
        "--method.init_args.teacher.init_args.judge=mine.LengthJudge",
        f"--trainer.default_root_dir={tmp_path}/run", PYTHONPATH=f"{cli.ROOT}:{tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "teacher: length is known; demonstration of" in done.stdout + done.stderr
    lines = cli.transcripts(tmp_path / "run")
    assert {line["source"] for line in lines} == {"student"}
    assert all(line["advantage"] == 2 * line["reward"] for line in lines)
    for line in lines:
        scores = [max(0, 9 - len(step["text"])) for step in line["steps"]]
        assert line["score"] == min(scores)
        assert line["accepted"] is (min(scores) >= 5)
