"""The verbal teacher: scores with one number, and writes demonstrations. Black box: no logits, no shared vocabulary.

Section 3.3: the teacher "outputs a distribution over a discrete verbal vocabulary of size v = 10". Where the
engine gives log-probabilities of chosen next tokens, that distribution is read exactly; where it does not,
a score is sampled as text and parsed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning import thoughts
from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.cache import AnswerCache
from ovd_lightning.engines.local import LocalEngine
from ovd_lightning.engines.render import TemplateError, encode
from ovd_lightning.errors import ConfigError, RunError
from ovd_lightning.seeds import seed_of
from ovd_lightning.teachers import demonstrations as D
from ovd_lightning.teachers.asked import Asked
from ovd_lightning.teachers.base import LONGEST, Teacher
from ovd_lightning.teachers.judgement import Judgement, Ledger, UnparsedScores
from ovd_lightning.teachers.prompts import SCALES, Scale, ScoreScale, step_prompt
from ovd_lightning.tokens import decode
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from ovd_lightning.tasks.base import Task


DIGITS = [str(digit) for digit in range(10)]
Answer = tuple[list[float] | None, float]
"""(distribution, mass) of a `Judgement`, as the cache keeps it."""


class VerbalTeacher(Teacher):
    """A judge and a demonstrator, usually one model.

    Args:
        engine: judges, and demonstrates unless ``demonstrator`` is given.
        demonstrator: another engine for writing trajectories.
        scale: "zero_to_nine" (the paper's body, v = 10) or "one_to_ten" (its prompt A.4).
        read: "distribution" reads the next-token distribution over the score vocabulary; "text" samples a number
            at ``text_temperature`` and parses it (for endpoints without log-probabilities).
        chat: send scoring prompts as one user message through the engine's chat template.
        demonstrator_chat: the same for the task's prompts, which the demonstrator answers; null: as `chat`. A
            reasoning model judges best without its template, where the score's digit comes next, and answers with it.
        text_temperature: sampling temperature for ``read="text"`` (A.6.2: 0.7); equal prompts of a round share the
            number that is drawn. A distribution is tempered by the method instead (``score_temperature``).
        score_tokens: token limit of a score given as text.
        demonstration_temperature: temperature at which trajectories are written.
        demonstration_tokens: token limit of a demonstration, its thought included; null for the student's limit. What
            exceeds the student's limit is cut off afterwards.
        demonstration_thinking: "keep" demonstrations as they are, or "strip" what stands before the last </think>; a
            thought that never ended is then a failed demonstration.
        max_parse_failures: share of the prompts of one call without a number above which the run stops.
        min_mass: a distribution with less probability on score tokens than this counts as a parse failure.
        cache: file of the disk cache; null keeps answers in memory only.
    """

    def __init__(
        self,
        engine: Engine,
        demonstrator: Engine | None = None,
        scale: ScoreScale = "zero_to_nine",
        read: Literal["distribution", "text"] = "distribution",
        chat: bool = False,
        demonstrator_chat: bool | None = None,
        text_temperature: float = 0.7,
        score_tokens: int = 8,
        demonstration_temperature: float = 0.7,
        demonstration_tokens: int | None = None,
        demonstration_thinking: Literal["keep", "strip"] = "keep",
        max_parse_failures: float = 0.5,
        min_mass: float = 1e-3,
        cache: str | None = None,
    ) -> None:
        name = "method.init_args.teacher.init_args"
        if scale not in SCALES:
            raise ConfigError(f"{name}.scale", f"is {scale!r}.", f"Use one of {', '.join(SCALES)}.")
        if read not in ("distribution", "text"):
            raise ConfigError(f"{name}.read", f"is {read!r}.", "Use distribution or text.")
        for setting, tokens in (("score_tokens", score_tokens), ("demonstration_tokens", demonstration_tokens)):
            if tokens is not None and tokens < 1:
                raise ConfigError(f"{name}.{setting}", f"is {tokens}.", "Use 1 or more.")
        if demonstration_thinking not in ("keep", "strip"):
            raise ConfigError(f"{name}.demonstration_thinking", f"is {demonstration_thinking!r}.", "Use keep or strip.")
        if text_temperature < 0:
            raise ConfigError(f"{name}.text_temperature", f"is {text_temperature}.", "Use 0 (greedy) or more.")
        if not 0 <= max_parse_failures <= 1:
            raise ConfigError(f"{name}.max_parse_failures", f"is {max_parse_failures}.", "It is a share: 0 to 1.")
        self.engine = engine
        self.demonstrator = demonstrator or engine
        self.scale: Scale = SCALES[scale]
        self.read = read
        self.chat = chat
        self.demonstrator_chat = chat if demonstrator_chat is None else demonstrator_chat
        self.text_temperature = text_temperature
        self.score_tokens = score_tokens
        self.demonstration_temperature = demonstration_temperature
        self.demonstration_tokens = demonstration_tokens
        self.demonstration_thinking = demonstration_thinking
        self.max_parse_failures = max_parse_failures
        self.min_mass = min_mass
        self.cache = AnswerCache(cache, "method.init_args.teacher.init_args.cache")
        self.ledger = Ledger()

    @property
    def engines(self) -> list[Engine]:
        return [self.engine] if self.demonstrator is self.engine else [self.engine, self.demonstrator]

    def check(self) -> None:
        """Raises: ConfigError, also for a vocabulary that cannot write the prompt or a digit in one token, and for a
        chat template that is not there or a thought whose end would go unseen."""
        super().check()
        self._check_chat("chat", self.engine, self.chat)
        self._check_chat("demonstrator_chat", self.demonstrator, self.demonstrator_chat)
        if self.demonstration_thinking == "strip" and self.demonstrator.tokenizer is not None:
            special = getattr(self.demonstrator.tokenizer, "all_special_tokens", [])
            if hidden := [token for token in special if thoughts.is_mark(token)]:
                raise ConfigError(
                    "method.init_args.teacher.init_args.demonstration_thinking",
                    f"is strip, but {hidden[-1]} is a special token of {self.demonstrator.name}, which no text shows.",
                    "Use keep, or a tokenizer in which it is an ordinary token.",
                )
        if self.read == "distribution" and self.engine.tokenizer is not None:
            single = self._single_token_texts(DIGITS)
            if len(single) < len(DIGITS):
                missing = ", ".join(d for d in DIGITS if d not in single)
                raise ConfigError(
                    "method.init_args.teacher.init_args.read",
                    f"is distribution, but {missing} is not one token in the vocabulary of {self.engine.name}.",
                    "Use read: text.",
                )
        prompt = step_prompt("", [], "", self.scale)
        if self.read == "distribution" and self.engine.tokenizer is not None and not self.chat:
            kept = decode(self.engine.tokenizer, self.engine.tokenizer.encode(prompt))
            if "".join(kept.split()) != "".join(prompt.split()):
                raise ConfigError(
                    "method.init_args.teacher.init_args.scale",
                    f"has a scoring prompt that the vocabulary of {self.engine.name} cannot write.",
                    "The embedded teacher knows zero_to_nine only; otherwise use another teacher.",
                )

    @staticmethod
    def _check_chat(setting: str, engine: Engine, chat: bool) -> None:
        if chat and isinstance(engine, LocalEngine) and not engine.tokenizer.chat_template:
            raise ConfigError(
                f"method.init_args.teacher.init_args.{setting}",
                f"is true, but the tokenizer of {engine.name} has no chat template.",
                "Set it to false.",
            )

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Whether the longest problem with a whole solution fits both engines' contexts: what the student may write
        and the score for the judge, what the demonstrator may write, its thought included, for the demonstrator.

        Counted in the teacher's tokens for the prompt and, for want of a better guess, in the student's for the
        solution. Raises: ConfigError.
        """
        for problem in sorted(problems, key=lambda p: -len(p.question))[:LONGEST]:
            judged = self._render(step_prompt(problem.question, [], "", self.scale), self.chat)
            answer = self.score_tokens if self.read == "text" else 1
            self._check_room("engine", self.engine, judged, max_tokens, answer, problem)
            answered = self._render(task.prompt(problem), self.demonstrator_chat, task.system)
            written = max(self.demonstration_tokens or max_tokens, max_tokens)  # a prefix may be as long as max_tokens
            self._check_room("demonstrator", self.demonstrator, answered, written, 0, problem)

    @staticmethod
    def _check_room(setting: str, engine: Engine, prompt: Prompt, solution: int, answer: int, problem: Problem) -> None:
        if engine.tokenizer is None or engine.max_context is None:
            return
        if not isinstance(prompt, str) and not getattr(engine.tokenizer, "chat_template", None):
            prompt = "".join(m["content"] for m in prompt if isinstance(m, dict))  # an endpoint has the template
        try:
            tokens = len(encode(engine.tokenizer, prompt)) + solution + answer
        except TemplateError as error:
            raise ConfigError(
                f"method.init_args.teacher.init_args.{setting}",
                f"is asked through its chat template, but of {engine.name} {error}.",
                "Use a task without a system message, chat: false, or a model whose template has a system role.",
            ) from error
        if tokens > engine.max_context:
            raise ConfigError(
                f"method.init_args.teacher.init_args.{setting}",
                f"{engine.name} holds {engine.max_context} tokens; problem {problem.id!r} with a solution of "
                f"{solution} tokens may need {tokens}.",
                "Lower rollout.max_tokens or demonstration_tokens, or raise the engine's max_model_len.",
            )

    # ---------------------------------------------------------------- scoring

    def score(self, prompts: Sequence[str], seed: int = 0, unparsed: UnparsedScores | None = None) -> list[Judgement]:
        """Judge each scoring prompt (see ``prompts.py``). Equal prompts are asked once.

        Args:
            seed: random state of the scores sampled as text; the distribution needs none.
            unparsed: counts over several calls that are each too small for a share of failures to mean anything.
        Raises: RuntimeError when more than ``max_parse_failures`` of the prompts got no number.
        """
        ask = self._distributions if self.read == "distribution" else self._texts
        answers, asked = ask(list(prompts), seed)
        judgements = [Judgement(None, 0.0) if a is None else Judgement(*a) for a in answers]
        failures = sum(j.distribution is None for j in judgements)
        self.ledger.scores += len(prompts)
        self.ledger.asked += asked
        self.ledger.parse_failures += failures
        self.ledger.mass += [j.mass for j in judgements]
        counted = unparsed or UnparsedScores()
        counted.failures, counted.prompts = counted.failures + failures, counted.prompts + len(prompts)
        if counted.prompts > counted.least and counted.failures / counted.prompts > self.max_parse_failures:
            raise RunError(
                f"{counted.failures} of {counted.prompts} scoring prompts got no score from {self.engine.name}: the "
                "teacher does not follow the scoring prompt. Check method.init_args.teacher (chat: true for a chat "
                "model, read: text for one that thinks before it answers, with a larger score_tokens), or raise "
                "max_parse_failures."
            )
        return judgements

    @staticmethod
    def _render(text: str, chat: bool, system: str | None = None, begun: str = "") -> Prompt:
        """As it stands, or through the chat template; ``begun`` is the beginning of the answer."""
        if not chat:
            return text + begun
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        if begun:
            messages.append({"role": "assistant", "content": begun})
        return messages

    def _distributions(self, prompts: list[str], seed: int) -> tuple[list[Answer | None], int]:
        """Exact distributions over the score vocabulary, per prompt ([v], mass); how many prompts were sent."""
        texts = DIGITS if self.scale.high == 9 else [*DIGITS, "10"]
        single = self._single_token_texts([*texts, *(" " + t for t in texts)])
        judge = Asked(self.engine, self.cache)

        def useful(row: list[float]) -> bool:
            return math.fsum(map(math.exp, row)) >= self.min_mass

        rows, asked = judge.rows([self._render(p, self.chat) for p in prompts], single, useful)
        after_one: list[list[float] | None] = [[-math.inf]] * len(prompts)
        if self.scale.high == 10:
            # P(10) = P("1") P("0" | "1"), and what follows "1" otherwise leaves it a 1; where the vocabulary has "10"
            # as a token of its own (numbers of up to three digits), the teacher may write it that way too.
            ones = [self._render(p, self.chat, begun="1") for p in prompts]
            after_one, _ = judge.rows(ones, ["0"], lambda row: True)
        answers: list[Answer | None] = []
        for row, after in zip(rows, after_one, strict=True):
            if row is None or after is None:
                answers.append(None)
                continue
            mass = dict(zip(single, map(math.exp, row), strict=True))
            scores = [mass.get(d, 0.0) + mass.get(" " + d, 0.0) for d in DIGITS]
            if self.scale.high == 10:
                zero = math.exp(after[0])
                ten = scores[1] * zero + mass.get("10", 0.0) + mass.get(" 10", 0.0)
                scores = [scores[1] * (1 - zero), *scores[2:], ten]
            total = math.fsum(scores)
            if total < self.min_mass:
                self.ledger.unscored = f"only {total:.2g} of its probability on score tokens"
            answers.append(([p / total for p in scores] if total >= self.min_mass else None, total))
        return answers, asked

    def _single_token_texts(self, texts: list[str]) -> list[str]:
        """Those of ``texts`` that are one token, each token once (" 7" is often two tokens, or the same as "7").

        An endpoint with a hidden vocabulary compares texts without the white space around them: there, those without.
        """
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            return [t for t in texts if not t.startswith(" ")]
        single: dict[int, str] = {}
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                single.setdefault(ids[0], text)
        return list(single.values())

    def _texts(self, prompts: list[str], seed: int) -> tuple[list[Answer | None], int]:
        """Scores sampled as text: one-hot distributions, none where no number of the scale was found."""
        requests = [Request(prompt=self._render(p, self.chat), seed=seed_of(seed, p)) for p in prompts]
        sampling = Sampling(max_tokens=self.score_tokens, temperature=self.text_temperature)

        def useful(completion: Completion) -> bool:
            return self.scale.parse(completion.text) is not None

        completions, asked = Asked(self.engine, self.cache).completions(requests, sampling, useful, once=True)
        answers: list[Answer | None] = []
        for completion in completions:
            value = None if completion.error is not None else self.scale.parse(completion.text)
            if value is None and completion.error is None:
                self.ledger.unscored = repr(completion.text[:100])
            one_hot = None if value is None else [float(value == s) for s in self.scale.values]
            answers.append(None if completion.error is not None else (one_hot, 0.0 if one_hot is None else 1.0))
        return answers, asked

    # ---------------------------------------------------------- demonstrating

    def demonstrate(
        self,
        prompts: Sequence[str],
        prefixes: Sequence[str],
        seeds: Sequence[int],
        max_tokens: Sequence[int],
        stop: tuple[str, ...] = (),
        system: str | None = None,
    ) -> list[Completion]:
        """Trajectories y ~ pi_T(. | x), or the rest of those that begin with a prefix.

        Args:
            prompts: task prompts, as text: the teacher has a vocabulary of its own.
            prefixes: what the answer already says; "" for a whole trajectory. It is not repeated in the result.
            seeds, max_tokens: one a prompt; ``demonstration_tokens``, where set, is the limit instead.
            stop: a demonstration ends with the first of these texts that follows visible text (one step).
            system: the task's system message, for a demonstrator with a chat template.
        """
        if not prompts:
            return []
        requests = [
            Request(
                prompt=self._render(p, self.demonstrator_chat, system, begun=prefix),
                seed=seed,
                max_tokens=self.demonstration_tokens or limit,
            )
            for p, prefix, seed, limit in zip(prompts, prefixes, seeds, max_tokens, strict=True)
        ]
        self.ledger.demonstrations += len(requests)
        stops = self._stops and bool(stop)
        completions = self._write(requests, stop if stops else ())
        if stops:
            # A stop text before any visible one ends no step. The rest is written without one: a chat template that
            # trims what was begun would make the teacher write the same again and again.
            bare = [i for i, c in enumerate(completions) if not c.text.strip() and any(s in c.text for s in stop)]
            for i, completion in zip(bare, self._write([requests[i] for i in bare], ()), strict=True):
                completion.completion_tokens += completions[i].completion_tokens
                completions[i] = D.cut_step(completion, stop, stopped=False)
        if self.demonstrator_chat:
            completions = [D.drop_repeated_lines_end(c, p) for c, p in zip(completions, prefixes, strict=True)]
        completions = [D.cut_step(c, stop, stopped=stops) for c in completions]
        # An answer that has begun may be complete as it is; one that never began is no demonstration.
        return [
            D.failed(c, "an empty answer") if c.error is None and not (c.text.strip() or begun.strip()) else c
            for c, begun in zip(completions, prefixes, strict=True)
        ]

    @property
    def _stops(self) -> bool:
        """Whether the demonstrator's engine may stop at a text: not inside a thought that is to be stripped, and not
        where the text is cut off, as OpenAI's protocol has it, so that a step's end looks like the trajectory's."""
        return self.demonstration_thinking == "keep" and self.demonstrator.keeps_stop

    def _write(self, requests: Sequence[Request], stop: tuple[str, ...]) -> list[Completion]:
        if not requests:
            return []
        sampling = Sampling(temperature=self.demonstration_temperature, stop=stop)
        completions, _ = Asked(self.demonstrator, self.cache).completions(requests, sampling, lambda c: bool(c.text))
        if self.demonstration_thinking == "keep":
            return completions
        tokenizer = self.demonstrator.tokenizer
        opened = [None if tokenizer is None else D.opens_thought(tokenizer, r.prompt) for r in requests]
        return [D.strip_thought(c, o) for c, o in zip(completions, opened, strict=True)]

    def settings(self) -> dict[str, Any]:
        """What its answers depend on, as JSON can hold it."""
        return {
            "engine": self.engine.name,
            "demonstrator": self.demonstrator.name,
            "scale": [self.scale.low, self.scale.high],
            "read": self.read,
            "chat": self.chat,
            "demonstrator_chat": self.demonstrator_chat,
            "text_temperature": self.text_temperature if self.read == "text" else None,
            "score_tokens": self.score_tokens if self.read == "text" else None,
            "demonstration_temperature": self.demonstration_temperature,
            "demonstration_tokens": self.demonstration_tokens,
            "demonstration_thinking": self.demonstration_thinking,
        }

    def take_ledger(self) -> Ledger:
        """What was asked since the last call."""
        ledger, self.ledger = self.ledger, Ledger()
        return ledger

    def close(self) -> None:
        self.cache.close()
        super().close()
