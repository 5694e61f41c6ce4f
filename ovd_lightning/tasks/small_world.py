"""A small invented world of people, places and works: Web Q&A that two CPU cores can learn.

Every person, place and work has one short document, and a question takes one search or two::

    Question: Where was the painter of Silver Lantern born?
    <think> need painter</think><search> Silver Lantern</search>
    <information>- Silver Lantern is a painting by Mara Venn set in Old Ilmen.
    - ...</information>
    <think> painter is Mara Venn, need birthplace</think><search> Mara Venn</search>
    <information>- Mara Venn is a painter born in Port Tamsin and taught by Dorin Hale.
    - ...</information>
    <think> birthplace is Port Tamsin</think><answer> Port Tamsin</answer>

Names have two parts, and many share one: a search for half a name finds another person, and half a right answer has a
part of the F1. The corpus that goes with a world is written by ``python -m ovd_lightning.tasks.small_world``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ovd_lightning.errors import ConfigError
from ovd_lightning.files import write_text
from ovd_lightning.settings.ranges import PositiveInt
from ovd_lightning.tasks.base import Split
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.rewards import RewardFunction
from ovd_lightning.tasks.web_qa import WebQA
from ovd_lightning.types import Problem

Kind = Literal["work", "person", "place"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Sizes = dict[Split, tuple[int, int, int]]
"""Works, people and places of each split's part of a world."""
SIZES: Sizes = {"train": (80, 80, 50), "validation": (32, 32, 20), "test": (32, 32, 20)}

FIRST = (
    "Adra Belin Corva Dorin Elva Fenno Garet Hedda Ivo Jorun Karsa Lena Mara Nilo Orsa Perrin Quill Runa Sefa Tovar "
    "Ulma Vesna Wendel Xara Yorik Zelda Anselm Brisa Calder Delia Edrik Frida Gustav Halia Imre Juna Kolin Livia Merek "
    "Nadia"
).split()
LAST = (
    "Abend Brisk Carrow Dusk Eller Fallow Gant Hale Ister Jessop Kestrel Lorne Mallow Nettle Osk Pell Quarry Rill "
    "Sorrel Tarn Umber Venn Wick Yarrow Zorn Ashby Bramble Croft Dunmore Everin Farrow Glass Hollin Inver Jarrow Keel "
    "Linden Marsh Noll Orchard"
).split()
PREFIX = "Port Old New Upper Lower Saint Fort Mount".split()
STEM = (
    "Ilmen Tamsin Orrel Vasko Brenta Culm Dreva Elgin Fosk Gresna Hamrin Isolde Jelka Kirun Lusk Morva Nessel Ostra "
    "Pavla Rosk Sund Trella Ulvik Varda Wesk Ystad Zemlin Aldra Borska Celme Dunva Erlen"
).split()
ADJECTIVE = (
    "Silver Broken Hidden Burning Silent Golden Crooked Distant Empty Frozen Gentle Hollow Iron Lost Midnight Narrow "
    "Painted Quiet Red Scarlet Tall Velvet Winter Yellow"
).split()
NOUN = (
    "Bridge Garden Harbour Lantern Mirror Meadow Tower Feather Island Window River Ladder Crown Forest Bell Mountain "
    "Letter Wheel Kingdom Candle Sparrow Curtain Staircase Horizon"
).split()
COUNTRY = "Kessia Norlund Tavaria Ombria Selgard Vantia Rostovar Ardelia Cymeria Palonia".split()
STREAM = "Orm Lethe Dravo Sill Tornel Wend Askar Nivra Belo Ruhl".split()
TOWNS = ("town", "village", "city")
MAKERS = {"painting": "painter", "novel": "writer", "ballet": "composer"}
"""What a work is -> who made it."""


class Relation(NamedTuple):
    """How a fact is put as a question and as a statement."""

    subject: Kind
    value: Kind | None
    """The kind of entity the value is; None: a mere name (a country, a river)."""
    ask: str
    of: str


RELATIONS: dict[str, Relation] = {
    "painter": Relation("work", "person", "Who painted {}?", "the painter of {}"),
    "writer": Relation("work", "person", "Who wrote {}?", "the writer of {}"),
    "composer": Relation("work", "person", "Who composed {}?", "the composer of {}"),
    "setting": Relation("work", "place", "Where is {} set?", "the setting of {}"),
    "birthplace": Relation("person", "place", "Where was {} born?", "the birthplace of {}"),
    "teacher": Relation("person", "person", "Who taught {}?", "the teacher of {}"),
    "mayor": Relation("place", "person", "Who is the mayor of {}?", "the mayor of {}"),
    "country": Relation("place", None, "Which country is {} in?", "the country of {}"),
    "river": Relation("place", None, "Which river runs through {}?", "the river of {}"),
}


@dataclass(slots=True, kw_only=True)
class Entity:
    """Somebody or something with a document."""

    name: str
    kind: Kind
    noun: str
    """What it is: a painting, a composer, a village."""
    split: Split
    """Its part of the world. Facts never lead from one part to another."""
    facts: dict[str, str] = field(default_factory=dict)
    """relation -> value"""

    @property
    def text(self) -> str:
        """Its document."""
        start, f = f"{self.name} is a {self.noun}", self.facts
        if self.kind == "work":
            return f"{start} by {f[MAKERS[self.noun]]} set in {f['setting']}."
        if self.kind == "person":
            return f"{start} born in {f['birthplace']} and taught by {f['teacher']}."
        return f"{start} in {f['country']} on the river {f['river']} with mayor {f['mayor']}."


class World:
    """People, places, works and their facts, a function of the seed and the sizes.

    Args:
        seed: draws names and facts.
        sizes: works, people and places of each split's part.
    """

    def __init__(self, seed: int, sizes: Sizes = SIZES) -> None:
        rng = random.Random(f"small_world/{seed}")
        self.entities: dict[str, Entity] = {}
        works, people, places = (_names(rng, a, b) for a, b in ((ADJECTIVE, NOUN), (FIRST, LAST), (PREFIX, STEM)))
        for split, (n_works, n_people, n_places) in sizes.items():
            self._part(rng, split, _take(works, n_works), _take(people, n_people), _take(places, n_places))

    def _part(self, rng: random.Random, split: Split, works: list[str], people: list[str], places: list[str]) -> None:
        makers = list(MAKERS.values())
        for i, name in enumerate(people):
            teacher = _pick(rng, [p for p in people if p != name])
            facts = {"birthplace": _pick(rng, places), "teacher": teacher}
            self._add(name, "person", makers[i % len(makers)], split, facts)
        for name in places:
            facts = {"country": _pick(rng, COUNTRY), "river": _pick(rng, STREAM), "mayor": _pick(rng, people)}
            self._add(name, "place", _pick(rng, TOWNS), split, facts)
        for name in works:
            noun = _pick(rng, list(MAKERS))
            author = _pick(rng, [p for p in people if self.entities[p].noun == MAKERS[noun]])
            self._add(name, "work", noun, split, {MAKERS[noun]: author, "setting": _pick(rng, places)})

    def _add(self, name: str, kind: Kind, noun: str, split: Split, facts: dict[str, str]) -> None:
        self.entities[name] = Entity(name=name, kind=kind, noun=noun, split=split, facts=facts)

    def follow(self, start: str, relations: Sequence[str]) -> list[str]:
        """What each relation leads to, beginning at the entity ``start``; shorter where a fact does not exist."""
        values: list[str] = []
        for relation in relations:
            entity = self.entities.get(values[-1] if values else start)
            if entity is None or relation not in entity.facts:
                break
            values.append(entity.facts[relation])
        return values

    def chains(self, split: Split, hops: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every (entity, relations) of ``hops`` relations in a split's part that lead elsewhere, in a fixed order."""
        for entity in self.entities.values():
            if entity.split == split:
                for relations in self._paths(entity, hops):
                    if self.follow(entity.name, relations)[-1] != entity.name:
                        yield entity.name, relations

    def _paths(self, entity: Entity, hops: int) -> Iterator[tuple[str, ...]]:
        for relation, value in entity.facts.items():
            if hops == 1:
                yield (relation,)
            elif value in self.entities:
                for rest in self._paths(self.entities[value], hops - 1):
                    yield (relation, *rest)

    def documents(self) -> list[dict[str, str]]:
        """The corpus: id, title and text of each entity."""
        return [{"id": str(i), "title": e.name, "text": e.text} for i, e in enumerate(self.entities.values())]


def ask(entity: str, relations: Sequence[str]) -> str:
    """The question for what ``relations`` lead to: "Where was the painter of Silver Bridge born?"."""
    subject = entity
    for relation in relations[:-1]:
        subject = RELATIONS[relation].of.format(subject)
    return RELATIONS[relations[-1]].ask.format(subject)


def _names(rng: random.Random, first: Sequence[str], second: Sequence[str]) -> Iterator[str]:
    return iter(sorted((f"{a} {b}" for a in first for b in second if a != b), key=lambda name: rng.random()))


def _take(names: Iterator[str], count: int) -> list[str]:
    return [next(names) for _ in range(count)]


def _pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


class SmallWorldTask(WebQA):
    """Questions of one or two searches about an invented world, equally many of each.

    The world has three parts, and facts never lead from one to another: train, validation and test ask about
    different entities with different answers, so held-out accuracy is that of searching and reading. The shipped
    checkpoints were trained on other worlds, with the same parts of names in other combinations.

    Args:
        seed: of the world. The search engine needs the corpus of the same seed.
        train_size: number of training problems.
        validation_size: number of validation problems.
        test_size: number of test problems.
        environment: the search; see `ovd_lightning.tasks.search.SearchEnvironment`.
        template: the prompt, with ``{question}``; the shipped checkpoints know this one only.
        reward: "f1", so that half a name counts, or "em", or module.function of the response and the problem.
        correct_when: a response is correct when its "em" or "sub_em" is 1, or when its "f1" is.

    Raises:
        ConfigError: a size is larger than its part of the world has questions.
    """

    name = "small_world"

    def __init__(
        self,
        seed: int = 0,
        train_size: PositiveInt = 900,
        validation_size: PositiveInt = 128,
        test_size: PositiveInt = 256,
        environment: Environment | None = None,
        template: str = "Question: {question}\n",
        reward: str | RewardFunction = "f1",
        correct_when: Literal["em", "sub_em", "f1"] = "em",
    ) -> None:
        super().__init__(environment=environment, template=template, reward=reward, correct_when=correct_when)
        self.seed = seed
        self.world = World(seed)
        sizes: dict[Split, int] = {"train": train_size, "validation": validation_size, "test": test_size}
        self._problems: dict[Split, list[Problem]] = {s: self._draw(s, size) for s, size in sizes.items()}

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._problems[split]

    def _draw(self, split: Split, size: int) -> list[Problem]:
        rng = random.Random(f"{self.name}/{split}/{self.seed}")
        shuffled = [sorted(self.world.chains(split, hops), key=lambda chain: rng.random()) for hops in (1, 2)]
        most = 2 * min(map(len, shuffled))
        if size > most:
            raise ConfigError(
                f"task.init_args.{split}_size", f"is {size}.", f"The world has questions for 1 to {most} problems."
            )
        chains = [chain for pair in zip(*shuffled, strict=False) for chain in pair][:size]
        return [self.problem(f"{self.name}/{split}/{i}", *chain) for i, chain in enumerate(chains)]

    def problem(self, id: str, entity: str, relations: Sequence[str]) -> Problem:
        """The problem of following ``relations`` from ``entity``; ``meta`` names them."""
        answer = self.world.follow(entity, relations)[-1]
        meta = {"entity": entity, "relations": list(relations), "hops": len(relations)}
        return Problem(id=id, question=ask(entity, relations), answers=(answer,), meta=meta)


def write_corpus(world: World, path: Path) -> None:
    """The world's documents as JSON lines, which the BM25 engine reads."""
    write_text(path, "".join(json.dumps(document) + "\n" for document in world.documents()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ovd_lightning.tasks.small_world", description="Write a corpus.")
    parser.add_argument("path", type=Path, help="the JSON lines file")
    parser.add_argument("--seed", type=int, default=0, help="of the world, as in SmallWorldTask")
    options = parser.parse_args(arguments)
    write_corpus(World(options.seed), options.path)


if __name__ == "__main__":
    main()
