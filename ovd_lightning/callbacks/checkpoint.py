"""RoundCheckpoint: Lightning's ModelCheckpoint, at round boundaries, where a resumed run is exact."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from ovd_lightning import stop
from ovd_lightning.callbacks.endings import read_failure
from ovd_lightning.callbacks.finished import AtomicCheckpointIO, FinishedRound, whole_on_each_rank
from ovd_lightning.errors import ConfigError
from ovd_lightning.files import check_writable, move, partial, remove, same_file
from ovd_lightning.progress import phase
from ovd_lightning.run_folder import continue_command
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.types import Batch


class RoundCheckpoint(ModelCheckpoint):
    """Writes <run>/checkpoints/step-….ckpt and last.ckpt, after the last round in any case.

    A run that ends early, by a signal or by an error, also writes its last finished round, at any interval.

    Args:
        every_n_rounds: how often.
        keep: how many to keep; -1: all. With ``monitor``, the best; without, the newest.
        monitor: metric to rank by, e.g. eval/arithmetic/accuracy.
        mode: whether a larger (max) or a smaller (min) value is better.
        snapshot: where a round has several updates, keep a copy of the last finished round's weights and optimiser
            state in main memory (12 bytes a parameter for AdamW in float32) while the next one is trained. Without, a
            run that ends in the middle of a round goes on from its newest file. Sharded strategies have no copy.
    """

    def __init__(
        self,
        every_n_rounds: PositiveInt = 10,
        keep: int = 1,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        snapshot: bool = True,
    ) -> None:
        super().__init__(
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_rounds,
            save_top_k=keep,
            monitor=monitor,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
        )
        self.every_n_rounds = every_n_rounds
        self.snapshot = snapshot
        self.finished = FinishedRound()
        self._begun = False
        self._restored = 0
        """global_step of the checkpoint that was resumed from."""
        self._rounds: dict[int, int] = {}
        """global_step -> rounds that are finished then."""
        self.seconds = 0.0
        """Spent on checkpoints so far."""

    @property
    def state_key(self) -> str:
        """The same for every interval, so that a run may be resumed with another."""
        return "RoundCheckpoint"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        self._every_n_train_steps = self.every_n_rounds * self._updates(trainer)
        with contextlib.suppress(NotImplementedError):  # a strategy with files of its own
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            if trainer.is_global_zero:
                check_writable("trainer.default_root_dir", self.dirpath)
            signals = stop.current()
            if signals is not None:
                signals.last_words = lambda: self._last_words(
                    trainer, str(stop.Stopped(signals.received or 15)), signals
                )
        super().setup(trainer, pl_module, stage)

    @staticmethod
    def _updates(trainer: L.Trainer) -> int:
        return int(trainer.datamodule.updates_per_round)  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun = True
        if trainer.is_global_zero and whole_on_each_rank(trainer):
            parameters = sum(p.numel() * p.element_size() for p in pl_module.parameters() if p.requires_grad)
            all_ = -(-trainer.datamodule.rounds // self.every_n_rounds)  # type: ignore[attr-defined]
            files = 1 + (all_ if self.save_top_k == -1 else min(all_, max(1, self.save_top_k)))  # one is being written
            needed = 3 * parameters * files  # with AdamW's two moments
            free = shutil.disk_usage(str(self.dirpath)).free
            if free < needed:
                rank_zero_warn(
                    f"checkpoints will take about {needed / 1e9:.1f} GB, {self.dirpath} has {free / 1e9:.1f} GB free"
                )

    # ---------------------------------------------------------------- rounds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._rounds[trainer.global_step] = trainer.datamodule.first_round()  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """With what a validation that was interrupted still has to do."""
        return {**super().state_dict(), "defer_save": self._defer_save_until_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._defer_save_until_validation = bool(state_dict.get("defer_save", False))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        signals = stop.current()
        if signals is not None:
            signals.hold()
        several = self._updates(trainer) > 1
        keep = self.snapshot and several and trainer.is_global_zero and whole_on_each_rank(trainer)
        self.finished.before_update(trainer, keep)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        every = self._every_n_train_steps
        if batch.last_in_round:
            self._rounds[trainer.global_step] = batch.round + 1
        if batch.last_in_round and batch.round == trainer.datamodule.rounds - 1:  # type: ignore[attr-defined]
            self._every_n_train_steps = trainer.global_step  # the last round always
        start = time.perf_counter()
        with phase("checkpoint"):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.seconds += time.perf_counter() - start
        self._every_n_train_steps = every
        if batch.last_in_round:
            self.finished.record(trainer)
        signals = stop.current()
        if signals is not None:
            signals.release()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training that ends before its last round, e.g. by ``max_steps``, is saved too."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        known = max(self._last_global_step_saved, data.resumed.updates)
        if trainer.global_step > known and trainer.global_step % data.updates_per_round == 0:
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Whoever asks for a checkpoint, and whenever, gets the last finished round."""
        if trainer.state.fn == "fit":
            self.finished.correct(trainer, checkpoint, self._updates(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.finished.restored(checkpoint)
        self._restored = self.finished.step

    # --------------------------------------------------------------- writing

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """A sharded checkpoint is a folder: it is written completely under another name."""
        path = Path(filepath)
        if whole_on_each_rank(trainer):
            super()._save_checkpoint(trainer, filepath)
            return
        with stop.shielded():
            if trainer.is_global_zero:
                remove(partial(path))
            trainer.strategy.barrier()
            trainer.save_checkpoint(partial(path), self.save_weights_only)
            if trainer.is_global_zero:
                move(partial(path), path)
            trainer.strategy.barrier()
            self._last_global_step_saved = trainer.global_step
            self._last_checkpoint_saved = filepath

    def _save_last_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, torch.Tensor]) -> None:
        """A second name of the file that has just been written, which takes no time and no space."""
        newest = self._last_checkpoint_saved
        if not newest or self._last_global_step_saved != trainer.global_step or not whole_on_each_rank(trainer):
            super()._save_last_checkpoint(trainer, monitor_candidates)
            return
        self.last_model_path = self._last_path()
        if trainer.is_global_zero and newest != self.last_model_path:
            same_file(Path(newest), Path(self.last_model_path))
        trainer.strategy.barrier()

    def _last_path(self) -> str:
        return f"{self.dirpath}/{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

    # ------------------------------------------------------------ early ends

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the last finished round, and print how to continue the run."""
        signals = stop.current()
        stopped = signals if isinstance(exception, stop.Stopped) else None
        if stopped is not None:
            stopped.begin()
        by_signal = stopped is not None
        if trainer.state.fn == "fit" and (by_signal or (self._begun and not isinstance(exception, ConfigError))):
            with stop.shielded():
                reason = str(exception) if by_signal else f"ended by {type(exception).__name__}"
                self._last_words(trainer, reason, signals)
        if signals is not None:
            signals.last_words = None
        if stopped is not None:
            stopped.saved()
        elif signals is not None and trainer.world_size > 1:
            signals.end_soon()  # other ranks may wait for this one, and it for them

    def _last_words(self, trainer: L.Trainer, reason: str, signals: stop.Signals | None) -> None:
        """In another thread where the main one waits for a rank that has failed: the signals are not `stop.current`."""
        if not trainer.is_global_zero:
            return
        failure = read_failure(Path(trainer.default_root_dir))
        if failure is not None and signals is not None:
            signals.status, reason = 1, failure
        try:
            with aside():
                step = self.rescue(trainer)
            data = trainer.datamodule  # type: ignore[attr-defined]
            # evaluations before training come before on_train_start
            rounds = self._rounds.get(step) or (data.first_round() if step == trainer.global_step else 0)
            done = f"{rounds} of {data.rounds} rounds are finished and saved in {self.dirpath}."
            done = done if rounds else "No round is finished yet."
        except Exception as error:
            done = f"The last finished round could not be saved: {error}"
        command = continue_command(Path(trainer.default_root_dir))
        how = f" The run goes on with\n  {command}" if command is not None else ""
        print(f"\n{reason}. {done}{how}", file=sys.stderr, flush=True)

    def rescue(self, trainer: L.Trainer) -> int:
        """Write the last finished round where the disk does not have it. Rank 0 alone, without the others.

        Returns: global_step of the newest checkpoint of this run; 0 where there is none.
        Raises: RunError when it cannot be written.
        """
        step = self.finished.known(trainer, self._updates(trainer)) if whole_on_each_rank(trainer) else None
        if step is None:  # what the last interval wrote
            return self._last_global_step_saved or self._restored
        last = Path(self._last_path())
        if step == 0 or (step == self._last_global_step_saved and last.exists()):
            return step
        path = Path(str(self.dirpath)) / f"step-{step:06d}{self.FILE_EXTENSION}"
        ranked = self.monitor is not None or self.save_top_k == 0  # the step's file is for the metric to decide
        previous, self.last_model_path = self.best_model_path, str(last)
        if not ranked:
            self.best_model_path = str(path)
        # Trainer.save_checkpoint would wait for the other ranks
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, last if ranked else path)
        if not ranked:
            same_file(path, last)
            if self.save_top_k == 1 and previous and self._should_remove_checkpoint(trainer, previous, str(path)):
                trainer.strategy.checkpoint_io.remove_checkpoint(previous)
        self._last_global_step_saved, self._last_checkpoint_saved = step, str(last if ranked else path)
        return step


def aside() -> contextlib.AbstractContextManager[Any]:
    """In a thread beside the main one, which may wait for the GPU for ever: a stream that does not wait for it."""
    main = threading.current_thread() is threading.main_thread()
    return contextlib.nullcontext() if main or not torch.cuda.is_available() else torch.cuda.stream(torch.cuda.Stream())
