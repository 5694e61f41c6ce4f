"""What of a restored trainer is this run's: the optimiser's settings, the schedule, and where the loops begin."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def optimizer_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Every parameter group without its parameters, as configured; to be taken before a schedule changes them."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def apply_settings(
    optimizer: torch.optim.Optimizer, configured: list[dict[str, Any]], schedulers: list[LRScheduler]
) -> None:
    """Learning rate, betas, weight decay as configured, where a checkpoint has brought its own. Moments stay.

    A schedule continues at its update: its total was computed for this run's rounds. With unchanged settings every
    number is the one that was there.
    """
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
    for scheduler in schedulers:
        if not isinstance(scheduler, LambdaLR):  # as all of transformers' are that need no metric
            continue
        rates = [values["lr"] for values in configured]
        scheduler.base_lrs = list(rates)
        for group, base, factor in zip(optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = base
            group["lr"] = base * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def place_loops(checkpoint: dict[str, Any], updates: int, batches: int) -> None:
    """The progress of Lightning's loops as at the end of a round's last batch.

    Wherever the checkpoint was written (after a batch, at the end of training, when a signal came), and whatever
    trainer.accumulate_grad_batches was then. Whether the batch was the last is for this run's number of rounds to
    say: a finished run continues with a larger ``data.rounds``.

    Args:
        updates: of the checkpoint; with 0, everything begins again.
        batches: micro-batches that these updates are now.
    """
    loops = checkpoint["loops"]["fit_loop"]
    done = int(updates > 0)

    def both(**counts: int) -> dict[str, dict[str, int]]:
        return {"total": dict(counts), "current": dict(counts)}

    loops["epoch_progress"] = both(ready=done, started=done, processed=0, completed=0)
    loops["epoch_loop.batch_progress"] = {
        **both(ready=batches, started=batches, processed=batches, completed=batches - done),
        "is_last_batch": False,
    }
    loops["epoch_loop.val_loop.batch_progress"] = {
        **both(ready=0, started=0, processed=0, completed=0),
        "is_last_batch": False,
    }
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = updates - done  # the loop adds the last one itself
