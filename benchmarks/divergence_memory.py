"""Peak memory of a full-vocabulary divergence with its gradient: in chunks over the trained tokens, or all at once.

    python benchmarks/divergence_memory.py
    python benchmarks/divergence_memory.py --vocabulary 151936 --tokens 2048 --device cuda

Student and teacher are random two-layer models of the given width, whose parameters are not counted: what is measured
is what one forward and backward pass of GKD's loss (beta = 0.5) allocates at its peak, and how long it takes. The
naive form makes both models' logits of every position, as `model(input_ids).logits` does. Where both fit, their losses
and the gradients of the head are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from ovd_lightning.student import Student


def build(folder: Path, vocabulary: int, width: int, length: int, seed: int, chunk: int, device: str) -> Student:
    """A random model with an embedding of ``vocabulary`` entries, tied to its head."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return Student(str(folder), chunk_size=chunk).to(device)


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most bytes alive at once that ``run`` allocated."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    alive = highest = 0
    events = profiled.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    return highest


def naive(student: Student, teacher: Student, ids: Tensor, mask: Tensor) -> Tensor:
    """The symmetric JSD from both models' whole logits, averaged over the trained tokens."""
    with torch.no_grad():
        taught = torch.log_softmax(teacher.hf(input_ids=ids, use_cache=False).logits[:, :-1].float(), dim=-1)
    own = torch.log_softmax(student.hf(input_ids=ids, use_cache=False).logits[:, :-1].float(), dim=-1)
    mixture = ((own.exp() + taught.exp()) / 2).log()
    value = (taught.exp() * (taught - mixture)).sum(-1) + (own.exp() * (own - mixture)).sum(-1)
    return value[mask].mean() / 2


def chunked(student: Student, teacher: Student, ids: Tensor, mask: Tensor) -> Tensor:
    """The same through `Student.divergence`."""
    value, _, _ = student.divergence(ids, torch.ones_like(ids), mask, 1.0, 0.5, teacher)
    return value[mask].mean()


def head_gradient(student: Student) -> Tensor:
    gradient = student.hf.get_output_embeddings().weight.grad
    assert isinstance(gradient, Tensor)
    return gradient.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[256, 1024], help="trained tokens; a prompt of as many"
    )
    parser.add_argument("--chunk", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=8.0, help="GiB above which the naive form is not tried")
    args = parser.parse_args()
    print("| vocabulary | trained tokens | form | peak MiB | seconds | loss | largest gap of the head's gradient |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for v in args.vocabulary:
            models = [
                build(Path(folder) / f"{v}-{i}", v, args.width, 2 * max(args.tokens), i, 1, args.device) for i in (0, 1)
            ]
            student, teacher = models[0], models[1].requires_grad_(False)
            for tokens in args.tokens:
                ids = torch.randint(v, (1, 2 * tokens), generator=torch.Generator().manual_seed(0)).to(args.device)
                mask = torch.zeros((1, 2 * tokens - 1), dtype=torch.bool, device=args.device)
                mask[0, tokens - 1 :] = True
                compare(student, teacher, ids, mask, v, tokens, args)


def compare(
    student: Student, teacher: Student, ids: Tensor, mask: Tensor, v: int, tokens: int, args: argparse.Namespace
) -> None:
    """Print a row for each form."""
    forms: list[tuple[str, int]] = [(f"chunks of {c}", c) for c in args.chunk]
    if 6 * ids.shape[1] * v * 4 < args.limit * 2**30:  # about what the naive form holds
        forms.insert(0, ("naive", 0))
    reference: Tensor | None = None
    for name, chunk in forms:
        student.chunk_size = max(chunk, 1)
        loss: list[float] = []

        def run(form: Callable[..., Tensor] = chunked if chunk else naive, loss: list[float] = loss) -> None:
            value = form(student, teacher, ids, mask)
            value.backward()
            loss.append(value.item())

        run()  # the head's gradient exists from here on, so it is not counted
        student.zero_grad(set_to_none=False)
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        student.zero_grad(set_to_none=False)
        peak = peak_bytes(run, args.device)
        gradient = head_gradient(student)
        student.zero_grad(set_to_none=False)
        gap = "" if reference is None else f"{float((gradient - reference).abs().max() / reference.abs().max()):.1e}"
        reference = gradient if name == "naive" else reference
        print(f"| {v} | {tokens} | {name} | {peak / 2**20:.0f} | {seconds:.2f} | {loss[-1]:.6f} | {gap} |", flush=True)


if __name__ == "__main__":
    main()
