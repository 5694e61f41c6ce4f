"""Settings that Lightning offers and a run does not take, each with the reason and what to use instead."""

from __future__ import annotations

from ovd_lightning.errors import ConfigError

ONE_STUDENT = "the engine generates for the student, which is named once."
NAMES: dict[str, tuple[str, str]] = {
    "data.seed": ("there is one seed, of problem order and of every sample.", "Use --seed_everything {value}."),
    "engine.init_args.model": (ONE_STUDENT, "Use --model.student {value}."),
    "engine.model": (ONE_STUDENT, "Use --model.student {value}."),
    "data.task": ("the task is set at the top level.", "Use --task {value}."),
    "model.method": ("the method is set at the top level.", "Use --method {value}."),
    "rollout.engine": ("the student's engine is set at the top level.", "Use --engine {value}."),
    "optimizer": ("the optimiser is AdamW.", "Use --model.learning_rate, --model.betas, --model.weight_decay."),
    "lr_scheduler": ("the schedule is the model's.", "Use --model.lr_scheduler NAME, --model.warmup_fraction."),
}
"""Setting -> reason, what to use: names that Lightning users know, or that another setting determines."""


def refused_name(name: str, value: object = "VALUE") -> ConfigError | None:
    """The error for a setting that must not be given; None for any other."""
    for known, (reason, hint) in NAMES.items():
        if name == known or name.startswith(f"{known}."):
            short = value if isinstance(value, (str, int)) and name == known else "VALUE"
            return ConfigError(name, reason, hint.format(value=short))
    return None
