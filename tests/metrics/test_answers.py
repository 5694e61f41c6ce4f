"""EM, sub-EM and F1 by hand, and their means over two processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ovd_lightning.metrics import (
    F1,
    ExactMatch,
    SubExactMatch,
    exact_match,
    f1_score,
    normalize_answer,
    sub_exact_match,
)

SCORES = (exact_match, sub_exact_match, f1_score)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Battle of\tHastings!", "battle of hastings"),
        ("a man, an owl and the sea", "man owl and sea"),
        ("theatre", "theatre"),  # articles are words
        ("the-end", "theend"),  # punctuation goes first
        ("U.S.A.", "usa"),
        ("1,200 km²", "1200 km²"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is removed
        ("Ångström", "ångström"),
        ("the", ""),
    ],
)
def test_normalisation_is_squads(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "sub_em", "f1"),
    [
        ("Lake Geneva.", ["lake geneva"], 1, 1, 1),
        ("the lake of Geneva", ["Lake Geneva"], 0, 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("It is Lake Geneva", ["Lake Geneva"], 0, 1, 2 * 0.5 * 1 / 1.5),
        ("Geneva", ["Lake Geneva"], 0, 0, 2 * 1 * 0.5 / 1.5),
        ("Lac Léman", ["Lake Geneva", "Lac Léman"], 1, 1, 1),  # an alias
        ("Geneva Lake", ["Lake Geneva"], 0, 0, 1),  # order matters to EM alone
        ("location", ["cat"], 0, 1, 0),  # letters, not words
        ("no no yes", ["no yes yes"], 0, 0, 2 / 3),  # shared words count as often as both have them
        ("Rome", ["Paris"], 0, 0, 0),
        ("", ["Paris"], 0, 0, 0),
        ("", ["the"], 1, 1, 0),  # nothing equals nothing, but has no word in common with it
        ("many", ["---"], 0, 1, 0),
        (None, ["Paris"], 0, 0, 0),
        (None, ["the"], 0, 0, 0),  # no answer is never right
        ("yes", ["yes it is"], 0, 0, 0.5),  # SQuAD's F1 has no special case for yes and no, as TriviaQA's or HotpotQA's
    ],
)
def test_scores_by_hand(prediction: str | None, answers: list[str], em: float, sub_em: float, f1: float) -> None:
    assert [score(prediction, answers) for score in SCORES] == [em, sub_em, pytest.approx(f1)]


@pytest.mark.parametrize("score", SCORES)
def test_the_best_alias_counts_wherever_it_stands(score: Callable[[str, Sequence[str]], float]) -> None:
    aliases = ["Samuel Clemens", "Twain, Mark", "Mark Twain"]
    assert score("mark twain", aliases) == score("mark twain", aliases[::-1]) == 1


@pytest.mark.parametrize("score", SCORES)
def test_one_answer_may_be_a_text_and_none_is_an_error(score: Callable[[str, Sequence[str]], float]) -> None:
    assert score("Mark", "Mark") == 1
    assert score("M", "Mark") < 1  # its letters are no aliases
    with pytest.raises(ValueError, match="no alias"):
        score("Mark", [])


PREDICTIONS = ["Paris", "in Paris", None, "the city of Paris", "Rome"]
ANSWERS = [["Paris"], ["Paris"], ["Paris"], ["Paris", "City of Paris"], ["Paris"]]
MEANS = {ExactMatch: 2 / 5, SubExactMatch: 3 / 5, F1: (1 + 2 / 3 + 0 + 1 + 0) / 5}


@pytest.mark.parametrize("metric", MEANS)
def test_a_mean_is_over_all_problems_also_those_without_an_answer(metric: type) -> None:
    whole, parts = metric(), metric()
    whole.update(PREDICTIONS, ANSWERS)
    for a, b in ((0, 1), (1, 1), (1, 5)):  # batches of any size, also of none
        parts.update(PREDICTIONS[a:b], ANSWERS[a:b])
    assert whole.compute().item() == pytest.approx(MEANS[metric])
    assert parts.compute().item() == whole.compute().item()
    none = metric()
    none.update([], [])
    assert math.isnan(none.compute().item())
    with pytest.raises(ValueError, match="shorter"):
        whole.update(PREDICTIONS, ANSWERS[:-1])


def _rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(0, 4) if rank == 0 else slice(4, 5)  # four problems here, one there
    means = []
    for metric in (ExactMatch(), SubExactMatch(), F1()):
        metric.update(PREDICTIONS[mine], ANSWERS[mine])
        means.append(metric.compute().item())
    Path(folder, f"{rank}").write_text(" ".join(map(str, means)))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_counts_add_up_over_ranks_of_unequal_shares(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        means = [float(mean) for mean in (tmp_path / str(rank)).read_text().split()]
        assert means == pytest.approx(list(MEANS.values()))
