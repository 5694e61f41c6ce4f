"""RolloutCallback: the engine's lifetime, weight sync, teacher scoring and replacement, one pull a round."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ovd_lightning.callbacks.agreement import check_agreement
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Engine, Sampling, TokensUsed
from ovd_lightning.errors import ConfigError, located
from ovd_lightning.module import OVDModule
from ovd_lightning.preflight import check_environments, check_run
from ovd_lightning.progress import expect, finished, phase
from ovd_lightning.round.collate import collate
from ovd_lightning.round.context import Round, RoundMetrics
from ovd_lightning.round.problems import round_problems
from ovd_lightning.round.transcripts import TranscriptWriter
from ovd_lightning.seeds import seed_of
from ovd_lightning.teachers.troubles import report_troubles
from ovd_lightning.types import Batch, Group, Problem

PHASES = ("sync", "generate", "environment", "grade", "score", "replace", "logprobs", "train")
TIMES = (*PHASES, "checkpoint", "other", "round")
"""What is logged as time/...: the phases; checkpoints; what is neither; and their sum, a round's wall-clock time from
the end of the last one to its own, evaluations left out. A checkpoint is written after a round, in the next one's time.
"""


class RolloutCallback(L.Callback):
    """Fills the data module's ``collect`` slot: sync -> sample -> annotate -> micro-batches.

    A round is collected when the loader is asked for its first micro-batch, which Lightning does between the
    previous round's last ``on_train_batch_end`` and this round's first ``on_train_batch_start``: never ahead.

    Args:
        engine: generates for the student.
        max_tokens: limit of a completion (A.6.2: 3072 for mathematics).
        temperature: of the student's samples (A.6.2: 0.6); log-probabilities everywhere are at this temperature.
        top_p: below 1, the engine's log-probabilities are those of a cut distribution: see mismatch/logprob_abs_mean.
        chat: render prompts through the student's chat template.
        transcripts: write every trajectory of every round to <run>/transcripts.
    """

    def __init__(
        self,
        engine: Engine,
        max_tokens: int = 3072,
        temperature: float = 1.0,
        top_p: float = 1.0,
        chat: bool = False,
        transcripts: bool = True,
    ) -> None:
        if max_tokens < 1:
            raise ConfigError("rollout.max_tokens", f"is {max_tokens}.", "Use 1 or more.")
        if temperature <= 0:
            raise ConfigError("rollout.temperature", f"is {temperature}.", "Groups need samples: use a positive value.")
        if not 0 < top_p <= 1:
            raise ConfigError("rollout.top_p", f"is {top_p}.", "Use a value in (0, 1].")
        self.engine = engine
        self.sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        self.chat = chat
        self.transcripts = transcripts
        self.history: list[dict[str, float]] = []
        """The logged metrics of every round of this process."""
        self._pending: RoundMetrics | None = None
        self._train_start = 0.0
        self.wall = 0.0
        """Seconds from the start of training to the end of its last evaluation."""
        self._began = self._round_start = self._aside = self._checkpoints = 0.0
        self._learning_rate = 0.0
        self._synced: tuple[int, int] | None = None
        self._agrees = False
        """Whether the engine was compared with the student since this stage began."""
        self._used = TokensUsed()
        """What the teacher had read and written when the round began."""

    # -------------------------------------------------------------- lifetime

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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._synced = None  # a checkpoint may have been restored since the last sync

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()
        self._round_start = 0.0  # the first round begins when it is asked for, after the evaluations before training

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

    def sync(self, trainer: L.Trainer, module: OVDModule) -> None:
        """Give the engine the student's weights if it does not have them; the first time, see whether it then answers
        as the student does. Collective: every rank enters.

        Raises: ConfigError where it does not.
        """
        key = (id(module), trainer.global_step)
        if self._synced != key:
            weights = module.student.named_weights(checkpoint=self.engine.checkpoint_names)
            try:
                self.engine.sync(weights, version=trainer.global_step)
            except Exception as error:  # whatever an engine raises that cannot load a model's weights
                if self._agrees:
                    raise
                raise ConfigError(
                    "engine",
                    f"{self.engine.name} cannot be given the weights of {type(module.student.hf).__name__}: {error}.",
                    "Use the hf engine (--engine=configs/engine/hf.yaml), or another model.",
                ) from error
            self._synced = key
        if not self._agrees:
            _, data = self._parts(trainer, module)
            values = check_agreement(self.engine, trainer, module, data, self.sampling.temperature, self.chat)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
            self._agrees = True

    # ------------------------------------------------------------- one round

    def collect(self, index: int, trainer: L.Trainer, module: OVDModule, data: OVDDataModule) -> list[Batch]:
        """Round ``index`` as its micro-batches, generated by the weights of ``trainer.global_step``."""
        if not self._round_start:
            self._round_start, self._aside = time.perf_counter(), 0.0
        problems, first_group = data.problems_of_round(index, trainer.global_rank, trainer.world_size)
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
            further=lambda attempt: self._further(index, attempt, trainer, data),
        )
        teacher = module.method.teacher
        self._used = TokensUsed() if teacher is None else teacher.used
        with self.engine.awake():
            with round.phase("sync"):
                self.sync(trainer, module)
            if self.engine.version != trainer.global_step:
                raise RuntimeError(f"the engine holds step {self.engine.version}, the trainer {trainer.global_step}")
            groups = module.method.sample(problems, round)
        module.method.annotate(groups, round)
        if teacher is not None:
            report_troubles(teacher, round)
        round.log_environment_counts()
        self._describe(groups, round, module.method.credits_trajectories)
        if self.transcripts:
            TranscriptWriter(Path(trainer.default_root_dir) / "transcripts", trainer.global_rank).write(index, groups)
        with round.phase("logprobs"):
            batches = self._batches(groups, round, trainer, module, data)
        self._pending = round.metrics
        module.train_metrics = RoundMetrics()
        self._train_start = time.perf_counter()
        return batches

    @staticmethod
    def _further(index: int, attempt: int, trainer: L.Trainer, data: OVDDataModule) -> list[Problem]:
        """This rank's further problems of a round: from an order of their own, so no later round loses its problems."""
        count = data.problems_per_round
        share = count // trainer.world_size
        problems = round_problems(data.train_problems(), count, index, seed_of(data.seed, "further", attempt))
        return problems[trainer.global_rank * share : (trainer.global_rank + 1) * share]

    def _batches(
        self, groups: list[Group], round: Round, trainer: L.Trainer, module: OVDModule, data: OVDDataModule
    ) -> list[Batch]:
        def all_reduce_sum(value: float) -> float:
            return float(trainer.strategy.reduce(torch.tensor(value, device=module.device), reduce_op="sum"))

        pad = round.tokenizer.pad_token_id
        steps = collate(
            groups,
            mini_batches=data.mini_batches,
            accumulate=trainer.accumulate_grad_batches,
            aggregation=module.method.aggregation,
            max_tokens=self.sampling.max_tokens,
            pad_id=pad if pad is not None else 0,  # masked everywhere; carries no meaning
            temperature=self.sampling.temperature,
            round=round.index,
            policy_version=round.policy_version,
            world_size=trainer.world_size,
            all_reduce_sum=all_reduce_sum,
        )
        # With one update a round, rho = 1 and no pass for old log-probabilities is needed.
        old = data.updates_per_round > 1
        expect(sum(map(len, steps)))
        steps = [[self._annotated(batch, module, old) for batch in step] for step in steps]
        batches = [
            replace(batch, update=epoch * data.mini_batches + i)
            for epoch in range(data.epochs_per_round)
            for i, step in enumerate(steps)
            for batch in step
        ]
        batches[-1].last_in_round = True
        return batches

    @staticmethod
    def _annotated(batch: Batch, module: OVDModule, old: bool) -> Batch:
        with phase("requests"):  # of a teacher that is asked for log-probabilities
            batch = module.annotate_logprobs(batch, old)
        finished()
        return batch

    @staticmethod
    def _describe(groups: list[Group], round: Round, credited: bool = True) -> None:
        """Metrics of the mixture that every method shares."""
        mixture = [y for g in groups for y in g.mixture]
        if credited:
            idle = [float(all(abs(a) < 1e-8 for y in g.mixture for a in y.advantages)) for g in groups]
            round.log_mean("ovd/zero_advantage_groups", idle)
        round.log_mean("reward/mixture", [y.reward for y in mixture])
        round.log_mean("ovd/teacher_token_fraction", [
            sum(y.completion_mask[y.student_tokens:]) / y.trainable_tokens for y in mixture if y.trainable_tokens
        ])  # fmt: skip
        right = [sum(y.grade.correct for y in g.sampled if y.grade) / len(g.sampled) for g in groups if g.sampled]
        round.log_mean("reward/groups_all_correct", [float(share == 1) for share in right])
        round.log_mean("reward/groups_all_wrong", [float(share == 0) for share in right])

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
        phases = sum(seconds.values())
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
        metrics.means.update(trained.means)
        metrics.sums.update(trained.sums)
        metrics.maxima.update(trained.maxima)
        self._pending = None
        if module.method.teacher is not None:
            used = module.method.teacher.used
            metrics.sums["teacher/prompt_tokens"] = used.prompt - self._used.prompt
            metrics.sums["teacher/completion_tokens"] = used.completion - self._used.completion
        values = self._reduce(metrics, trainer, module)
        # Of the round's first update; Lightning averages over micro-batches and ranks.
        values["loss"] = values["loss"] / (trainer.accumulate_grad_batches * trainer.world_size)
        values["round"] = float(batch.round)
        values["optim/learning_rate"] = self._learning_rate
        values["samples"] = float((batch.round + 1) * data.problems_per_round * module.method.group_size)
        for kind, name in (("generated", "generate"), ("trained", "train")):
            tokens = values.pop(f"throughput/{kind}_tokens", 0.0)  # a method may have the teacher write everything
            values[f"throughput/{kind}_tokens_per_s"] = tokens / max(values[f"time/{name}"], 1e-9)
        self.history.append(values)
        # Straight to the loggers: what is logged through the module is repeated at the next round's first batch.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            self._log_histograms(logger, metrics, trainer.global_step)
        shown = {
            "reward/student": "reward",
            "ovd/acceptance_rate": "accepted",
            "throughput/generated_tokens_per_s": "tokens_per_s",
        }
        bar = {short: values[name] for name, short in shown.items() if name in values}
        module.log_dict(values, logger=False, batch_size=1)  # for callbacks that monitor a metric
        module.log_dict(bar, prog_bar=True, logger=False, batch_size=1)

    @staticmethod
    def _reduce(metrics: RoundMetrics, trainer: L.Trainer, module: OVDModule) -> dict[str, float]:
        """The round's numbers over all ranks: sums, means, histograms add up; maxima and seconds take the largest."""
        names = sorted(metrics.means)
        flat = [part for name in names for part in metrics.means[name]]
        flat += [metrics.sums[name] for name in sorted(metrics.sums)]
        for name in sorted(metrics.histograms):
            flat += metrics.histograms[name][1]
        top = [metrics.maxima[name] for name in sorted(metrics.maxima)] + [metrics.seconds[p] for p in TIMES]
        device = module.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        total = trainer.strategy.reduce(torch.tensor(flat, dtype=dtype, device=device), reduce_op="sum").tolist()
        highest = trainer.strategy.reduce(torch.tensor(top, dtype=dtype, device=device), reduce_op="max").tolist()
        values: dict[str, float] = {}
        rest = iter(total)
        for name in names:
            amount, count = next(rest), next(rest)
            if count:
                values[name] = amount / count
        for name in sorted(metrics.sums):
            values[name] = next(rest)
        for name in sorted(metrics.histograms):
            bins, counts = metrics.histograms[name]
            metrics.histograms[name] = (bins, [int(next(rest)) for _ in counts])
        for name, value in zip([*sorted(metrics.maxima), *(f"time/{p}" for p in TIMES)], highest, strict=True):
            if value != float("-inf") and (value or name != "time/environment"):
                values[name] = value
        return values

    @staticmethod
    def _log_histograms(logger: Any, metrics: RoundMetrics, step: int) -> None:
        """W&B gets histograms; every logger gets the counts as numbers, so that the run's page can draw them."""
        from lightning.pytorch.loggers import WandbLogger

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
