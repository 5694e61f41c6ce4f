"""Several sampled scores of one prompt: their distribution, mean and spread."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ovd_lightning.engines.base import Request
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.base import Judgement
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.verbal import VerbalJudge
from tests.helpers import ScriptedEngine

SCALE = SCALES["zero_to_nine"]


def judge_of(answers: list[str], **settings: Any) -> tuple[VerbalJudge, ScriptedEngine]:
    """A judge whose engine gives these answers in turn, one a seed."""
    seeds: dict[int, str] = {}
    left = iter(answers)

    def write(prompt: str, request: Request) -> str:
        assert request.seed is not None
        return seeds[request.seed] if request.seed in seeds else seeds.setdefault(request.seed, next(left))

    engine = ScriptedEngine(write=write)
    return VerbalJudge(engine, read="text", **settings), engine


def test_a_judgement_is_the_distribution_of_its_samples() -> None:
    judge, engine = judge_of(["8", "Score: 6", "no idea", "8"], samples=4)
    (judgement,) = judge.score(["p"], seed=3)
    # 8, 6, 8 of four answers: mean 22/3; variance ((2/3)^2 + (4/3)^2 + (2/3)^2) / 3 = 8/9
    assert judgement.distribution == pytest.approx([0, 0, 0, 0, 0, 0, 1 / 3, 0, 2 / 3, 0])
    assert judgement.mass == 0.75
    assert judgement.mean(SCALE) == pytest.approx(22 / 3)
    assert judgement.spread == pytest.approx(math.sqrt(8 / 9))
    assert len({request.seed for request in engine.written}) == 4
    assert (judge.ledger.scores, judge.ledger.asked, judge.ledger.parse_failures) == (1, 4, 0)


def test_the_first_sample_is_the_one_that_a_single_one_would_be() -> None:
    one, engine = judge_of(["8"])
    many, engines = judge_of(["8", "7", "6"], samples=3)
    one.score(["p"], seed=3), many.score(["p"], seed=3)
    assert engine.written[0] == engines.written[0]


def test_no_number_in_any_sample_is_no_score() -> None:
    judge, _ = judge_of(["a", "b"], samples=2, max_parse_failures=1.0)
    (judgement,) = judge.score(["p"])
    assert (judgement.distribution, judgement.mass, judgement.spread) == (None, 0.0, None)
    assert not judgement.scored


def test_a_spread_of_a_certain_score_is_zero() -> None:
    assert Judgement([0.0] * 9 + [1.0], 1.0).spread == 0
    assert Judgement([0.5] + [0.0] * 8 + [0.5], 1.0).spread == 4.5


@pytest.mark.parametrize("settings", [{"read": "distribution"}, {"read": "text", "text_temperature": 0.0}])
def test_samples_that_would_be_equal_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"judge\.init_args\.samples: is 2, and all would be equal"):
        VerbalJudge(ScriptedEngine(), samples=2, **settings)
