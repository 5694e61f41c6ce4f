"""Exact match, substring match and F1 of short answers, over all aliases of the reference.

Answers are normalised as SQuAD's official evaluation (v1.1) does: lower case, ASCII punctuation removed, the articles
a, an and the removed, white space collapsed. EM and F1 are that script's; sub-EM is Search-R1's ``subem_check``.
Each is the best over the aliases. Averages are over every problem, one without an answer counting 0.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["F1", "ExactMatch", "SubExactMatch", "exact_match", "f1_score", "normalize_answer", "sub_exact_match"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """SQuAD v1.1's normalisation. Its order matters: "the-end" loses its hyphen first, and so keeps its article."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised answers, else 0.

    Args:
        prediction: None: there is none, which is never right.
        answers: the reference and its aliases.
    Raises: ValueError without any answer.
    """
    aliases = _aliases(answers)
    if prediction is None:
        return 0.0
    predicted = normalize_answer(prediction)
    return float(any(predicted == normalize_answer(alias) for alias in aliases))


def sub_exact_match(prediction: str | None, answers: Sequence[str]) -> float:
    """1 if one of the normalised answers is a substring of the normalised prediction, else 0: Search-R1's sub-EM, and
    what ZeroSearch reports as EM.

    Letters, not words, are compared ("cat" is in "location"), and an alias that normalises to nothing ("---") is in
    everything; both are the official function's. Arguments and errors: see :func:`exact_match`.
    """
    aliases = _aliases(answers)
    if prediction is None:
        return 0.0
    predicted = normalize_answer(prediction)
    return float(any(normalize_answer(alias) in predicted for alias in aliases))


def f1_score(prediction: str | None, answers: Sequence[str]) -> float:
    """F1 of the words of prediction and answer (eq. 2, with multiplicity), the best over the answers, in [0, 1].

    0 where they share no word, also where both are empty after normalisation, as SQuAD's script has it. Arguments and
    errors: see :func:`exact_match`.
    """
    aliases = _aliases(answers)
    if prediction is None:
        return 0.0
    predicted = normalize_answer(prediction).split()
    return max(_f1(predicted, normalize_answer(alias).split()) for alias in aliases)


def _f1(predicted: list[str], reference: list[str]) -> float:
    shared = (Counter(predicted) & Counter(reference)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


def _aliases(answers: Sequence[str]) -> Sequence[str]:
    if isinstance(answers, str):  # whose letters would be taken for aliases
        return [answers]
    if not len(answers):
        raise ValueError("an answer is compared with nothing: the reference has no alias")
    return answers


class _AnswerMetric(Metric):
    """Mean of a score over problems; sums and counts add up over ranks.

    Args:
        dtype: of the sums; float32 where the device has no float64.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, prediction: str | None, answers: Sequence[str]) -> float:
        """Of one prediction, in [0, 1]."""

    def update(self, predictions: Sequence[str | None], answers: Sequence[Sequence[str]]) -> None:
        """predictions, answers: [P], one prediction and all its aliases a problem; None counts 0."""
        scores = [self.score(p, aliases) for p, aliases in zip(predictions, answers, strict=True)]
        self.total += sum(scores)
        self.count += len(scores)

    def compute(self) -> Tensor:
        """The mean, in [0, 1]; NaN without any problem."""
        return self.total / self.count


class ExactMatch(_AnswerMetric):
    """Share of predictions that are one of their answers: :func:`exact_match`."""

    def score(self, prediction: str | None, answers: Sequence[str]) -> float:
        return exact_match(prediction, answers)


class SubExactMatch(_AnswerMetric):
    """Share of predictions that contain one of their answers: :func:`sub_exact_match`."""

    def score(self, prediction: str | None, answers: Sequence[str]) -> float:
        return sub_exact_match(prediction, answers)


class F1(_AnswerMetric):
    """Mean word overlap with the nearest answer: :func:`f1_score`."""

    def score(self, prediction: str | None, answers: Sequence[str]) -> float:
        return f1_score(prediction, answers)
