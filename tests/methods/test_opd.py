"""OPD, SG-OPD and SOD: the losses are the formulas, and what stands around them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovd_lightning.engines.base import Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.opd import OPD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.methods.sod import SOD
from ovd_lightning.student import Student
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.teachers.token import TokenTeacher
from tests.helpers import ScriptedEngine, make_group, make_round, mean, problem
from tests.methods.slow import assert_same, batches, exact, moved, rows, several_turns

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


@pytest.fixture
def teacher(tiny_untied_model: str) -> TokenTeacher:
    return TokenTeacher(model=tiny_untied_model, chunk_size=3)


def models(tiny_model: str, tiny_untied_model: str, updates: int) -> tuple[Student, Student | None, Any, Any, Any]:
    """(student, the one that starts the round or None, and in float64 student, old, teacher)."""
    student = moved(tiny_model, 1)
    old = moved(tiny_model, 2) if updates > 1 else None
    now = exact(student, tiny_model)
    before = exact(student if old is None else old, tiny_model)
    return student, old, now, before, exact(Student(tiny_untied_model), tiny_untied_model)


@pytest.mark.parametrize("updates", [1, 2])
def test_opd_is_the_formula(tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher, updates: int) -> None:
    student, old, now, before, taught = models(tiny_model, tiny_untied_model, updates)
    method, trajectories = OPD(teacher), several_turns()
    total, count, distance = torch.zeros((), dtype=torch.float64), 0, 0.0
    for y in trajectories:
        own, start, wanted = rows(now, y), rows(before, y), rows(taught, y)
        for t in own:
            token = y.completion_ids[t]
            advantage = (wanted[t][token] - start[t][token]).detach()
            total = total - (own[t][token] - start[t][token].detach()).exp() * advantage
            count, distance = count + 1, distance - advantage.item()
    outputs = assert_same(method, student, batches(method, trajectories, old, None), total / count, now)
    logged = torch.cat([o.means["opd/reverse_kl"] for o in outputs])
    assert logged.mean().item() == pytest.approx(distance / count, rel=1e-4)


@pytest.mark.parametrize("reference", ["student", "initial"])
@pytest.mark.parametrize("updates", [1, 2])
def test_sg_opd_is_the_formula(
    tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher, reference: Any, updates: int
) -> None:
    student, old, now, before, taught = models(tiny_model, tiny_untied_model, updates)
    initial = Student(tiny_model)
    first = exact(initial, tiny_model)
    method = SGOPD(
        replace_demonstrator(teacher), agree=1.8, conflict=0.6, reference=reference, imitation=0.3
    )  # fmt: skip
    assert method.needs_reference is (reference == "initial")
    trajectories = several_turns()
    trajectories[3:5] = [replace(y, imitation=0.3, source="teacher", student_tokens=0) for y in trajectories[3:5]]
    policy, imitated = [], []
    for y in trajectories:
        own, start, wanted, begin = rows(now, y), rows(before, y), rows(taught, y), rows(first, y)
        for t in own:
            token = y.completion_ids[t]
            if y.imitation is not None:
                imitated.append(-own[t][token])
                continue
            s, l_t, r = start[t][token].detach(), wanted[t][token].detach(), begin[t][token].detach()
            r = s if reference == "student" else r
            product = y.advantages[t] * (l_t - s)
            kappa = 1.0 if y.advantages[t] == 0 else (1.8 if product > 0 else 0.6)
            policy.append(-(own[t][token] - s).exp() * (kappa * (l_t - r) - (s - r)))
    expected = torch.stack(policy).mean() + 0.3 * torch.stack(imitated).mean()
    parts = batches(method, trajectories, old, initial if reference == "initial" else None)
    outputs = assert_same(method, student, parts, expected, now)
    agreement = torch.cat([o.means["sg_opd/agreement"] for o in outputs])
    assert 0 < agreement.mean() < 1
    assert sum(o.means["opd/reverse_kl"].numel() for o in outputs) == len(policy)


def replace_demonstrator(teacher: TokenTeacher) -> TokenTeacher:
    teacher.demonstrator = Demonstrator(ScriptedEngine(write=lambda prompt, request: RIGHT))
    return teacher


@pytest.mark.parametrize("updates", [1, 2])
def test_sod_is_the_formula(tiny_model: str, tiny_untied_model: str, teacher: TokenTeacher, updates: int) -> None:
    student, old, now, before, taught = models(tiny_model, tiny_untied_model, updates)
    method, trajectories = SOD(teacher, distillation=0.7, delta=0.05), several_turns(3)
    total, count, later = torch.zeros((), dtype=torch.float64), 0, []
    for y in trajectories:
        own, start, wanted = rows(now, y), rows(before, y), rows(taught, y)
        steps: list[list[int]] = []
        for t in own:
            if steps and steps[-1][-1] == t - 1:
                steps[-1].append(t)
            else:
                steps.append([t])
        gaps = {t: (wanted[t][y.completion_ids[t]] - start[t][y.completion_ids[t]]).item() for t in own}
        weight = 1.0  # by the product, not telescoped
        divergences = [sum(abs(gaps[t]) for t in step) / len(step) for step in steps]
        product = 1.0
        for k, step in enumerate(steps):
            if k:
                product *= (divergences[k - 1] + 1e-6) / (divergences[k] + 1e-6)
                weight = min(product, 1.05)
                later.append(weight)
            for t in step:
                token = y.completion_ids[t]
                advantage = y.advantages[t] + 0.7 * weight * gaps[t]
                rho = (own[t][token] - start[t][token].detach()).exp()
                low_high = rho if 0.8 <= rho.item() <= 1.28 else torch.tensor(0.8 if rho.item() < 0.8 else 1.28)
                objective = torch.minimum(rho * advantage, low_high * advantage)
                if advantage < 0 and objective.item() < 3 * advantage:
                    objective = torch.tensor(3 * advantage, dtype=torch.float64)
                total, count = total - objective, count + 1
    assert any(w == 1.05 for w in later)
    assert any(w < 1 for w in later)
    assert_same(method, student, batches(method, trajectories, old, None), total / count, now)


# ------------------------------------------------------------------ around the loss


def test_sods_reward_by_hand(tokenizer: Any, teacher: TokenTeacher) -> None:
    """R of the authors' code: 1; -1 + 0.1 k for k tool rounds, at most -0.6; less by the length near the limit."""
    round = make_round(tokenizer, max_tokens=40)
    group = make_group(round, [RIGHT, WRONG, WRONG, WRONG, WRONG])
    rounds = [0, 0, 3, 5, 0]
    for y, k in zip(group.sampled, rounds, strict=True):
        y.completion_mask = [True, False] * k + [True] * (len(y.completion_ids) - 2 * k)
    long = group.sampled[-1]
    long.completion_ids, long.completion_mask = [5] * 35, [True] * 35
    method = SOD(teacher, reward="tools", overlong_buffer=10, group_size=5, scale_by_std=False)
    method.annotate([group], round)
    rewards = [1.0, -1.0, -0.7, -0.6, -1.5]  # the last is 5 tokens into the buffer of 10
    assert mean(round, "sod/reward") == pytest.approx(sum(rewards) / 5)
    assert [y.advantages[0] for y in group.mixture] == pytest.approx([r - sum(rewards) / 5 for r in rewards])
    plain = SOD(teacher, group_size=5, scale_by_std=False)
    plain.annotate([group], round)
    assert [y.advantages[0] for y in group.mixture] == pytest.approx([0.8, *[-0.2] * 4])


def test_opd_trains_on_what_the_student_sampled(tokenizer: Any, teacher: TokenTeacher) -> None:
    round = make_round(tokenizer)
    group = make_group(round, [RIGHT, WRONG])
    OPD(teacher, group_size=1).annotate([group], round)
    assert group.mixture == group.sampled


def test_sg_opd_imitates_verified_demonstrations_for_a_while(tokenizer: Any, teacher: TokenTeacher) -> None:
    asked: list[str] = []

    def write(prompt: str, request: Any) -> str:
        asked.append(prompt)
        return WRONG if "5" in prompt else RIGHT

    teacher.demonstrator = Demonstrator(ScriptedEngine(write=write, tokenizer=tokenizer))
    method = SGOPD(teacher, imitation=0.8, hold=0.1, end=0.3)

    def play(progress: float) -> tuple[list[list[float | None]], Any]:
        round = make_round(tokenizer, index=int(progress * 100), progress=progress)
        problems = [problem("good"), problem("bad", "1+5+0=?")]
        groups = [make_group(round, [RIGHT, WRONG, WRONG], p, g) for g, p in enumerate(problems)]
        method.consult(groups, round)
        method.annotate(groups, round)
        assert [y.advantages[0] > 0 for y in groups[0].sampled] == [True, False, False]
        return [[y.imitation for y in g.mixture] for g in groups], round

    weights, round = play(0.05)
    assert weights == [[None, None, None, 0.8], [None, None, None]], "the wrong one does not enter"
    assert mean(round, "sg_opd/imitation_weight") == pytest.approx(0.8)
    assert len(asked) == 2
    weights, _ = play(0.2)
    assert weights[0][3] == pytest.approx(0.4), "half way down the cosine"
    assert len(asked) == 2, "written once"
    weights, round = play(0.3)
    assert weights == [[None] * 3] * 2
    assert mean(round, "sg_opd/imitation_weight") == 0


def test_sg_opd_keeps_its_demonstrations_on_disk(tokenizer: Any, teacher: TokenTeacher, tmp_path: Path) -> None:
    asked: list[int] = []
    engine = ScriptedEngine(write=lambda p, r: (asked.append(r.seed), RIGHT)[1], tokenizer=tokenizer)
    teacher.demonstrator = Demonstrator(engine)
    texts = []
    for index in (0, 1):
        round = make_round(tokenizer, index=index)
        group = make_group(round, [RIGHT, WRONG])
        method = SGOPD(teacher, cache=str(tmp_path / "written.db"))
        method.consult([group], round)
        method.annotate([group], round)
        texts.append((group.mixture[-1].text, group.mixture[-1].completion_ids, group.mixture[-1].source))
    assert texts[0] == texts[1]
    assert texts[0][2] == "teacher"
    assert len(asked) == 1


def test_the_vocabularies_are_compared_before_anything_is_loaded(
    tokenizer: Any, teacher: TokenTeacher, tiny_untied_model: str, tmp_path: Path
) -> None:
    from transformers import Qwen2Tokenizer

    OPD(teacher).check(ScriptedEngine(tokenizer=tokenizer), Sampling())
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{tiny_untied_model}/{name}", tmp_path)
    Qwen2Tokenizer(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>").save_pretrained(tmp_path)
    other = TokenTeacher(model=str(tmp_path))
    other.check()
    for method in (OPD(other), SOD(other), SGOPD(other, imitation=0)):
        with pytest.raises(ConfigError, match=r"teacher\.init_args\.model: .* another vocabulary"):
            method.check(ScriptedEngine(tokenizer=tokenizer), Sampling())
    assert other._model is None


def test_settings_that_cannot_work_are_refused(teacher: TokenTeacher) -> None:
    for settings, setting in (
        ({"hold": 0.5, "end": 0.2}, "hold"), ({"imitation": 1.0}, "imitation"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"init_args\.{setting}"):
            SGOPD(teacher, **settings)  # type: ignore[arg-type]
