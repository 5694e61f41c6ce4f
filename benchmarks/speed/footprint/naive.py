"""The forms that the package does not have: whole logits, [B, L, V], of student and teacher.

What a method makes of them is the package's own; only the two ways in of `Student` are written as they stand in a
textbook, with `model(input_ids).logits`, and keep for the backward pass whatever automatic differentiation keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovd_lightning.functional import generalised_jsd, token_entropy
from ovd_lightning.loss_head import Expected
from ovd_lightning.student import Student
from ovd_lightning.teachers.token import TokenTeacher


class NaiveStudent(Student):
    """A student whose logits exist at every position at once."""

    def whole_logits(self, input_ids: Tensor, attention_mask: Tensor, temperature: float) -> Tensor:
        """[B, L-1, V] float32: the prompt's positions as well."""
        logits = self.hf(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits[:, :-1].float() / temperature

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        entropy: bool = True,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Tensor]:
        logits = self.whole_logits(input_ids, attention_mask, temperature)
        logprobs = torch.log_softmax(logits, dim=-1).gather(-1, input_ids[:, 1:, None])[..., 0]
        return torch.where(mask, logprobs, 0.0), torch.where(mask, token_entropy(logits), 0.0)

    def divergence(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float,
        beta: float,
        teacher: Student,
        teacher_inputs: tuple[Tensor, Tensor, Tensor] | None = None,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raises: NotImplementedError for a teacher with other prompts, whose positions are not the student's."""
        if teacher_inputs is not None:
            raise NotImplementedError("the naive form reads student and teacher at the same positions")
        assert isinstance(teacher, NaiveStudent)
        with torch.no_grad():
            taught = torch.log_softmax(teacher.whole_logits(input_ids, attention_mask, temperature), dim=-1)
        logits = self.whole_logits(input_ids, attention_mask, temperature)
        own = torch.log_softmax(logits, dim=-1)
        value = generalised_jsd(own, taught, beta)
        logprobs = own.gather(-1, input_ids[:, 1:, None])[..., 0]
        return tuple(torch.where(mask, x, 0.0) for x in (value, logprobs, token_entropy(logits)))  # type: ignore[return-value]


class NaiveTeacher(TokenTeacher):
    """A teacher that is read through whole logits."""

    def model_on(self, device: torch.device) -> Student:
        if self._model is None:
            assert self.path is not None
            self._model = NaiveStudent(self.path, self.dtype).requires_grad_(False).eval()
        return self._model.to(device)
