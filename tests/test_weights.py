"""The same weights have the same fingerprint, anything else another."""

from __future__ import annotations

from pathlib import Path

import torch

from ovd_lightning import weights
from ovd_lightning.student import Student
from ovd_lightning.weights import fingerprint


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (30, 7), "a.bias": (30,), "scale": ()}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def test_equal_weights_are_equal() -> None:
    assert fingerprint(parameters().items()) == fingerprint({n: p.clone() for n, p in parameters().items()}.items())


def test_any_change_is_seen() -> None:
    found = {fingerprint(parameters().items()), fingerprint(parameters(seed=1).items())}
    for name, parameter in parameters().items():
        for i in range(parameter.numel()):
            changed = parameters()
            flat = changed[name].view(-1)
            flat[i] = torch.nextafter(flat[i], torch.tensor(9.0))  # the last bit
            found.add(fingerprint(changed.items()))
    swapped = parameters()
    swapped["a.bias"][[0, 1]] = swapped["a.bias"][[1, 0]]
    renamed = {f"b.{name}": value for name, value in parameters().items()}
    reshaped = {**parameters(), "a.weight": parameters()["a.weight"].view(7, 30)}
    found |= {fingerprint(p.items()) for p in (swapped, renamed, reshaped, parameters(dtype=torch.bfloat16))}
    assert len(found) == 2 + (30 * 7 + 30 + 1) + 4


def test_long_parameters_are_looked_at_in_chunks(monkeypatch) -> None:
    whole = fingerprint(parameters().items())
    monkeypatch.setattr(weights, "CHUNK", 8)
    chunked = fingerprint(parameters().items())
    changed = parameters()
    changed["a.weight"][29, 6] += 1
    assert fingerprint(changed.items()) != chunked
    assert chunked != whole  # so the size of a chunk is part of what a fingerprint means


def test_a_checkpoint_has_that_of_the_student_it_was_exported_from(tiny_model: str, tmp_path: Path) -> None:
    student = Student(tiny_model)
    with torch.no_grad():
        student.hf.get_input_embeddings().weight += 0.1
    student.export(tmp_path / "student", tiny_model)
    again = Student(str(tmp_path / "student"))
    assert fingerprint(student.named_weights()) == fingerprint(again.named_weights())
    assert fingerprint(student.named_weights()) != fingerprint(Student(tiny_model).named_weights())
