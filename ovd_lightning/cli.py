"""The command line: LightningCLI with a task, a method, an engine, and a folder a run."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import transformers
from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.checkpoint import RoundCheckpoint
from ovd_lightning.callbacks.endings import RoundTimer, SignalsCallback
from ovd_lightning.callbacks.progress import RunProgressBar
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.callbacks.summary import SummaryCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Engine
from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.files import OUTSIDE, check_writable, write_text
from ovd_lightning.locks import FolderLock
from ovd_lightning.methods.base import Method
from ovd_lightning.metrics_file import NAME, MetricsLogger
from ovd_lightning.module import OVDModule
from ovd_lightning.pretrained import is_hub_id
from ovd_lightning.resume.record import Progress
from ovd_lightning.run_folder import (
    STATE,
    RunConfig,
    loggers,
    new_wandb_id,
    provenance,
    read_state,
    run_folder,
    set_aside,
)
from ovd_lightning.settings.merging import ConfigFile, objects_replace
from ovd_lightning.settings.parser import RunParser
from ovd_lightning.settings.trainer import apply_fast_dev_run, step_errors, trainer_errors
from ovd_lightning.start import begin, check_evaluated, check_start, continues, end, is_rank_zero, resolve
from ovd_lightning.stop import ending_on_signals
from ovd_lightning.tasks.base import Task


class RunRecordCallback(SaveConfigCallback):
    """Writes <run>/config.yaml, and gives config, git commit and package versions to the loggers."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # As it stands, so that runs can be grouped by e.g. method.init_args.threshold.
        record = {**self.config.as_dict(), **provenance()}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(record, allow_val_change=True)
            elif not isinstance(logger, MetricsLogger):
                logger.log_hyperparams({name: value for name, value in record.items() if name != "config"})  # its files
        import yaml

        folder = Path(trainer.default_root_dir)
        write_text(folder / self.config_filename, self.parser.dump(self.config, skip_none=False))
        text = yaml.safe_dump({**provenance(), "command": " ".join(sys.argv)}, sort_keys=False)
        write_text(folder / "provenance.yaml", text)


def quiet() -> None:
    """Silence progress bars of loaders, tips, and warnings that do not apply here."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage() and "Loading `train_dataloader`" not in record.getMessage()
    )
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    for message in (
        ".*Experiment logs directory.*",  # the run's folder holds more than the logger's file
        ".*treespec, LeafSpec.*",
        ".*does not have many workers.*",
        ".*It is recommended to use .*sync_dist=True.*",  # it is used
        ".*torch.distributed.reduce_op.*",
        ".*your dataloader is not resumable.*",  # rounds are functions of their index
        ".*Checkpoint directory .* exists and is not empty.*",  # it does where a run is continued
        ".*The dirpath has changed from.*",  # a resumed run has a folder of its own
        ".*in eval mode at the start of training.*",  # the student samples and trains as the same policy
    ):
        warnings.filterwarnings("ignore", message=message)


class OVDCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` of LightningCLI over our groups of arguments."""

    def __init__(self, args: Any = None, run: bool = True) -> None:
        given = sys.argv[1:] if args is None else args
        self._given = given[0] if isinstance(given, list) and given else None
        super().__init__(
            OVDModule,
            OVDDataModule,
            save_config_callback=RunRecordCallback,
            save_config_kwargs={"save_to_log_dir": False},  # we write it, atomically
            seed_everything_default=0,
            parser_class=RunParser,
            auto_configure_optimizers=False,  # AdamW is the module's
            args=args,
            run=run,
            trainer_defaults={
                "max_epochs": 1,
                "log_every_n_steps": 1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "gradient_clip_val": 1.0,
            },
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that was given, where it is one: to prepare the arguments of each takes a fifth of a second."""
        known = super().subcommands()
        return {self._given: known[self._given]} if self._given in known else known

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As Lightning's, with config files that may have a base."""
        kwargs.setdefault("dump_header", [f"lightning=={L.__version__}"])
        set_parsing_settings(add_print_completion_argument=True)  # of the top parser: --print_completion shtab-bash
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in yaml format.")
        return parser

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        super()._add_arguments(parser)
        objects_replace(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunConfig, "run")
        parser.add_subclass_arguments(Task, "task", required=True, help="what is trained on")
        parser.add_subclass_arguments(Method, "method", required=True, help="what is credited and minimised")
        parser.add_subclass_arguments(Engine, "engine", required=True, help="what generates for the student")
        parser.add_lightning_class_args(RolloutCallback, "rollout")
        parser.add_lightning_class_args(BenchmarkCallback, "benchmark")
        parser.add_lightning_class_args(RoundCheckpoint, "checkpoint")
        parser.add_lightning_class_args(SummaryCallback, "summary")
        parser.link_arguments("model.student", "engine.init_args.model")  # one student, named once
        # One seed. A seed that is drawn is put in its place in `_set_seed`.
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("task", "data.task", apply_on="instantiate")
        parser.link_arguments("method", "model.method", apply_on="instantiate")
        parser.link_arguments("engine", "rollout.engine", apply_on="instantiate")

    def _set_seed(self) -> None:
        """As Lightning's, but true draws a seed, where Lightning's is then always 0; the record has what was drawn."""
        config = self._settings()
        seed = config["seed_everything"]
        if seed is True:  # ranks that Lightning starts have the first one's
            seed = int(os.environ.get("PL_GLOBAL_SEED", secrets.randbelow(2**32)))
        if seed is False or not 0 <= seed < 2**32:
            raise ConfigError(
                "seed_everything",
                f"is {seed}; problem order and every sample are drawn from it.",
                "Use 0 to 4294967295, or true, which draws one and records it.",
            )
        config["seed_everything"] = config["data.seed"] = L.seed_everything(seed, workers=True)

    def _settings(self) -> Any:
        return self.config[self.subcommand] if self.subcommand else self.config

    def before_instantiate_classes(self) -> None:
        """What the Trainer is given is checked. A Hugging Face checkpoint as ``--ckpt_path`` of an evaluation is the
        student; nothing is restored then. Any other checkpoint is found and looked at here."""
        config = self._settings()
        raise_errors(trainer_errors(vars(config["trainer"]), self.subcommand or "fit"))
        if self.subcommand in ("fit", None):
            apply_fast_dev_run(config, rank_zero_info)
            updates = config["data.epochs_per_round"] * config["data.mini_batches"]
            raise_errors(step_errors(vars(config["trainer"]), updates))
        path = config.get("ckpt_path")
        if self.subcommand in ("validate", "test", "predict") and path and is_student(str(path)):
            config["model.student"] = config["engine.init_args.model"] = str(path)
            config["ckpt_path"] = None
        self.checkpoint = resolve(config, self.subcommand) if self.subcommand else None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RoundCheckpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run: RunConfig = self._get(self.config_init, "run")
        configured = self._get(self.config_init, "trainer") or {}
        fitting = self.subcommand == "fit"
        self.progress = Progress(0, 0)
        if self.checkpoint is not None:
            weights_only = self._get(self.config_init, "weights_only")
            if fitting:
                self.progress = check_start(self.checkpoint, self.model, self.datamodule, configured, weights_only)
            else:
                check_evaluated(self.checkpoint, self.model, weights_only)
        callbacks = configured.get("callbacks") or []
        callbacks = [SignalsCallback(), *(callbacks if isinstance(callbacks, list) else [callbacks])]
        for callback in callbacks:
            if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
                callback._check_on_train_epoch_end = False  # a run is one epoch: check after every evaluation
        if configured.get("max_time") is not None:
            callbacks.append(round_timer(configured["max_time"]))
            kwargs["max_time"] = None
        if configured.get("enable_progress_bar") is not False:
            callbacks.append(RunProgressBar(run.progress_every_s))
        folder = Path(configured.get("default_root_dir") or run_folder(run)).absolute()
        folder_setting = "trainer.default_root_dir" if configured.get("default_root_dir") else "run.root"
        self.continued = self.checkpoint if fitting and continues(self.checkpoint, folder) else None
        known = read_state(folder).get("wandb_id") if self.continued else None
        self.wandb_id = known or os.environ.get("WANDB_RUN_ID") or new_wandb_id()  # the latter of W&B's agent
        file = NAME
        if not fitting:  # an evaluation in a run's folder writes beside the run's own numbers
            file = f"{self.subcommand}-{NAME}" if (folder / STATE).exists() else NAME
        if is_rank_zero():
            check_writable(folder_setting, folder)
        kwargs["default_root_dir"] = str(folder)
        kwargs["logger"] = run_loggers(configured.get("logger"), loggers(run, folder, file, self.wandb_id))
        try:
            trainer = super().instantiate_trainer(**kwargs, callbacks=callbacks)
        except ConfigError:
            raise
        except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:  # no such device ...
            with suppress(OSError):
                folder.rmdir()  # where nothing is in it
            message = " ".join(str(error).split())
            names = ("strategy", "accelerator", "devices", "precision", "callback")
            about = (name for name in names if name in message)
            raise ConfigError(
                f"trainer.{name}" if (name := next(about, "")) else "trainer",
                message,
                "On a laptop: --trainer.accelerator cpu --trainer.devices 1 --trainer.strategy auto.",
            ) from error
        if is_rank_zero():
            self.lock = FolderLock(folder, "trainer.default_root_dir")
            if not fitting:
                set_aside(folder / file)
        return trainer

    def before_fit(self) -> None:
        begin(self.trainer, self.continued, self.progress, self.wandb_id, " ".join(sys.argv))

    def after_fit(self) -> None:
        end(self.trainer, self.datamodule.first_round())


def round_timer(max_time: Any) -> RoundTimer:
    """Raises: ConfigError for what is no time."""
    try:
        return RoundTimer(max_time)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(
            "trainer.max_time", f"is {max_time}.", "Use days:hours:minutes:seconds, e.g. 00:01:30:00."
        ) from error


def run_loggers(given: Any, own: list[Logger]) -> list[Logger] | bool:
    """The run's own loggers, which keep its numbers in its folder, and behind them the user's (trainer.logger).

    Of W&B's there is one: the user's, if there is one. ``false`` is none at all.
    """
    if given is False:
        return False
    users = [] if given in (None, True) else list(given) if isinstance(given, (list, tuple)) else [given]
    if any(isinstance(logger, WandbLogger) for logger in users):
        own = [logger for logger in own if not isinstance(logger, WandbLogger)]
    return [*own, *users]


def is_student(ckpt_path: str) -> bool:
    """Whether what an evaluation was given is a student (a folder with config.json, or a hub id), not a checkpoint of
    Lightning's (a file, or the folder of a sharded one)."""
    path = Path(ckpt_path).expanduser()
    if path.exists():
        return (path / "config.json").is_file()
    return is_hub_id(ckpt_path) and not ckpt_path.endswith(".ckpt")


def config_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError behind an exception: the parser wraps what a constructor raises in its own."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def outside(error: Exception) -> str | None:
    """What is wrong outside the program, in one line; None for an error of its own."""
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, OSError) and error.errno in OUTSIDE:  # of a library that writes its own files
        where = error.filename or os.environ.get("OVD_RUN_DIR") or "the run's folder"
        return f"{where}: {error.strerror}."
    return None


@contextmanager
def plain_errors() -> Iterator[None]:
    """A ConfigError ends the program with its messages alone and exit code 2, an error from outside with 1."""
    try:
        yield
    except Exception as error:
        found = config_error(error)
        lines = [outside(error)] if found is None else found.errors
        if lines == [None]:
            raise
        print(*(f"error: {line}" for line in lines), sep="\n", file=sys.stderr)
        raise SystemExit(1 if found is None else 2) from None


def main(args: Any = None) -> None:
    """Run the command line."""
    quiet()
    with ending_on_signals(), plain_errors():
        OVDCLI(args)
