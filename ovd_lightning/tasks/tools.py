"""The tool protocol: a <tool_call> that runs a program is replied to with a <tool_response>; a turn without one is the
last (Hermes' form, as in SOD, arXiv 2605.07725)."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from ovd_lightning.errors import RunError
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeInt, PositiveInt, TwoOrMore
from ovd_lightning.settings.texts import ReasonFormat
from ovd_lightning.tasks.environment import Environment, Reply, Turn, defuse, tags
from ovd_lightning.thoughts import spoken
from ovd_lightning.tools.base import Execution, Sandbox
from ovd_lightning.tools.calls import CLOSE, NoCall, WrongCall, call_of, hermes_call

log = logging.getLogger(__name__)

SETTINGS = "task.init_args.environment.init_args"
TAG = tags("think", "tool_call", "tool_response", "tools")
FEWEST = 8
"""Fewest calls of a rollout from which on the share of failed ones is checked."""

UNDECODABLE = "That was no call of the tool ({reason}). A call looks like this:\n" + hermes_call(
    "print(6 * 7)"
).replace("{", "{{").replace("}", "}}")


class ToolEnvironment(Environment):
    """A turn that calls the tool ``code_interpreter`` gets what its program printed; one that calls nothing is the
    last. A call in a thought is none: it gets no reply, and the next turn continues the thought.

    Each program runs from scratch. One that raises is a result like any other: the end of its traceback is the reply.
    Only a sandbox that cannot run programs is a failure, which is counted. What a program prints is the model's own
    text, or that of whatever it read: tags of the protocol in it are defused.

    Args:
        sandbox: what runs the programs.
        max_turns: replies a trajectory, after which one final generation follows (SOD: 15, so 16 generations).
        max_turn_tokens: limit of one generation.
        max_observation_tokens: limit of one result, in the student's tokens.
        result_characters: limit of one result in characters; the middle is left out (SOD: 256).
        left_out: text in the place of the middle.
        error_lines: last lines of a traceback that are shown, those that only point at a column not counted.
        observation_prefix: text before a result. Special tokens in it are special (a chat template's markers),
            in the result never.
        observation_suffix: text after it.
        on_undecodable: what follows a call that cannot be read. "end": it is no call, so the trajectory ends, as in
            SOD; "tell": the reply explains what a call looks like.
        undecodable_message: that reply; {reason} is what was wrong.
        wrong_call_message: the reply to a call that can be read and names another tool or holds no code, after which
            the trajectory continues, as in SOD; {reason} is what was wrong.
        stopped_message: after what a program had printed when it was killed; {reason} is why.
        empty_message: in place of a result that is empty.
        failed_message: in place of a result, when the sandbox could not run the program.
        max_failed_share: share of calls of a rollout that the sandbox could not run above which the run stops, in
            [0, 1]; 1: never. Looked at from 8 calls on.
    """

    stop = (CLOSE,)

    def __init__(
        self,
        sandbox: Sandbox,
        max_turns: NonNegativeInt = 15,
        max_turn_tokens: PositiveInt = 2048,
        max_observation_tokens: PositiveInt = 512,
        result_characters: TwoOrMore = 256,
        left_out: str = "...(left out)...",
        error_lines: PositiveInt = 3,
        observation_prefix: str = "\n<tool_response>\n",
        observation_suffix: str = "\n</tool_response>\n",
        on_undecodable: Literal["end", "tell"] = "end",
        undecodable_message: ReasonFormat = UNDECODABLE,
        wrong_call_message: ReasonFormat = "Error when executing tool: {reason}",
        stopped_message: ReasonFormat = "The program was stopped: {reason}.",
        empty_message: str = "The program printed nothing.",
        failed_message: str = "The interpreter failed: it did not run the program.",
        max_failed_share: ClosedUnitInterval = 0.5,
    ) -> None:
        super().__init__(max_turns, max_turn_tokens, max_observation_tokens)
        self.sandbox = sandbox
        self.result_characters, self.left_out, self.error_lines = result_characters, left_out, error_lines
        self.observation_prefix, self.observation_suffix = observation_prefix, observation_suffix
        self.on_undecodable = on_undecodable
        self.undecodable_message, self.wrong_call_message = undecodable_message, wrong_call_message
        self.stopped_message = stopped_message
        self.empty_message, self.failed_message = empty_message, failed_message
        self.max_failed_share = max_failed_share
        own = (
            "calls", "failed_calls", "raising_calls", "timed_out_calls", "killed_calls", "undecodable_calls",
            "wrong_calls", "calls_in_thoughts", "cut_characters", "defused_results", "tool_seconds",
        )  # fmt: skip
        self.counted = (*own, *sandbox.counted)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._rollout: Counter[str] = Counter()
        """Calls and failures since the rollout began."""
        self._last_error = ""

    def settings(self) -> dict[str, Any]:
        """What an answer depends on, for the record of an evaluation."""
        plain = (str, int, float, bool)
        own = {name: value for name, value in vars(self).items() if name[0] != "_" and isinstance(value, plain)}
        return {**own, "sandbox": self.sandbox.settings()}

    def check(self) -> None:
        self.sandbox.check()

    def start(self) -> None:
        self.sandbox.start()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Raises: RuntimeError at its end, when the sandbox could not run too many programs in it."""
        self._rollout = Counter()
        yield
        calls, failed = self._rollout["calls"], self._rollout["failed"]
        if calls >= FEWEST and failed / calls > self.max_failed_share:
            raise RunError(
                f"the sandbox {self.sandbox.name} failed in {failed} of {calls} calls, a larger share than "
                f"{SETTINGS}.max_failed_share = {self.max_failed_share:g}. The last time: {self._last_error}"
            )

    def close(self) -> None:
        self.sandbox.close()

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, defaultdict(float)
        return {**{name: counts[name] for name in self.counted}, **self.sandbox.take_counts()}

    # -------------------------------------------------------------- replying

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        programs: dict[int, str] = {}
        for i, turn in enumerate(turns):
            thinking = spoken(turn.history)[1]
            try:
                program = call_of(turn.text, thinking)
            except WrongCall as error:
                replies[i] = self._wrong(str(error))
            except NoCall as error:
                replies[i] = self._undecodable(str(error))
            else:
                if program is not None:
                    programs[i] = program
                elif turn.text.endswith(CLOSE) and spoken(turn.text, thinking)[1]:
                    # the turn was stopped at the tag of a call in a thought
                    self._counts["calls_in_thoughts"] += 1
                    replies[i] = Reply()
                else:
                    replies[i] = Reply(done=True)
        for i, execution in zip(programs, self._run(list(programs.values())), strict=True):
            replies[i] = self._result(execution)
        return [replies[i] for i in range(len(turns))]

    def _run(self, programs: Sequence[str]) -> list[Execution]:
        if not programs:
            return []
        begun = time.perf_counter()
        executions = self.sandbox.run(programs)
        errors = [execution.failed for execution in executions if execution.failed is not None]
        self._counts["tool_seconds"] += time.perf_counter() - begun
        self._counts["calls"] += len(programs)
        self._counts["failed_calls"] += len(errors)
        self._rollout["calls"] += len(programs)
        self._rollout["failed"] += len(errors)
        if errors:
            self._last_error = errors[-1]
            name = self.sandbox.name
            log.warning("the sandbox %s failed in %d of %d calls: %s", name, len(errors), len(programs), errors[0])
        return executions

    def _undecodable(self, reason: str) -> Reply:
        self._counts["undecodable_calls"] += 1
        if self.on_undecodable == "end":
            return Reply(done=True, valid=False)
        # the reason may repeat the model's text; the example of a call must stay one
        return self._observation(self.undecodable_message.format(reason=self._defused(reason)), valid=False)

    def _wrong(self, reason: str) -> Reply:
        self._counts["wrong_calls"] += 1
        return self._observation(self.wrong_call_message.format(reason=self._defused(reason)), valid=False)

    def _result(self, execution: Execution) -> Reply:
        if execution.failed is not None:
            return self._observation(self.failed_message, failed=True)
        self._counts["cut_characters"] += execution.left_out
        parts = [execution.stdout.strip("\n")]
        if execution.killed is not None:
            self._counts["timed_out_calls" if execution.timed_out else "killed_calls"] += 1
            parts.append(self.stopped_message.format(reason=execution.killed))
        elif execution.exit_code or not parts[0].strip():
            self._counts["raising_calls"] += bool(execution.exit_code)
            parts.append(self._end_of(execution.stderr))
        text = "\n".join(part for part in parts if part.strip()) or self.empty_message
        return self._observation(self._defused(self._shortened(text)))

    def _end_of(self, stderr: str) -> str:
        """The last lines of a traceback, without those that point at a column."""
        lines = [line for line in stderr.splitlines() if line.strip(" ~^")]
        return "\n".join(lines[-self.error_lines :])

    def _shortened(self, text: str) -> str:
        if len(text) <= self.result_characters:
            return text
        head = self.result_characters // 2
        tail = self.result_characters - head
        self._counts["cut_characters"] += len(text) - self.result_characters
        return text[:head] + self.left_out + text[-tail:]

    def _defused(self, text: str) -> str:
        defused = defuse(text, TAG)
        self._counts["defused_results"] += defused != text
        return defused

    def _observation(self, body: str, *, valid: bool = True, failed: bool = False) -> Reply:
        return Reply(
            prefix=self.observation_prefix, body=body, suffix=self.observation_suffix, valid=valid, failed=failed
        )
