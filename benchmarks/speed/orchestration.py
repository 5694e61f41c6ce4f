"""What a round spends outside the models: grading, prompts, micro-batches, transcripts, logging, Lightning's loop.

    python -m benchmarks.speed.orchestration                       # the quickstart, 7 rounds, two minutes of one core
    python -m benchmarks.speed.orchestration --rounds 4 --method configs/method/grpo.yaml
    python -m benchmarks.speed.orchestration --profile             # the functions outside the models that take longest

Processor seconds of the process, so that other jobs on the machine do not matter. Each second belongs to the innermost
of the parts below that is at work; the models' parts are the calls of vLLM or of the hf engine's loop, the sending of
weights, the student's forward and backward passes with their losses, and the optimiser. Rounds are counted from the
beginning of the second one to the beginning of the last one: nothing is evaluated, no checkpoint is written in between.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch

MODELS = ("generate", "weights to the engine", "old log-probabilities", "forward", "backward", "optimiser")
REST = "Lightning's loop"


class Clock:
    """Processor seconds by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts = [REST]
        self._last = time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._parts[-1]] += now - self._last
        self._last = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._switch()
        self._parts.append(name)
        try:
            yield
        finally:
            self._switch()
            self._parts.pop()

    def reset(self) -> None:
        self._switch()
        self.seconds.clear()

    def read(self) -> dict[str, float]:
        self._switch()
        return dict(self.seconds)

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        """Called by the garbage collector."""
        self._switch()
        if phase == "start":
            self._parts.append("garbage collection")
        else:
            self._parts.pop()

    def over(self, owner: Any, name: str, part: str) -> None:
        """Count every call of ``owner.name`` as a part."""
        call = getattr(owner, name)

        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return call(*args, **kwargs)

        setattr(owner, name, counted)


def divide(clock: Clock) -> None:
    """Name the parts of a round, in this process."""
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

    from ovd_lightning.callbacks.rollout import RolloutCallback
    from ovd_lightning.engines.hf import HFEngine
    from ovd_lightning.engines.vllm import VLLMEngine
    from ovd_lightning.judges.verbal import VerbalJudge
    from ovd_lightning.methods.ovd import OVD
    from ovd_lightning.module import OVDModule
    from ovd_lightning.round import loop
    from ovd_lightning.round.context import Round
    from ovd_lightning.round.transcripts import TranscriptWriter
    from ovd_lightning.tasks.arithmetic import ArithmeticTask

    for owner, name, part in (
        (LLM, "enqueue", "generate"),
        (LLMEngine, "step", "generate"),
        (HFEngine, "_sample", "generate"),
        (HFEngine, "_score", "generate"),
        (RolloutCallback, "sync", "weights to the engine"),
        (OVDModule, "annotate_logprobs", "old log-probabilities"),
        (OVDModule, "training_step", "forward"),
        (torch.Tensor, "backward", "backward"),
        (OVDModule, "on_before_optimizer_step", "optimiser"),
        (VLLMEngine, "generate_as_ready", "engine: requests, texts"),
        (VLLMEngine, "next_token_logprobs", "engine: requests, texts"),
        (HFEngine, "generate", "engine: requests, texts"),
        (HFEngine, "next_token_logprobs", "engine: requests, texts"),
        (VerbalJudge, "judge", "judge: prompts"),
        (Round, "sample_student", "trajectories, their metrics"),
        (Round, "demonstrate", "trajectories, their metrics"),
        (Round, "finish", "steps"),
        (ArithmeticTask, "grade_many", "grading"),
        (OVD, "consult", "acceptance, replacement, credit"),
        (OVD, "annotate", "acceptance, replacement, credit"),
        (RolloutCallback, "collect", "the rest of a round"),
        (loop, "collate", "micro-batches"),
        (TranscriptWriter, "write", "transcripts"),
        (RolloutCallback, "on_train_batch_end", "logging"),
    ):
        clock.over(owner, name, part)
    update = torch.optim.AdamW.step

    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        """Lightning runs forward and backward pass, and its own hooks, in the closure."""

        def inside() -> Any:
            with clock.part(REST):
                return None if closure is None else closure()

        with clock.part("optimiser"):
            return update(self, inside)

    torch.optim.AdamW.step = step  # type: ignore[method-assign]


def measure(rounds: int, settings: list[str], folder: Path, profile: cProfile.Profile | None) -> dict[str, float]:
    """Seconds of each part, of ``rounds - 2`` rounds together."""
    from ovd_lightning.__main__ import importing

    with importing():
        from ovd_lightning.callbacks.rollout import RolloutCallback
        from ovd_lightning.cli import main
    clock = Clock()
    divide(clock)
    gc.callbacks.append(clock.collecting)
    collect, found = RolloutCallback.collect, {}

    def counted(self: Any, index: int, *args: Any) -> Any:
        if index == 1:
            clock.reset()
            if profile is not None:
                profile.enable()
        elif index == rounds - 1:
            if profile is not None:
                profile.disable()
            found.update(clock.read())
        return collect(self, index, *args)

    RolloutCallback.collect = counted  # type: ignore[assignment,method-assign]
    main([
        "fit", *settings, f"--data.rounds={rounds}", f"--trainer.default_root_dir={folder}", "--run.wandb=disabled",
        "--benchmark.every_n_rounds=1000", "--benchmark.before_training=false", "--benchmark.after_training=false",
        "--checkpoint.every_n_rounds=1000", "--summary.report=false",
    ])  # fmt: skip
    return found


def rows(found: dict[str, float], rounds: int) -> list[list[str]]:
    """Part, milliseconds of a round, share of it; the models, then what is outside, longest first."""
    total = sum(found.values())
    outside = sorted((part for part in found if part not in MODELS), key=lambda part: -found[part])

    def row(name: str, parts: list[str]) -> list[str]:
        seconds = sum(found.get(part, 0.0) for part in parts)
        return [name, f"{1000 * seconds / rounds:.0f}", f"{seconds / total:.1%}"]

    return [
        *(row(part, [part]) for part in MODELS if part in found),
        row("**models**", list(MODELS)),
        *(row(part, [part]) for part in outside),
        row("**outside the models**", outside),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="of the run, the first and the last are not counted (%(default)s)")
    add("--config", default="configs/quickstart.yaml", help="(%(default)s)")
    add("--profile", action="store_true", help="print the longest functions; the shares are then distorted")
    options, settings = parser.parse_known_args()
    if options.rounds < 3:
        parser.error("--rounds: at least 3")
    profile = cProfile.Profile(time.process_time) if options.profile else None
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.rounds, [f"--config={options.config}", *settings], Path(folder), profile)
        written = [path for path in (Path(folder) / "transcripts").iterdir() if not path.name.startswith(".")]
        size = sum(path.stat().st_size for path in written) / max(len(written), 1)
    print(f"{os.cpu_count()} processors, torch with {torch.get_num_threads()} threads; processor time of a round")
    for row in [["part", "ms a round", "share"], ["---", "---:", "---:"], *rows(found, options.rounds - 2)]:
        print(f"| {' | '.join(row)} |")
    print(f"\ntranscripts: {size:,.0f} bytes a round")
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("lightning|tokeni[sz]|jinja|arithmetic|json|zlib", 90)


if __name__ == "__main__":
    main()
