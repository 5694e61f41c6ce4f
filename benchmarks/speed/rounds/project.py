"""The worker of this project, at whatever commit the package on the path is: rounds through its command line.

Arguments: METHOD ENGINE FOLDER ROUNDS, where FOLDER is a workload (workload.py), or those of `ovd_lightning fit`.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import yaml

from benchmarks.speed.rounds.pace import Pace, take_stdout
from benchmarks.speed.rounds.workload import load, reward
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.tasks.base import Split, Task
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovd_lightning.types import Batch

CACHE_BYTES = 2**30
"""For vLLM's keys and values, as VLLM_CPU_KVCACHE_SPACE has it on TRL's side."""


class Recorded(Task):
    """The problems of a workload's folder, in order, with its reward."""

    name = "recorded"

    def __init__(self, folder: str) -> None:
        super().__init__()
        _, rows = load(Path(folder))
        self.rows = [
            Problem(id=str(i), question=row["prompt"], answers=(row["answer"] or "none",), meta=row)
            for i, row in enumerate(rows)
        ]

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.rows

    def prompt(self, problem: Problem) -> str:
        return problem.question

    def grade(self, response: str, problem: Problem) -> Grade:
        value = reward(response, problem.meta["answer"])
        return Grade(reward=value, correct=value == 1, answer=None)


class Paced(L.Callback):
    """Lets the driver start every round, and reports it. A round ends with its last micro-batch.

    Args:
        answers: file descriptor that the driver reads.
    """

    def __init__(self, answers: int) -> None:
        self.pace = Pace(answers)
        self.sampled = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Be the last one, behind the callback that knows the round's phases."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [*(other for other in callbacks if other is not self), self]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.sampled = RolloutCallback.of(trainer).engine.used.completion
        self.pace.begin()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not batch.last_in_round:
            return
        rollout = RolloutCallback.of(trainer)
        values = rollout.history[-1]
        used = rollout.engine.used.completion

        def seconds(*names: str) -> float:
            return sum(values.get(f"time/{name}", 0.0) for name in names)

        phases = {
            "sync": seconds("sync"),
            "generate": seconds("generate", "environment"),
            "score": seconds("grade", "score", "replace", "logprobs"),
            "train": seconds("train"),
        }
        teacher = values.get("teacher/prompt_tokens", 0.0) + values.get("teacher/completion_tokens", 0.0)
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sequences = data.problems_per_round * module.method.group_size
        self.pace.end(phases, sequences, used - self.sampled, teacher=int(teacher))
        self.sampled = used
        self.pace.begin()


def config(method: str, engine: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Settings of a run over a workload; rewards, micro-batches and everything else as on TRL's side."""
    workload, _ = load(folder)
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "grpo": ("grpo.GRPO", {"kl_coefficient": 0.0}),
        "gkd": ("gkd.GKD", {"beta": 0.5, "student_share": 1.0}),
        "opd": ("opd.OPD", {}),
    }
    name, arguments = methods[method]
    arguments["group_size"] = workload.group_size
    if method != "grpo":
        teacher = {
            "class_path": "ovd_lightning.teachers.token.TokenTeacher",
            "init_args": {"model": f"{folder}/teacher"},
        }
        arguments["teacher"] = teacher
    engines = {
        "hf": {"class_path": "ovd_lightning.engines.hf.HFEngine"},
        "vllm": {
            "class_path": "ovd_lightning.engines.vllm.VLLMEngine",
            "init_args": {"kv_cache_memory_bytes": CACHE_BYTES},
        },
    }
    return {
        "run": {"name": "speed"},
        "task": {"class_path": f"{__spec__.name}.Recorded", "init_args": {"folder": str(folder)}},
        "method": {"class_path": f"ovd_lightning.methods.{name}", "init_args": arguments},
        "engine": engines[engine],
        "model": {"student": f"{folder}/student", "learning_rate": 1e-6},
        "data": {"problems_per_round": workload.problems, "rounds": rounds},
        "rollout": {"max_tokens": workload.max_tokens, "temperature": 1.0},
        "trainer": {"accelerator": "cpu", "devices": 1, "accumulate_grad_batches": workload.micro_batches},
    }


def main() -> None:
    arguments = sys.argv[1:]
    callback = {"class_path": f"{__spec__.name}.Paced", "init_args": {"answers": take_stdout()}}
    with tempfile.TemporaryDirectory() as folder:
        if not arguments[0].startswith("-"):
            method, engine, workload, rounds = arguments
            file = Path(folder) / "speed.yaml"
            file.write_text(yaml.safe_dump(config(method, engine, Path(workload).absolute(), int(rounds))))
            arguments = [f"--config={file}"]
        sys.argv = [
            "ovd_lightning", "fit", *arguments,
            f"--trainer.default_root_dir={folder}/run",
            f"--trainer.callbacks={json.dumps(callback)}",
            "--benchmark.every_n_rounds=0", "--benchmark.before_training=false", "--benchmark.after_training=false",
            "--checkpoint.every_n_rounds=1000000",
        ]  # fmt: skip
        runpy.run_module("ovd_lightning", run_name="__main__")


if __name__ == "__main__":
    main()
