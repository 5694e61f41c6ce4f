"""The student's log-probabilities in chunks, and the loss on them, against slow and plain computations."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from ovd_lightning.errors import ConfigError
from ovd_lightning.methods.base import Aggregation, Method
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.collate import collate, to_batch
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Group, Trajectory
from tests.architectures import COMMON, save_architecture
from tests.helpers import HEAD_DIM, PAD, V, problem, trajectory


@pytest.fixture(params=["tied", "untied"])
def path(request: pytest.FixtureRequest, tiny_model: str, tiny_untied_model: str) -> str:
    return tiny_model if request.param == "tied" else tiny_untied_model


def ragged(count: int = 8, seed: int = 0) -> list[Trajectory]:
    rng = random.Random(seed)
    made = []
    for j in range(count):
        t = [0, 1, 17][j] if j < 3 else rng.randint(2, 14)
        made.append(
            trajectory(
                rng.randint(1, 6), t, 0, j,
                completion_ids=[rng.randrange(3, V) for _ in range(t)],
                completion_mask=[rng.random() < 0.85 for _ in range(t)],
                advantages=[rng.gauss(0, 1) for _ in range(t)],
                student_tokens=t // 2,
            )
        )  # fmt: skip
    return made


def batch_of(trajectories: list[Trajectory]) -> Batch:
    return to_batch(trajectories, [0.1] * len(trajectories), PAD, temperature=1.0, round=0, version=0)


def naive(model: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """What :meth:`Student.forward` answers, from all the logits at once."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1] / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return torch.where(batch.completion_mask, chosen, 0), torch.where(batch.completion_mask, entropy, 0)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.double().clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def largest_gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of an entry, relative to the norm of the whole gradient."""
    assert one.keys() == other.keys()
    norm = math.sqrt(sum(float((g**2).sum()) for g in one.values()))
    return max(float((one[name] - other[name]).abs().max()) for name in one) / norm


# ------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunks_give_what_all_logits_give(path: str, chunk_size: int, temperature: float) -> None:
    student = Student(path, chunk_size=chunk_size)
    batch = batch_of(ragged())
    inputs = (batch.input_ids, batch.attention_mask, batch.completion_mask, temperature)
    logprobs, entropies = student(*inputs)
    expected, expected_entropies = naive(student.hf, batch, temperature)
    assert logprobs.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-5, rtol=0)
    with torch.no_grad():
        for with_graph, without in zip((logprobs, entropies), student(*inputs), strict=True):
            assert torch.equal(with_graph, without), "the same with and without a graph"

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, *logprobs.shape, generator=generator)
    (a * logprobs + b * entropies).sum().backward()
    chunked = gradients(student.hf)
    (a * expected + b * expected_entropies).sum().backward()
    assert largest_gap(chunked, gradients(student.hf)) < 1e-5


def test_padding_changes_nothing(path: str) -> None:
    student = Student(path)
    together = batch_of(ragged())
    logprobs, entropies = student(together.input_ids, together.attention_mask, together.completion_mask)
    for row, y in enumerate(ragged()):
        alone = batch_of([y])
        length = alone.completion_mask.shape[1]
        expected = student(alone.input_ids, alone.attention_mask, alone.completion_mask)
        for value, other in zip((logprobs, entropies), expected, strict=True):
            torch.testing.assert_close(value[row, :length], other[0], atol=1e-5, rtol=0)
            assert not value[row, length:].any()


def test_what_stands_in_the_padding_does_not_matter(path: str) -> None:
    student = Student(path)
    batch = batch_of(ragged())
    noise = torch.randint(3, V, batch.input_ids.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.where(batch.attention_mask.bool(), batch.input_ids, noise)
    plain = student(batch.input_ids, batch.attention_mask, batch.completion_mask)
    for one, other in zip(plain, student(noisy, batch.attention_mask, batch.completion_mask), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_gradient_checkpointing_changes_nothing(path: str) -> None:
    batch = batch_of(ragged())
    found = []
    for checkpointing in (False, True):
        student = Student(path, gradient_checkpointing=checkpointing)
        student(batch.input_ids, batch.attention_mask, batch.completion_mask)[0].sum().backward()
        found.append(gradients(student.hf))
    assert largest_gap(*found) < 1e-6


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that any operation makes, in forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        """Rows of those that span the vocabulary, weights and their gradients left out."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape[-1] == V:
                rows = tensor.numel() // V
                if rows != 2 * HEAD_DIM:  # the head's weight, transposed
                    self.rows.append(rows)
        return result


@contextmanager
def shapes() -> Iterator[Shapes]:
    with Shapes() as mode:
        yield mode


def test_no_logits_of_the_whole_batch_ever_exist(path: str) -> None:
    chunk = 7
    student = Student(path, chunk_size=chunk)
    batch = batch_of(ragged())
    trained = int(batch.completion_mask.sum())
    assert chunk < trained != 2 * HEAD_DIM
    method = GRPO(entropy_coefficient=0.01)
    with shapes() as seen:
        method.loss(student, batch).loss.backward()
    assert max(seen.rows) == chunk
    # forward, and once more in backward, where gradients of logits appear as well
    assert len(seen.rows) > 2 * math.ceil(trained / chunk)
    with shapes() as control:
        naive(student.hf, batch, 1.0)[0].sum().backward()
    assert max(control.rows) > trained, "the check sees logits where there are some"
    with torch.no_grad(), shapes() as seen:
        student(batch.input_ids, batch.attention_mask, batch.completion_mask)
    assert max(seen.rows) == chunk


def test_every_parameter_has_a_gradient_when_nothing_is_trained(path: str) -> None:
    student = Student(path)
    batch = batch_of([trajectory(3, 0), trajectory(2, 4, completion_mask=[False] * 4)])
    output = GRPO(kl_coefficient=0.0).loss(student, batch)
    assert output.loss.item() == 0
    output.loss.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, f"{name} would hang a run on several devices"
        assert not parameter.grad.any()


# ------------------------------------------------------------------ the loss


def group_of(trajectories: list[Trajectory]) -> Group:
    return Group(problem=problem(), sampled=[], mixture=trajectories)


def micro_batches(
    trajectories: list[Trajectory], accumulate: int, aggregation: Aggregation, temperature: float, policy: Student,
    reference: Student,
) -> list[Batch]:  # fmt: skip
    """With log-probabilities of an older student and of the initial one."""
    (step,) = collate(
        [group_of(trajectories)], mini_batches=1, accumulate=accumulate, aggregation=aggregation, max_tokens=32,
        pad_id=PAD, temperature=temperature, round=0, policy_version=0,
    )  # fmt: skip
    with torch.no_grad():
        return [
            replace(
                batch,
                old_logprobs=policy(*inputs(batch))[0],
                reference_logprobs=reference(*inputs(batch))[0],
            )
            for batch in step
        ]


def inputs(batch: Batch) -> tuple[Any, ...]:
    return batch.input_ids, batch.attention_mask, batch.completion_mask, batch.temperature


def perturbed(path: str, seed: int, scale: float = 0.003) -> Student:
    student = Student(path)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return student


def loss_and_gradient(method: Method, student: Student, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    """As Lightning accumulates: the mean over micro-batches."""
    total = 0.0
    for batch in batches:
        loss = method.loss(student, batch).loss / len(batches)
        loss.backward()
        total += loss.item()
    return total, gradients(student.hf)


@pytest.mark.parametrize("aggregation", ["token_mean", "trajectory_mean", "constant"])
@pytest.mark.parametrize("ratio", ["token", "trajectory"])
def test_the_number_of_micro_batches_does_not_change_the_loss(path: str, aggregation: Aggregation, ratio: Any) -> None:
    method = GRPO(ratio=ratio, aggregation=aggregation, kl_coefficient=0.1, entropy_coefficient=0.05)
    student, old, initial = perturbed(path, 1), perturbed(path, 2), Student(path)
    trajectories = ragged()
    results = [
        loss_and_gradient(method, student, micro_batches(trajectories, accumulate, aggregation, 0.8, old, initial))
        for accumulate in (1, 2, 4)
    ]
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        assert largest_gap(results[0][1], gradient) < 1e-6


def slow_loss(
    model: Any, trajectories: list[Trajectory], method: Method, temperature: float, old: Any, initial: Any
) -> Tensor:
    """The objective from its definition: one trajectory at a time, one token at a time, in float64."""

    def logprobs_of(m: Any, y: Trajectory) -> Tensor:
        ids = torch.tensor([[*y.prompt_ids, *y.completion_ids]])
        return torch.log_softmax(m(ids).logits[0] / temperature, dim=-1)

    tokens_in_all = sum(y.trainable_tokens for y in trajectories)
    total = torch.zeros((), dtype=torch.float64)
    for y in trajectories:
        now = logprobs_of(model, y)
        with torch.no_grad():
            before, start = logprobs_of(old, y), logprobs_of(initial, y)
        trained = [t for t in range(len(y.completion_ids)) if y.completion_mask[t]]
        rows = {t: len(y.prompt_ids) - 1 + t for t in trained}
        chosen = {t: now[rows[t], y.completion_ids[t]] for t in trained}
        differences = {t: chosen[t] - before[rows[t], y.completion_ids[t]] for t in trained}
        of_trajectory = torch.stack(list(differences.values())).sum() if trained else torch.zeros(())
        for t in trained:
            rho = (differences[t] if method.ratio == "token" else of_trajectory).exp()
            low, high = 1 - method.clip, 1 + method.clip_high
            cut = rho if low <= rho.item() <= high else torch.tensor(low if rho.item() < low else high).double()
            surrogate = torch.minimum(rho * y.advantages[t], cut * y.advantages[t])
            d = start[rows[t], y.completion_ids[t]] - chosen[t]
            entropy = -(now[rows[t]].exp() * now[rows[t]]).sum()
            loss = -surrogate + method.kl_coefficient * (d.exp() - d - 1) - method.entropy_coefficient * entropy
            total = (
                total
                + loss
                / {
                    "token_mean": tokens_in_all,
                    "trajectory_mean": len(trajectories) * len(trained),
                    "constant": len(trajectories) * 32,
                }[method.aggregation]
            )
    return total


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"aggregation": "trajectory_mean", "entropy_coefficient": 0.05},
        {"aggregation": "constant", "kl_coefficient": 0.0, "clip": 0.1, "clip_high": 0.28},
        {"ratio": "trajectory", "aggregation": "trajectory_mean", "clip": 0.5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_the_loss_is_the_objective(path: str, settings: dict[str, Any]) -> None:
    method = GRPO(**{"kl_coefficient": 0.1, **settings})
    student, old, initial = perturbed(path, 1, 0.005), perturbed(path, 2, 0.005), Student(path)
    trajectories = ragged()
    batches = micro_batches(trajectories, 2, method.aggregation, 0.8, old, initial)
    output = method.loss(student, batches[0])
    clipped = output.means["policy/clip_fraction"]
    assert 0 < clipped.mean() < 1, "some are clipped, some not"
    loss, gradient = loss_and_gradient(method, student, batches)

    doubles = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64) for _ in range(3)]
    for model, of in zip(doubles, (student, old, initial), strict=True):
        model.load_state_dict(of.hf.state_dict())
    expected = slow_loss(doubles[0], trajectories, method, 0.8, doubles[1], doubles[2])
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=2e-6)
    assert largest_gap(gradients(doubles[0]), gradient) < 2e-5


def test_one_update_a_round_needs_no_old_logprobs(path: str) -> None:
    """rho = 1: the gradient is that of -A log pi, eq. 7."""
    student = Student(path)
    batch = batch_of(ragged())
    output = GRPO(kl_coefficient=0.0).loss(student, batch)
    output.loss.backward()
    found = gradients(student.hf)
    assert output.maxima["policy/ratio_max"].tolist() == [1.0] * int(batch.completion_mask.sum())
    assert not output.means["policy/clip_fraction"].any()
    logprobs, _ = naive(student.hf, batch, 1.0)
    (-batch.advantages * batch.weights * logprobs).sum().backward()
    assert largest_gap(gradients(student.hf), found) < 1e-5


def test_what_the_loss_measures(path: str) -> None:
    student = Student(path)
    trajectories = ragged()
    trajectories[3] = replace(trajectories[3], behaviour_logprobs=None)
    batch = batch_of(trajectories)
    means = GRPO().loss(student, batch).means
    trained = int(batch.completion_mask.sum())
    assert means["policy/entropy"].numel() == means["policy/advantage_abs"].numel() == trained
    assert means["policy/teacher_token_logprob"].numel() == int(batch.teacher_mask.sum()) > 0
    # the mismatch is over what an engine sampled only, and is the distance to its log-probabilities
    sampled = trained - trajectories[3].trainable_tokens
    assert means["mismatch/logprob_abs_mean"].numel() == sampled
    logprobs, _ = student(*inputs(batch))
    at = batch.completion_mask & ~batch.behaviour_logprobs.isnan()
    torch.testing.assert_close(
        means["mismatch/logprob_abs_mean"], (logprobs[at] - batch.behaviour_logprobs[at]).abs().detach()
    )
    assert "policy/kl" not in means
    with_reference = replace(batch, reference_logprobs=logprobs.detach())
    assert not GRPO().loss(student, with_reference).means["policy/kl"].any(), "no distance to itself"


def test_behaviour_logprobs_are_logged_and_never_trained_on(path: str) -> None:
    student = Student(path)
    batch = batch_of(ragged())
    other = replace(batch, behaviour_logprobs=batch.behaviour_logprobs - 3)
    assert GRPO().loss(student, batch).loss.item() == GRPO().loss(student, other).loss.item()


# ------------------------------------------------------------------ checkpoints


def test_export_is_what_transformers_loads(path: str, tmp_path: Path) -> None:
    student = perturbed(path, 5)
    student.export(tmp_path / "student", path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32)
    ids = torch.tensor([[5, 9, 30, 12]])
    assert torch.equal(model(ids).logits, student.hf.eval()(ids).logits)
    exported, original = (AutoTokenizer.from_pretrained(p) for p in (tmp_path / "student", path))
    assert exported.get_vocab() == original.get_vocab()
    student.export(tmp_path / "nothing", path, write=False)
    assert not (tmp_path / "nothing").exists()


def test_parameters_have_the_checkpoints_names(path: str) -> None:
    student = Student(path)
    names = dict(student.named_weights())
    tied = student.hf.config.tie_word_embeddings
    assert ("lm_head.weight" in names) is not tied, "a tied weight is named once"
    assert "model.embed_tokens.weight" in names
    assert not any(p.requires_grad for p in names.values())


def test_generation_settings_that_transformers_would_not_save_are_kept(tiny_model: str, tmp_path: Path) -> None:
    """It refuses before it writes a weight."""
    shutil.copytree(tiny_model, tmp_path / "initial")
    settings = tmp_path / "initial" / "generation_config.json"
    settings.write_text(json.dumps({"do_sample": False, "temperature": 0.7, "eos_token_id": 1}))
    student = Student(str(tmp_path / "initial"))
    with pytest.raises(ValueError, match="temperature"):
        student.hf.save_pretrained(tmp_path / "by_transformers")
    student.export(tmp_path / "student", str(tmp_path / "initial"))
    exported = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert (exported["temperature"], exported["eos_token_id"]) == (0.7, 1)
    again = Student(str(tmp_path / "student"))
    assert all(torch.equal(p, dict(again.named_weights())[n]) for n, p in student.named_weights())


def test_an_export_without_tokenizer_has_its_weights(tiny_model: str, tmp_path: Path) -> None:
    student = perturbed(tiny_model, 3)
    with pytest.warns(UserWarning, match="student has the student's weights, but its tokenizer could not be written"):
        student.export(tmp_path / "student", str(tmp_path / "nowhere"))
    assert torch.equal(
        Student(str(tmp_path / "student")).hf.model.norm.weight,  # type: ignore[union-attr]
        student.hf.model.norm.weight,  # type: ignore[union-attr]
    )
    student.export(tmp_path / "student", tiny_model)  # again, over what is there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student"]
    AutoTokenizer.from_pretrained(tmp_path / "student")


def test_weights_that_cannot_be_written_leave_no_half_a_student(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", full)
    with pytest.raises(OSError, match="No space left"):
        Student(tiny_model).export(tmp_path / "student", tiny_model)
    assert not list(tmp_path.iterdir())


def test_the_model_inside_never_trains_another_policy(tiny_model: str) -> None:
    student = Student(tiny_model)
    for _ in range(2):
        student.train()
        assert student.training
        assert not any(module.training for module in student.hf.modules())
        student.eval()
    batch = batch_of(ragged())
    student.hf.train()
    with pytest.raises(RuntimeError, match="training mode"):
        student(*inputs(batch))


def test_a_nested_soft_cap_is_applied(tmp_path: Path) -> None:
    """Of a model whose settings of the text part stand one level deeper."""
    text = {
        **COMMON, "query_pre_attn_scalar": 32, "sliding_window": 8, "final_logit_softcapping": 2.0,
        "vocab_size_per_layer_input": V, "hidden_size_per_layer_input": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    path = save_architecture("gemma4", tmp_path / "gemma4", text_config=text, vision_config=vision)
    student = Student(path)
    batch = batch_of(ragged())
    plain = student.hf.get_output_embeddings()
    expected, entropies = naive(student.hf, batch, 0.7)
    found = student(batch.input_ids, batch.attention_mask, batch.completion_mask, 0.7)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], entropies, atol=1e-5, rtol=0)
    rows = student.rows(batch.input_ids, batch.attention_mask, batch.completion_mask)
    assert plain(rows).abs().max() > 2
    assert student._head.logits(rows).abs().max() <= 2


def test_a_model_whose_logits_need_more_than_its_last_hidden_state_is_refused(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Qwen2ForCausalLM.forward

    def with_memory(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if kwargs.get("input_ids") is not None:
            output.logits[..., 5] += 1.0  # by the tokens, not by the hidden state
        return output

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", with_memory)
    with pytest.raises(ConfigError, match=r"model\.student: .* are not those of its head over its last hidden state"):
        Student(tiny_model)
