"""Problems x task x engine -> graded groups, and the context of one round. Knows no Lightning."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from ovd_lightning import progress
from ovd_lightning.engines.base import Engine, Sampling
from ovd_lightning.round.turns import Episode, play, respond, teacher_speaks
from ovd_lightning.seeds import seed_of
from ovd_lightning.tokens import decode, encode_prompt
from ovd_lightning.types import Group, Problem, Step, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.demonstrator import Demonstrator


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
    progress: float = 0.0
    """Share of the run's rounds that is over, in [0, 1): for the curriculum of an environment or a method."""
    further: Callable[[int], Sequence[Problem]] = lambda attempt: ()
    """Attempt 1, 2, ... -> as many problems again as the round has, for a method that draws further groups."""
    metrics: RoundMetrics = field(default_factory=RoundMetrics)

    # --------------------------------------------------------------- sampling

    def sample_student(
        self, problems: Sequence[Problem], group_size: int, slots: Sequence[int] | None = None, attempt: int = 0
    ) -> list[Group]:
        """N graded student trajectories a problem: one call of the engine, or one a turn in an environment.

        Args:
            slots: which of this rank's groups each problem is; None: all, in order.
            attempt: above 0 for groups that take the place of others in the same slots, with seeds of their own.
        """
        indices = [self.first_group + slot for slot in (range(len(problems)) if slots is None else slots)]
        again = (attempt,) if attempt else ()
        system = self.task.system
        prompts = [encode_prompt(self.task.prompt(p), self.tokenizer, self.chat, system) for p in problems]
        wanted = [(g, j) for g in range(len(problems)) for j in range(group_size)]
        episodes: list[Episode] = []
        if wanted:  # a rank may have none, and logs the same metrics
            episodes = respond(
                self.engine,
                self.tokenizer,
                self.task,
                [problems[g] for g, _ in wanted],
                [prompts[g] for g, _ in wanted],
                [self.seed("sample", indices[g], j, *again) for g, j in wanted],
                self.sampling,
                self.progress,
                self.phase,
            )
        groups = [Group(problem=p, sampled=[]) for p in problems]
        for (g, j), episode in zip(wanted, episodes, strict=True):
            y = self._trajectory(episode, indices[g], j)
            y.policy_version, y.student_tokens = self.policy_version, len(episode.ids)
            groups[g].sampled.append(y)
        sampled = [y for group in groups for y in group.sampled]
        self.finish(sampled)
        self.log_mean("reward/student", [y.reward for y in sampled])
        self.log_mean("completion/length_mean", [float(y.trainable_tokens) for y in sampled])
        self.log_mean("completion/truncated_fraction", [float(y.truncated) for y in sampled])
        self.log_mean("completion/steps_mean", [float(len(y.steps)) for y in sampled])
        self.log_sum("throughput/generated_tokens", sum(y.trainable_tokens for y in sampled))
        self.log_mean("reward/student_unanswered", [float(y.grade.answer is None) for y in sampled if y.grade])
        for name in self.task.metrics:
            self.log_mean(f"reward/student_{name}", [y.grade.metrics[name] for y in sampled if y.grade])
        self._log_environment(episodes)
        return groups

    @staticmethod
    def _trajectory(episode: Episode, group: int, sample: int) -> Trajectory:
        known = not all(math.isnan(p) for p in episode.logprobs)
        return Trajectory(
            problem=episode.problem,
            group=group,
            sample=sample,
            prompt_ids=episode.prompt_ids,
            completion_ids=episode.ids,
            completion_mask=episode.mask,
            text=episode.said,
            written=episode.written,
            turns=episode.turns,
            behaviour_logprobs=episode.logprobs if known else None,
            truncated=episode.truncated,
        )

    def _log_environment(self, episodes: Sequence[Episode]) -> None:
        """What the student's trajectories met in the environment."""
        if self.task.environment is None:
            return
        self.log_mean("environment/turns_mean", [float(e.turns) for e in episodes])
        self.log_mean("environment/invalid_mean", [float(e.invalid) for e in episodes])
        self.log_mean("environment/failed_mean", [float(e.failed) for e in episodes])
        self.log_mean("environment/observation_tokens_mean", [float(e.observed) for e in episodes])

    def log_environment_counts(self) -> None:
        """What the environment counted in this round, student's and teacher's trajectories together; at its end."""
        environment = self.task.environment
        if environment is not None:
            counts = environment.take_counts()
            for name in environment.counted:
                self.log_sum(f"environment/{name}", counts.get(name, 0.0))

    def finish(self, trajectories: Sequence[Trajectory]) -> None:
        """Split into steps and grade, all at once: a checker may work in parallel."""
        for y in trajectories:
            spans = self.task.split_steps(y.completion_ids, self.tokenizer, y.completion_mask)
            texts = [decode(self.tokenizer, y.completion_ids[a:b]).strip() for a, b in spans]
            y.steps = [Step(start=a, end=b, text=text) for (a, b), text in zip(spans, texts, strict=True)]
        with self.phase("grade"):
            grades = self.task.grade_many(
                [y.text if y.written is None else y.written for y in trajectories], [y.problem for y in trajectories]
            )
        for y, grade in zip(trajectories, grades, strict=True):
            y.grade = grade
        self.log_sum("grading/timeouts", sum(grade.timed_out for grade in grades))

    def unwritten(self, problem: Problem, slot: int, sample: int = 0) -> Trajectory:
        """A trajectory that is no more than its prompt: what :meth:`demonstrate` takes for a fresh demonstration."""
        return Trajectory(
            problem=problem,
            group=self.first_group + slot,
            sample=sample,
            prompt_ids=encode_prompt(self.task.prompt(problem), self.tokenizer, self.chat, self.task.system),
            completion_ids=[],
            completion_mask=[],
            text="",
        )

    def demonstrate(
        self,
        teacher: Demonstrator,
        replaced: Sequence[Trajectory],
        kept: Sequence[int],
        seeds: Sequence[int] | None = None,
    ) -> list[Trajectory | None]:
        """The teacher's trajectory for each of ``replaced``, after its first ``kept`` completion tokens.

        Graded; None where the teacher failed (counted as ``teacher/demonstration_failures``), a thought that never
        ended included. A teacher of another vocabulary is re-tokenised with the student's; the student's own tokens
        never are. What exceeds the student's limit is cut off, and the trajectory marked as truncated.

        Args:
            seeds: one each; None: functions of the round and of what is replaced.
        """
        if seeds is None:
            seeds = [self.seed("demonstrate", *y.key) for y in replaced]
        episodes = [
            Episode(
                problem=y.problem,
                prompt_ids=y.prompt_ids,
                seed=seed,
                ids=y.completion_ids[:n],
                mask=y.completion_mask[:n],
                logprobs=[math.nan] * n,
                said=decode(self.tokenizer, y.completion_ids[:n]) if n else "",
                written=decode(self.tokenizer, list(compress(y.completion_ids[:n], y.completion_mask))) if n else "",
                turns=y.turns_before(n),
            )
            for y, n, seed in zip(replaced, kept, seeds, strict=True)
        ]
        if episodes:
            speak = teacher_speaks(teacher, self.task, self.tokenizer)
            play(episodes, self.task.environment, self.tokenizer, speak, self.sampling.max_tokens, self.progress)
        written: list[Trajectory | None] = []
        for y, n, episode in zip(replaced, kept, episodes, strict=True):
            if episode.error is not None:
                written.append(None)
                continue
            new = self._trajectory(episode, *y.key)
            new.source, new.student_tokens = "mixed" if n else "teacher", n
            written.append(new)
        self.finish([y for y in written if y is not None])
        self.log_sum("teacher/demonstration_failures", sum(y is None for y in written))
        return written

    def reference(self, problem: Problem, slot: int, sample: int = 0) -> Trajectory:
        """The problem's own solution as a trajectory, ended, ungraded; cut off at the student's limit."""
        y = self.unwritten(problem, slot, sample)
        ids = self.tokenizer.encode(problem.meta["solution"], add_special_tokens=False, split_special_tokens=True)
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        y.truncated = len(ids) > self.sampling.max_tokens
        y.completion_ids = ids[: self.sampling.max_tokens]
        y.completion_mask = [True] * len(y.completion_ids)
        y.text, y.source = decode(self.tokenizer, y.completion_ids), "dataset"
        return y

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
            with progress.phase(name):
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
