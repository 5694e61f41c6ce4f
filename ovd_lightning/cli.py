"""The command line: LightningCLI with a task, a method, an engine, and a folder a run."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import transformers
from jsonargparse import ActionConfigFile
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.checkpoint import RoundCheckpoint
from ovd_lightning.callbacks.progress import RunProgressBar
from ovd_lightning.callbacks.rollout import RolloutCallback
from ovd_lightning.callbacks.summary import SummaryCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Engine
from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.base import Method
from ovd_lightning.module import OVDModule
from ovd_lightning.preflight import is_hub_id
from ovd_lightning.run_folder import RunConfig, loggers, provenance, run_folder, set_aside
from ovd_lightning.tasks.base import Task


class ConfigFile(ActionConfigFile):
    """``--config FILE``, where a line ``base: OTHER`` of FILE names the file that it differs from, relative to it.

    The same as ``--config OTHER --config FILE``: a variant of an experiment is then one file that says what differs.
    The base stands in one line of its own; a base may have a base.
    """

    BASE = re.compile(r"^base:[ \t]*([^\s#]+)[ \t]*(#.*)?$", re.MULTILINE)

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: Any, variants: tuple[Path, ...] = ()) -> None:
        try:
            file = Path_fr(value)
        except TypeError:  # the text of a configuration, or nothing: for the base class to say
            file = None
        text = "" if file is None else Path(file).read_text(encoding="utf-8")
        found = ConfigFile.BASE.search(text)
        if file is None or found is None:
            ActionConfigFile.apply_config(parser, cfg, dest, value)
            return
        path = Path(file).absolute()
        base = Path(os.path.normpath(path.parent / found.group(1)))
        if base in (*variants, path):
            raise ConfigError("base", f"{base} is among the files that it is the base of.", "Cut the circle.")
        if not base.is_file():
            raise ConfigError("base", f"{base}, named in {path}, is not there.", f"Name it relative to {path.parent}.")
        ConfigFile.apply_config(parser, cfg, dest, str(base), (*variants, path))
        with file.relative_path_context():
            ActionConfigFile.apply_config(parser, cfg, dest, ConfigFile.BASE.sub("", text, count=1))


class RunRecordCallback(SaveConfigCallback):
    """Writes <run>/config.yaml, and gives config, git commit and package versions to the loggers."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # As it stands, so that runs can be grouped by e.g. method.init_args.threshold.
        record = {**self.config.as_dict(), **provenance()}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(record, allow_val_change=True)
        import yaml

        path = Path(trainer.default_root_dir) / "provenance.yaml"
        path.write_text(yaml.safe_dump({**provenance(), "command": " ".join(sys.argv)}, sort_keys=False))


def quiet() -> None:
    """Silence what says nothing of the run: loaders' bars, tips, and warnings that do not apply here."""
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
    ):
        warnings.filterwarnings("ignore", message=message)


class OVDCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` of LightningCLI over our groups of arguments."""

    def __init__(self, args: Any = None, run: bool = True) -> None:
        super().__init__(
            OVDModule,
            OVDDataModule,
            save_config_callback=RunRecordCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
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

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As Lightning's, with config files that may have a base."""
        kwargs.setdefault("dump_header", [f"lightning=={L.__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in yaml format.")
        return parser

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
        parser.link_arguments("task", "data.task", apply_on="instantiate")
        parser.link_arguments("method", "model.method", apply_on="instantiate")
        parser.link_arguments("engine", "rollout.engine", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """A Hugging Face checkpoint as ``--ckpt_path`` of an evaluation is the student; nothing is restored then."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        path = config.get("ckpt_path")
        if self.subcommand in ("validate", "test", "predict") and path and is_student(str(path)):
            config["model.student"] = config["engine.init_args.model"] = str(path)
            config["ckpt_path"] = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run: RunConfig = self._get(self.config_init, "run")
        configured = self._get(self.config_init, "trainer") or {}
        folder = Path(configured.get("default_root_dir") or run_folder(run)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if getattr(rank_zero_only, "rank", 0) == 0:
            set_aside(folder / "metrics.csv")
        kwargs["default_root_dir"] = str(folder)
        if configured.get("logger") in (None, True):
            kwargs["logger"] = loggers(run, folder)
        if configured.get("enable_progress_bar") is not False:
            kwargs["callbacks"] = [*(configured.get("callbacks") or []), RunProgressBar(run.progress_every_s)]
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:  # no such accelerator, no such number of devices
            raise ConfigError(
                "trainer", f"{error}", "On a laptop: --trainer.accelerator cpu --trainer.devices 1."
            ) from error


def is_student(ckpt_path: str) -> bool:
    """Whether what an evaluation was given is a student (a folder with config.json, or a hub id), not a checkpoint of
    Lightning's (a file, or the folder of a sharded one).

    Raises: ConfigError for a path that is neither.
    """
    path = Path(ckpt_path).expanduser()
    if path.is_file() or ckpt_path in ("best", "last", "hpc") or ckpt_path.startswith("registry"):
        return False
    if path.is_dir():
        if (path / "config.json").is_file():
            return True
        if (path / ".metadata").is_file() or (path / "meta.pt").is_file():  # torch's distributed checkpoints
            return False
        raise ConfigError(
            "ckpt_path",
            f"the folder {ckpt_path} holds no config.json.",
            "Give a Lightning checkpoint (runs/.../checkpoints/last.ckpt), or a folder with a student "
            "(runs/.../student) or its hub id.",
        )
    if is_hub_id(ckpt_path) and not ckpt_path.endswith(".ckpt"):
        return True
    raise ConfigError(
        "ckpt_path",
        f"{ckpt_path} is not there.",
        "Give a Lightning checkpoint (runs/.../checkpoints/last.ckpt), a folder with a student (runs/.../student), or "
        "a hub id like Qwen/Qwen2.5-Math-1.5B.",
    )


def config_error(error: BaseException | None) -> ConfigError | None:
    """The ConfigError behind an exception: the parser wraps what a constructor raises in its own."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def plain_errors() -> Iterator[None]:
    """A ConfigError ends the program with its message alone and exit code 2."""
    try:
        yield
    except Exception as error:
        found = config_error(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        raise SystemExit(2) from None


def main(args: Any = None) -> None:
    """Run the command line."""
    quiet()
    with plain_errors():
        OVDCLI(args)
