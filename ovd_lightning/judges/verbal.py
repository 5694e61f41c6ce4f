"""The paper's judge: a model that says one number. Black box: no logits, no shared vocabulary.

Section 3.3: the teacher "outputs a distribution over a discrete verbal vocabulary of size v = 10". Where the engine
gives log-probabilities of chosen next tokens, that distribution is read exactly; where it does not, scores are sampled
as text and parsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.engines.asked import Asked
from ovd_lightning.engines.base import Completion, Engine, Request, Sampling
from ovd_lightning.engines.prompting import as_prompt, chat_errors, hint, longest, room_errors
from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.judges.base import SETTING, Judge, Judgement, JudgeRequest, UnparsedScores
from ovd_lightning.judges.scale import SCALES, ScoreScale
from ovd_lightning.judges.template import PromptTemplate
from ovd_lightning.seeds import seed_of
from ovd_lightning.settings.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from ovd_lightning.tokens import decode
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.tasks.base import Task

DIGITS = [str(digit) for digit in range(10)]
TRIES = 3
"""Scores as text that a self-test asks for before it reports that there is none: one may fail by chance."""
LOW_MASS = 0.5


class VerbalJudge(Judge):
    """Asks for one number with a prompt (A.4 by default) and reads it from the next token or from text.

    Args:
        engine: null for the teacher's own.
        prompt: a Jinja template file in place of A.4; its variables: `ovd_lightning.judges.template`.
        reference: show the problem's reference answer to the judge.
        scale: "zero_to_nine" (the paper's body, v = 10) or "one_to_ten" (its prompt A.4).
        read: "distribution" reads the next-token distribution over the score vocabulary; "text" samples a number
            at ``text_temperature`` and parses it (for endpoints without log-probabilities).
        chat: send prompts as one user message through the engine's chat template.
        text_temperature: sampling temperature for ``read="text"`` (A.6.2: 0.7); equal prompts of a round share the
            number that is drawn. A distribution is tempered by the method instead (``scoring.temperature``).
        score_tokens: token limit of a score given as text.
        samples: scores that are sampled as text a prompt; the judgement is their distribution, whose mean and spread
            are read and logged.
        max_parse_failures: share of the judgements of one call without a score above which the run stops.
        min_mass: a distribution with less probability on score tokens than this counts as a parse failure.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        prompt: str = "a4.jinja",
        reference: bool = False,
        scale: ScoreScale = "zero_to_nine",
        read: Literal["distribution", "text"] = "distribution",
        chat: bool = False,
        text_temperature: NonNegativeFloat = 0.7,
        score_tokens: PositiveInt = 8,
        samples: PositiveInt = 1,
        max_parse_failures: ClosedUnitInterval = 0.5,
        min_mass: ClosedUnitInterval = 1e-3,
    ) -> None:
        super().__init__(engine)
        self.template = PromptTemplate(prompt, f"{SETTING}.prompt")
        if samples > 1 and (read == "distribution" or text_temperature == 0):
            raise ConfigError(
                f"{SETTING}.samples",
                f"is {samples}, and all would be equal with read: {read} at temperature {text_temperature}.",
                "Use read: text with a positive text_temperature; a distribution needs one call.",
            )
        self.reference = reference
        self.scale = SCALES[scale]
        self.read = read
        self.chat = chat
        self.text_temperature = text_temperature
        self.score_tokens = score_tokens
        self.samples = samples
        self.max_parse_failures = max_parse_failures
        self.min_mass = min_mass

    # ----------------------------------------------------------------- checks

    def check(self) -> None:
        """Raises: ConfigError for a chat template that is not there, and a vocabulary that cannot write the prompt or
        a digit in one token."""
        raise_errors(self._errors())

    def _errors(self) -> Iterator[ConfigError]:
        yield from (errors := list(self._answer_errors(DIGITS, "Use read: text.")))
        tokenizer = self.engine.tokenizer
        if errors or self.chat or self.read != "distribution" or tokenizer is None:
            return
        prompt = self.empty_prompt(self.template.rates_steps)
        kept = decode(tokenizer, tokenizer.encode(prompt))
        if "".join(kept.split()) != "".join(prompt.split()):
            own = self.template.path != "a4.jinja"
            yield ConfigError(
                f"{SETTING}.{'prompt' if own else 'scale'}",
                f"has a scoring prompt that the vocabulary of {self.engine.name} cannot write.",
                f"The embedded teacher knows {'the words of a4.jinja' if own else 'zero_to_nine'} only; otherwise use "
                "another teacher.",
            )

    def _answer_errors(self, answers: Sequence[str], hint: str) -> Iterator[ConfigError]:
        """What keeps the engine from being asked, or a distribution over ``answers`` from being read."""
        yield from chat_errors(f"{SETTING}.chat", self.engine, self.chat)
        if self.read == "distribution" and self.engine.tokenizer is not None:
            single = {text.strip() for text in self._single_token_texts(answers)}
            if missing := [text for text in dict.fromkeys(map(str.strip, answers)) if text not in single]:
                problem = f"is distribution, but no token of {self.engine.name} is {' or '.join(missing)}."
                yield ConfigError(f"{SETTING}.read", problem, hint)

    def check_problems(self, task: Task, problems: Sequence[Problem], max_tokens: int) -> None:
        """Whether the prompt of the longest problem, with a whole response and the score, fits the engine's context:
        in the judge's tokens for the prompt and, for want of a better guess, in the student's for the response."""
        raise_errors(self._problem_errors(longest(problems), max_tokens))

    def _problem_errors(self, problems: Sequence[Problem], max_tokens: int) -> Iterator[ConfigError]:
        """Each kind of error once, of the first problem that has it."""
        if self.reference and (bare := next((p for p in problems if not p.answers), None)) is not None:
            yield ConfigError(
                f"{SETTING}.reference", f"is true, but problem {bare.id!r} has no answer.", "Set it to false."
            )
        where, engine = _engine_setting(self), self.engine
        for problem in problems:
            prompt = as_prompt(self.prompt(JudgeRequest(problem=problem, **self._empty)), self.chat)
            if found := list(room_errors(where, engine, prompt, max_tokens, self.answer_tokens, problem.id)):
                yield from found
                return

    @property
    def prompts_per_request(self) -> int:
        """On 1-10 a distribution takes two: "10" is two tokens."""
        return self.samples if self.read == "text" or self.scale.high == 9 else 2

    def prompt_characters(self, of_step: bool) -> int:
        return len(self.empty_prompt(of_step))

    def empty_prompt(self, of_step: bool) -> str:
        """About an empty step or response to an empty question."""
        return self.prompt(JudgeRequest.of_text("", **{"step" if of_step else "response": ""}))

    @property
    def answer_tokens(self) -> int:
        return self.score_tokens if self.read == "text" else 1

    @property
    def _empty(self) -> dict[str, Any]:
        """What is judged where only the rest of the prompt matters."""
        return {"step": ""} if self.template.rates_steps else {"response": ""}

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """What a prompt may be answered with, in the order of a distribution, [v]."""
        return self.scale.values

    def parse(self, text: str) -> int | None:
        """The answer in a text, one of ``vocabulary``; None if there is none."""
        return self.scale.parse(text)

    def prompt(self, request: JudgeRequest) -> str:
        """What the engine is asked about a request."""
        return self.template.render(request, self.scale, self.reference)

    def self_test(self, problem: Problem, response: str) -> str:
        lines = [line for line in response.splitlines() if line.strip()] or ["I do not know."]
        requests = [JudgeRequest(problem=problem, response="\n".join(lines))]
        if self.template.rates_steps:
            tries = lines[: 1 if self.read == "distribution" else TRIES]
            requests = [
                JudgeRequest(problem=problem, previous=tuple(lines[:k]), step=line) for k, line in enumerate(tries)
            ]
        share, self.max_parse_failures = self.max_parse_failures, 1.0
        try:
            judgements = self.judge(requests)
        finally:
            self.max_parse_failures = share
        low, high = self.scale.low, self.scale.high
        judged = next((j for j in judgements if j.scored), None)
        if judged is None:
            troubles = self.engine.take_troubles()
            reason = self.ledger.unscored or "; ".join(troubles.reasons.values() if troubles is not None else ())
            raise ConfigError(
                _engine_setting(self),
                f"{self.engine.name} gave no score from {low} to {high}: {reason}.",
                hint(
                    reason,
                    "Set chat: true for a chat model; read: text, with a larger score_tokens, for one that thinks "
                    "before it answers or whose endpoint hides log-probabilities.",
                ),
            )
        mean = judged.mean(self.scale)
        if self.read == "text":
            return f"score {mean:.0f} of {low} to {high}"
        warning = " (LITTLE: it would rather say something else)" if judged.mass < LOW_MASS else ""
        return f"mean score {mean:.1f} of {low} to {high}, with {judged.mass:.3f} of its probability on scores{warning}"

    def settings(self) -> dict[str, Any]:
        text = self.read == "text"
        return {
            **super().settings(),
            "prompt": self.template.text,
            "reference": self.reference,
            "scale": [self.scale.low, self.scale.high],
            "read": self.read,
            "chat": self.chat,
            "text_temperature": self.text_temperature if text else None,
            "score_tokens": self.score_tokens if text else None,
            "samples": self.samples,
        }

    # ---------------------------------------------------------------- scoring

    def judge(
        self, requests: Sequence[JudgeRequest], seed: int = 0, unparsed: UnparsedScores | None = None
    ) -> list[Judgement]:
        prompts: dict[Any, str] = {}  # trajectories of a group often begin alike
        keys = [(id(r.problem), r.previous, r.step, r.response) for r in requests]
        for key, request in zip(keys, requests, strict=True):
            if key not in prompts:
                prompts[key] = self.prompt(request)
        return self.score([prompts[key] for key in keys], seed, unparsed)

    def score(self, prompts: Sequence[str], seed: int = 0, unparsed: UnparsedScores | None = None) -> list[Judgement]:
        """As :meth:`judge`, of prompts that are rendered already."""
        ask = self._distributions if self.read == "distribution" else self._texts
        judgements, asked = ask(list(prompts), seed)
        failures = sum(j.distribution is None for j in judgements)
        self.ledger.scores += len(prompts)
        self.ledger.asked += asked
        self.ledger.parse_failures += failures
        self.ledger.mass += [j.mass for j in judgements]
        counted = unparsed or UnparsedScores()
        counted.failures, counted.prompts = counted.failures + failures, counted.prompts + len(prompts)
        self.check_scored(counted)
        return judgements

    def check_scored(self, counted: UnparsedScores) -> None:
        if counted.prompts > counted.least and counted.failures / counted.prompts > self.max_parse_failures:
            raise RunError(
                f"{counted.failures} of {counted.prompts} scoring prompts got no score from {self.engine.name}: the "
                f"judge does not follow the scoring prompt. Check {SETTING.removesuffix('.init_args')} (chat: true "
                "for a chat model, read: text for one that thinks before it answers, with a larger score_tokens), or "
                "raise max_parse_failures."
            )

    def _distributions(self, prompts: list[str], seed: int) -> tuple[list[Judgement], int]:
        """Exact distributions over the score vocabulary; how many prompts were sent."""
        ten = self.scale.high == 10
        texts = [*DIGITS, "10"] if ten else DIGITS
        single = self._single_token_texts([*texts, *(" " + t for t in texts)])
        asked = Asked(self.engine, self.cache)

        def useful(row: list[float]) -> bool:
            return math.fsum(map(math.exp, row)) >= self.min_mass

        masses, begun, count = self._next_texts(prompts, single, asked, useful)
        after_one: list[list[float] | None] = [[-math.inf]] * len(prompts)
        if ten:
            # P(10) = P("1") P("0" | "1"), and what follows "1" otherwise leaves it a 1; where the vocabulary has "10"
            # as a token of its own (numbers of up to three digits), the judge may write it that way too.
            ones = [as_prompt(p, self.chat, begun=f"{b}1") for p, b in zip(prompts, begun, strict=True)]
            after_one, _ = asked.rows(ones, ["0"], lambda row: True)
        judgements = []
        for mass, after in zip(masses, after_one, strict=True):
            if mass is None or after is None:
                judgements.append(Judgement(None, 0.0))
                continue
            scores = [mass.get(d, 0.0) + mass.get(" " + d, 0.0) for d in DIGITS]
            if ten:
                zero = math.exp(after[0])
                tens = scores[1] * zero + mass.get("10", 0.0) + mass.get(" 10", 0.0)
                scores = [scores[1] * (1 - zero), *scores[2:], tens]
            total = math.fsum(scores)
            if total < self.min_mass:
                self.ledger.unscored = f"only {total:.2g} of its probability on score tokens"
            judgements.append(Judgement([p / total for p in scores] if total >= self.min_mass else None, total))
        return judgements, count

    def _next_texts(
        self, prompts: Sequence[str], single: Sequence[str], asked: Asked, useful: Callable[[list[float]], bool]
    ) -> tuple[list[dict[str, float] | None], list[str], int]:
        """(probability of each text that comes next, what the judge begins its answer with, prompts sent).

        Without a template the text goes on after "to 9:" with a space, which vocabularies like Qwen's and Llama 3's
        have as a token of its own. Where it is likelier than all scores, they are read behind it as well:
        P(d) + P(space) P(d | space).
        """
        tokenizer = self.engine.tokenizer
        space = [" "] if not self.chat and tokenizer is not None and space_stands_alone(tokenizer) else []
        rows, count = asked.rows([as_prompt(p, self.chat) for p in prompts], [*single, *space], useful)
        masses = [
            None if row is None else dict(zip([*single, *space], map(math.exp, row), strict=True)) for row in rows
        ]
        leads = [mass is not None and mass.get(" ", 0.0) > math.fsum(mass[text] for text in single) for mass in masses]
        behind = [i for i, leading in enumerate(leads) if leading]
        more, sent = asked.rows([as_prompt(prompts[i], self.chat, begun=" ") for i in behind], single, useful)
        for i, row in zip(behind, more, strict=True):
            mass = masses[i]
            if mass is not None and row is not None:
                masses[i] = {t: mass[t] + mass[" "] * math.exp(v) for t, v in zip(single, row, strict=True)}
        return masses, [" " if leading else "" for leading in leads], count + sent

    def _single_token_texts(self, texts: Sequence[str]) -> list[str]:
        """Those of ``texts`` that are one token, each token once (" 7" is often two tokens, or the same as "7").

        An endpoint with a hidden vocabulary compares texts without the white space around them: there, those without.
        """
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            return [t for t in texts if not t.startswith(" ")]
        single: dict[int, str] = {}
        for text in texts:
            ids = self.engine.short_ids(text)
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                single.setdefault(ids[0], text)
        return list(single.values())

    def _texts(self, prompts: list[str], seed: int) -> tuple[list[Judgement], int]:
        """Scores sampled as text, ``samples`` a prompt: how often each was given; how many prompts were sent."""
        requests = [
            Request(prompt=as_prompt(p, self.chat), seed=seed_of(seed, p, i) if i else seed_of(seed, p))
            for p in prompts
            for i in range(self.samples)
        ]
        sampling = Sampling(max_tokens=self.score_tokens, temperature=self.text_temperature, logprobs=False)

        def useful(completion: Completion) -> bool:
            return self.parse(completion.text) is not None

        completions, asked = Asked(self.engine, self.cache).completions(requests, sampling, useful, once=True)
        judgements = []
        for start in range(0, len(completions), self.samples):
            values = [self._parsed(c) for c in completions[start : start + self.samples]]
            found = [value for value in values if value is not None]
            shares = [found.count(value) / len(found) for value in self.vocabulary] if found else None
            judgements.append(Judgement(shares, len(found) / self.samples))
        return judgements, asked

    def _parsed(self, completion: Completion) -> int | None:
        if completion.error is not None:
            return None
        value = self.parse(completion.text)
        if value is None:
            self.ledger.unscored = repr(completion.text[:100])
        return value


@lru_cache(maxsize=32)
def space_stands_alone(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the space before a digit is a token of its own."""
    space, spaced = (tokenizer.encode(text, add_special_tokens=False) for text in (" ", "0 7"))
    return len(space) == 1 and len(spaced) == 3 and spaced[1] == space[0]


def _engine_setting(judge: Judge) -> str:
    """Where the engine that the judge asks is set: its own, or the teacher's."""
    return f"{SETTING}.engine" if judge.own_engine else "method.init_args.teacher.init_args.engine"
