"""Peak memory of a full-vocabulary divergence with its gradient: in chunks over the trained tokens, or all at once.

    python -m benchmarks.speed.divergence_memory          # 45 s of one core
    python -m benchmarks.speed.divergence_memory --vocabulary 151936 --tokens 2048 --device cuda    # not tried

Measures the peak allocation and the time of one forward and backward pass of GKD's loss (beta = 0.5). Student and
teacher are random two-layer models, whose parameters are not counted. The naive form computes both models' logits at
all positions, as `model(input_ids).logits` does; if that exceeds ``--limit``, its peak is extrapolated from the last
measured one. Where both forms fit, their losses and the gradients of the head are compared.
`benchmarks.speed.memory` measures whole training steps of OVD, OPD and GKD.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from benchmarks.speed.allocator import keep_freed_memory, peak_bytes
from benchmarks.speed.footprint.measure import AT_MOST, models, quiet
from benchmarks.speed.footprint.naive import NaiveStudent
from ovd_lightning.student import Student

MIB = 2**20


def step(student: Student, teacher: Student, ids: Tensor, mask: Tensor) -> float:
    """One forward and backward pass; the loss."""
    # The other results are dropped before the backward pass, as in the methods: they would keep every chunk's tensors.
    loss = student.divergence(ids, torch.ones_like(ids), mask, 1.0, 0.5, teacher)[0][mask].mean()
    loss.backward()
    return loss.item()


def head_gradient(student: Student) -> Tensor:
    gradient = student.hf.get_output_embeddings().weight.grad
    assert isinstance(gradient, Tensor)
    return gradient.clone()


def measure(
    student: Student, teacher: Student, ids: Tensor, mask: Tensor, device: str
) -> tuple[int, float, float, Tensor]:
    """(peak bytes, seconds, loss, the head's gradient)"""
    for p in student.parameters():
        p.grad = torch.zeros_like(p)  # so they are not counted
    seen: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        seen.append(step(student, teacher, ids, mask))
        seen.append(time.perf_counter() - start)

    peak = peak_bytes(run, device)
    loss, seconds = seen
    return peak, seconds, loss, head_gradient(student)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[256, 1024], help="trained tokens; a prompt of as many"
    )
    parser.add_argument("--chunk", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=6.0, help="GiB above which the naive form is not tried")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| vocabulary | trained tokens | form | peak MiB | seconds | loss | largest gap of the head's gradient |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for vocabulary in args.vocabulary:
        with quiet(), models(vocabulary, 2 * max(args.tokens)) as (student, teacher):
            compare(student, teacher, vocabulary, args)


def compare(student: str, teacher: str, vocabulary: int, args: argparse.Namespace) -> None:
    """Print a row for each form and length."""
    pair = [Student(path).to(args.device) for path in (student, teacher)]
    naive = [NaiveStudent(path).to(args.device) for path in (student, teacher)]
    per_position: float | None = None
    for tokens in sorted(args.tokens):
        ids = torch.randint(vocabulary, (1, 2 * tokens), generator=torch.Generator().manual_seed(0)).to(args.device)
        mask = torch.zeros((1, 2 * tokens - 1), dtype=torch.bool, device=args.device)
        mask[0, tokens - 1 :] = True
        row, reference = f"| {vocabulary} | {tokens} |", None
        if AT_MOST["GKD"] * mask.numel() * vocabulary * 4 <= args.limit * 2**30:
            peak, seconds, loss, reference = measure(naive[0], naive[1], ids, mask, args.device)
            per_position = peak / mask.numel()
            print(f"{row} naive | {peak / MIB:.0f} | {seconds:.2f} | {loss:.6f} | |", flush=True)
        elif per_position is not None:
            print(f"{row} naive, not tried | (computed: {per_position * mask.numel() / MIB:.0f}) | | | |", flush=True)
        for chunk in args.chunk:
            pair[0].chunk_size = chunk
            peak, seconds, loss, gradient = measure(pair[0], pair[1], ids, mask, args.device)
            gap = "" if reference is None else f"{relative(gradient, reference):.1e}"
            print(
                f"{row} chunks of {chunk} | {peak / MIB:.0f} | {seconds:.2f} | {loss:.6f} | {gap} |",
                flush=True,
            )


def relative(gradient: Tensor, reference: Tensor) -> float:
    return float((gradient - reference).abs().max() / reference.abs().max())


if __name__ == "__main__":
    main()
