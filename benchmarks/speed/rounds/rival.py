"""The worker of TRL 1.16, in an environment of its own: the same rounds through its trainers.

Arguments: METHOD ENGINE FOLDER ROUNDS, where FOLDER is a workload (workload.py).

GRPO is ``GRPOTrainer``. GKD with student data only is ``DistillationTrainer`` with beta 0.5, which generates a round
at a time as GRPOTrainer does (``experimental.gkd`` generates a micro-batch at a time). OPD is the same with beta 1, the
reverse KL: TRL takes it over the whole vocabulary, this project at the sampled tokens. (``experimental.iw_opd`` takes
sampled tokens, too, but failed here while sampling: probabilities that are not numbers.)
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.speed.rounds.pace import Pace, take_stdout
from benchmarks.speed.rounds.workload import Workload, load, reward


class Phases:
    """Seconds inside wrapped methods, by phase; time in a wrapped method that another one calls counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    def wrap(self, owner: Any, method: str, phase: str) -> None:
        function = getattr(owner, method)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self.seconds[phase] = self.seconds.get(phase, 0.0) + spent - self._inner
                self._inner = outer + spent

        setattr(owner, method, timed)


def rewards(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """The workload's reward function, as TRL calls it."""
    return [reward(text, wanted) for text, wanted in zip(completions, answer, strict=True)]


def reload_weights(generation: Any) -> None:
    """In place of TRL's synchronisation, which fails on the CPU build of vLLM: its linear layers are packed."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    worker = generation.llm.llm_engine.model_executor.driver_worker.worker
    weights = [(name, parameter.data) for name, parameter in generation.model.named_parameters()]
    with set_current_vllm_config(worker.vllm_config):
        worker.reload_weights(weights_iterator=iter(weights))
    model = worker.get_model()
    if model.config.tie_word_embeddings:
        dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)
    generation.llm.reset_prefix_cache()


def settings(workload: Workload, engine: str, rounds: int, folder: str) -> dict[str, Any]:
    """What the trainers' configurations have in common."""
    rows = workload.sequences // workload.micro_batches
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": workload.micro_batches,
        "max_steps": rounds,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "max_completion_length": workload.max_tokens,
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
    } | (
        {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": workload.positions}
        if engine == "vllm"
        else {}
    )


def trainer(method: str, engine: str, folder: Path, rounds: int, output: str, **common: Any) -> Any:
    """A trainer of TRL for ``method``."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    workload, rows = load(folder)
    options = settings(workload, engine, rounds, output)
    student, teacher = str(folder / "student"), str(folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = AutoModelForCausalLM.from_pretrained(student, dtype="float32")
    common |= {"model": model, "processing_class": tokenizer}
    if method == "grpo":
        from trl import GRPOConfig, GRPOTrainer

        # No correction for the engine's log-probabilities, which would cost TRL a forward pass more than this project
        # needs; beta 0: no reference model on either side.
        options |= {"num_generations": workload.group_size, "vllm_importance_sampling_correction": False, "beta": 0.0}
        return GRPOTrainer(
            args=GRPOConfig(**options),
            reward_funcs=[rewards],
            train_dataset=Dataset.from_list(rows * rounds),
            **common,
        )
    frozen = AutoModelForCausalLM.from_pretrained(teacher, dtype="float32")
    repeated = [{"prompt": row["prompt"]} for row in rows for _ in range(workload.group_size)] * rounds
    from trl import DistillationConfig, DistillationTrainer

    return DistillationTrainer(
        args=DistillationConfig(**options, beta=0.5 if method == "gkd" else 1.0),
        teacher_model=frozen,
        train_dataset=Dataset.from_list(repeated),
        **common,
    )


def main() -> None:
    method, engine, workload, rounds = sys.argv[1:]
    pace, phases = Pace(take_stdout()), Phases()
    from transformers import TrainerCallback

    lengths: list[int] = []

    class Paced(TrainerCallback):
        """One update is one round."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pace.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.end(phases.seconds, len(lengths), sum(lengths), max(lengths, default=0))
            phases.seconds, lengths[:] = {}, []
            pace.begin()

    with tempfile.TemporaryDirectory() as output:
        if engine == "vllm":
            from trl.generation.vllm_generation import VLLMGeneration

            VLLMGeneration.sync_weights = reload_weights
            phases.wrap(VLLMGeneration, "sync_weights", "sync")
        training = trainer(method, engine, Path(workload), int(rounds), output, callbacks=[Paced()])
        count_lengths(training, lengths)
        phases.wrap(training, "_generate", "generate")
        phases.wrap(training, "_generate_and_score_completions", "score")
        phases.wrap(training, "training_step", "train")
        training.train()


def count_lengths(training: Any, lengths: list[int]) -> None:
    """Have the trainer note the length of every completion that it samples."""
    generate = training._generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        lengths.extend(map(len, result[1]))
        return result

    training._generate = counted


if __name__ == "__main__":
    main()
