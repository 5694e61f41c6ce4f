"""What a training step of OVD, OPD and GKD takes on the same micro-batch: the package's module, methods and teachers.

A step is what the package does with a micro-batch: `OVDModule.annotate_logprobs` (forward passes of the frozen models),
`OVDModule.training_step` and the backward pass. Peaks do not include parameters, gradients, optimiser state and frozen
models; the sizes of the latter are separate columns.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.speed.allocator import peak_bytes
from benchmarks.speed.footprint.batch import Sampled, sample
from benchmarks.speed.footprint.naive import NaiveStudent, NaiveTeacher
from ovd_lightning.dry_run.shape import SINGLE
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.opd import OPD
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.module import OVDModule
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher

WIDTH, TEACHER_WIDTH = 64, 128
"""Hidden sizes: the models are tiny, so that the vocabulary dominates."""
AT_MOST = {"OVD": 5, "OPD": 5, "GKD": 11}
"""Float32 tensors [L, V] that a naive step is taken to need when it is decided whether to try it."""


@dataclass(frozen=True, slots=True)
class Form:
    """A method, and how it comes by what it needs of the vocabulary."""

    method: str
    naive: bool = False

    @property
    def name(self) -> str:
        return f"{self.method}, {'whole logits' if self.naive else 'chunks'}"


FORMS = (
    Form("OVD"), Form("OPD"), Form("GKD"),
    Form("OVD", naive=True), Form("OPD", naive=True), Form("GKD", naive=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Sizes of a measurement."""

    vocabulary: int
    """V"""
    tokens: int
    """T, completion tokens of every trajectory."""
    rows: int = 2
    """N, trajectories of the micro-batch."""
    chunk: int = 128
    steps: int = 10
    """K"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One step. Bytes everywhere."""

    form: Form
    cell: Cell
    positions: int
    """Whose logits the form makes at once: of a chunk, or all of the micro-batch, prompts included."""
    peak: int
    """Above what stays."""
    seconds: float | None
    """CPU time on one thread, or wall time on CUDA; None: not tried, the peak is computed from a smaller step's."""
    loss: float | None
    signal: int
    """Of the teacher, kept for one trajectory until its loss: digits, log-probabilities, or what stands for logits."""
    reference: int
    """Weights of the frozen initial student on the training device."""
    teacher: int
    """... and of the teacher."""

    @property
    def tried(self) -> bool:
        return self.loss is not None


def save_model(folder: Path, vocabulary: int, width: int, length: int, seed: int) -> str:
    """A random two-layer model whose head is tied to its embedding."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@contextmanager
def models(vocabulary: int, length: int) -> Iterator[tuple[str, str]]:
    """(student, teacher) as folders of checkpoints, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield (
            save_model(Path(folder) / "student", vocabulary, WIDTH, length, seed=0),
            save_model(Path(folder) / "teacher", vocabulary, TEACHER_WIDTH, length, seed=1),
        )


class Step:
    """A form with its models on a device, ready to be measured on any batch.

    Args:
        judge: the verbal teacher that the batch was made with.
    """

    def __init__(self, form: Form, student: str, teacher: str, judge: VerbalTeacher, chunk: int, device: str) -> None:
        self.form, self.device, self.chunk = form, device, chunk
        self.method, self.token_teacher = self._method(teacher, judge)
        self.module = OVDModule(student, self.method, chunk_size=chunk)
        if form.naive:
            self.module.student = NaiveStudent(student)
        self.module.configure_model()
        accelerator = "cuda" if device.startswith("cuda") else "cpu"
        self.module.trainer = L.Trainer(
            accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        self.module.to(device)
        for parameter in self.module.parameters():
            parameter.grad = torch.zeros_like(parameter)  # gradients stay, so they are not the step's

    def _method(self, path: str, judge: VerbalTeacher) -> tuple[Method, TokenTeacher | None]:
        if self.form.method == "OVD":
            return OVD(judge), None
        kind = NaiveTeacher if self.form.naive else TokenTeacher
        teacher = kind(model=path, chunk_size=self.chunk)
        return (OPD(teacher), teacher) if self.form.method == "OPD" else (GKD(teacher), teacher)

    def run(self, data: Sampled) -> tuple[float, Any]:
        """(loss, batch as the frozen models left it)"""
        batch = self.module.annotate_logprobs(data.batch, old=False)
        loss = self.module.training_step(batch, 0)
        loss.backward()
        return loss.item(), batch

    def measure(self, data: Sampled, cell: Cell) -> Measurement:
        """Peak and time of one step, after a small one that loads whatever is loaded at first use."""
        self.run(sample(2 * cell.steps + 1, cell.steps, 1, 0))
        clock = time.perf_counter if self.device.startswith("cuda") else time.process_time
        seen: dict[str, Any] = {}

        def step() -> None:
            start = clock()
            seen["loss"], seen["batch"] = self.run(data)
            seen["seconds"] = clock() - start

        peak = peak_bytes(step, self.device)
        mask = data.batch.completion_mask
        return Measurement(
            form=self.form,
            cell=cell,
            positions=mask.numel() if self.form.naive else min(cell.chunk, int(mask.sum())),
            peak=peak,
            seconds=seen["seconds"],
            loss=seen["loss"],
            signal=self.signal(data, seen["batch"]),
            reference=weights(self.module.reference) if self.method.needs_reference else 0,
            teacher=0
            if self.token_teacher is None
            else weights(self.token_teacher.model_on(torch.device(self.device))),
        )

    @torch.no_grad()
    def signal(self, data: Sampled, batch: Any) -> int:
        """Bytes of the teacher's signal per trajectory."""
        rows = len(data.batch)
        if self.form.method == "OVD":
            return sum(step.score is not None for y in data.sampled for step in y.steps) // rows
        if self.form.method == "OPD":
            return batch.teacher_logprobs[batch.completion_mask].nbytes // rows
        assert self.token_teacher is not None
        teacher = self.token_teacher.model_on(torch.device(self.device))
        if isinstance(teacher, NaiveStudent):
            vocabulary = teacher.hf.get_output_embeddings().weight.shape[0]
            return batch.completion_mask.shape[1] * vocabulary * SINGLE
        return teacher.rows(batch.input_ids, batch.attention_mask, batch.completion_mask).nbytes // rows


def weights(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of Lightning and transformers about every Trainer and checkpoint."""
    from transformers.utils import logging as transformers_logging

    names = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers_logging.enable_progress_bar()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def measure(
    cells: Sequence[Cell],
    forms: Sequence[Form] = FORMS,
    limit: float = 7 * 2**30,
    device: str = "cpu",
    tell: Callable[[Measurement], None] = lambda m: None,
) -> list[Measurement]:
    """Every form in every cell; cells of one vocabulary and chunk share their models.

    Args:
        limit: bytes above which a naive form is not tried; its peak is then computed from its largest step that was,
            in proportion to its positions.
        tell: called with each measurement when it is there.
    """
    found = []
    with quiet():
        for size in dict.fromkeys((c.vocabulary, c.chunk) for c in cells):
            own = sorted((c for c in cells if (c.vocabulary, c.chunk) == size), key=lambda c: c.rows * c.tokens)
            data = {cell: sample(cell.tokens, cell.steps, cell.rows, cell.rows // 2) for cell in own}
            with models(size[0], max(s.batch.input_ids.shape[1] for s in data.values())) as (student, teacher):
                for form in forms:
                    step = Step(form, student, teacher, data[own[0]].judge, size[1], device)
                    before: Measurement | None = None
                    for cell in own:
                        positions = data[cell].batch.completion_mask.numel()
                        wanted = AT_MOST[form.method] * positions * cell.vocabulary * SINGLE
                        if form.naive and wanted > limit:
                            if before is None:
                                continue
                            m = scaled(before, cell, positions)
                        else:
                            m = before = step.measure(data[cell], cell)
                        found.append(m)
                        tell(m)
    return found


def scaled(smaller: Measurement, cell: Cell, positions: int) -> Measurement:
    """A naive step that was not tried."""
    return Measurement(
        form=smaller.form,
        cell=cell,
        positions=positions,
        peak=round(smaller.peak * positions / smaller.positions),
        seconds=None,
        loss=None,
        signal=round(smaller.signal * positions / smaller.positions * smaller.cell.rows / cell.rows),
        reference=smaller.reference,
        teacher=smaller.teacher,
    )


def copies(found: Sequence[Measurement]) -> dict[Form, float]:
    """Float32 tensors of [positions, V] that a step holds at its peak: the slope between two measurements that differ
    in the positions alone, by length with whole logits, by chunk in the same cell otherwise."""
    slopes = {}
    for form in dict.fromkeys(m.form for m in found):
        tried = [m for m in found if m.form == form and m.tried]
        if not form.naive:
            cells = Counter(replace(m.cell, chunk=1) for m in tried)
            (cell, _), *_ = cells.most_common(1)
            tried = [m for m in tried if replace(m.cell, chunk=1) == cell]
        few, many = min(tried, key=lambda m: m.positions), max(tried, key=lambda m: m.positions)
        if few.cell.vocabulary == many.cell.vocabulary and few.positions < many.positions:
            slopes[form] = (many.peak - few.peak) / ((many.positions - few.positions) * few.cell.vocabulary * SINGLE)
    return slopes
