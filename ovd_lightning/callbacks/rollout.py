"""RolloutCallback: hooks, times and logging of the rounds that train; the round itself is round/loop.py."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Engine, Sampling, TokensUsed
from ovd_lightning.errors import ConfigError, located
from ovd_lightning.evaluation.wandb_tables import Rollout, log_rollouts, rollouts, wandb_loggers
from ovd_lightning.files import write_text
from ovd_lightning.module import OVDModule
from ovd_lightning.preflight import check_environments, check_run
from ovd_lightning.round.context import Round
from ovd_lightning.round.loop import Training, run_round
from ovd_lightning.round.metrics import RoundMetrics
from ovd_lightning.round.sync import check_agreement, first_prompts, send_weights
from ovd_lightning.round.transcripts import TranscriptWriter
from ovd_lightning.settings.ranges import HalfOpenUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.types import Batch, Group

PHASES = ("sync", "generate", "environment", "grade", "score", "replace", "logprobs", "train")
TIMES = (*PHASES, "checkpoint", "other", "round", "overlapped")
"""What is logged as time/...: the phases; checkpoints; what is neither; and their sum, a round's wall-clock time from
the end of the last one to its own, without evaluations. A checkpoint is written after a round, in the next one's time.
What is graded, scored and replaced while others are sampled (round/overlap.py) is in ``overlapped`` alone, which is
part of no sum: the phases have what the round waits for.
"""
COLLECTED_EVERY = 20_000
"""New objects between two collections of garbage: of a round's, most are trajectories, which are no garbage yet."""


class RolloutCallback(L.Callback):
    """Fills the data module's ``collect`` slot, has the engine hold the trainer's weights, and logs every round.

    A round is collected when the loader is asked for its first micro-batch, which Lightning does between the
    previous round's last ``on_train_batch_end`` and this round's first ``on_train_batch_start``: never ahead.

    Args:
        engine: generates for the student.
        max_tokens: limit of a completion (A.6.2: 3072 for mathematics).
        temperature: of the student's samples (A.6.2: 0.6); log-probabilities everywhere are at this temperature.
        top_p: below 1, the engine's log-probabilities are those of a cut distribution: see mismatch/logprob_abs_mean.
        chat: render prompts through the student's chat template.
        transcripts: write every trajectory of every round to <run>/transcripts.
        overlap: grade finished groups, and have the teacher judge and demonstrate, while others are still sampled. Only
            with vLLM for the student, a teacher behind endpoints, and no environment; the result is the same.
        wandb_every_n_rounds: rounds between W&B's tables of trajectories, the first round's is the first; 0: none.
        wandb_problems: problems of each of these tables.
    """

    def __init__(
        self,
        engine: Engine,
        max_tokens: PositiveInt = 3072,
        temperature: PositiveFloat = 1.0,
        top_p: HalfOpenUnitInterval = 1.0,
        chat: bool = False,
        transcripts: bool = True,
        overlap: bool = True,
        wandb_every_n_rounds: NonNegativeInt = 10,
        wandb_problems: PositiveInt = 4,
    ) -> None:
        self.engine = engine
        self.sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        self.chat = chat
        self.transcripts = transcripts
        self.overlap = overlap
        self.wandb_every_n_rounds, self.wandb_problems = wandb_every_n_rounds, wandb_problems
        self._shown: list[Rollout] = []
        """Of the round that trains, for W&B."""
        self.history: list[dict[str, float]] = []
        """The logged metrics of every round of this process."""
        self._pending: RoundMetrics | None = None
        self._train_start = 0.0
        self.wall = 0.0
        """Seconds from the start of training to the end of its last evaluation."""
        self._began = self._round_start = self._aside = self._checkpoints = 0.0
        self._learning_rate = 0.0
        self._synced: tuple[int, int] | None = None
        self._collected = gc.get_threshold()
        """Garbage, outside of training."""
        self._agrees = False
        """Whether the engine has been compared with the student since this stage began."""
        self._used: dict[str, TokensUsed] = {}
        """What the teacher had read and written when the round began."""
        self._spent = 0.0
        """Tokens that it has read and written in the whole run, also before it was resumed."""

    # -------------------------------------------------------------- lifetime

    def state_dict(self) -> dict[str, Any]:
        return {"teacher_tokens": self._spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent = state_dict["teacher_tokens"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        module, data = self._parts(trainer, pl_module)
        check_run(
            student=module.student_path,
            method=module.method,
            data=data,
            engine=self.engine,
            max_tokens=self.sampling.max_tokens,
            chat=self.chat,
            stage=stage,
            world_size=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
            model_errors=module.errors(trainer),
        )
        if stage == "fit":
            module.method.check(self.engine, self.sampling)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callable(check := getattr(callback, "check_run", None)):
                check(trainer, module, stage)
        check_environments(data)
        with located("engine"):
            self.engine.start_empty()
        self._agrees = False
        for environment in data.environments():
            environment.start()
        if stage == "fit":
            if module.method.teacher is not None:
                module.method.teacher.start()
                module.method.self_test(data.task, data.train_problems(), self.sampling.max_tokens)
            data.collect = lambda index: self.collect(index, trainer, module, data)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Engines stay until the process ends: freeing one in-process engine breaks the others and the trainer."""
        gc.unfreeze()
        gc.set_threshold(*self._collected)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._synced = None  # a checkpoint may have been restored since the last sync

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()
        self._round_start = 0.0  # the first round begins when it is asked for, after the evaluations before training
        gc.freeze()  # garbage collection need not pass over the libraries' objects, half a million of vLLM's alone
        gc.set_threshold(COLLECTED_EVERY, *self._collected[1:])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.wall = time.perf_counter() - self._began

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Here and not when a rank has something to answer: gathering sharded weights takes every rank."""
        module, _ = self._parts(trainer, pl_module)
        self._aside -= time.perf_counter()
        if trainer.state.fn != "fit":
            self._synced = None
        with self.engine.awake():
            self.sync(trainer, module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._aside += time.perf_counter()

    @staticmethod
    def _parts(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[OVDModule, OVDDataModule]:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, OVDModule) or not isinstance(data, OVDDataModule):
            raise ConfigError("trainer", "RolloutCallback works with OVDModule and OVDDataModule.", "Use them.")
        return pl_module, data

    @staticmethod
    def of(trainer: L.Trainer) -> RolloutCallback:
        """The trainer's. Raises: ConfigError where it has none."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCallback):
                return callback
        raise ConfigError("trainer.callbacks", "holds no RolloutCallback, whose engine answers.", "Add one.")

    def sync(self, trainer: L.Trainer, module: OVDModule) -> None:
        """Give the engine the student's weights if it does not have them; the first time, check that it then samples
        as the student does. Collective: every rank enters.

        Raises: ConfigError where it does not.
        """
        key = (id(module), trainer.global_step)
        if self._synced != key:
            send_weights(self.engine, module.student, trainer.global_step, first=not self._agrees)
            self._synced = key
        if self._agrees:
            return
        _, data = self._parts(trainer, module)
        values = check_agreement(
            self.engine,
            module.student,
            first_prompts(self.engine, data.tasks_of(trainer.state.fn), self.chat),
            self.sampling.temperature,
            trained_in=module.computes_in(trainer),
            forward_context=trainer.precision_plugin.forward_context,
            maximum=lambda value: float(trainer.strategy.reduce(value.to(module.device), reduce_op="max")),
        )
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        self._agrees = True

    # ------------------------------------------------------------- one round

    def collect(self, index: int, trainer: L.Trainer, module: OVDModule, data: OVDDataModule) -> list[Batch]:
        """Round ``index`` as its micro-batches, generated by the weights of ``trainer.global_step``."""
        if not self._round_start:
            self._round_start, self._aside = time.perf_counter(), 0.0
        rank, world_size = trainer.global_rank, trainer.world_size
        problems, first_group = data.problems_of_round(index, rank, world_size)
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None
        round = Round(
            index=index,
            run_seed=data.seed,
            task=data.task,
            engine=self.engine,
            tokenizer=tokenizer,
            sampling=self.sampling,
            policy_version=trainer.global_step,
            chat=self.chat,
            first_group=first_group,
            progress=index / data.rounds,
            further=lambda attempt: data.problems_of_round(index, rank, world_size, attempt)[0],
        )
        training = Training(
            send_weights=lambda: self.sync(trainer, module),
            fill_logprobs=module.annotate_logprobs,
            mini_batches=data.mini_batches,
            epochs=data.epochs_per_round,
            accumulate=trainer.accumulate_grad_batches,
            packed=module.packing,
            world_size=world_size,
            all_reduce_sum=lambda value: float(
                trainer.strategy.reduce(torch.tensor(value, device=module.device), reduce_op="sum")
            ),
        )
        teacher = module.method.teacher
        self._used = {} if teacher is None else tokens_used(teacher)
        batches = run_round(
            problems, module.method, round, training, lambda n, groups: self._record(trainer, n, groups), self.overlap
        )
        if round.metrics.failures and trainer.is_global_zero:
            failures = Path(trainer.default_root_dir) / "failures"
            failures.mkdir(exist_ok=True)
            write_text(failures / f"round-{index:06d}.txt", "\n".join(round.metrics.failures) + "\n")
        self._pending = round.metrics
        module.train_metrics = RoundMetrics()
        self._train_start = time.perf_counter()
        return batches

    def _record(self, trainer: L.Trainer, index: int, groups: Sequence[Group]) -> None:
        if self.transcripts:
            TranscriptWriter(Path(trainer.default_root_dir) / "transcripts", trainer.global_rank).write(index, groups)
        every = self.wandb_every_n_rounds
        due = every and index % every == 0 and trainer.is_global_zero and wandb_loggers(trainer.loggers)
        self._shown = rollouts(groups[: self.wandb_problems], index) if due else []

    # --------------------------------------------------------------- logging

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Here, since the schedule has moved on when the batch ends."""
        self._learning_rate = float(optimizer.param_groups[0]["lr"])

    def _close_round(self, trainer: L.Trainer, metrics: RoundMetrics) -> None:
        """The times that are no phase's; the next round begins."""
        now, seconds = time.perf_counter(), metrics.seconds
        written = float(getattr(trainer.checkpoint_callback, "seconds", 0.0))
        seconds["train"] += now - self._train_start
        phases = sum(seconds.values()) - seconds["overlapped"]
        seconds["checkpoint"], self._checkpoints = written - self._checkpoints, written
        seconds["round"] = now - self._round_start - self._aside
        seconds["other"] = seconds["round"] - phases - seconds["checkpoint"]
        self._round_start, self._aside = now, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not batch.last_in_round or self._pending is None:
            return
        module, data = self._parts(trainer, pl_module)
        metrics, trained = self._pending, module.train_metrics
        self._close_round(trainer, metrics)
        metrics.update(trained)
        self._pending = None
        if module.method.teacher is not None:
            for of, used in tokens_used(module.method.teacher).items():
                metrics.sums[f"teacher/prompt_tokens{of}"] = used.prompt - self._used[of].prompt
                metrics.sums[f"teacher/completion_tokens{of}"] = used.completion - self._used[of].completion
        values = metrics.reduce(TIMES, lambda numbers, op: self._over_ranks(numbers, op, trainer, module))
        # Of the round's first update; Lightning averages over micro-batches and ranks.
        values["loss"] = values["loss"] / (trainer.accumulate_grad_batches * trainer.world_size)
        values["round"] = float(batch.round)
        values["optim/learning_rate"] = self._learning_rate
        values["samples"] = float((batch.round + 1) * data.problems_per_round * module.method.group_size)
        for kind, name in (("generated", "generate"), ("trained", "train")):
            tokens = values.pop(f"throughput/{kind}_tokens", 0.0)  # a method may have the teacher write everything
            values[f"throughput/{kind}_tokens_per_s"] = tokens / max(values[f"time/{name}"], 1e-9)
        if "teacher/prompt_tokens" in values:
            self._spent += values["teacher/prompt_tokens"] + values["teacher/completion_tokens"]
            values["teacher/total_tokens"] = self._spent
        self.history.append(values)
        # Straight to the loggers: what is logged through the module is repeated at the next round's first batch.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            self._log_histograms(logger, metrics, trainer.global_step)
        if self._shown:
            log_rollouts(trainer.loggers, self._shown, trainer.global_step)
            self._shown = []
        shown = {
            "reward/student": "reward",
            "ovd/acceptance_rate": "accepted",
            "throughput/generated_tokens_per_s": "tokens_per_s",
        }
        bar = {short: values[name] for name, short in shown.items() if name in values}
        # As Lightning does with what is logged through the module, where every number is a metric with a state.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        trainer.progress_bar_metrics.update(bar)

    @staticmethod
    def _over_ranks(values: Sequence[float], op: str, trainer: L.Trainer, module: OVDModule) -> list[float]:
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        reduced: Tensor = trainer.strategy.reduce(torch.tensor(values, dtype=dtype, device=module.device), reduce_op=op)
        return reduced.tolist()

    @staticmethod
    def _log_histograms(logger: Any, metrics: RoundMetrics, step: int) -> None:
        """W&B gets histograms; every logger gets the counts as numbers, so that the run's page can draw them."""
        for name, (bins, counts) in metrics.histograms.items():
            if isinstance(logger, WandbLogger):
                import numpy as np
                import wandb

                edges = np.array([b - 0.5 for b in bins] + [bins[-1] + 0.5])
                histogram = wandb.Histogram(np_histogram=(np.array(counts), edges))
                logger.experiment.log({name: histogram, "trainer/global_step": step})
            else:
                total = max(sum(counts), 1)
                logger.log_metrics(
                    {f"{name}/{b:g}": c / total for b, c in zip(bins, counts, strict=True)},
                    step=step,
                )


def tokens_used(teacher: Teacher) -> dict[str, TokensUsed]:
    """End of a metric's name -> tokens so far: of the whole teacher, and of each of several."""
    return {"": teacher.used} | {f"/{name}": member.used for name, member in teacher.members.items() if name}
