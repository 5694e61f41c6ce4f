"""GAD's discriminator: a language model with a scalar head, its optimiser, and what a checkpoint holds of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ovd_lightning import functional as F
from ovd_lightning.engines.local import untouched
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.pretrained import loading

SETTING = "method.init_args.discriminator"
Contest = tuple[Sequence[list[int]], Sequence[list[int]]]
"""(the teacher's, the student's) answers to one prompt, prompt and answer as token ids: all their pairs."""


class Discriminator:
    """D(x, y) = w h + b, with h the last hidden state at the last token of prompt and answer; w = b = 0 at the start.

    No part of the module: never wrapped or sharded. Every rank has a whole copy in float32, with gradients summed over
    the ranks, whatever the student's precision is. It reads the answers to one prompt at a time.

    Args:
        path: checkpoint folder or hub id of the language model; its vocabulary is the student's.
        device: the one that trains.
        learning_rate: AdamW, without weight decay.
        checkpointing: recompute activations in the backward pass.
    """

    def __init__(self, path: str, device: torch.device, learning_rate: float, checkpointing: bool = False) -> None:
        from ovd_lightning.student import Student

        self.path, self.learning_rate = path, learning_rate
        with untouched(), loading(SETTING, path):
            self.trunk = Student(path, gradient_checkpointing=checkpointing)
        words: Any = self.trunk.hf.get_output_embeddings()
        if words.weight is not self.trunk.hf.get_input_embeddings().weight:
            words.requires_grad_(False)  # no logits are computed
        self.head = nn.Linear(words.weight.shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.trunk.to(device)
        self.head.to(device)
        named = [(f"trunk.{n}", p) for n, p in self.trunk.named_parameters() if p.requires_grad]
        self.parameters = dict([*named, *((f"head.{n}", p) for n, p in self.head.named_parameters())])
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)

    def values(self, rows: Sequence[list[int]]) -> Tensor:
        """[n] D of each row of token ids, with gradient."""
        device = self.head.weight.device
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        real = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        return self.head(self.trunk.last_states(ids.to(device), real.to(device)))[:, 0]

    @torch.no_grad()
    def judge(self, contest: Contest) -> tuple[Tensor, Tensor]:
        """(values of the teacher's answers, of the student's), on the CPU."""
        teacher, student = contest
        found = self.values([*teacher, *student]).cpu()
        return found[: len(teacher)], found[len(teacher) :]

    def update(self, contests: Sequence[Contest], sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """One step on the mean of -log sigma(D(teacher's) - D(student's)) over all ranks' pairs; none without a pair.

        Raises: RunError where that is not finite.
        """
        pairs = sum(len(teacher) * len(student) for teacher, student in contests)
        total = sum_over_ranks(torch.tensor(float(pairs), device=self.head.weight.device)).item()
        if not total:
            return
        self.accumulate(contests, total)
        for p in self.parameters.values():
            p.grad = sum_over_ranks(torch.zeros_like(p) if p.grad is None else p.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def accumulate(self, contests: Sequence[Contest], total: float) -> None:
        """Add the gradient of the loss's sum over these pairs, divided by ``total``."""
        for teacher, student in contests:
            if not teacher or not student:
                continue
            found = self.values([*teacher, *student])
            loss = F.bradley_terry(found[: len(teacher)], found[len(teacher) :]).sum() / total
            if not torch.isfinite(loss):
                raise RunError(
                    f"the discriminator's loss is {loss.item()}: lower method.init_args.discriminator_learning_rate"
                )
            loss.backward()

    def state_dict(self) -> dict[str, Any]:
        weights = {name: p.detach() for name, p in self.parameters.items()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The learning rate stays this run's. Raises: ConfigError for another architecture's."""
        shapes = {name: p.shape for name, p in self.parameters.items()}
        if {name: p.shape for name, p in state["weights"].items()} != shapes:
            raise ConfigError(
                SETTING,
                f"is {self.path}, of another architecture than the checkpoint's discriminator.",
                "Give the one that the run began with.",
            )
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
