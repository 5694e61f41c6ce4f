"""Metrics of evaluations, as torchmetrics and as functions: denominators are the true ones on any number of ranks."""

from ovd_lightning.metrics.answers import (
    F1,
    ExactMatch,
    SubExactMatch,
    exact_match,
    f1_score,
    normalize_answer,
    sub_exact_match,
)
from ovd_lightning.metrics.problems import Count, PassAtK, ProblemMean, pass_at_k, pass_ks

__all__ = [
    "F1",
    "Count",
    "ExactMatch",
    "PassAtK",
    "ProblemMean",
    "SubExactMatch",
    "exact_match",
    "f1_score",
    "normalize_answer",
    "pass_at_k",
    "pass_ks",
    "sub_exact_match",
]
