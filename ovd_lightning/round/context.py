"""What a method may do in a round: sample, have demonstrations written, draw seeds, time phases, log. No Lightning."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

from ovd_lightning import progress
from ovd_lightning.engines.base import Engine, Sampling, ignore
from ovd_lightning.round.metrics import RoundMetrics, log_sampled
from ovd_lightning.round.overlap import Overlap, Work
from ovd_lightning.round.turns import respond, rollout, teacher_policy
from ovd_lightning.seeds import seed_of
from ovd_lightning.teachers.pool import Draw
from ovd_lightning.tokens import decode, encode_prompt, encode_prompts
from ovd_lightning.types import Grade, Group, Problem, Step, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task
    from ovd_lightning.teachers.demonstrator import Demonstrator


@dataclass(slots=True, kw_only=True)
class Round:
    """Everything a method may use in one round.

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
    consult: Callable[[Sequence[Group], Round], None] | None = None
    """Called with finished groups while others are sampled, in another thread; None: not while anything is."""
    metrics: RoundMetrics = field(default_factory=RoundMetrics)
    clock: Callable[[], float] = time.perf_counter
    """Of the phases, in seconds."""

    @property
    def pad_id(self) -> int:
        """Padding is masked everywhere, so that any id serves."""
        pad: int | None = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

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
        prompts = encode_prompts([self.task.prompt(p) for p in problems], self.tokenizer, self.chat, system)
        wanted = [(g, j) for g in range(len(problems)) for j in range(group_size)]
        groups = [Group(problem=p, index=i, sampled=[]) for p, i in zip(problems, indices, strict=True)]
        overlap = None if self.consult is None else Overlap(self._consulting(self.consult), self.metrics)

        def ended(index: int, y: Trajectory) -> None:
            g, j = wanted[index]
            y.group, y.sample = indices[g], j
            y.policy_version, y.student_tokens = self.policy_version, len(y.completion_ids)
            groups[g].sampled.append(y)
            if len(groups[g].sampled) == group_size:
                groups[g].sampled.sort(key=lambda y: y.sample)
                if overlap is not None:
                    overlap.give(groups[g])

        with nullcontext() if overlap is None else overlap.running():
            if wanted:  # a rank may have none, and logs the same metrics
                respond(
                    self.engine,
                    self.tokenizer,
                    self.task,
                    [problems[g] for g, _ in wanted],
                    [prompts[g] for g, _ in wanted],
                    [self.seed("sample", indices[g], j, *again) for g, j in wanted],
                    self.sampling,
                    self.progress,
                    self.phase,
                    ended,
                    ignore if overlap is None else overlap.check,
                )
            sampled = [y for group in groups for y in group.sampled]
            if overlap is None:
                self.finish(sampled)
            else:
                overlap.wait()
        log_sampled(sampled, self.task, self.metrics)
        return groups

    def _consulting(self, consult: Callable[[Sequence[Group], Round], None]) -> Work:
        """What is done about finished groups beside the sampling."""

        def work(groups: Sequence[Group], metrics: RoundMetrics, clock: Callable[[], float]) -> None:
            aside = replace(self, metrics=metrics, clock=clock, consult=None)
            aside.finish([y for group in groups for y in group.sampled])
            consult(groups, aside)

        return work

    def finish(self, trajectories: Sequence[Trajectory], grades: dict[tuple[str, str], Grade] | None = None) -> None:
        """Split into steps and grade, all at once: a checker may work in parallel.

        Args:
            grades: (problem's id, text) -> the grade of what was graded before; the others are added.
        """
        for y in trajectories:
            spans = self.task.split_steps(y.completion_ids, self.tokenizer, y.completion_mask)
            texts = [decode(self.tokenizer, y.completion_ids[a:b]).strip() for a, b in spans]
            y.steps = [Step(start=a, end=b, text=text) for (a, b), text in zip(spans, texts, strict=True)]
        known = {} if grades is None else grades
        ungraded = [y for y in trajectories if (y.problem.id, y.written) not in known]
        with self.phase("grade"):
            found = self.task.grade_many([y.written for y in ungraded], [y.problem for y in ungraded])
        for y, grade in zip(ungraded, found, strict=True):
            y.grade = grade
        if grades is not None:
            grades.update({(y.problem.id, y.written): g for y, g in zip(ungraded, found, strict=True)})
            for y in trajectories:
                y.grade = grades[y.problem.id, y.written]
        self.log_sum("grading/timeouts", sum(grade.timed_out for grade in found))

    def empty_groups(self, problems: Sequence[Problem]) -> list[Group]:
        """One group a problem, of which the student has sampled nothing."""
        return [Group(problem=p, index=self.first_group + slot, sampled=[]) for slot, p in enumerate(problems)]

    def unwritten(self, group: Group, sample: int = 0) -> Trajectory:
        """A trajectory that is no more than its prompt: what :meth:`demonstrate` takes for a fresh demonstration."""
        prompt = self.task.prompt(group.problem)
        return Trajectory(
            problem=group.problem,
            group=group.index,
            sample=sample,
            prompt_ids=encode_prompt(prompt, self.tokenizer, self.chat, self.task.system),
        )

    def demonstrate(
        self,
        teacher: Demonstrator,
        replaced: Sequence[Trajectory],
        kept: Sequence[int],
        seeds: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Trajectory | None]:
        """The teacher's trajectory for each of ``replaced``, after its first ``kept`` completion tokens.

        Graded; None where the teacher failed (counted as ``teacher/demonstration_failures``), a thought that never
        ended included. A teacher of another vocabulary is re-tokenised with the student's; the student's own tokens
        never are. What exceeds the student's limit is cut off, and the trajectory marked as truncated.

        Args:
            seeds: one each; None: functions of the round and of what is replaced.
            numbers: which one of a problem's demonstrations each is, where the teacher has a pool; None: as the seeds.
        """
        if seeds is None:
            seeds = [self.seed("demonstrate", *y.key) for y in replaced]
        written: list[Trajectory | None] = [None] * len(replaced)
        for member in teacher.members.values():
            own = [i for i, y in enumerate(replaced) if teacher.of(y.problem) is member]
            found = self._demonstrate(
                member,
                [replaced[i] for i in own],
                [kept[i] for i in own],
                [seeds[i] for i in own],
                None if numbers is None else [numbers[i] for i in own],
            )
            for i, y in zip(own, found, strict=True):
                written[i] = y
        self.log_sum("teacher/demonstration_failures", sum(y is None for y in written))
        return written

    def _demonstrate(
        self,
        teacher: Demonstrator,
        replaced: Sequence[Trajectory],
        kept: Sequence[int],
        seeds: Sequence[int],
        numbers: Sequence[int] | None,
    ) -> list[Trajectory | None]:
        """Those of one teacher."""
        begun = [self._prefix(y, n, seed) for y, n, seed in zip(replaced, kept, seeds, strict=True)]
        draws = self._draws(teacher, replaced, kept, numbers)
        if begun:
            policy = teacher_policy(teacher, self.task, self.tokenizer, draws)
            rollout(begun, self.task.environment, self.tokenizer, policy, self.sampling.max_tokens, self.progress)
        written = [None if y.stop_reason == "error" else y for y in begun]
        self.finish([y for y in written if y is not None and y.key not in draws])
        if teacher.pool is not None:
            self.finish([y for y in written if y is not None and y.key in draws], teacher.pool.grades)
        if reasons := Counter(y.error or "no reason given" for y in begun if y.stop_reason == "error"):
            kinds = "; ".join(f"{count} x {reason[:160]}" for reason, count in reasons.most_common(3))
            self.metrics.failures.append(f"{reasons.total()} of {len(begun)} demonstrations failed: {kinds}")
        return written

    def _draws(
        self, teacher: Demonstrator, replaced: Sequence[Trajectory], kept: Sequence[int], numbers: Sequence[int] | None
    ) -> dict[tuple[int, int], Draw]:
        """What comes from the teacher's pool: whole trajectories only."""
        if teacher.pool is None:
            return {}
        draws = {}
        for i, (y, n) in enumerate(zip(replaced, kept, strict=True)):
            if n == 0:
                start = self.seed("pool", y.problem.id, y.group) if numbers is None else numbers[i] - y.sample
                number = teacher.pool.number(y.problem, start, y.sample, teacher.writes)
                draws[y.key] = Draw(y.problem, number)
        return draws

    def demonstrate_groups(self, teacher: Demonstrator, groups: Sequence[Group], count: int) -> None:
        """``count`` fresh demonstrations a group, graded, in its ``demonstrations``; failed ones are missing there."""
        blank = [(group, self.unwritten(group, j)) for group in groups for j in range(count)]
        written = self.demonstrate(teacher, [y for _, y in blank], [0] * len(blank))
        for (group, _), y in zip(blank, written, strict=True):
            group.demonstrations += [] if y is None else [y]

    def _prefix(self, y: Trajectory, kept: int, seed: int) -> Trajectory:
        """The first ``kept`` completion tokens of a trajectory, which the teacher continues."""
        ids, mask = y.completion_ids[:kept], y.completion_mask[:kept]
        return Trajectory(
            problem=y.problem,
            group=y.group,
            sample=y.sample,
            prompt_ids=y.prompt_ids,
            seed=seed,
            completion_ids=ids,
            completion_mask=mask,
            behaviour_logprobs=[math.nan] * kept,
            text=decode(self.tokenizer, ids) if kept else "",
            written=decode(self.tokenizer, list(compress(ids, mask))) if kept else "",
            turns=y.turns_before(kept),
            source="mixed" if kept else "teacher",
            student_tokens=kept,
        )

    def reference(self, group: Group, sample: int = 0) -> Trajectory:
        """The problem's own solution as a trajectory, ended, ungraded; cut off at the student's limit."""
        y = self.unwritten(group, sample)
        solution = group.problem.meta["solution"]
        ids = self.tokenizer.encode(solution, add_special_tokens=False, split_special_tokens=True)
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        y.turns, y.stop_reason = 1, "token_limit" if len(ids) > self.sampling.max_tokens else "end_of_sequence"
        y.completion_ids = ids[: self.sampling.max_tokens]
        y.completion_mask = [True] * len(y.completion_ids)
        y.text = y.written = decode(self.tokenizer, y.completion_ids)
        y.source = "dataset"
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
        start, inside = self.clock(), sum(self.metrics.seconds.values())
        try:
            with progress.phase(name):
                yield
        finally:
            inside = sum(self.metrics.seconds.values()) - inside
            self.metrics.seconds[name] += self.clock() - start - inside

    def log_mean(self, name: str, values: Sequence[float]) -> None:
        """The mean over every value of the round, of all ranks; nothing is logged for no values at all."""
        self.metrics.log_mean(name, values)

    def log_sum(self, name: str, value: float) -> None:
        """The sum over ranks, and over all calls of the round."""
        self.metrics.add_sum(name, value)

    def log_histogram(self, name: str, values: Sequence[float], bins: Sequence[float]) -> None:
        """Counts of ``values`` in the bin of the nearest of ``bins``."""
        self.metrics.log_histogram(name, values, bins)
