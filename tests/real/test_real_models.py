"""configs/real_small.yaml with its real models on real vLLM, at a size of minutes: `make test-real`.

OVD_REAL_MODELS names a folder with the checkpoints smollm2 (HuggingFaceTB/SmolLM2-135M-Instruct) and qwen-coder-0.5b
(Qwen/Qwen2.5-Coder-0.5B-Instruct).
"""

from __future__ import annotations

import inspect
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.module import OVDModule
from ovd_lightning.packaged import CONFIGS
from tests.workflow import cli

FOLDER = os.environ.get("OVD_REAL_MODELS", "")
STUDENT, TEACHER = (str(Path(FOLDER).expanduser() / name) for name in ("smollm2", "qwen-coder-0.5b"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.cpu_limit(3600),
    pytest.mark.skipif(not FOLDER, reason="OVD_REAL_MODELS names no folder with real models: `make test-real`"),
]

QUESTIONS = [
    ("Ada has 3 apples and buys 4 more. How many apples does she have?", "7"),
    ("A box holds 12 pens. How many pens are in 2 boxes?", "24"),
    ("Tom had 9 balls and lost 5 of them. How many balls does he have left?", "4"),
    ("There are 20 cookies for 4 children. How many cookies does each child get?", "5"),
]
METHODS: dict[str, list[str]] = {
    "ovd": ["--method.init_args.credit=ovd_lightning.methods.rules.Score"],  # whose reward is not 0 after 48 tokens
    "seqkd": ["--method=seqkd", "--method.init_args.verified=false"],
    "grpo": ["--method=grpo"],
    "judge_reward": ["--method=judge_reward"],
    "lora": ["--method=seqkd", "--method.init_args.verified=false", "--model.lora.r=8", "--model.learning_rate=1e-3"],
}
WITHOUT_TEACHER = ("grpo",)
IMITATES = ("seqkd", "lora")


def arguments(folder: Path, method: str, *more: str) -> list[str]:
    """Two problems, two trajectories each, one round; trained and evaluated on the same few problems."""
    data = folder.parent / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": q, "answers": [a]} for i, (q, a) in enumerate(QUESTIONS)]
    data.write_text("\n".join(map(json.dumps, rows)))
    benchmark = {"class_path": "MathTask", "init_args": {"data": str(data), "split": "train[:1]"}}
    benchmark["init_args"] |= {"validation_split": "train[2:]", "test_split": "train[2:]"}  # type: ignore[operator]
    return [
        "--config=configs/real_small.yaml", *METHODS[method],
        *([f"--method.init_args.teacher={CONFIGS / 'teacher/qwen_coder_local.yaml'}",
           f"--method.init_args.teacher.init_args.engine.init_args.model={TEACHER}",
           f"--method.init_args.teacher.init_args.pool.init_args.file={folder.parent / 'pool.sqlite'}",
           ] if method not in WITHOUT_TEACHER else []),
        f"--model.student={STUDENT}", "--method.init_args.group_size=2",
        "--task=MathTask", f"--task.init_args.data={data}", "--task.init_args.split=train[:2]",
        f"--data.benchmarks={json.dumps({'words': benchmark})}",
        "--data.problems_per_round=2", "--data.rounds=1", "--rollout.max_tokens=48", "--benchmark.every_n_rounds=1",
        "--trainer.accumulate_grad_batches=2", f"--trainer.default_root_dir={folder}", *more,
    ]  # fmt: skip


def fit(folder: Path, method: str, *more: str) -> dict[str, float]:
    """The row of the one round."""
    done = cli.run("fit", *arguments(folder, method, *more))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    (row,) = [row for row in cli.metrics(folder) if "loss" in row]
    return row


@pytest.mark.parametrize("method", METHODS)
def test_a_round(method: str, tmp_path: Path) -> None:
    if method == "lora" and "lora" not in inspect.signature(OVDModule.__init__).parameters:
        pytest.skip("this version has no model.lora")
    folder = tmp_path / "run"
    row = fit(folder, method)
    assert all(math.isfinite(value) for value in row.values())
    lines = cli.transcripts(folder)
    trained = [line for line in lines if line["in_mixture"]]
    assert {line["source"] for line in trained} <= {"student", "teacher"}
    if method in ("ovd", *IMITATES):
        assert row["policy/grad_norm"] > 0
        assert row["teacher/demonstrations"] > 0
        assert "teacher" in {line["source"] for line in trained}
    else:  # whose tokens are all the student's
        assert 0 < row["mismatch/logprob_abs_max"] < 1e-2
    if method not in IMITATES:
        assert 0 < row["completion/length_mean"] <= 48
    if method in ("ovd", "judge_reward"):
        assert row["score/mass"] > 0.5
        assert row["teacher/scores"] > 0
    if method == "judge_reward":
        assert 0 <= row["reward/judge"] <= 1
    answers = [
        json.loads(line) for file in (folder / "evaluations").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert {answer["id"] for answer in answers} == {"p2", "p3"}
    assert_reloads(folder / "student")


def assert_reloads(folder: Path) -> None:
    """What was exported answers in transformers, has changed, and kept its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (STUDENT, folder))
    old, new = (AutoTokenizer.from_pretrained(path) for path in (STUDENT, folder))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert new.chat_template == old.chat_template
    assert (new.eos_token_id, len(new)) == (old.eos_token_id, len(old))
    inputs: Any = new.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[0][0]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        first, second = (model(**inputs).logits for model in (before, after))
        written = after.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert first.shape == second.shape
    assert 0 <= (first - second).abs().max() < 20
    assert written.shape[1] > inputs["input_ids"].shape[1]
