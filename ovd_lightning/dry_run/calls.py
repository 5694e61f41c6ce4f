"""What a round asks of the teacher, and what a teacher of tokens would have had to hand over instead (section 2)."""

from __future__ import annotations

from dataclasses import dataclass

from ovd_lightning.dry_run.assumptions import Assumptions
from ovd_lightning.dry_run.shape import HALF, SINGLE
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.methods.base import Method
from ovd_lightning.methods.gkd import GKD
from ovd_lightning.methods.ovd import OVD
from ovd_lightning.methods.sg_opd import SGOPD
from ovd_lightning.teachers.prompts import SCALES, step_prompt, trajectory_prompt
from ovd_lightning.teachers.token import TokenTeacher
from ovd_lightning.teachers.verbal import VerbalTeacher

CHARACTERS_PER_TOKEN = 4
"""For the fixed words of the scoring prompt, since no tokenizer is loaded."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Calls:
    """What is asked of the teacher; equal prompts, which are asked once, are counted as often as they occur."""

    scores: int
    """Scoring prompts."""
    read: int
    """Trajectories read token by token."""
    demonstrations: int
    requests: int
    """HTTP requests, 0 where the teacher runs in this process."""
    tokens_in: int
    tokens_out: int

    def cost(self, assumed: Assumptions) -> float | None:
        """In the prices' currency; None without a price."""
        if assumed.input_price is None and assumed.output_price is None:
            return None
        return (self.tokens_in * (assumed.input_price or 0) + self.tokens_out * (assumed.output_price or 0)) / 1e6

    def times(self, rounds: int) -> Calls:
        return Calls(
            scores=rounds * self.scores,
            read=rounds * self.read,
            demonstrations=rounds * self.demonstrations,
            requests=rounds * self.requests,
            tokens_in=rounds * self.tokens_in,
            tokens_out=rounds * self.tokens_out,
        )


def calls_of_round(method: Method, problems: int, max_tokens: int, assumed: Assumptions, bound: bool) -> Calls:
    """The calls of one round over all ranks.

    Args:
        bound: every trajectory as long as allowed and every one replaced; ``assumed.steps`` is still assumed.
    """
    response = max_tokens if bound else assumed.response_tokens or max(max_tokens // 3, 1)
    if not isinstance(method, OVD):
        return _of_other(method, problems, response, max_tokens, assumed, bound)
    teacher = method.teacher
    sampled = problems * method.group_size
    share = 1.0 if bound else 1 - assumed.acceptance
    replaced = round(sampled * share)
    if method.max_replacements is not None:
        replaced = min(replaced, problems * method.max_replacements)

    kept = 0.0 if method.replacement == "trajectory" or bound else 0.5  # of a trajectory that is continued
    written = _written(teacher, round(response * (1 - kept)), max_tokens, assumed, bound)
    demonstrated_in = replaced * (assumed.prompt_tokens + round(kept * response))

    judged = sampled + (replaced if method.credit_level == "step" else 0)
    scale = teacher.scale
    if method.scoring == "step":
        scores = round(judged * assumed.steps)
        words = len(step_prompt("", [], "", scale)) // CHARACTERS_PER_TOKEN
        # Step k is shown with the steps before it: sum over k of (words + problem + k T / K).
        per = assumed.steps * (words + assumed.prompt_tokens) + response * (assumed.steps + 1) / 2
    else:
        scores = judged
        words = len(trajectory_prompt("", "", scale)) // CHARACTERS_PER_TOKEN
        per = words + assumed.prompt_tokens + response
    # On 1-10 a distribution takes two prompts: "10" is two tokens.
    asked = 2 if teacher.read == "distribution" and scale == SCALES["one_to_ten"] else 1
    answer = 1 if teacher.read == "distribution" else teacher.score_tokens
    return Calls(
        scores=scores,
        read=0,
        demonstrations=replaced,
        requests=_requests(teacher.engine, asked * scores) + _requests(teacher.demonstrator, replaced),
        tokens_in=round(asked * judged * per) + demonstrated_in,
        tokens_out=asked * scores * answer + replaced * written,
    )


def _written(teacher: VerbalTeacher, rest: int, max_tokens: int, assumed: Assumptions, bound: bool) -> int:
    """Tokens of one demonstration; ``rest``: as long as the student's would be."""
    limit = teacher.demonstration_tokens or max_tokens
    if teacher.demonstration_thinking == "strip":
        rest = max(limit // 2, 1)
    return limit if bound else min(assumed.demonstration_tokens or rest, limit)


def _of_other(
    method: Method, problems: int, response: int, max_tokens: int, assumed: Assumptions, bound: bool
) -> Calls:
    """Of the methods whose teacher reads the student's tokens, writes, or both; a method that is not of this package
    is counted by its teacher alone."""
    teacher, trajectories = method.teacher, problems * method.group_size
    writer = teacher.demonstrator if isinstance(teacher, TokenTeacher) else teacher
    read = trajectories if isinstance(teacher, TokenTeacher) else 0
    demonstrated = trajectories if isinstance(teacher, VerbalTeacher) else 0
    if isinstance(method, GKD) and method.outputs == "teacher":
        demonstrated = round(trajectories * (1 - method.student_share))
    if isinstance(method, SGOPD):  # in its first rounds, and only what is not in its cache
        demonstrated = problems * method.demonstrations if bound and method.imitation else 0
    written = _written(writer, response, max_tokens, assumed, bound) if isinstance(writer, VerbalTeacher) else 0
    requests = _requests(teacher.engine, read) if isinstance(teacher, TokenTeacher) else 0
    if isinstance(writer, VerbalTeacher):
        requests += _requests(writer.demonstrator, demonstrated)
    return Calls(
        scores=0,
        read=read,
        demonstrations=demonstrated,
        requests=requests,
        tokens_in=read * (assumed.prompt_tokens + response) + demonstrated * assumed.prompt_tokens,
        tokens_out=demonstrated * written,
    )


def _requests(engine: object, prompts: int) -> int:
    if not isinstance(engine, OpenAIEngine):
        return 0
    return prompts if engine.api == "chat" else -(-prompts // engine.prompts_per_request)


@dataclass(slots=True, kw_only=True, frozen=True)
class TokenLevel:
    """Eq. 1: the logits of all trajectories at once, in float32 and bfloat16, against verbal scores. Bytes."""

    trajectories: int
    """B x N"""
    length: int
    """L"""
    vocabulary: int
    """V"""
    single: int
    """B N L V x 4"""
    half: int
    """B N L V x 2"""
    verbal: int
    """B N K v x 4: what the scores' distributions take."""

    @property
    def total(self) -> int:
        return self.single + self.half

    @property
    def ratio(self) -> float:
        return self.total / self.verbal


def token_level(trajectories: int, length: int, vocabulary: int, steps: float, values: int = 10) -> TokenLevel:
    """Eq. 1 for one batch; ``values``: v, the size of the score vocabulary."""
    logits = trajectories * length * vocabulary
    return TokenLevel(
        trajectories=trajectories,
        length=length,
        vocabulary=vocabulary,
        single=SINGLE * logits,
        half=HALF * logits,
        verbal=max(round(SINGLE * trajectories * steps * values), 1),
    )
