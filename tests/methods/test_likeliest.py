"""Of several demonstrations the one that the student finds likeliest, by a plain model in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.methods.likeliest import Likeliest
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.rules import Added, Capped
from ovd_lightning.round.context import Round
from ovd_lightning.teachers.pool import Pool
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group
from tests.helpers import ScriptedEngine, make_group, make_round, mean, problem

RIGHT, WRONG = "1+1=2\n\\boxed{2}", "1+1=3\n\\boxed{3}"
TEXTS = ["\\boxed{2}", "1+1=2\n\\boxed{2}", "2+0=2\n\\boxed{2}", "0+2=2\n\\boxed{2}", None]


@pytest.fixture(scope="module")
def student(tiny_model: str) -> HFEngine:
    engine = HFEngine(tiny_model)
    engine.start()
    return engine


def ovd(tokenizer: Any, texts: list[str | None], pool: Pool | None = None, **settings: Any) -> OVD:
    """Its teacher writes these, one after the other."""
    written: list[str] = []

    def write(prompt: str, request: Any) -> str | None:
        written.append(prompt)
        return texts[(len(written) - 1) % len(texts)]

    teacher = VerbalTeacher(ScriptedEngine(write=write, tokenizer=tokenizer), VerbalJudge(), pool=pool)
    return OVD(teacher, replacement=Likeliest(len(texts)), **{"replace_when": "incorrect", **settings})


def play(
    method: OVD, student: HFEngine, tokenizer: Any, *texts: list[str], index: int = 0
) -> tuple[list[Group], Round]:
    round = make_round(tokenizer, index, engine=student)
    groups = [make_group(round, own, problem(f"p{g}"), g) for g, own in enumerate(texts)]
    method.consult(groups, round)
    method.annotate(groups, round)
    return groups, round


def test_the_likeliest_replaces_every_rejected_one(tiny_model: str, student: HFEngine, tokenizer: Any) -> None:
    method = ovd(tokenizer, TEXTS)
    (group, other), round = play(method, student, tokenizer, [WRONG, RIGHT, WRONG], [WRONG])
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    chosen = []
    for g in (group, other):
        assert len(g.demonstrations) == 4, "the fifth failed"
        slow = {}
        for y in g.demonstrations:
            ids = [*y.prompt_ids, *y.completion_ids]
            logits = model(torch.tensor([ids])).logits[0]
            total = sum(
                torch.log_softmax(logits[at - 1], dim=-1)[ids[at]].item() for at in range(len(y.prompt_ids), len(ids))
            )
            slow[y.text] = total / len(y.completion_ids)
        chosen.append(max(slow, key=lambda text: slow[text]))
        assert max(slow.values()) - sorted(slow.values())[-2] > 1e-3, "one is clearly ahead"
        assert slow[chosen[-1]] == pytest.approx(max(y.meta["student_logprob"] for y in g.demonstrations), abs=1e-4)
    assert [y.text for y in group.mixture] == [chosen[0], RIGHT, chosen[0]]
    assert [y.key for y in group.mixture] == [(0, 0), (0, 1), (0, 2)]
    assert [y.source for y in group.mixture] == ["teacher", "student", "teacher"]
    assert [y.text for y in other.mixture] == [chosen[1]]
    assert all(y.advantages == [1.0] * len(y.completion_ids) for y in group.mixture)
    assert mean(round, "ovd/likeliest_logprob") > mean(round, "ovd/candidate_logprob")
    assert mean(round, "ovd/replaced_fraction") == 3 / 4


def test_nothing_is_written_where_nothing_was_rejected_and_nothing_replaced_where_all_failed(
    student: HFEngine, tokenizer: Any
) -> None:
    method = ovd(tokenizer, TEXTS)
    (group,), round = play(method, student, tokenizer, [RIGHT, RIGHT])
    assert (group.demonstrations, group.mixture) == ([], group.sampled)
    assert round.metrics.sums["teacher/demonstrations"] == 0
    (group,), round = play(ovd(tokenizer, [None, None]), student, tokenizer, [WRONG, RIGHT])
    assert group.mixture == group.sampled
    assert round.metrics.sums["teacher/demonstration_failures"] == 2


def test_of_a_pool_of_as_many_none_is_written_twice(student: HFEngine, tokenizer: Any) -> None:
    method = ovd(tokenizer, TEXTS[:4], pool=Pool(size=4))
    chosen = set()
    for index in range(3):
        (group,), _ = play(method, student, tokenizer, [WRONG, WRONG, RIGHT], index=index)
        chosen |= {y.text for y in group.mixture if y.source == "teacher"}
    assert len(method.teacher.demonstrator.written) == 4  # type: ignore[attr-defined]
    assert len(chosen) == 1, "the same student has the same favourite"


def test_what_a_round_is_expected_to_ask_for() -> None:
    rule = Likeliest(4)
    assert rule.expected(rejected=100, groups=16) == 64
    assert rule.expected(rejected=3, groups=16) == 12


@pytest.mark.parametrize("outer", [Added(Likeliest()), Capped(1, Likeliest())], ids=["added", "capped"])
def test_it_stands_inside_no_other_rule(outer: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"replacement: is (Added|Capped) of Likeliest, which chooses for a whole"):
        OVD(VerbalTeacher(ScriptedEngine(), VerbalJudge()), replacement=outer)
