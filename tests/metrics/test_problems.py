"""Means over problems and pass@k: by hand, by brute force, and over two processes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from ovd_lightning.evaluation.results import average
from ovd_lightning.metrics import Count, PassAtK, ProblemMean, pass_at_k, pass_ks


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample() -> None:
    """Every subset of k of n samples is counted: that is what the estimator stands for."""
    for n in range(1, 8):
        for c in range(n + 1):
            samples = [1] * c + [0] * (n - c)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(samples, k))
                expected = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at_k(tensor(c), tensor(n), k).item() == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand() -> None:
    # 1 - C(6, 4) / C(8, 4) = 1 - 15/70; all correct; none correct; too few wrong ones to fill a subset.
    assert pass_at_k(tensor(2, 8, 0, 5), tensor(8, 8, 8, 8), 4).tolist() == pytest.approx([1 - 15 / 70, 1, 0, 1])


def test_pass_at_1_is_the_mean_and_many_samples_do_not_overflow() -> None:
    assert pass_at_k(tensor(3), tensor(7), 1).item() == pytest.approx(3 / 7)
    many = pass_at_k(tensor(1), tensor(100_000), 1000).item()
    assert many == pytest.approx(0.01, rel=1e-9)  # one correct of n: k / n


def test_pass_at_k_is_undefined_with_fewer_samples() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        pass_at_k(tensor(1, 1), tensor(8, 3), 4)
    with pytest.raises(ValueError, match="1 or more"):
        pass_at_k(tensor(1), tensor(8), 0)
    with pytest.raises(ValueError, match="between 0"):
        pass_at_k(tensor(9), tensor(8), 2)


@pytest.mark.parametrize(("samples", "ks"), [(0, []), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_which_k_are_reported(samples: int, ks: list[int]) -> None:
    assert pass_ks(samples) == ks


def test_a_mean_has_its_standard_error_and_denominator() -> None:
    metric = ProblemMean()
    for batch in (tensor(1, 0, 0), tensor(), tensor(1)):
        metric.update(batch)
    mean, error, n = metric.compute().tolist()
    assert (mean, n) == (0.5, 4)
    assert error == pytest.approx(math.sqrt((4 * 0.25 / 3) / 4))  # sample variance over 4 problems


def test_no_problem_is_no_number() -> None:
    metric = ProblemMean()
    metric.update(tensor())
    assert math.isnan(metric.compute()[0])
    metric.update(tensor(1))
    assert metric.compute()[0] == 1
    assert math.isnan(metric.compute()[1])  # one problem has no spread


def test_pass_at_k_averages_over_problems() -> None:
    metric = PassAtK(2)
    metric.update(tensor(0, 2), tensor(4, 4))
    metric.update(tensor(4), tensor(4))
    expected = (0 + (1 - 1 / 6) + 1) / 3
    assert metric.compute()[0].item() == pytest.approx(expected)


def test_the_average_over_benchmarks_is_unweighted() -> None:
    value, error = average([0.2, 0.6], [0.03, 0.04])
    assert value == pytest.approx(0.4)
    assert error == pytest.approx(0.025)


def on_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mean, passes, count = ProblemMean(), PassAtK(2), Count()
    mean.update(tensor(1, 0, 1) if rank == 0 else tensor())  # one rank had nothing to answer
    passes.update(*((tensor(2), tensor(4)) if rank == 0 else (tensor(0, 4), tensor(4, 4))))
    count.update(2 + rank)
    result = {"mean": mean.compute().tolist(), "pass": passes.compute().tolist(), "count": float(count.compute())}
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_have_one_denominator(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(on_rank, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert result["mean"][0] == pytest.approx(2 / 3)
        assert result["mean"][2] == 3
        assert result["pass"][0] == pytest.approx((5 / 6 + 0 + 1) / 3)
        assert result["pass"][2] == 3
        assert result["count"] == 5
