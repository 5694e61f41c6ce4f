"""Problems x task x engine -> graded groups, and the context of one round. Knows no Lightning."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.teachers.verbal import seed_of
from ovd_lightning.tokens import decode, encode_prompt, same_vocabulary
from ovd_lightning.types import Group, Problem, Step, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.verbal import VerbalTeacher


@dataclass(slots=True)
class RoundMetrics:
    """What a round measured, as sums that add up over ranks."""

    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    """name -> (sum, count)"""
    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, tuple[list[float], list[int]]] = field(default_factory=dict)
    """name -> (values, counts)"""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """phase -> seconds of this rank"""


@dataclass(slots=True, kw_only=True)
class Round:
    """Everything a method may use while it samples and annotates one round.

    Randomness is a function of (run seed, round, what it is for), so a resumed run repeats it without saved state.
    """

    index: int
    run_seed: int
    task: Task
    engine: Engine
    """The student's, already synchronised with the weights of ``policy_version``."""
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    policy_version: int
    chat: bool = False
    """Render the task's prompt as one user message through the student's chat template."""
    first_group: int = 0
    """Index of this rank's first group among all groups of the round."""
    metrics: RoundMetrics = field(default_factory=RoundMetrics)

    # --------------------------------------------------------------- sampling

    def sample_student(self, problems: Sequence[Problem], group_size: int) -> list[Group]:
        """N graded student trajectories a problem, from one call of the engine."""
        system = self.task.system
        prompts = [encode_prompt(self.task.prompt(p), self.tokenizer, self.chat, system) for p in problems]
        wanted = [(g, j) for g in range(len(problems)) for j in range(group_size)]
        requests = [Request(prompt=prompts[g], seed=self.seed("sample", self.first_group + g, j)) for g, j in wanted]
        with self.phase("generate"):
            completions = self.engine.generate(requests, self.sampling)
        groups = [Group(problem=p, sampled=[]) for p in problems]
        for (g, j), completion in zip(wanted, completions, strict=True):
            assert completion.token_ids is not None, "a student's engine returns token ids"
            groups[g].sampled.append(
                Trajectory(
                    problem=problems[g],
                    group=self.first_group + g,
                    sample=j,
                    prompt_ids=prompts[g],
                    completion_ids=completion.token_ids,
                    completion_mask=[True] * len(completion.token_ids),
                    text=completion.text,
                    behaviour_logprobs=completion.logprobs,
                    truncated=completion.truncated,
                    policy_version=self.policy_version,
                    student_tokens=len(completion.token_ids),
                )
            )
        sampled = [y for group in groups for y in group.sampled]
        self.finish(sampled)
        self.log_mean("reward/student", [y.reward for y in sampled])
        self.log_mean("completion/length_mean", [float(len(y.completion_ids)) for y in sampled])
        self.log_mean("completion/truncated_fraction", [float(y.truncated) for y in sampled])
        self.log_mean("completion/steps_mean", [float(len(y.steps)) for y in sampled])
        self.log_sum("throughput/generated_tokens", sum(len(y.completion_ids) for y in sampled))
        return groups

    def finish(self, trajectories: Sequence[Trajectory]) -> None:
        """Split into steps and grade, all at once: a checker may work in parallel."""
        for y in trajectories:
            spans = self.task.split_steps(y.completion_ids, self.tokenizer)
            texts = [decode(self.tokenizer, y.completion_ids[a:b]).strip() for a, b in spans]
            y.steps = [Step(start=a, end=b, text=text) for (a, b), text in zip(spans, texts, strict=True)]
        with self.phase("grade"):
            grades = self.task.grade_many([y.text for y in trajectories], [y.problem for y in trajectories])
        for y, grade in zip(trajectories, grades, strict=True):
            y.grade = grade
        self.log_sum("grading/timeouts", sum(grade.timed_out for grade in grades))

    def demonstrate(
        self, teacher: VerbalTeacher, replaced: Sequence[Trajectory], kept: Sequence[int]
    ) -> list[Trajectory | None]:
        """The teacher's trajectory for each of ``replaced``, after its first ``kept`` completion tokens.

        Graded; None where the teacher failed (counted as ``teacher/demonstration_failures``). A teacher of another
        vocabulary is re-tokenised with the student's; the student's own tokens never are.
        """
        limit = self.sampling.max_tokens
        prefixes = [
            decode(self.tokenizer, y.completion_ids[:n]) if n else "" for y, n in zip(replaced, kept, strict=True)
        ]
        completions = teacher.demonstrate(
            [self.task.prompt(y.problem) for y in replaced],
            prefixes,
            [self.seed("demonstrate", *y.key) for y in replaced],
            [limit - n for n in kept],
        )
        same = same_vocabulary(self.tokenizer, teacher.demonstrator.tokenizer)
        written: list[Trajectory | None] = []
        for y, n, completion in zip(replaced, kept, completions, strict=True):
            if completion.error is not None:
                written.append(None)
                continue
            tokens = self._student_tokens(completion, same)
            ids = [*y.completion_ids[:n], *tokens][:limit]
            new = Trajectory(
                problem=y.problem,
                group=y.group,
                sample=y.sample,
                prompt_ids=y.prompt_ids,
                completion_ids=ids,
                completion_mask=[True] * len(ids),
                text=decode(self.tokenizer, ids),
                source="mixed" if n else "teacher",
                truncated=completion.truncated or n + len(tokens) > limit,
                student_tokens=n,
            )
            written.append(new)
        self.finish([y for y in written if y is not None])
        self.log_sum("teacher/demonstration_failures", sum(y is None for y in written))
        return written

    def _student_tokens(self, completion: Completion, same: bool) -> list[int]:
        """A demonstration in the student's vocabulary, with the student's end of sequence unless it was cut off."""
        end = self.tokenizer.eos_token_id
        if same and completion.token_ids is not None:
            ids = list(completion.token_ids)
            # A chat model ends its turn with a token of its own, at which the student's engine would not stop.
            if end is not None and ids and not completion.truncated and ids[-1] in self.tokenizer.all_special_ids:
                ids[-1] = end
            return ids
        ids = self.tokenizer.encode(completion.text, add_special_tokens=False)
        return ids if completion.truncated or end is None else [*ids, end]

    # ------------------------------------------------------------- randomness

    def seed(self, *purpose: Any) -> int:
        """A 31-bit seed: a function of (run seed, round, purpose)."""
        return seed_of(self.run_seed, self.index, *purpose)

    def random(self, *purpose: Any) -> random.Random:
        return random.Random(self.seed(*purpose))

    # ---------------------------------------------------------------- metrics

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Wall-clock seconds under ``time/<name>``; entering a phase twice adds up, a phase inside another counts
        for itself alone."""
        start, inside = time.perf_counter(), sum(self.metrics.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.metrics.seconds.values()) - inside
            self.metrics.seconds[name] += time.perf_counter() - start - inside

    def log_mean(self, name: str, values: Sequence[float]) -> None:
        """The mean over every value of the round, of all ranks; nothing is logged for no values at all."""
        total, count = self.metrics.means.get(name, (0.0, 0.0))
        self.metrics.means[name] = (total + float(sum(values)), count + len(values))

    def log_sum(self, name: str, value: float) -> None:
        self.metrics.sums[name] = self.metrics.sums.get(name, 0.0) + value

    def log_histogram(self, name: str, values: Sequence[float], bins: Sequence[float]) -> None:
        """Counts of ``values`` in the bin of the nearest of ``bins`` (a mean score falls between two)."""
        counts = [0] * len(bins)
        for value in values:
            counts[min(range(len(bins)), key=lambda i: abs(bins[i] - value))] += 1
        self.metrics.histograms[name] = (list(bins), counts)
