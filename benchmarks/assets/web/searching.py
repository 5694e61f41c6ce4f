"""Trajectories of searching with habits planted in them, and the rubric's verdict on every step of any trajectory.

*Habits* are systematic and make the student: it stops after the first of two hops, searches for "mayor" instead of the
town, reads the river where the country is asked and the other way round, names a teacher without searching, gives only
the last name of a painter, and now and then forgets the tag of a search. *Faults* are arbitrary and only teach the
scorer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import bm25s

from benchmarks.assets.rows import Verdict
from benchmarks.assets.web.vocabulary import CLOSE, EMPTY, INVALID, OPEN
from ovd_lightning.search.bm25 import best
from ovd_lightning.search.words import words
from ovd_lightning.tasks.small_world import RELATIONS, World

TOP_K = 2
MOST_HOPS = 3
"""Searches after which a trajectory must answer."""
SIZES = (90, 90, 56)
"""Works, people and places of a world to pretrain on."""


class Piece(NamedTuple):
    """A stretch of a step, by one author."""

    text: str
    observed: bool = False


Step = list[Piece]


class Judged(NamedTuple):
    """A step, and what should have been written before and after its documents."""

    pieces: Step
    query: str
    reading: str
    verdict: Verdict


class Library:
    """A world with a BM25 index in memory, which finds what `BM25Search` finds without stemming and stop words."""

    def __init__(self, world: World) -> None:
        self.world = world
        documents = world.documents()
        self._texts = [d["text"] for d in documents]
        self._index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
        self._index.index([words(f"{d['title']} {d['text']}") for d in documents], show_progress=False)
        self._found: dict[str, str] = {}
        self.by_kind = {
            kind: [e.name for e in world.entities.values() if e.kind == kind] for kind in ("work", "person", "place")
        }
        self.chains = [list(world.chains("train", hops)) for hops in (1, 2)]

    def observe(self, query: str) -> str:
        """What the environment shows for a query."""
        if query not in self._found:
            scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words(query)))  # [documents]
            lines = "\n".join(f"- {self._texts[i]}" for i in best(scores, TOP_K))
            self._found[query] = f"{OPEN}{lines or EMPTY}{CLOSE}"
        return self._found[query]


class Draft(NamedTuple):
    """What one hop is about to be: a habit or a fault alters it before it is written."""

    relation: str
    query: str
    value: str | None
    """What is read; None: what the fact is."""
    stop: bool
    """This hop answers."""
    answer: str | None = None
    """Instead of what was read."""
    blind: bool = False
    """Answer without searching."""
    malformed: bool = False
    """Forget the tag of the search, and search properly after the reproof."""


Alter = Callable[[random.Random, Library, Draft, int], Draft]
"""(random, library, the right draft, index of the hop) -> what is written."""


def write(library: Library, rng: random.Random, entity: str, relations: Sequence[str], alter: Alter) -> list[Piece]:
    """A trajectory whose every hop went through ``alter``; it goes on from what it read, right or wrong."""
    pieces: list[Piece] = []
    turn, believed = "", entity
    for hop in range(MOST_HOPS):
        last = hop >= len(relations) - 1
        relation = relations[hop] if hop < len(relations) else _pick(rng, _relations(library, believed))
        draft = alter(rng, library, Draft(relation, believed, None, last or hop == MOST_HOPS - 1), hop)
        turn += f"<think> need {draft.relation}</think>" if hop == 0 else ""
        if draft.blind:
            guess = draft.answer or _guess(rng, library, draft.relation)
            return [*pieces, Piece(f"{turn}<answer> {guess}</answer>")]
        if draft.malformed:
            pieces += [Piece(f"{turn} {draft.query}</search>"), Piece(INVALID, True)]
            turn = ""
        observation = library.observe(draft.query)
        pieces += [Piece(f"{turn}<search> {draft.query}</search>"), Piece(observation, True)]
        value = draft.value or read(library, rng, observation, draft)
        believed = value
        turn = f"<think> {draft.relation} is {value}"
        if draft.stop or hop == MOST_HOPS - 1 or value not in library.world.entities:
            return [*pieces, Piece(f"{turn}</think><answer> {draft.answer or value}</answer>")]
        upcoming = relations[hop + 1] if hop + 1 < len(relations) else _pick(rng, _relations(library, value))
        turn += f", need {upcoming}</think>"
    raise AssertionError("the last hop answers")


def into_steps(pieces: Sequence[Piece]) -> list[Step]:
    """Steps as the task splits them: each search but the first begins one."""
    steps: list[Step] = [[]]
    searches = 0
    for text, observed in pieces:
        parts = [text] if observed else [part for part in re.split("(?=<search>)", text) if part]
        for part in parts:
            if not observed and part.startswith("<search>"):
                searches += 1
                if searches > 1:
                    steps.append([])
            steps[-1].append(Piece(part, observed))
    return steps


def _relations(library: Library, name: str) -> list[str]:
    return list(library.world.entities[name].facts)


def read(library: Library, rng: random.Random, observation: str, draft: Draft) -> str:
    """The fact of the queried entity, else of the first document that has such a fact, else a guess."""
    entities = library.world.entities
    for name in (draft.query, *shown(observation)):
        if name in entities and draft.relation in entities[name].facts:
            return entities[name].facts[draft.relation]
    return _guess(rng, library, draft.relation)


def shown(observation: str) -> list[str]:
    """Titles of the documents in an observation."""
    return re.findall(r"- (\w+ \w+) is a", observation)


def _guess(rng: random.Random, library: Library, relation: str) -> str:
    kind = RELATIONS[relation].value
    return _pick(rng, library.by_kind[kind]) if kind else _pick(rng, library.by_kind["place"])


def _pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


# ------------------------------------------------------------------- the student


SWAPPED = {"country": "river", "river": "country"}


def habits(rate: float, malformed: float = 0.06) -> Alter:
    """Falls for each habit with probability ``rate``."""

    def alter(rng: random.Random, library: Library, draft: Draft, hop: int) -> Draft:
        draft = draft._replace(malformed=rng.random() < malformed)
        if rng.random() >= rate:
            return draft
        if not draft.stop:
            return draft._replace(stop=True)
        if draft.relation == "mayor":
            return draft._replace(query="mayor")
        if draft.relation in SWAPPED:
            return draft._replace(value=library.world.entities[draft.query].facts[SWAPPED[draft.relation]])
        if draft.relation == "painter":
            return draft._replace(answer=library.world.entities[draft.query].facts["painter"].split()[1])
        if draft.relation == "teacher" and hop == 0:
            return draft._replace(blind=True, malformed=False)
        return draft

    return alter


def rightly(rng: random.Random, library: Library, draft: Draft, hop: int) -> Draft:
    return draft


# --------------------------------------------------------------------- the scorer


def faults(place: int) -> Alter:
    """An arbitrary mistake at hop ``place``; what follows is consistent with it."""

    def alter(rng: random.Random, library: Library, draft: Draft, hop: int) -> Draft:
        return _fault(rng, library, draft, hop) if hop == place else draft

    return alter


def _fault(rng: random.Random, library: Library, draft: Draft, hop: int) -> Draft:
    world = library.world
    if draft.query not in world.entities:
        return draft
    entity = world.entities[draft.query]
    kind = rng.random()
    if kind < 0.30:  # a useless query
        first, last = draft.query.split()
        similar = [n for n in library.by_kind[entity.kind] if n != draft.query and set(n.split()) & {first, last}]
        wrong = _pick(rng, [
            _pick(rng, similar or library.by_kind[entity.kind]), draft.relation, f"{first}", f"{last}",
            f"{draft.relation} {last}", _pick(rng, library.by_kind[_pick(rng, list(library.by_kind))]),
        ])  # fmt: skip
        return draft._replace(query=wrong) if wrong != draft.query else draft
    if kind < 0.62:  # a wrong reading
        others = [v for r, v in entity.facts.items() if r != draft.relation]
        beside = [v for n in shown(library.observe(draft.query))[1:] for v in world.entities[n].facts.values()]
        names = [*others, *(beside or others), _guess(rng, library, draft.relation), _half(rng, library, draft)]
        wrong = _pick(rng, names)
        return draft._replace(value=wrong) if wrong != entity.facts.get(draft.relation) else draft
    if kind < 0.70:  # another relation of the entity
        return draft._replace(relation=_pick(rng, list(entity.facts)))
    if kind < 0.80:  # too early, or too late
        return draft._replace(stop=not draft.stop)
    if kind < 0.87 and draft.stop:  # an answer that is not what was read
        halves = entity.facts.get(draft.relation, "").split()
        return draft._replace(
            answer=_pick(rng, [*entity.facts.values(), *halves, _guess(rng, library, draft.relation)])
        )
    if kind < 0.94:
        return draft._replace(blind=True)
    return draft._replace(malformed=True)


def _half(rng: random.Random, library: Library, draft: Draft) -> str:
    """The right value with one part of its name changed."""
    value = library.world.entities[draft.query].facts.get(draft.relation, "")
    parts, other = value.split(), _guess(rng, library, draft.relation).split()
    if len(parts) != 2 or len(other) != 2:
        return _pick(rng, library.by_kind["place"])
    place = int(rng.random() * 2)
    parts[place] = other[place]
    return " ".join(parts)


# -------------------------------------------------------------------- the verdict


_VALUE = re.compile(r"<think> \w+ is ([\w ]+?)(?:, need \w+)?</think>")
_FORGOTTEN = re.compile(r"(?<=</think>) [\w ]+</search>" + re.escape(INVALID))
_DOCUMENTS = "\0"


def judge(world: World, entity: str, relations: Sequence[str], steps: Sequence[Step]) -> list[Judged]:
    """The verdict on each step, by what the trajectory could know at that point.

    A query must be the entity that the next fact is about, in full; then the fact must be read as the document has it,
    and the step must go on or answer as the question demands. A forgotten tag is a mistake of its step alone.
    """
    believed, wrong = entity, False
    judged: list[Judged] = []
    for hop, step in enumerate(steps):
        query, reading = _right(world, believed, relations, hop)
        text = "".join(_DOCUMENTS if p.observed and p.text != INVALID else p.text for p in step)
        clean = _FORGOTTEN.sub("", text)
        asked, _, body = clean.partition(_DOCUMENTS)
        verdict: Verdict = "inherited" if wrong else "right"
        if asked != query:
            verdict, wrong = "expression", True
        elif body not in (reading, reading.removesuffix("<search>")) and reading != ANY:
            verdict, wrong = "value", True
        elif clean != text:
            verdict = "value"
        judged.append(Judged(step, query, body if reading == ANY else reading, verdict))
        if value := _VALUE.search(body):
            believed = value[1]
    return judged


ANY = "<any>"


def _right(world: World, believed: str, relations: Sequence[str], hop: int) -> tuple[str, str]:
    """What should be written before and after the documents; `ANY` where an earlier mistake left nothing to read."""
    if hop >= len(relations):
        return "</answer>", ANY  # a search too many
    opening = f"<think> need {relations[0]}</think>" if hop == 0 else ""
    query = f"{opening}<search> {believed}</search>"
    entity = world.entities.get(believed)
    if entity is None or relations[hop] not in entity.facts:
        return query, ANY
    value = entity.facts[relations[hop]]
    thought = f"<think> {relations[hop]} is {value}"
    if hop == len(relations) - 1:
        return query, f"{thought}</think><answer> {value}</answer>"
    return query, f"{thought}, need {relations[hop + 1]}</think><search>"
