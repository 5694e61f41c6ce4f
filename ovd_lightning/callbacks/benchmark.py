"""BenchmarkCallback: the student answers every problem of every benchmark, in fit, validate, test and predict."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
from torchmetrics import MeanMetric

from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Request, Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.loader import ProblemBatch
from ovd_lightning.module import OVDModule
from ovd_lightning.teachers.verbal import seed_of
from ovd_lightning.tokens import encode_prompt

PREFIX = {"validation": "eval", "test": "test"}


class Tally:
    """Running means of one pass over the benchmarks; counts add up over ranks, so the denominator is the true one."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.means: dict[str, MeanMetric] = {}

    def add(self, name: str, values: list[float]) -> None:
        mean = self.means.setdefault(name, MeanMetric().to(self.device))
        for value in values:
            mean.update(value)

    def compute(self, expected: list[str]) -> dict[str, float]:
        """Collective: every rank asks for the same names."""
        for name in expected:
            self.means.setdefault(name, MeanMetric().to(self.device))
        return {name: float(self.means[name].compute()) for name in expected}


class BenchmarkCallback(L.Callback):
    """Accuracy of the student as it is: before training, during it (Lightning's validation), and after it.

    Logged: ``eval/<benchmark>/accuracy`` (validation problems), ``test/<benchmark>/accuracy`` (test problems),
    greedy; with ``samples``, also ``.../sampled_accuracy``, the mean over that many samples a problem.

    Args:
        every_n_rounds: how often validation problems are answered during ``fit``; 0: never.
        max_tokens: limit of an answer; null: the rollout's.
        samples: samples a problem at the rollout's temperature, beside the greedy answer. 0: greedy only.
        before_training, after_training: evaluate validation and test problems at both ends of ``fit``.
        save: write every answer with its verdict to <run>/evaluations.
    """

    def __init__(
        self,
        every_n_rounds: int = 10,
        max_tokens: int | None = None,
        samples: int = 0,
        before_training: bool = True,
        after_training: bool = True,
        save: bool = True,
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError("benchmark.max_tokens", f"is {max_tokens}.", "Use 1 or more, or null.")
        if samples < 0:
            raise ConfigError("benchmark.samples", f"is {samples}.", "Use 0 or more.")
        if every_n_rounds < 0:
            raise ConfigError("benchmark.every_n_rounds", f"is {every_n_rounds}.", "Use 0 (never) or more.")
        self.every_n_rounds = every_n_rounds
        self.max_tokens = max_tokens
        self.samples = samples
        self.before_training = before_training
        self.after_training = after_training
        self.save = save
        self.history: dict[int, dict[str, float]] = {}
        """global_step -> what was measured there."""
        self._tally: Tally | None = None
        self._start = 0.0

    # ------------------------------------------------------------- answering

    def answer(
        self, batch: ProblemBatch, trainer: L.Trainer, module: OVDModule, data: OVDDataModule, split: str
    ) -> list[dict[str, Any]]:
        """One row a problem and sample: response, verdict, truncation."""
        rollout = self._rollout(trainer)
        engine, task = rollout.engine, data.benchmarks(split)[batch.benchmark]
        tokenizer = engine.tokenizer
        assert tokenizer is not None
        limit = self.max_tokens or rollout.sampling.max_tokens
        prompts = [encode_prompt(task.prompt(p), tokenizer, rollout.chat) for p in batch.problems]
        rows: list[dict[str, Any]] = []
        with engine.awake():
            for sample in range(-1, self.samples):  # -1: the greedy answer
                greedy = sample < 0
                requests = [
                    Request(prompt=ids, seed=None if greedy else seed_of(data.seed, "eval", p.id, sample))
                    for ids, p in zip(prompts, batch.problems, strict=True)
                ]
                temperature = 0.0 if greedy else rollout.sampling.temperature
                for p, c in zip(
                    batch.problems,
                    engine.generate(requests, Sampling(max_tokens=limit, temperature=temperature)),
                    strict=True,
                ):
                    grade = task.grade(c.text, p)
                    rows.append(
                        {
                            "benchmark": batch.benchmark,
                            "id": p.id,
                            "decoding": "greedy" if greedy else f"sample {sample}",
                            "response": c.text,
                            "answer": grade.answer,
                            "reference": list(p.answers),
                            "reward": grade.reward,
                            "correct": grade.correct,
                            "truncated": c.truncated,
                            "step": trainer.global_step,
                        }
                    )
        self._write(rows, trainer, split)
        return rows

    def _write(self, rows: list[dict[str, Any]], trainer: L.Trainer, split: str) -> None:
        if not self.save:
            return
        rank = f"-rank{trainer.global_rank}" if trainer.global_rank else ""
        path = Path(trainer.default_root_dir) / "evaluations" / f"{split}-{trainer.global_step:06d}{rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def _add(self, tally: Tally, rows: list[dict[str, Any]], split: str) -> None:
        for row in rows:
            name = f"{PREFIX[split]}/{row['benchmark']}"
            if row["decoding"] == "greedy":
                tally.add(f"{name}/accuracy", [float(row["correct"])])
                tally.add(f"{name}/truncated_fraction", [float(row["truncated"])])
            else:
                tally.add(f"{name}/sampled_accuracy", [float(row["correct"])])

    def _names(self, data: OVDDataModule, split: str) -> list[str]:
        kinds = ["accuracy", "truncated_fraction", *(["sampled_accuracy"] if self.samples else [])]
        return [f"{PREFIX[split]}/{name}/{kind}" for name in data.benchmarks(split) for kind in kinds]

    def evaluate(self, trainer: L.Trainer, module: OVDModule, split: str) -> dict[str, float]:
        """All benchmarks of a split, outside Lightning's own loops; logged at the current step."""
        data, rollout = self._data(trainer), self._rollout(trainer)
        with rollout.engine.awake():
            rollout.sync(trainer, module)  # every rank, also one that has nothing to answer
        tally = Tally(module.device)
        loaders = data.val_dataloader() if split == "validation" else data.test_dataloader()
        for loader in loaders:
            for batch in loader:
                self._add(tally, self.answer(batch, trainer, module, data, split), split)
        values = tally.compute(self._names(data, split))
        self.history.setdefault(trainer.global_step, {}).update(values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        return values

    @staticmethod
    def _rollout(trainer: L.Trainer) -> RolloutCallback:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCallback):
                return callback
        raise ConfigError("trainer.callbacks", "holds no RolloutCallback, whose engine answers.", "Add one.")

    @staticmethod
    def _data(trainer: L.Trainer) -> OVDDataModule:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, OVDDataModule)
        return data

    # ----------------------------------------------------------------- hooks

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.every_n_rounds:
            batches = self._data(trainer).updates_per_round * trainer.accumulate_grad_batches
            trainer.val_check_interval = self.every_n_rounds * batches
            trainer.check_val_every_n_epoch = None
        else:
            trainer.limit_val_batches = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        if self.before_training and trainer.global_step == 0:
            for split in PREFIX:
                self.evaluate(trainer, pl_module, split)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        if not self.after_training:
            return
        known = self.history.get(trainer.global_step, {})
        for split, prefix in PREFIX.items():
            if not any(name.startswith(f"{prefix}/") for name in known):
                self.evaluate(trainer, pl_module, split)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tally = Tally(pl_module.device)
        self._start = time.perf_counter()

    on_test_epoch_start = on_validation_epoch_start

    def _batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ProblemBatch, split: str) -> None:
        assert self._tally is not None
        assert isinstance(pl_module, OVDModule)
        rows = self.answer(batch, trainer, pl_module, self._data(trainer), split)
        self._add(self._tally, rows, split)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._batch_end(trainer, pl_module, batch, "validation")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._batch_end(trainer, pl_module, batch, "test")

    def _epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        assert self._tally is not None
        values = self._tally.compute(self._names(self._data(trainer), split))
        self.history.setdefault(trainer.global_step, {}).update(values)
        for logger in trainer.loggers:
            logger.log_metrics({**values, "time/eval": time.perf_counter() - self._start}, step=trainer.global_step)
        pl_module.log_dict(values, logger=False, batch_size=1, sync_dist=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_end(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_end(trainer, pl_module, "test")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert isinstance(pl_module, OVDModule)
        self.answer(batch, trainer, pl_module, self._data(trainer), "predict")
