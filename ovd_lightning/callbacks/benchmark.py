"""BenchmarkCallback: the student answers every problem of every benchmark, in fit, validate, test and predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from ovd_lightning import progress
from ovd_lightning.callbacks.resumed import had, how_it_goes_on, validate_first
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError
from ovd_lightning.evaluation.answering import Answering, Decoding, describe
from ovd_lightning.evaluation.answers import AnswerFiles
from ovd_lightning.evaluation.names import PREFIX, EvalSplit
from ovd_lightning.evaluation.rejection import TestingRejection
from ovd_lightning.evaluation.results import Evaluation
from ovd_lightning.evaluation.running import Pass, Tally
from ovd_lightning.evaluation.wandb_tables import Shown, log_tables, wandb_loggers
from ovd_lightning.loader import ProblemBatch
from ovd_lightning.locks import FolderLock
from ovd_lightning.module import OVDModule
from ovd_lightning.preflight import check_evaluation
from ovd_lightning.resume.damage import trained_updates
from ovd_lightning.settings.ranges import HalfOpenUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from ovd_lightning.tasks.base import Task
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.weights import fingerprint


class BenchmarkCallback(L.Callback):
    """Accuracy of the student as it is: before training, during it (Lightning's validation), and after it.

    Logged: ``eval/<benchmark>/accuracy`` (validation problems), ``test/<benchmark>/accuracy`` (test problems),
    greedy, with a task's further metrics and ``truncated_fraction`` beside it; with k ``samples`` also ``avg@k``
    (which is ``sampled_accuracy``, a name without the k) and ``pass@1``, ``pass@2``, ``pass@4`` ... ``pass@k`` by the
    unbiased estimator. Of several benchmarks also ``eval/average/accuracy`` and so on: unweighted means, as in the
    paper's tables. An interrupted evaluation that is started again in the same folder asks only for the answers that
    are missing.

    Args:
        every_n_rounds: how often validation problems are answered during ``fit``; 0: never.
        max_tokens: limit of an answer; null: the rollout's.
        greedy: answer every problem at temperature 0.
        samples: k, samples a problem, beside the greedy answer. 0: none.
        temperature: of the samples; null: the rollout's.
        top_p: of the samples; null: the rollout's.
        before_training: which problems are answered before the first round of ``fit``: a list of "validation" and
            "test", or true for both and false for neither.
        after_training: which problems are answered after the last round, likewise.
        rejection: testing rejection: the method's teacher rewrites steps of every answer that it scores too low.
        save: write every answer with its verdict, and the table, to ``folder``.
        folder: where evaluations are written, and looked for when one was interrupted; null: <run>/evaluations.
        wandb_rows: lines of each benchmark in W&B's table of answers, at most: more than any test set of the paper
            has. Fewer make a small file of many evaluations; those on the disk hold all.
    """

    def __init__(
        self,
        every_n_rounds: NonNegativeInt = 10,
        max_tokens: PositiveInt | None = None,
        greedy: bool = True,
        samples: NonNegativeInt = 0,
        temperature: PositiveFloat | None = None,
        top_p: HalfOpenUnitInterval | None = None,
        before_training: bool | list[EvalSplit] = True,
        after_training: bool | list[EvalSplit] = True,
        rejection: TestingRejection | None = None,
        save: bool = True,
        folder: str | None = None,
        wandb_rows: NonNegativeInt = 10_000,
    ) -> None:
        if not greedy and not samples:
            raise ConfigError("benchmark.greedy", "is false without samples: nothing is answered.", "Set samples.")
        self.every_n_rounds = every_n_rounds
        self.max_tokens = max_tokens
        self.greedy = greedy
        self.samples = samples
        self.temperature = temperature
        self.top_p = top_p
        self.before_training = _splits(before_training)
        self.after_training = _splits(after_training)
        self.rejection = rejection
        self.save = save
        self.folder = folder
        self.wandb_rows = wandb_rows
        self.history: dict[int, dict[str, float]] = {}
        """global_step -> what was measured there."""
        self.latest: dict[EvalSplit, Evaluation] = {}
        """The last evaluation of each split."""
        self.seconds = 0.0
        """Of all evaluations so far."""
        self._under_way = ExitStack()
        self._pass: Pass | None = None
        self._weights: tuple[int, int, str] | None = None
        self._resumed = False
        self._lock: FolderLock | None = None

    def remember(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Fill the history of a resumed run from its metrics: (global_step, metric -> value)."""
        self.history = {}
        for step, row in rows:
            known = {k: v for k, v in row.items() if k.startswith(tuple(f"{prefix}/" for prefix in PREFIX.values()))}
            if known:
                self.history.setdefault(step, {}).update(known)

    # ------------------------------------------------------------ one pass

    def evaluate(self, trainer: L.Trainer, module: OVDModule, split: EvalSplit) -> dict[str, float]:
        """All benchmarks of a split, outside Lightning's own loops; logged at the current step."""
        data, rollout = self._data(trainer), RolloutCallback.of(trainer)
        with rollout.engine.awake():
            rollout.sync(trainer, module)  # every rank, also one that has nothing to answer
        self._begin(trainer, module, split)
        for loader in data.val_dataloader() if split == "validation" else data.test_dataloader():
            for batch in loader:
                self._answer(batch)
        return self._finish(trainer, module, complete=True)

    def _begin(self, trainer: L.Trainer, module: OVDModule, split: EvalSplit, name: str | None = None) -> None:
        """Collective: every rank enters, also one that has nothing to answer."""
        self._under_way.close()
        self._under_way.enter_context(self._watched(name or split))
        data, rollout, teacher = self._data(trainer), RolloutCallback.of(trainer), module.method.teacher
        tasks, decoding, rejection = data.benchmarks(split), self.decoding(rollout, data), self._active(module)
        weights = self._fingerprint(trainer, module)
        rank, world_size = trainer.global_rank, trainer.world_size
        files = None
        if self.save:
            stem = f"{name or split}-{trainer.global_step:06d}"
            files = AnswerFiles(self.path(trainer), stem, weights, rank, world_size)
        assert rollout.engine.tokenizer is not None
        answering = Answering(
            engine=rollout.engine,
            tokenizer=rollout.engine.tokenizer,
            decoding=decoding,
            step=trainer.global_step,
            weights=weights,
            batch_size=data.eval_batch_size,
            files=files,
            rejection=rejection,
            teacher=teacher if isinstance(teacher, VerbalTeacher) else None,
        )
        awake = ExitStack()
        awake.enter_context(rollout.engine.awake())
        if rejection is not None and teacher is not None:
            awake.enter_context(teacher.awake())
        sizes = {benchmark: len(problems) for benchmark, problems in data.eval_problems(split).items()}
        self._pass = Pass(
            name=name or split,
            split=split,
            tasks=tasks,
            sizes=sizes,
            answering=answering,
            tally=None if name == "predict" else Tally(module.device, decoding, tasks, self.rejection is not None),
            shown=Shown(self.wandb_rows if wandb_loggers(trainer.loggers) else 0, rank, world_size),
            awake=awake,
        )

    def _answer(self, batch: ProblemBatch) -> None:
        if self._pass is not None:
            self._pass.answer(batch.benchmark, batch.problems)

    def _over(self) -> Pass | None:
        """The pass that ends here; its engines may sleep."""
        running, self._pass = self._pass, None
        if running is not None:
            running.awake.close()
        return running

    def _finish(self, trainer: L.Trainer, module: OVDModule, complete: bool) -> dict[str, float]:
        """Numbers to loggers, files and history. Collective.

        Args:
            complete: every problem must have been answered; otherwise the trainer leaves some out.
        """
        running = self._over()
        assert running is not None
        benchmarks = running.results(complete)
        rows = running.shown.gather(list(running.tasks))
        evaluation = Evaluation(
            split=running.split,
            step=trainer.global_step,
            settings=self.settings(trainer, module, running.tasks),
            benchmarks=benchmarks,
            environment=running.environment_counts(module.device),
            seconds=perf_counter() - running.start,
        )
        prefix = PREFIX[running.split]
        values = evaluation.values(prefix)
        self.latest[running.split] = evaluation
        self.history.setdefault(trainer.global_step, {}).update(values)
        for logger in trainer.loggers:
            logger.log_metrics({**values, "time/eval": evaluation.seconds}, step=trainer.global_step)
        if evaluation.reused:
            answers = f"{evaluation.reused} of {evaluation.reused + evaluation.generated} answers"
            rank_zero_info(f"{running.split}: {answers} were found in {self.path(trainer)}")
        if trainer.is_global_zero:
            if self.save:
                evaluation.save(self.path(trainer))
            log_tables(trainer.loggers, evaluation, rows, prefix, self.wandb_rows)
        self._under_way.close()
        return values

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """An evaluation from its beginning to its last file."""
        start = perf_counter()
        with progress.evaluation(name):
            yield
        self.seconds += perf_counter() - start

    def settings(self, trainer: L.Trainer, module: OVDModule, tasks: Mapping[str, Task]) -> dict[str, Any]:
        """How an evaluation is done, as JSON: what its table must be read with. Collective."""
        rollout = RolloutCallback.of(trainer)
        fitting = trainer.state.fn == "fit"
        checkpoint = None if fitting else trainer.ckpt_path
        return {
            **self.decoding(rollout, self._data(trainer)).settings(),
            "rejection": None if self.rejection is None else self.rejection.settings(module.method.teacher),
            "model": module.student_path,
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "updates": trainer.global_step if fitting else trained_updates(checkpoint),
            "weights": self._fingerprint(trainer, module),
            "engine": rollout.engine.name,
            "environments": {
                name: describe(task.environment) for name, task in tasks.items() if task.environment is not None
            },
        }

    def _found(self, trainer: L.Trainer, module: OVDModule, split: EvalSplit) -> bool:
        """Whether this step's evaluation was finished before the run was resumed; its numbers are known then."""
        settings = self.settings(trainer, module, self._data(trainer).benchmarks(split))
        values = had(trainer, self.path(trainer), split, settings)
        self.history.setdefault(trainer.global_step, {}).update(values or {})
        return values is not None

    # ----------------------------------------------------------------- parts

    def decoding(self, rollout: RolloutCallback, data: OVDDataModule) -> Decoding:
        """How answers are drawn: the callback's own settings before the rollout's."""
        sampling = rollout.sampling
        return Decoding(
            greedy=self.greedy,
            samples=self.samples,
            max_tokens=self.max_tokens or sampling.max_tokens,
            temperature=sampling.temperature if self.temperature is None else self.temperature,
            top_p=sampling.top_p if self.top_p is None else self.top_p,
            chat=rollout.chat,
            seed=data.seed,
        )

    def path(self, trainer: L.Trainer) -> Path:
        """The folder of evaluations."""
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "evaluations"

    def _fingerprint(self, trainer: L.Trainer, module: OVDModule) -> str:
        """Of the student's weights; once a step in ``fit``, where nothing else can change them. Collective."""
        key = (id(module), trainer.global_step)
        if trainer.state.fn != "fit" or self._weights is None or self._weights[:2] != key:
            self._weights = (*key, fingerprint(module.student.named_weights()))
        return self._weights[2]

    def _active(self, module: OVDModule) -> TestingRejection | None:
        """None where the threshold accepts everything, too: answers are then those of plain decoding."""
        rejection = self.rejection
        return rejection if rejection is not None and rejection.needs_teacher(module.method.teacher) else None

    @staticmethod
    def _data(trainer: L.Trainer) -> OVDDataModule:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, OVDDataModule)
        return data

    # ----------------------------------------------------------------- hooks

    def check_run(self, trainer: L.Trainer, module: OVDModule, stage: str) -> None:
        """What can be known before a first answer. Raises: ConfigError."""
        data, rollout = self._data(trainer), RolloutCallback.of(trainer)
        decoding = self.decoding(rollout, data)
        # The rollout callback has checked the problems of Lightning's own loops, with its own limit.
        own: EvalSplit = "validation" if stage in ("fit", "validate") else "test"
        checked = own if stage == "predict" or decoding.max_tokens <= rollout.sampling.max_tokens else None
        check_evaluation(
            data, self._splits_of(stage), rollout.engine, decoding, self.rejection, module.method.teacher, checked
        )
        if self.save and trainer.is_global_zero and self._lock is None:
            self._lock = FolderLock.beside(Path(trainer.default_root_dir), self.path(trainer), "benchmark.folder")

    def _splits_of(self, stage: str) -> list[EvalSplit]:
        """Whose problems are answered."""
        if stage != "fit":
            return ["validation"] if stage == "validate" else ["test"]
        wanted = {*self.before_training, *self.after_training, *(["validation"] if self.every_n_rounds else [])}
        return [split for split in PREFIX if split in wanted]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, OVDModule)
        self._pass = self._weights = None
        self._under_way, self.seconds = ExitStack(), 0.0
        self.check_run(trainer, pl_module, stage)
        if self._active(pl_module) is not None and pl_module.method.teacher is not None:
            pl_module.method.teacher.start()
        if stage != "fit":
            return
        if self.every_n_rounds:
            batches = self._data(trainer).updates_per_round * trainer.accumulate_grad_batches
            trainer.val_check_interval = self.every_n_rounds * batches
            trainer.check_val_every_n_epoch = None
        else:
            trainer.limit_val_batches = 0

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        self._resumed = trainer.global_step > 0
        if not self._resumed:
            for split in self.before_training:
                self.evaluate(trainer, pl_module, split)
            return
        updates = self._data(trainer).updates_per_round
        due = self.every_n_rounds > 0 and trainer.global_step % (self.every_n_rounds * updates) == 0
        if due and not self._found(trainer, pl_module, "validation"):  # it was interrupted
            validate_first(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        for split in self.after_training:
            known = any(name.startswith(f"{PREFIX[split]}/") for name in self.history.get(trainer.global_step, {}))
            if not known and not (self._resumed and self._found(trainer, pl_module, split)):
                self.evaluate(trainer, pl_module, split)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        if not trainer.sanity_checking:
            self._begin(trainer, pl_module, "validation")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        self._begin(trainer, pl_module, "test")

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        self._begin(trainer, pl_module, "test", name="predict")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._answer(batch)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def _epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, limit: int | float | None) -> None:
        assert isinstance(pl_module, OVDModule)
        if self._pass is not None:
            complete = isinstance(limit, float) and limit == 1.0
            pl_module.log_dict(self._finish(trainer, pl_module, complete), logger=False, batch_size=1, sync_dist=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_end(trainer, pl_module, trainer.limit_val_batches)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_end(trainer, pl_module, trainer.limit_test_batches)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        running = self._over()
        assert running is not None
        self._under_way.close()
        running.environment_counts(pl_module.device)
        reused, generated = running.totals(pl_module.device)
        where = f" in {self.path(trainer)}" if self.save else ""
        rank_zero_info(f"predict: {reused + generated} answers{where}, of which {reused} were found there")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Prints how the evaluation can be continued."""
        running = self._over()
        self._under_way.close()
        if running is not None and running.answering.files is not None:
            kept = f"{len(running.answering.files)} answers are kept in {self.path(trainer)}"
            rank_zero_info(f"The evaluation ({running.name}) was interrupted; {kept}. {how_it_goes_on(trainer)}")


def _splits(value: bool | Sequence[EvalSplit]) -> list[EvalSplit]:
    """True: both; False: neither."""
    if isinstance(value, bool):
        return list(PREFIX) if value else []
    return [split for split in PREFIX if split in value]
