"""Every argument of Lightning's Trainer: taken as it is, or refused with what to use instead.

A run is one epoch of ``data.rounds`` rounds, and a round's micro-batches belong together: what cuts an epoch by
batches would end a run in the middle of a round, without its metrics. `tests/workflow/test_trainer_settings.py` goes
through all arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ovd_lightning.errors import ConfigError


@dataclass(frozen=True)
class Refused:
    """An argument that is taken with these values alone."""

    values: tuple[Any, ...]
    reason: str
    hint: str
    commands: tuple[str, ...] = ("fit", "validate", "test", "predict")


ROUNDS = "A run is one epoch of data.rounds rounds."
EVALUATED = "Evaluations come at the ends of rounds."
OBEYED = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "fast_dev_run", "max_steps",
    "min_steps", "max_time", "limit_test_batches", "limit_predict_batches", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "deterministic", "benchmark", "inference_mode", "profiler", "detect_anomaly", "plugins",
    "sync_batchnorm", "default_root_dir", "enable_autolog_hparams", "model_registry",
)  # fmt: skip
"""Arguments that work as Lightning documents them."""
REFUSED = {
    "max_epochs": Refused((1,), ROUNDS, "Use --data.rounds {value}."),
    "min_epochs": Refused((None, 0, 1), ROUNDS, "Use --data.rounds."),
    "limit_train_batches": Refused(
        (None, 1.0), "A round needs all of its micro-batches.", "Use --data.rounds, --data.problems_per_round."
    ),
    "overfit_batches": Refused(
        (0, 0.0), "Every round samples anew.", "Train on few problems instead: --task.init_args.train_size, or ids."
    ),
    "limit_val_batches": Refused(
        (None, 1.0),
        "The evaluations before and after training have no batches of Lightning's.",
        "Use --data.validation_limit PROBLEMS, or --benchmark.every_n_rounds 0 for none.",
        ("fit",),
    ),
    "val_check_interval": Refused((None,), EVALUATED, "Use --benchmark.every_n_rounds."),
    "check_val_every_n_epoch": Refused((1, None), EVALUATED, "Use --benchmark.every_n_rounds."),
    "num_sanity_val_steps": Refused(
        (0,), "Everything is checked before a model is loaded.", "To evaluate first: --benchmark.before_training true."
    ),
    "log_every_n_steps": Refused((1,), "Every round is logged, once.", "Leave it out."),
    "use_distributed_sampler": Refused(
        (False,), "Problems are divided among the ranks without repeating one.", "Leave it out."
    ),
    "barebones": Refused(
        (False,), "It forbids the callbacks that generate.",
        "Use --trainer.enable_checkpointing false, --run.wandb disabled.",
    ),
    "reload_dataloaders_every_n_epochs": Refused((0,), ROUNDS, "Every round generates its own data; leave it out."),
}  # fmt: skip


def trainer_errors(given: dict[str, Any], command: str) -> Iterator[ConfigError]:
    """Arguments of the Trainer that a run cannot take."""
    for name, rule in REFUSED.items():
        value = given.get(name, rule.values[0])
        taken = [v for v in rule.values if value == v and type(value) is type(v)]  # 1 batch is not 1.0 of them
        if command in rule.commands and not taken:
            yield ConfigError(f"trainer.{name}", f"is {value}. {rule.reason}", rule.hint.format(value=value))


def step_errors(given: dict[str, Any], updates_per_round: int) -> Iterator[ConfigError]:
    """Numbers of optimiser steps that end in the middle of a round."""
    for name in ("max_steps", "min_steps"):
        value = given.get(name)
        if value not in (None, -1) and value % updates_per_round:
            nearest = max(1, round(value / updates_per_round))
            yield ConfigError(
                f"trainer.{name}",
                f"is {value}, in the middle of a round of {updates_per_round} optimiser steps.",
                f"Use --data.rounds {nearest}, or a multiple of {updates_per_round}.",
            )


Warn = Callable[[str], None]


def apply_fast_dev_run(config: Any, warn: Warn) -> None:
    """What Lightning users expect of ``fast_dev_run: n``, in rounds: n of them, an evaluation of a few problems
    at the end, and nothing left but metrics and transcripts: no checkpoint, no student, no W&B. Changes ``config``."""
    wanted = config["trainer.fast_dev_run"]
    if not wanted:
        return
    rounds = int(wanted)  # true: 1
    few = config["data.problems_per_round"]
    config["trainer.fast_dev_run"] = False
    config["trainer.enable_checkpointing"] = False
    config["trainer.max_steps"] = -1
    config["data.rounds"] = rounds
    for split in ("validation", "test"):
        limit = config[f"data.{split}_limit"]
        config[f"data.{split}_limit"] = few if limit is None else min(few, limit)
    config["benchmark.every_n_rounds"] = rounds
    config["benchmark.before_training"] = config["benchmark.after_training"] = False
    config["summary.export"] = False
    config["run.wandb"] = "disabled"
    what = "1 round" if rounds == 1 else f"{rounds} rounds"
    warn(f"trainer.fast_dev_run: {what}, an evaluation of {few} problems, no checkpoint, no student, no W&B")
