"""W&B's table of trajectories: a line for each that the student sampled, and for what the teacher alone wrote."""

from __future__ import annotations

from typing import Any

from ovd_lightning.evaluation.wandb_tables import rollouts
from ovd_lightning.types import Trajectory
from tests.helpers import make_group, make_round

RIGHT, WRONG = "1+1=2\n2+0=2\n\\boxed{2}", "1+1=3\n3+0=3\n\\boxed{3}"


def by_teacher(tokenizer: Any, sample: int) -> Trajectory:
    y = make_group(make_round(tokenizer), [RIGHT] * (sample + 1)).sampled[sample]
    y.source, y.advantages = "teacher", [1.0, 1.0]
    return y


def test_a_replaced_one_has_the_teachers_text_and_advantage(tokenizer: Any) -> None:
    group = make_group(make_round(tokenizer), [RIGHT, WRONG])
    kept, rejected = group.sampled
    kept.advantages, kept.accepted, kept.score = [0.5, 0.5], True, 8.0
    rejected.accepted, rejected.steps[0].score = False, 2.0
    group.mixture = [kept, by_teacher(tokenizer, 1)]
    first, second = rollouts([group], round=3)
    assert (first["round"], first["sample"], first["replaced"], first["advantage"]) == (3, 0, False, 0.5)
    assert (first["score"], first["accepted"], first["teacher's text"]) == (8.0, True, None)
    assert (second["replaced"], second["advantage"], second["teacher's reward"]) == (True, 1.0, 1.0)
    assert second["teacher's text"] == RIGHT
    assert second["steps"].splitlines()[0] == "[2] 1+1=3"
    assert (second["reward"], second["correct"], second["answer"]) == (0.0, False, "3")


def test_one_that_was_added_stands_beside_the_students(tokenizer: Any) -> None:
    group = make_group(make_round(tokenizer), [WRONG])
    group.sampled[0].advantages = [-1.0]
    group.mixture = [*group.sampled, by_teacher(tokenizer, 0)]
    (line,) = rollouts([group], round=0)
    assert (line["replaced"], line["advantage"], line["teacher's text"]) == (False, -1.0, RIGHT)


def test_what_only_the_teacher_wrote_has_a_line(tokenizer: Any) -> None:
    group = make_group(make_round(tokenizer), [])
    group.mixture = [by_teacher(tokenizer, 0), by_teacher(tokenizer, 1)]
    lines = rollouts([group], round=0)
    assert [(line["sample"], line["steps"], line["reward"], line["advantage"]) for line in lines] == [
        (0, "", None, 1.0), (1, "", None, 1.0),
    ]  # fmt: skip
    assert {line["teacher's text"] for line in lines} == {RIGHT}
