"""The token-level teacher: log-probabilities of the student's own tokens. White box: it must share the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ovd_lightning.engines.base import Engine, TokensUsed
from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.pretrained import check_checkpoint, load_tokenizer, loading
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.teachers.base import Teacher
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.tokens import same_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.student import Student
    from ovd_lightning.tasks.base import Task
    from ovd_lightning.types import Batch, Problem

SETTING = "method.init_args.teacher.init_args"


class TokenTeacher(Teacher):
    """A frozen causal language model that reads what the student wrote, and perhaps a demonstrator beside it.

    ``model`` is loaded when the first micro-batch needs it, onto the device that trains, and read through the student's
    own chunked machinery at the temperature of the batch. It is no part of the module: never wrapped, sharded or
    saved. Under DDP and under FSDP2 every rank holds a whole copy of its own; a teacher that does not fit beside the
    student belongs behind ``engine``.

    Args:
        model: checkpoint folder or hub id. Its tokenizer must be the student's.
        engine: reads instead of ``model``: any engine that scores given tokens. It knows temperature 1 only, and hands
            over log-probabilities of the student's tokens, no whole distributions.
        demonstrator: writes trajectories for the methods that want some; it judges nothing, so any `read` will do.
        dtype: of the model's parameters: float32, bfloat16 or float16.
        chunk_size: trained tokens whose logits exist at a time.
    """

    def __init__(
        self,
        model: str | None = None,
        engine: Engine | None = None,
        demonstrator: Demonstrator | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        chunk_size: PositiveInt = 1024,
    ) -> None:
        if (model is None) == (engine is None):
            raise ConfigError(
                f"{SETTING}.model",
                "and engine are both set." if model is not None else "and engine are both null.",
                "Name a checkpoint that is loaded beside the student, or an engine: exactly one of the two.",
            )
        self.path = model
        self.engine = engine
        self.demonstrator = demonstrator
        self.dtype = dtype
        self.chunk_size = chunk_size
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: Student | None = None
        self._read = 0

    @property
    def name(self) -> str:
        return self.engine.name if self.engine is not None else str(self.path)

    @property
    def engines(self) -> list[Engine]:
        own = [] if self.engine is None else [self.engine]
        return own if self.demonstrator is None else own + [e for e in self.demonstrator.engines if e not in own]

    @property
    def used(self) -> TokensUsed:
        engines = super().used
        return TokensUsed(engines.prompt + self._read, engines.completion)

    def count_read(self, attention_mask: Tensor) -> None:
        """``model`` has read these rows, [B, L]: prompts and completions."""
        self._read += int(attention_mask.sum())

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Of the model that reads; None where an endpoint hides it."""
        if self.engine is not None:
            return self.engine.tokenizer
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(f"{SETTING}.model", str(self.path))
        return self._tokenizer

    # ----------------------------------------------------------------- checks

    def check(self) -> None:
        """Raises: ConfigError for a checkpoint that is not there, and what the demonstrator's check finds."""
        if self.path is not None:
            check_checkpoint(f"{SETTING}.model", self.path)
            _ = self.tokenizer
        if self.engine is not None:
            self.engine.check()
        if self.demonstrator is not None:
            self.demonstrator.check()

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        if self.demonstrator is not None:
            self.demonstrator.check_problems(task, problems, max_tokens)

    def check_student(self, student: Engine, temperature: float) -> None:
        """Whether the teacher can read this student's tokens. Loads tokenizers only.

        Raises: ConfigError for another vocabulary, and for a temperature at which an engine cannot score.
        """
        raise_errors(self._student_errors(student, temperature))

    def _student_errors(self, student: Engine, temperature: float) -> Iterator[ConfigError]:
        if student.tokenizer is None or not same_vocabulary(student.tokenizer, self.tokenizer):
            sizes = [len(t.get_vocab()) if t is not None else "a hidden number of" for t in
                     (self.tokenizer, student.tokenizer)]  # fmt: skip
            yield ConfigError(
                f"{SETTING}.{'model' if self.engine is None else 'engine'}",
                f"{self.name} has another vocabulary ({sizes[0]} tokens) than the student {student.name} ({sizes[1]}): "
                "log-probabilities of the student's tokens need the same one.",
                "Use a teacher of the student's family, or OVD, whose teacher may have any vocabulary.",
            )
        if self.engine is not None and temperature != 1:
            yield ConfigError(
                f"{SETTING}.engine",
                f"scores at temperature 1, but rollout.temperature is {temperature}: the student's log-probabilities "
                "would be of another distribution.",
                "Set rollout.temperature to 1, or give the teacher as a model.",
            )

    def check_distributions(self, user: str = "this method") -> str:
        """The checkpoint whose distributions ``user`` needs. Raises: ConfigError where an engine reads instead."""
        if self.path is None:
            raise ConfigError(
                f"{SETTING}.engine",
                f"gives log-probabilities of single tokens; {user} needs whole distributions.",
                "Give the teacher as a model, or use OPD.",
            )
        return self.path

    # ---------------------------------------------------------------- reading

    def model_on(self, device: torch.device) -> Student:
        """The frozen model, loaded at the first call. Raises: ConfigError where an engine reads instead."""
        path = self.check_distributions()
        if self._model is None:
            from ovd_lightning.engines.local import untouched
            from ovd_lightning.student import Student

            with untouched(), loading(f"{SETTING}.model", path):
                model = Student(path, self.dtype, self.chunk_size)
            self._model = model.requires_grad_(False).eval()
        return self._model.to(device)

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """[B, L-1] float32: the teacher's log-probability of each trained token of the batch, 0 elsewhere.

        At the batch's temperature; behind the teacher's own prompts where the batch has some.
        """
        read = batch.teacher_inputs or batch
        if self.engine is not None:
            values = self._scored(self.engine, read.input_ids, read.attention_mask, read.completion_mask)
        else:
            model = self.model_on(batch.input_ids.device)
            self.count_read(read.attention_mask)
            found = model(read.input_ids, read.attention_mask, read.completion_mask, batch.temperature, entropy=False)
            values = found[0][read.completion_mask]
        spread = torch.zeros(batch.completion_mask.shape, dtype=torch.float32, device=batch.input_ids.device)
        return spread.masked_scatter(batch.completion_mask, values)

    @staticmethod
    def _scored(engine: Engine, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        """[M], from an engine: each row is scored behind its first token, and the trained ones are taken."""
        rows = [ids[:n].tolist() for ids, n in zip(input_ids, attention_mask.sum(dim=-1).tolist(), strict=True)]
        with engine.awake():
            scores = engine.score([r[:1] for r in rows], [r[1:] for r in rows])
        parts = [score.to(mask.device)[row[: len(score)]] for score, row in zip(scores, mask, strict=True)]
        return torch.cat(parts).float()

    def close(self) -> None:
        self._model = None
        super().close()
