"""OPRD (arXiv 2606.06021): on-policy distillation of representations, hidden states instead of log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovd_lightning.engines.local import LocalEngine
from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.functional import Bridge, fit_bridge, hidden_distance
from ovd_lightning.methods.base import LossOutput
from ovd_lightning.methods.token_level import TokenLevel
from ovd_lightning.pretrained import load_config
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.types import Batch, Group

if TYPE_CHECKING:
    from ovd_lightning.engines.base import Engine, Sampling
    from ovd_lightning.round.context import Round
    from ovd_lightning.student import Student


class OPRD(TokenLevel):
    """Sampled: N student trajectories. Credited: nothing. Minimised: the mean over tokens and dimensions of
    (z_S - z_T)^2, the student's and the teacher's last hidden states at the student's own tokens; no logits exist.

        z_T = P_T (h_T - mu_T), z_S = P_S h_S + b     with a bridge of rank r;     z = h without one

    From the authors' code: the loss, with or without normalised states; the frozen bridge for models of other widths:
    P_T the r principal directions of the teacher's states on the student's rollouts, P_S fitted to it, r = 8 across
    architectures. Ours: the last layer only, where theirs can take several; P_S and b by least squares, where theirs is
    trained; both from the first micro-batch of the run instead of a run of its own; a shared vocabulary (theirs has a
    bridge across vocabularies as well).

    Args:
        teacher: a model, not an engine; must share the student's vocabulary.
        rank: r of the bridge; null: none, for models of equal width.
        normalise: states, or their projections, have length 1.
        bridge: file that keeps the bridge: written when it is fitted, read by every later run and when this one is
            continued. null keeps it for this run, which then cannot be continued.
        objective: group_size and aggregation, see `Method`.
    """

    credits_trajectories = False

    def __init__(
        self,
        teacher: TokenTeacher,
        rank: PositiveInt | None = 8,
        normalise: bool = False,
        bridge: str | None = None,
        **objective: Any,
    ) -> None:
        super().__init__(teacher=teacher, clip=None, kl_coefficient=0.0, **objective)
        teacher.check_distributions("OPRD")
        self.rank, self.normalise = rank, normalise
        self.file = None if bridge is None else Path(bridge).expanduser()
        self._bridge: Bridge | None = None

    def check(self, engine: Engine, sampling: Sampling) -> None:
        super().check(engine, sampling)
        raise_errors(self._errors(engine))

    def _errors(self, engine: Engine) -> Iterator[ConfigError]:
        if self.rank is not None or not isinstance(engine, LocalEngine):
            return
        paths = {"teacher": str(self.teacher.path), "student": engine.model}
        widths = {who: load_config(who, path).get_text_config().hidden_size for who, path in paths.items()}
        if widths["teacher"] != widths["student"]:
            yield ConfigError(
                "method.init_args.rank",
                f"is null, but hidden states have {widths['teacher']} (teacher) and {widths['student']} (student) "
                "dimensions.",
                "Give the bridge a rank, e.g. 8.",
            )

    def annotate(self, groups: list[Group], round: Round) -> None:
        for group in groups:
            group.mixture = list(group.sampled)
            for y in group.mixture:
                y.advantages = [0.0] * len(y.completion_ids)

    def annotate_batch(self, batch: Batch) -> None:
        """Nothing: the teacher's hidden states are read where the loss needs them."""

    def loss(self, student: Student, batch: Batch) -> LossOutput:
        inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask)
        self.teacher.count_read(batch.attention_mask)
        with torch.no_grad():
            taught = self.teacher.model_on(batch.input_ids.device).representations(*inputs).float()  # [M, d_T]
        own = student.representations(*inputs).float()  # [M, d_S]
        if self.rank is not None and len(own):
            own, taught = self.bridge(own.detach(), taught, batch).project(own, taught)
        distance = hidden_distance(own, taught, self.normalise)  # [M]
        means = {
            "oprd/distance": distance.detach(),
            "oprd/cosine": torch.cosine_similarity(own.detach(), taught, dim=-1),
        }
        loss = (distance * batch.weights[batch.completion_mask]).sum()
        unread = torch.zeros_like(batch.weights)  # no log-probability was computed, nor is one used
        return LossOutput(loss, means, {}, unread)

    def bridge(self, own: Tensor, taught: Tensor, batch: Batch) -> Bridge:
        """The bridge of this run, fitted to these rows where there is none. The same on every rank.

        Raises: RunError where a run that is continued has lost it, and for fewer rows than twice the dimensions.
        """
        if self._bridge is None:
            if self.file is not None and self.file.is_file():
                self._bridge = Bridge(**torch.load(self.file, map_location=own.device, weights_only=True))
            elif batch.round or batch.update:
                raise RunError(
                    "the bridge between teacher and student was not kept, so that this run cannot be continued: name a "
                    "file as method.init_args.bridge, and start again."
                )
            else:
                assert self.rank is not None
                if len(own) < 2 * own.shape[1]:
                    raise RunError(
                        f"the first micro-batch has {len(own)} tokens, too few for a bridge from {own.shape[1]} "
                        "dimensions: lower trainer.accumulate_grad_batches."
                    )
                self._bridge = fit_bridge(own, taught, self.rank)
                self._share(self._bridge)
        return self._bridge

    def _share(self, bridge: Bridge) -> None:
        """The first rank's bridge is everybody's, and is written."""
        first = True
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first = torch.distributed.get_rank() == 0
            for tensor in bridge.tensors.values():
                torch.distributed.broadcast(tensor, 0)
        if first and self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(bridge.tensors, self.file)
