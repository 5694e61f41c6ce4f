"""The contract of an environment: what replies to a turn of a trajectory, e.g. a search engine or an interpreter."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ovd_lightning.settings.ranges import NonNegativeInt, PositiveInt
from ovd_lightning.tokens import decode
from ovd_lightning.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ovd_lightning.engines.base import Engine


@dataclass(slots=True, kw_only=True, frozen=True)
class Turn:
    """One generation of a trajectory, as the environment sees it."""

    problem: Problem
    index: int
    """Turns before this one."""
    text: str
    """What was written in this turn, special tokens left out."""
    history: str
    """The completion before this turn, observations included."""
    seed: int
    """For what is random in the reply: the same turn of the same trajectory gets the same reply again."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Reply:
    """The environment's answer to one turn. ``prefix + body + suffix`` is the observation: context for whoever goes
    on, never trained on. A long body is cut to the environment's limit; prefix and suffix (tags) are never cut."""

    prefix: str = ""
    body: str = ""
    suffix: str = ""
    done: bool = False
    """The trajectory ends with this turn; there is no observation."""
    valid: bool = True
    """False: the turn was not an action, and the observation explains what an action looks like."""
    failed: bool = False
    """The environment could not do it (a search engine that is down), and the observation reports that."""


class Environment(ABC):
    """Replies to turns until the trajectory is done or has had ``max_turns`` replies, after which one final
    generation follows that gets no reply.

    Args:
        max_turns: replies a trajectory.
        max_turn_tokens: limit of one generation.
        max_observation_tokens: limit of one observation's body, in the student's tokens.
    """

    stop: tuple[str, ...] = ()
    """A turn ends after the first of these texts."""
    counted: tuple[str, ...] = ()
    """Names of what :meth:`take_counts` may count."""

    def __init__(
        self,
        max_turns: NonNegativeInt = 4,
        max_turn_tokens: PositiveInt = 500,
        max_observation_tokens: PositiveInt = 500,
    ) -> None:
        self.max_turns = max_turns
        self.max_turn_tokens = max_turn_tokens
        self.max_observation_tokens = max_observation_tokens

    @property
    def asks_student(self) -> bool:
        """It asks the student, whose turns it replies to; so it cannot reply to a teacher's."""
        return False

    @abstractmethod
    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        """One reply a turn, in order; all live trajectories of a round come in one call.

        Never raises for a turn's content; a failure of the environment is a reply with ``failed``.

        Args:
            progress: share of the training that is over, in [0, 1), for a curriculum; None: evaluation.
        """

    def take_counts(self) -> dict[str, float]:
        """What happened since the last call, by the names in ``counted``; sums, added up over ranks."""
        return {}

    def check(self) -> None:  # noqa: B027 -- most environments have nothing to check
        """Everything that can be checked without loading. Raises: ConfigError."""

    def start(self) -> None:  # noqa: B027
        """Load. A second call does nothing."""

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Memory of an environment's own engine is held inside this block only."""
        yield

    @contextmanager
    def asking(self, student: Engine) -> Iterator[None]:
        """Inside this block the turns are ``student``'s, which may be asked."""
        yield

    def close(self) -> None:  # noqa: B027
        """Give everything back."""


def turn_spans(
    token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None
) -> list[tuple[int, int]]:
    """Half-open token spans of the steps where a step is a turn, with the observation that replies to it.

    They cover all tokens. An end of sequence alone belongs to the step before it. ``mask`` is [T], False on
    observations; None: there are none.
    """
    if not token_ids:
        return []
    written = [True] * len(token_ids) if mask is None else mask
    starts = [i for i in range(1, len(token_ids)) if written[i] and not written[i - 1]]
    if starts and not decode(tokenizer, token_ids[starts[-1] :]).strip():
        starts.pop()
    return list(pairwise([0, *starts, len(token_ids)]))


def tags(*names: str) -> re.Pattern[str]:
    """What begins a tag of these names, or a marker of a chat template such as <|im_end|>."""
    return re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(names)})\b|\|)", re.IGNORECASE)


def defuse(text: str, tag: re.Pattern[str]) -> str:
    """Other people's text without tags of the protocol: their "<" becomes "&lt;". So does one of a wider script that
    a tokenizer may normalise to it."""
    normal = unicodedata.normalize("NFKC", text)
    return tag.sub("&lt;", normal) if tag.search(normal) else text
