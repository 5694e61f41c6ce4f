"""What a training step costs: CPU seconds and peak memory, before and after each change, interleaved.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.trainer step                      # 41M parameters, vocabulary 32k
    OMP_NUM_THREADS=1 python -m benchmarks.speed.trainer step --model embedded
    OMP_NUM_THREADS=1 python -m benchmarks.speed.trainer head                      # the loss head alone

`step` trains one optimiser step of GRPO (the loss and its gradient, without AdamW) on rows of ragged length, cut into
micro-batches as a round cuts them. `head` goes from hidden rows to the gradient of rows and weight. Every form runs
once per repetition, in turn; the table has medians, and the largest difference of a gradient from the first form's,
relative to its norm.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import ROOT
from benchmarks.speed.allocator import keep_freed_memory, peak_bytes
from benchmarks.speed.before import CheckpointedHead, checkpointed, split_balanced
from benchmarks.speed.footprint.measure import quiet
from ovd_lightning.lengths import split_by_length
from ovd_lightning.loss_head import Expected, TokenLogprobs, quantities
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.collate import to_batch
from ovd_lightning.student import Student
from ovd_lightning.types import Batch, Problem, Trajectory

MIB = 2**20


@dataclass(slots=True)
class Form:
    """Something that is measured: ``run`` leaves gradients behind."""

    name: str
    run: Callable[[], object]
    gradient: Callable[[], Tensor]
    padding: float = math.nan
    """Tokens computed over real tokens."""
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    gap: float = math.nan
    """Largest difference of a gradient's entry from the first form's, relative to that gradient's norm."""


@contextmanager
def model(kind: str, vocabulary: int) -> Iterator[str]:
    """A checkpoint's folder: the embedded student, or a random model of 41M parameters at a vocabulary of 32,000."""
    if kind == "embedded":
        yield str(ROOT / "ovd_lightning" / "assets" / "student")
        return
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
        yield folder


def trajectories(rows: int, shortest: int, longest: int, vocabulary: int) -> list[Trajectory]:
    """Rows of ``shortest`` to ``longest`` tokens, a quarter of the shortest being the prompt."""
    rng, made = random.Random(0), []
    for j in range(rows):
        prompt = shortest // 4
        count = rng.randint(shortest, longest) - prompt
        made.append(
            Trajectory(
                problem=Problem(id="p", question="", answers=()),
                group=0,
                sample=j,
                prompt_ids=[rng.randrange(3, vocabulary) for _ in range(prompt)],
                completion_ids=[rng.randrange(3, vocabulary) for _ in range(count)],
                completion_mask=[True] * count,
                advantages=[rng.gauss(0, 1)] * count,
                student_tokens=count,
            )
        )
    return made


def compare(forms: list[Form], repeats: int) -> None:
    """Run, in turn, and print."""
    for form in forms:  # whatever is loaded or allocated at first use
        form.run()
    reference = forms[0].gradient().double().clone()
    for _ in range(repeats):
        for form in forms:
            start = time.process_time()
            form.run()
            form.seconds.append(time.process_time() - start)
    for form in forms:
        form.peak = peak_bytes(form.run)
        form.gap = float((form.gradient().double() - reference).abs().max() / reference.norm())
    base = statistics.median(forms[0].seconds)
    print("| form | CPU s | of the first | peak MiB | padding | gap of the gradient |")
    print("| --- | --- | --- | --- | --- | --- |")
    for form in forms:
        median = statistics.median(form.seconds)
        padding = "" if math.isnan(form.padding) else f"{form.padding:.3f}"
        print(
            f"| {form.name} | {median:.2f} | {median / base:.2f} | {form.peak / MIB:.0f} | {padding} | {form.gap:.0e} |"
        )


def step(args: argparse.Namespace) -> None:
    shortest, longest = args.lengths
    with quiet(), model(args.model, args.vocabulary) as path:
        vocabulary = 32 if args.model == "embedded" else args.vocabulary
        rows = trajectories(args.rows, shortest, longest, vocabulary)
        lengths = [len(y.prompt_ids) + len(y.completion_ids) for y in rows]
        weight = args.accumulate / sum(len(y.completion_ids) for y in rows)

        def cut(parts: list[list[int]]) -> list[Batch]:
            return [to_batch([rows[i] for i in p], [weight] * len(p), 0, 1.0, round=0, version=0) for p in parts]

        balanced, by_length = (cut(split(lengths, args.accumulate)) for split in (split_balanced, split_by_length))

        def form(name: str, kind: type[Student], batches: list[Batch], needs_mask: bool, cost: float | None) -> Form:
            student = kind(path, chunk_size=args.chunk)
            student._head.needs_mask, student.pass_cost = needs_mask, cost
            for p in student.parameters():
                p.grad = torch.zeros_like(p)  # gradients stay, so they are not the step's

            def run() -> None:
                for p in student.parameters():
                    assert p.grad is not None
                    p.grad.zero_()
                for batch in batches:
                    (method.loss(student, batch).loss / len(batches)).backward()

            computed = sum((r.stop - r.start) * n for b in batches for r, n in student.slices(b.attention_mask))
            return Form(
                name, run, lambda: torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]),
                computed / sum(lengths),
            )  # fmt: skip

        method = GRPO(kl_coefficient=0.0)
        compare(
            [
                form("before", CheckpointedHead, balanced, True, math.inf),
                form("+ micro-batches by length", CheckpointedHead, by_length, True, math.inf),
                form("+ slices", CheckpointedHead, by_length, True, None),
                form("+ no mask", CheckpointedHead, by_length, False, None),
                form("+ loss head", Student, by_length, False, None),
            ],
            args.repeats,
        )


def head(args: argparse.Namespace) -> None:
    with quiet(), model("random", args.vocabulary) as path:
        student = Student(path, chunk_size=args.chunk)
        weight = student.hf.get_output_embeddings().weight
        assert isinstance(weight, Tensor)
        torch.manual_seed(0)
        rows = torch.randn(args.tokens, weight.shape[1], requires_grad=True)
        targets, advantages = torch.randint(args.vocabulary, (args.tokens,)), torch.randn(args.tokens)
        weight.grad, rows.grad = torch.zeros_like(weight), torch.zeros_like(rows)

        def form(name: str, values: Callable[[], tuple[Tensor, ...] | list[Tensor]]) -> Form:
            def run() -> None:
                assert weight.grad is not None
                assert rows.grad is not None
                weight.grad.zero_()
                rows.grad.zero_()
                logprobs, _ = values()
                (logprobs * advantages).mean().backward()

            return Form(name, run, lambda: torch.cat([weight.grad.flatten(), rows.grad.flatten()]).clone())  # type: ignore[union-attr]

        def own(expected: Expected | None, entropy: bool = True) -> tuple[Tensor, ...]:
            return quantities(TokenLogprobs(targets, 1.0, entropy), rows, student._head, args.chunk, expected)

        def gradient(span: slice, values: tuple[Tensor, ...]) -> tuple[Tensor, None]:
            return advantages[span], None

        def whole() -> tuple[Tensor, Tensor]:
            logits = student._head.logits(rows).float()
            return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0], targets

        compare(
            [
                form("checkpointing", lambda: checkpointed(student, rows, targets, 1.0)),
                form("one function", lambda: own(None)),
                form("one function, gradient in the forward pass", lambda: own(gradient)),
                form("the same, no entropy", lambda: own(gradient, entropy=False)),
                form("whole logits, no entropy", whole),
            ],
            args.repeats,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    for name, run in (("step", step), ("head", head)):
        sub = what.add_parser(name)
        sub.set_defaults(run=run)
        sub.add_argument("--vocabulary", type=int, default=32_000)
        sub.add_argument("--chunk", type=int, default=1024)
        sub.add_argument("--repeats", type=int, default=5)
        if name == "head":
            sub.add_argument("--tokens", type=int, default=2048)
        else:
            sub.add_argument("--model", choices=["random", "embedded"], default="random")
            sub.add_argument("--rows", type=int, default=32)
            sub.add_argument("--accumulate", type=int, default=4)
            sub.add_argument("--lengths", type=int, nargs=2, default=[32, 512], metavar=("SHORTEST", "LONGEST"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.run(args)


if __name__ == "__main__":
    main()
