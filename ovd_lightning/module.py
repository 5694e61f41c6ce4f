"""OVDModule: owns the student, its optimiser and schedule. Knows no engine, and a teacher only through the method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.lengths import spans_within
from ovd_lightning.lora import LoRA, base_name, empty_model, lora_errors, package_errors
from ovd_lightning.methods.base import Method
from ovd_lightning.parallel import computed_in, data_parallel, reduce_gradients, shard, share_buckets
from ovd_lightning.pieces import summed
from ovd_lightning.pretrained import attention_errors, loading, packing_errors
from ovd_lightning.resume.record import KEY, base_errors, class_path, compare, make
from ovd_lightning.resume.restore import apply_settings, optimizer_settings, place_loops
from ovd_lightning.round.metrics import RoundMetrics
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from ovd_lightning.types import Batch

Dtype = Literal["float32", "bfloat16", "float16"]
Schedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
]
"""Those of transformers that need neither further settings nor a metric."""
METHOD = "ovd_lightning_method"
"""Under which a Lightning checkpoint has what the method has learnt, and the method's class."""


class OVDModule(L.LightningModule):
    """The student and its training step. It trains as it samples: without dropout, whatever its configuration says.

    Args:
        student: checkpoint folder or hub id of the initial student, which is also the KL reference.
        method: what is sampled, credited and minimised.
        learning_rate: AdamW (A.6.2: 1e-6, constant).
        optimizer: adamw, or adamw_8bit: its two moments in a byte each, by bitsandbytes (arXiv 2110.02861).
        betas, weight_decay: AdamW.
        lr_scheduler: of the learning rate.
        warmup_fraction: share of all updates with linear warm-up (A.6.2, Web Q&A: 0.95 of "linear").
        dtype: of the parameters. float32 with Trainer precision bf16-mixed keeps float32 master weights.
        chunk_size: trained tokens whose logits exist at a time.
        gradient_checkpointing: recompute activations in the backward pass.
        micro_batch_tokens: most tokens, rows times the longest of them, of which activations exist at a time; with
            packing, most real ones. A larger micro-batch is computed in pieces; a single row may have more. null: no
            limit. The pieces' gradients are added up in a copy of their own. Neither with FSDP2 nor in float16.
        reduce_every_micro_batch: under FSDP2, reduce gradients after every micro-batch. False: once an update, which
            sends less, while every rank holds the whole gradient in float32. Nothing else changes.
        head_dtype: float32: logits are not rounded to the dtype of the computation. Of use together with the engine's
            ``head_dtype``, where both compute in half precision; null: they are rounded like everything else.
        attn_implementation: as transformers names them: eager, sdpa, flash_attention_2 ...; null: its choice.
        packing: compute a micro-batch's sequences as one row, without padding. Made for flash_attention_2; sdpa and
            eager give the same by a mask of all tokens against all, which is slow. Checked when the model is loaded.
        compile: torch.compile of each block of the transformer; the first rounds take longer.
        lora: train a low-rank adapter over frozen weights, which are the KL reference as well; null: train everything.
    """

    def __init__(
        self,
        student: str,
        method: Method,
        learning_rate: NonNegativeFloat = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 0.0,
        lr_scheduler: Schedule = "constant",
        warmup_fraction: ClosedUnitInterval = 0.0,
        dtype: Dtype = "float32",
        chunk_size: PositiveInt = 1024,
        gradient_checkpointing: bool = False,
        micro_batch_tokens: PositiveInt | None = None,
        reduce_every_micro_batch: bool = True,
        head_dtype: Literal["float32"] | None = None,
        attn_implementation: str | None = None,
        packing: bool = False,
        compile: bool = False,
        lora: LoRA | None = None,
        optimizer: Literal["adamw", "adamw_8bit"] = "adamw",
    ) -> None:
        super().__init__()
        self.student_path = student
        self.method = method
        self.learning_rate = learning_rate
        self.betas = betas
        self.weight_decay = weight_decay
        self.lr_scheduler = lr_scheduler
        self.warmup_fraction = warmup_fraction
        self.dtype_name = dtype
        self.chunk_size = chunk_size
        self.gradient_checkpointing = gradient_checkpointing
        self.micro_batch_tokens = micro_batch_tokens
        self.reduce_every_micro_batch = reduce_every_micro_batch
        self.head_dtype = head_dtype
        self.attn_implementation = attn_implementation
        self.packing = packing
        self.compile_blocks = compile
        self.optimizer_name = optimizer
        self.lora = lora
        self.strict_loading = lora is None  # with an adapter, a checkpoint has that alone: see state_dict
        self.student: Any = None
        self.train_metrics = RoundMetrics()
        """What the training steps of the current round measured; the rollout callback takes and logs it."""
        self._configured: list[list[dict[str, Any]]] = []
        """The settings of every optimiser's parameter groups, as this run has them."""
        self._restored: dict[str, Any] | None = None
        """A checkpoint's state of the method, until that has started."""
        self._ends_round = False
        """The present batch is the last of its round."""
        self._reference: list[Any] = []  # in a list, so that it is no submodule: never sharded, never saved

    # ----------------------------------------------------------------- model

    def errors(self, trainer: L.Trainer) -> Iterator[ConfigError]:
        """What is wrong with these settings, before a weight is loaded."""
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)
        if self.micro_batch_tokens is not None:
            yield from self._piece_errors(sharded, "float16" in self.computes_in(trainer))
        if self.optimizer_name == "adamw_8bit":
            yield from package_errors("model.optimizer", "bitsandbytes", "qlora")
            if sharded:
                problem = "is adamw_8bit, which bitsandbytes does not have for the shards of FSDP2."
                yield ConfigError("model.optimizer", problem, "Use adamw, whose moments FSDP2 shards, or ddp.")
        yield from attention_errors(self.student_path, self.attn_implementation, self.computes_in(trainer))
        if self.packing:
            yield from packing_errors(self.attn_implementation)
        if self.lora is not None:
            yield from lora_errors(self.lora, empty_model(self.student_path), sharded)

    @staticmethod
    def _piece_errors(sharded: bool, scaled: bool) -> Iterator[ConfigError]:
        setting, hint = "model.micro_batch_tokens", "Leave it out, and raise trainer.accumulate_grad_batches."
        if sharded:
            problem = "is set, but under FSDP2 all ranks enter each block equally often, whatever their rows' lengths."
            yield ConfigError(setting, problem, hint)
        if scaled:
            yield ConfigError(setting, "is set, but gradients in float16 are formed with a scale of all of them.", hint)

    def setup(self, stage: str) -> None:
        share_buckets(self.trainer.strategy)

    def configure_model(self) -> None:
        if self.student is not None:
            return
        from ovd_lightning.student import Student

        with loading("model.student", self.student_path):
            self.student = Student(
                self.student_path,
                self.dtype_name,
                self.chunk_size,
                self.gradient_checkpointing,
                self.attn_implementation,
                self.compile_blocks,
                self.lora,
                self.packing,
            )
            if self.head_dtype is not None:
                self.student.unround_logits()
        self._spread(self.student)

    def _spread(self, model: Any) -> None:
        """Over the ranks, under FSDP2: Trainer(strategy=ModelParallelStrategy())."""
        if self.device_mesh is not None:
            mesh = data_parallel(self.device_mesh)
            shard(model, model.blocks(), mesh, computed_in(str(self.trainer.precision)))
            model.pass_cost = float("inf")

    @property
    def reference(self) -> Any:
        """The frozen initial student, loaded when first needed and never if the method has no KL term, nor with an
        adapter, without which the student is the initial one. Under FSDP2 it is sharded like the student, and kept in
        the dtype in which that computes."""
        if not self._reference:
            from ovd_lightning.student import Student

            half = self.device_mesh is not None and computed_in(str(self.trainer.precision)) is not None
            model = Student(
                self.student_path,
                "bfloat16" if half else self.dtype_name,
                self.chunk_size,
                attn_implementation=self.attn_implementation,
                compile=self.compile_blocks,
                packing=self.packing,
            )
            self._reference.append(model.requires_grad_(False).eval())
            if self.head_dtype is not None:
                model.unround_logits()
            self._spread(model)
            model.to(self.device)
        return self._reference[0]

    @torch.no_grad()
    def annotate_logprobs(self, batch: Batch, old: bool) -> Batch:
        """Fill ``old_logprobs`` (under the weights as they are now), ``reference_logprobs`` where needed, and what the
        method adds."""
        batch = batch.to(self.device)
        batch.old_logprobs = torch.zeros_like(batch.behaviour_logprobs) if old else None
        batch.reference_logprobs = torch.zeros_like(batch.behaviour_logprobs) if self.method.needs_reference else None
        # Automatic precision is the training step's, so that old and new log-probabilities differ by the update only.
        with self.trainer.precision_plugin.forward_context():
            for piece in self.pieces(batch):
                inputs = (piece.input_ids, piece.attention_mask, piece.completion_mask, piece.temperature)
                if piece.old_logprobs is not None:
                    piece.old_logprobs.copy_(self.student(*inputs, entropy=False)[0])
                if piece.reference_logprobs is not None:
                    piece.reference_logprobs.copy_(self._reference_logprobs(*inputs))
            self.method.annotate_batch(batch)
        return batch

    def pieces(self, batch: Batch) -> list[Batch]:
        """A micro-batch as views of at most ``micro_batch_tokens`` each."""
        if self.micro_batch_tokens is None:
            return [batch]
        lengths = batch.attention_mask.sum(dim=-1).tolist()
        spans = spans_within(lengths, self.micro_batch_tokens, padded=not self.packing)
        return [batch] if len(spans) == 1 else [batch.some(slice(span.start, span.stop)) for span in spans]

    def _reference_logprobs(self, *inputs: Any) -> Tensor:
        """[B, L-1] under the initial student."""
        if self.lora is None:
            return self.reference(*inputs, entropy=False)[0]
        with self.student.initial():
            return self.student(*inputs, entropy=False)[0]

    def computes_in(self, trainer: L.Trainer) -> set[str]:
        """The dtypes of the parameters and of the products."""
        names = {"32": "float32", "bf16": "bfloat16", "16": "float16", "64": "float64"}
        precision = str(trainer.precision).split("-")[0]
        quantized = {self.lora.quantize} if self.lora is not None and self.lora.quantize else set()
        return {self.dtype_name, names.get(precision, precision), *quantized}

    # -------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step - batch.policy_version != batch.update:
            raise RuntimeError(
                f"stale data: update {batch.update} of round {batch.round} was generated by weights of step "
                f"{batch.policy_version}, but step {self.global_step} is being trained"
            )
        pieces = self.pieces(batch)
        if len(pieces) == 1:
            return self._loss(batch)
        return summed(lambda: map(self._loss, pieces), [p for p in self.student.parameters() if p.requires_grad])

    def _loss(self, batch: Batch) -> Tensor:
        """Of a micro-batch or a piece of one; measures it."""
        output = self.method.loss(self.student, batch)
        if batch.kept_logprobs is not None:
            batch.kept_logprobs.copy_(output.logprobs)
        if not torch.isfinite(output.loss):
            raise RunError(
                f"the loss of round {batch.round} is {output.loss.item()}: see policy/ratio_max and lower "
                "model.learning_rate or data.epochs_per_round"
            )
        metrics = self.train_metrics
        for name, values in output.means.items():
            metrics.add_mean(name, values.sum().item(), values.numel())
        for name, values in output.maxima.items():
            metrics.add_maximum(name, values.max().item() if values.numel() else float("-inf"))
        metrics.add_sum("throughput/trained_tokens", int(batch.completion_mask.sum()))
        real = int(batch.attention_mask.sum())
        metrics.add_mean("throughput/padding", self.student.computed(batch.attention_mask), real)
        if batch.update == 0:
            metrics.add_sum("loss", output.loss.item())
        return output.loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        last = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        reduce_gradients(self.student, now=last or self.reduce_every_micro_batch)
        self._ends_round = batch.last_in_round

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value = norm.full_tensor().item() if hasattr(norm, "full_tensor") else norm.item()
        self.train_metrics.add_maximum("policy/grad_norm", value)
        if self._ends_round:  # here, so that a failure leaves the round unfinished
            self.method.end_round(lambda tensor: self.trainer.strategy.reduce(tensor, reduce_op="sum"))

    def configure_optimizers(self) -> Any:
        from transformers import get_scheduler

        trained = [p for p in self.student.parameters() if p.requires_grad]
        settings = {"lr": self.learning_rate, "betas": self.betas, "weight_decay": self.weight_decay}
        kind: Any = torch.optim.AdamW
        if self.optimizer_name == "adamw_8bit":
            from bitsandbytes.optim import AdamW8bit

            kind = AdamW8bit
        optimizer = kind(trained, **settings)
        self._configured = [optimizer_settings(optimizer)]
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = get_scheduler(self.lr_scheduler, optimizer, round(total * self.warmup_fraction), total)
        # Stepped with every update, not every epoch.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """The settings of optimiser and schedule are this run's, also after a checkpoint's state was restored. The
        method begins here: by now every strategy has restored what it restores."""
        self.method.start(self.student_path, self.device)
        if self._restored is not None:
            self.method.load_state_dict(self._restored)
            self._restored = None
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for optimizer, configured in zip(self.trainer.optimizers, self._configured, strict=True):
            apply_settings(optimizer, configured, schedulers)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without the frozen weights under an adapter, of which a checkpoint has a digest alone."""
        state = super().state_dict(*args, **kwargs)
        return state if self.lora is None else {n: t for n, t in state.items() if base_name(n) is None}

    def resume_settings(self) -> dict[str, Any]:
        """What a checkpoint records of it: plain data."""
        return {
            "method": class_path(self.method),
            "method.init_args.group_size": self.method.group_size,
            "model.student": self.student_path,
            "model.dtype": self.dtype_name,
            "model.optimizer": self.optimizer_name,
            "model.lora": None if self.lora is None else asdict(self.lora),
            "model.learning_rate": self.learning_rate,
            "model.betas": list(self.betas),
            "model.weight_decay": self.weight_decay,
            "model.lr_scheduler": self.lr_scheduler,
            "model.warmup_fraction": self.warmup_fraction,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """How many rounds are finished, and the settings that a resumed run is compared with."""
        # Of the state that is saved: a checkpoint from the middle of a round may be that of the round before.
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        settings = {**data.resume_settings(), **self.resume_settings()}
        checkpoint[KEY] = make(settings, int(checkpoint["global_step"]), data.resumed, self.student.base_digest)
        if state := self.method.state_dict() if self._restored is None else self._restored:
            checkpoint[METHOD] = {"class": class_path(self.method), "state": state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises: ConfigError for an adapter of another base, and for a checkpoint that training cannot go on from with
        these settings."""
        raise_errors(base_errors(checkpoint, self.student_path, self.student.base_digest))
        if self.trainer.state.fn != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        data.resumed, _ = compare(checkpoint, {**data.resume_settings(), **self.resume_settings()})
        saved = checkpoint.get(METHOD, {})
        self._restored = saved["state"] if saved.get("class") == class_path(self.method) else None
        batches = data.resumed.rounds * data.updates_per_round * self.trainer.accumulate_grad_batches
        place_loops(checkpoint, data.resumed.updates, batches)

    # ------------------------------------------- evaluation is the callback's

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Empty: BenchmarkCallback answers and grades."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Empty: BenchmarkCallback answers and grades."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Empty: BenchmarkCallback answers and writes."""
