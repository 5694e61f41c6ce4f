"""GAD: the discriminator's loss is the formula, its values are the rewards, and a resumed run has the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ovd_lightning.engines.base import Sampling
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.methods.discriminator import Contest, Discriminator
from ovd_lightning.methods.gad import GAD
from ovd_lightning.round.context import Round
from ovd_lightning.teachers.demonstrator import Demonstrator
from ovd_lightning.types import Group
from tests.helpers import ScriptedEngine, V, make_group, make_round, mean, problem

RIGHT, WRONG = "1+1=2\n2+0=2\n\\boxed{2}", "1+1=3\n3+0=3\n\\boxed{3}"
CPU = torch.device("cpu")


def alone(tensor: Tensor) -> Tensor:
    """The sum over one rank."""
    return tensor


def discriminator(path: str, **settings: Any) -> Discriminator:
    """With a head that is not 0, as after some updates."""
    made = Discriminator(path, CPU, 1e-3, **settings)
    with torch.no_grad():
        made.head.weight.normal_(generator=torch.Generator().manual_seed(3))
        made.head.bias.fill_(0.3)
    return made


def contests(sizes: Sequence[tuple[int, int]] = ((2, 3), (1, 4), (0, 2)), seed: int = 0) -> list[Contest]:
    """(of the teacher, of the student) answers a prompt, of random tokens and lengths."""
    rng = random.Random(seed)

    def row() -> list[int]:
        return [rng.randrange(3, V) for _ in range(rng.randint(2, 14))]

    return [([row() for _ in range(n)], [row() for _ in range(m)]) for n, m in sizes]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_is_the_formula(tiny_model: str, tiny_untied_model: str, tied: bool, checkpointing: bool) -> None:
    """One pair at a time, in float64, by a plain model: values, loss and the gradient of everything that trains."""
    path = tiny_model if tied else tiny_untied_model
    made, rounds = discriminator(path, checkpointing=checkpointing), contests()
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    weight = made.head.weight[0].detach().double().requires_grad_()
    bias = made.head.bias[0].detach().double().requires_grad_()

    def value(row: list[int]) -> Tensor:
        hidden = plain(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1]
        return (hidden * weight).sum() + bias

    losses = [
        -torch.log(1 / (1 + torch.exp(-(value(a) - value(b)))))
        for teacher, student in rounds
        for a in teacher
        for b in student
    ]
    assert len(losses) == 2 * 3 + 1 * 4
    torch.stack(losses).mean().backward()
    for teacher, student in rounds:
        taught, own = made.judge((teacher, student))
        assert taught.tolist() == pytest.approx([value(row).item() for row in teacher], rel=1e-4, abs=1e-5)
        assert own.tolist() == pytest.approx([value(row).item() for row in student], rel=1e-4, abs=1e-5)
    made.accumulate(rounds, len(losses))
    expected = {f"trunk.hf.{name}": p.grad for name, p in plain.named_parameters() if p.grad is not None}
    expected |= {"head.weight": weight.grad[None], "head.bias": bias.grad[None]}  # type: ignore[index]
    assert made.parameters.keys() == expected.keys(), "and no head over words, where it is a matrix of its own"
    norm = sum(float((g**2).sum()) for g in expected.values()) ** 0.5  # type: ignore[operator]
    assert norm > 1e-3
    for name, p in made.parameters.items():
        assert p.grad is not None
        assert float((p.grad.double() - expected[name]).abs().max()) < 5e-5 * norm, name  # type: ignore[operator]


def test_two_ranks_learn_as_one(tiny_model: str) -> None:
    """Gradients are summed, and divided by the pairs of both: neither rank's own mean is taken."""
    rounds = contests(((1, 2), (2, 3), (1, 5)))
    whole, parts = discriminator(tiny_model), [discriminator(tiny_model) for _ in range(2)]
    whole.update(rounds, alone)
    # What each rank's collectives send: the number of pairs, then every gradient.
    sent: list[list[Tensor]] = [[torch.tensor(2.0)], [torch.tensor(11.0)]]
    for part, own, log in zip(
        [discriminator(tiny_model) for _ in range(2)], (rounds[:1], rounds[1:]), sent, strict=True
    ):
        part.accumulate(own, 13.0)
        log += [p.grad for p in part.parameters.values() if p.grad is not None]
    for part, own in zip(parts, (rounds[:1], rounds[1:]), strict=True):
        pairs = iter(zip(*sent, strict=True))

        def summed(tensor: Tensor, pairs: Any = pairs) -> Tensor:
            one, other = next(pairs)
            assert any(torch.allclose(tensor, t, atol=1e-7) for t in (one, other))
            return one + other

        part.update(own, summed)
    for name, p in whole.parameters.items():
        first, second = (part.parameters[name] for part in parts)
        assert torch.equal(first, second)
        assert torch.allclose(p, first, atol=2e-4), name  # of steps of 1e-3, whose sign Adam takes


def test_without_any_pair_nothing_is_learnt_and_a_rank_without_one_takes_part(tiny_model: str) -> None:
    made = discriminator(tiny_model)
    before = {name: p.detach().clone() for name, p in made.parameters.items()}
    made.update(contests(((0, 3), (0, 2))), alone)
    assert all(torch.equal(p, before[name]) for name, p in made.parameters.items())
    assert not made.optimizer.state
    entered = []
    made.update(contests(((0, 3),)), lambda t: entered.append(t.shape) or t + 1)  # type: ignore[func-returns-value]
    assert len(entered) == 1 + len(made.parameters), "as often as a rank with pairs"
    assert any(not torch.equal(p, before[name]) for name, p in made.parameters.items())


def test_it_learns_to_tell_them_apart(tiny_model: str) -> None:
    made, rounds = Discriminator(tiny_model, CPU, 3e-3), contests(((1, 4), (1, 4), (2, 2)))
    for taught, own in map(made.judge, rounds):
        assert not taught.any(), "a head of 0 prefers nobody"
        assert not own.any()
    for _ in range(30):
        made.update(rounds, alone)
    for taught, own in map(made.judge, rounds):
        assert taught.min() > own.max()


def test_a_loss_that_is_not_finite_names_the_learning_rate(tiny_model: str) -> None:
    made = discriminator(tiny_model)
    with torch.no_grad():
        made.head.bias.fill_(torch.nan)
    with pytest.raises(RunError, match=r"loss is nan.*discriminator_learning_rate"):
        made.update(contests(), alone)


# ---------------------------------------------------------------- the method


def gad(path: str, tokenizer: Any, text: str | None = RIGHT, **settings: Any) -> GAD:
    """Its teacher fails where the question begins with 9."""

    def write(prompt: str, request: Any) -> str | None:
        return None if "9+" in prompt else text

    teacher = Demonstrator(ScriptedEngine(write=write, tokenizer=tokenizer))
    method = GAD(teacher, **{"warmup": 0.0, "discriminator_learning_rate": 1e-3, **settings})
    method.start(path, CPU)
    assert method.discriminator is not None
    with torch.no_grad():
        method.discriminator.head.weight.normal_(generator=torch.Generator().manual_seed(5))
    return method


def play(method: GAD, tokenizer: Any, index: int = 0, progress: float = 0.5) -> tuple[list[Group], Round]:
    """A round up to its last step."""
    round = make_round(tokenizer, index, progress=progress)
    groups = [
        make_group(round, [RIGHT, WRONG, WRONG, "\\boxed{2}"], group=0),
        make_group(round, [WRONG, "2", RIGHT, ""], problem("q", "9+1+0=?", "10"), group=1),
    ]
    method.consult(groups, round)
    method.annotate(groups, round)
    return groups, round


def test_values_of_the_discriminator_are_rewards_of_grpo(tiny_model: str, tokenizer: Any) -> None:
    method = gad(tiny_model, tokenizer, group_size=4)
    assert method.discriminator is not None
    groups, round = play(method, tokenizer)
    every = []
    for group in groups:
        assert group.mixture == group.sampled, "also where the teacher failed"
        values = [method.discriminator.judge(([], [y.prompt_ids + y.completion_ids]))[1].item() for y in group.sampled]
        assert len(set(values)) >= 3
        assert [y.reward for y in group.sampled] == pytest.approx(values, rel=1e-4, abs=1e-5)
        mu = sum(values) / 4
        sigma = (sum((v - mu) ** 2 for v in values) / 3) ** 0.5
        slow = [(v - mu) / (sigma + 1e-6) for v in values]
        assert [y.advantages[0] for y in group.mixture] == pytest.approx(slow, rel=1e-3, abs=1e-4)
        every += values
    assert [y.grade.correct for y in groups[0].sampled if y.grade] == [True, False, False, True], "the checker's"
    (taught,) = groups[0].demonstrations
    value = method.discriminator.judge(([taught.prompt_ids + taught.completion_ids], []))[0].item()
    assert mean(round, "gad/teacher_value") == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert mean(round, "gad/student_value") == pytest.approx(sum(every) / 8, rel=1e-4, abs=1e-5)
    assert groups[0].sampled[0].completion_ids == taught.completion_ids, "an equal answer counts a half"
    right = 0.5 + sum(value > v for v in every[1:4])
    assert mean(round, "gad/pairwise_accuracy") == right / 4, "of pairs alone"
    assert round.metrics.sums["gad/groups_without_teacher"] == 1
    assert round.metrics.sums["teacher/demonstrations"] == 2


def test_in_the_warmup_the_student_imitates_and_the_discriminator_learns(tiny_model: str, tokenizer: Any) -> None:
    method = gad(tiny_model, tokenizer, warmup=0.2)
    groups, round = play(method, tokenizer, progress=0.19)
    assert [[y.source for y in g.mixture] for g in groups] == [["teacher"], []]
    (imitated,) = groups[0].mixture
    assert (imitated.imitation, set(imitated.advantages)) == (1.0, {0.0})
    before = mean(round, "gad/discriminator_loss")
    for _ in range(20):
        method.end_round(alone)
        groups, round = play(method, tokenizer, progress=0.19)
    assert mean(round, "gad/discriminator_loss") < before
    groups, _ = play(method, tokenizer, progress=0.2)
    assert [len(g.mixture) for g in groups] == [4, 4]


def test_a_resumed_run_has_the_rewards_of_one_that_was_not(tiny_model: str, tokenizer: Any, tmp_path: Path) -> None:
    """Bit for bit: the discriminator's weights, and by its optimiser's moments those of the rounds to come. Also where
    the checkpoint was asked for in the middle of a round."""

    def rewards(method: GAD, index: int) -> list[float]:
        groups, _ = play(method, tokenizer, index)
        return [y.reward for group in groups for y in group.sampled]

    whole = gad(tiny_model, tokenizer, discriminator_updates=2)
    for index in range(2):
        rewards(whole, index)
        whole.end_round(alone)
    after = rewards(whole, 2)
    torch.save(whole.state_dict(), tmp_path / "state.pt")  # before the round's end
    resumed = gad(tiny_model, tokenizer, discriminator_updates=2)
    assert rewards(resumed, 2) != after
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert rewards(resumed, 2) == after
    for method in (whole, resumed):
        method.end_round(alone)
    assert rewards(resumed, 3) == rewards(whole, 3) != after


def test_the_learning_rate_of_a_resumed_run_is_its_own(tiny_model: str, tokenizer: Any) -> None:
    first, second = gad(tiny_model, tokenizer), gad(tiny_model, tokenizer, discriminator_learning_rate=5e-5)
    play(first, tokenizer)
    first.end_round(alone)
    second.load_state_dict(first.state_dict())
    assert second.discriminator is not None
    assert second.discriminator.optimizer.param_groups[0]["lr"] == 5e-5


def test_a_discriminator_of_another_kind_is_refused(tiny_model: str, tiny_untied_model: str, tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer=tokenizer)
    teacher = Demonstrator(engine)
    GAD(teacher, discriminator=tiny_untied_model).check(engine, Sampling())
    with pytest.raises(ConfigError, match=r"discriminator: ovd_lightning/assets/student has another vocabulary"):
        GAD(teacher, discriminator="ovd_lightning/assets/student").check(engine, Sampling())
    with pytest.raises(ConfigError, match=r"discriminator: /nowhere is not there"):
        GAD(teacher, discriminator="/nowhere").check(engine, Sampling())
    state = Discriminator("ovd_lightning/assets/student", CPU, 1e-3).state_dict()
    with pytest.raises(ConfigError, match=r"discriminator: is .*, of another architecture than the checkpoint's"):
        gad(tiny_model, tokenizer).load_state_dict(state)
