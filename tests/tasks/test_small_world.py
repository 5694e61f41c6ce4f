"""The invented world of Web Q&A, its tokenizer, its search, and the two checkpoints that ship with it."""

from __future__ import annotations

import random
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.assets.scoring import auc, score_distributions
from benchmarks.assets.web import vocabulary
from benchmarks.assets.web.data import libraries, scoring_row
from benchmarks.assets.web.evaluation import Played, play, small_world
from benchmarks.assets.web.searching import Library, Piece, faults, habits, into_steps, judge, rightly, write
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.errors import ConfigError
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
from ovd_lightning.tasks.environment import Turn
from ovd_lightning.tasks.small_world import SPLITS, SmallWorldTask, ask, main
from ovd_lightning.tokens import decode
from tests.workflow import cli

ASSETS = Path(str(files("ovd_lightning") / "assets" / "web"))
CONFIGS = Path(__file__).parents[2] / "configs"
SCALE = SCALES["zero_to_nine"]
Chain = tuple[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SmallWorldTask:
    """With the search of the config, its index in a folder of its own."""
    made = small_world(ASSETS / "corpus.jsonl", index=tmp_path_factory.mktemp("index"))
    assert made.environment is not None
    made.environment.start()
    return made


@pytest.fixture(scope="module")
def library() -> Library:
    return libraries(1, first_seed=3)[0]


@pytest.fixture(scope="module", params=["student", "teacher"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(ASSETS / request.param)


def drawn(library: Library, count: int) -> list[tuple[Chain, list[Piece]]]:
    """Trajectories of every sort that pretraining writes."""
    rng = random.Random(0)
    kinds = (rightly, habits(0.8), faults(0), faults(1))
    chains = [c for hops in library.chains for c in hops]
    picked = [chains[int(rng.random() * len(chains))] for _ in range(count)]
    return [(chain, write(library, rng, *chain, kinds[i % len(kinds)])) for i, chain in enumerate(picked)]


# --------------------------------------------------------------------- the world


def test_splits_share_no_question_no_entity_and_no_fact(task: SmallWorldTask) -> None:
    parts = {split: {e.name for e in task.world.entities.values() if e.split == split} for split in SPLITS}
    questions = [p.question for split in SPLITS for p in task.problems(split)]
    assert len(set(questions)) == len(questions)
    for split in SPLITS:
        for entity in task.world.entities.values():
            if entity.split == split:
                assert not {v for v in entity.facts.values() if v in task.world.entities} - parts[split]
        for p in task.problems(split):
            assert p.meta["entity"] in parts[split]


def test_problems_are_deterministic_sized_and_half_of_two_hops(task: SmallWorldTask) -> None:
    for split, size in zip(SPLITS, (900, 128, 256), strict=True):
        problems = task.problems(split)
        assert problems == SmallWorldTask().problems(split)
        assert len(problems) == size == len({p.id for p in problems})
        assert sum(p.meta["hops"] == 2 for p in problems) == size // 2
    assert task.problems("test") != SmallWorldTask(seed=1).problems("test")


def test_a_size_does_not_move_the_problems(task: SmallWorldTask) -> None:
    smaller = SmallWorldTask(train_size=100, validation_size=10)
    assert list(smaller.problems("train")) == list(task.problems("train"))[:100]
    assert list(smaller.problems("test")) == list(task.problems("test"))


def test_a_size_beyond_the_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="train_size"):
        SmallWorldTask(train_size=10_000)


@pytest.mark.parametrize(
    ("relations", "question"),
    [
        (("painter",), "Who painted Red Bell?"),
        (("setting",), "Where is Red Bell set?"),
        (("painter", "birthplace"), "Where was the painter of Red Bell born?"),
        (("setting", "country"), "Which country is the setting of Red Bell in?"),
        (("composer", "teacher"), "Who taught the composer of Red Bell?"),
    ],
)
def test_questions_ask_for_what_the_relations_lead_to(relations: tuple[str, ...], question: str) -> None:
    assert ask("Red Bell", relations) == question


def test_every_answer_stands_in_the_document_of_its_last_hop(task: SmallWorldTask) -> None:
    for split in SPLITS:
        for p in task.problems(split):
            *way, answer = task.world.follow(p.meta["entity"], p.meta["relations"])
            document = task.world.entities[way[-1] if way else p.meta["entity"]].text
            assert (answer,) == p.answers
            assert answer in document
            assert not re.search(rf"\b{answer}\b", p.question)


def test_the_shipped_corpus_is_that_of_the_world(tmp_path: Path) -> None:
    main([str(tmp_path / "corpus.jsonl")])
    assert (tmp_path / "corpus.jsonl").read_text() == (ASSETS / "corpus.jsonl").read_text()
    main([str(tmp_path / "other.jsonl"), "--seed=1"])
    assert (tmp_path / "other.jsonl").read_text() != (ASSETS / "corpus.jsonl").read_text()


# -------------------------------------------------------------------- the search


def observed(task: SmallWorldTask, text: str) -> str:
    assert task.environment is not None
    turn = Turn(problem=task.problems("test")[0], index=0, text=text, history="", seed=0)
    reply = task.environment.reply([turn])[0]
    return reply.prefix + reply.body + reply.suffix


def test_a_full_name_finds_its_document_first_and_half_a_name_may_not(task: SmallWorldTask) -> None:
    missed = 0
    for entity in task.world.entities.values():
        first = observed(task, f"<search> {entity.name}</search>").splitlines()[1]
        assert first == f"<information>- {entity.text}"
        half = entity.name.split()[1]
        missed += entity.text not in observed(task, f"<search> {half}</search>")
    assert missed > len(task.world.entities) / 4


def test_pretraining_observes_what_the_environment_shows(task: SmallWorldTask) -> None:
    library = Library(task.world)
    names = list(task.world.entities)[::25]
    for query in [*names, "mayor", "birthplace", names[0].split()[0], "river born"]:
        assert library.observe(query) == observed(task, f"<search> {query}</search>")
    assert observed(task, f"<think> need mayor</think> {names[0]}</search>") == vocabulary.INVALID


def test_the_config_has_the_search_that_was_pretrained_with(task: SmallWorldTask) -> None:
    settings = yaml.safe_load((CONFIGS / "quickstart_web.yaml").read_text())["task"]["init_args"]["environment"]
    own = dict(settings["init_args"])
    search = own.pop("search")["init_args"]
    assert {name: getattr(task.environment, name) for name in own} == own
    assert (search["stemmer"], search["stopwords"]) == (None, None)


# ------------------------------------------------------------------ the tokenizer


def test_texts_survive_the_tokenizer_whole(tokenizer: Any, library: Library) -> None:
    texts = [e.text for e in library.world.entities.values()]
    texts = [f" {text}" for text in texts]
    for chain, pieces in drawn(library, 400):
        text = "".join(piece.text for piece in pieces)
        steps = ["".join(piece.text for piece in step).strip() for step in into_steps(pieces)]
        texts.append(f"Question: {ask(*chain)}\n{text}")
        texts.append(step_prompt(ask(*chain), steps[:-1], steps[-1], SCALE))
        texts.append(response_prompt(ask(*chain), text, SCALE))
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert decode(tokenizer, ids) == text
        assert ids == vocabulary.encode(text)
        assert len(ids) <= 192


def test_tags_and_digits_are_ordinary_single_tokens(tokenizer: Any) -> None:
    for text in [*vocabulary.TAGS, *"0123456789"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == 1
        assert decode(tokenizer, ids) == text


# -------------------------------------------------------------------- the verdicts


def test_steps_are_split_as_the_task_splits_them(task: SmallWorldTask, tokenizer: Any, library: Library) -> None:
    for _, pieces in drawn(library, 200):
        ids = [(token, not piece.observed) for piece in pieces for token in vocabulary.encode(piece.text)]
        tokens, mask = [token for token, _ in ids], [written for _, written in ids]
        spans = task.split_steps(tokens, tokenizer, mask)
        texts = ["".join(piece.text for piece in step) for step in into_steps(pieces)]
        assert [decode(tokenizer, tokens[a:b]) for a, b in spans] == texts


def test_a_scoring_row_is_the_scoring_prompt(library: Library) -> None:
    for chain, pieces in drawn(library, 200):
        steps = judge(library.world, *chain, into_steps(pieces))
        texts = ["".join(piece.text for piece in step.pieces).strip() for step in steps]
        for k in range(len(steps)):
            prompt = step_prompt(ask(*chain), texts[:k], texts[k], SCALE)
            assert scoring_row(chain, steps, k).inputs == vocabulary.encode(prompt)


def two_hops(library: Library) -> tuple[Chain, str, str]:
    """A question of the work -> creator -> birthplace kind, its creator and its answer."""
    chain = next(c for c in library.chains[1] if c[1][0] == "painter" and c[1][1] == "birthplace")
    creator, answer = library.world.follow(*chain)
    return chain, creator, answer


def steps_of(library: Library, *turns: str) -> list[list[Piece]]:
    """The steps of a trajectory from what is written; each search is replied to."""
    pieces: list[Piece] = []
    for turn in turns:
        pieces.append(Piece(turn))
        if turn.endswith("</search>"):
            query = turn.rpartition("<search> ")[2].removesuffix("</search>")
            pieces.append(Piece(library.observe(query) if "<search>" in turn else vocabulary.INVALID, True))
    return into_steps(pieces)


@pytest.mark.parametrize(
    ("first", "second", "third", "verdicts"),
    [
        ("{w}", "{p}", "{a}", ["right", "right"]),
        ("{w}", "{p}", "{x}", ["right", "value"]),
        ("{w}", "{x}", "{a}", ["right", "expression"]),
        ("painter", "{p}", "{a}", ["expression", "inherited"]),
    ],
    ids=["right", "read wrongly", "another query", "useless query"],
)
def test_a_step_is_judged_by_what_it_asks_and_reads(
    library: Library, first: str, second: str, third: str, verdicts: list[str]
) -> None:
    chain, creator, answer = two_hops(library)
    other = next(n for n in library.by_kind["place"] if n != answer)
    names = {"w": chain[0], "p": creator, "a": answer, "x": other}
    q1, q2, read = (text.format(**names) for text in (first, second, third))
    steps = steps_of(
        library,
        f"<think> need painter</think><search> {q1}</search>",
        f"<think> painter is {creator}, need birthplace</think><search> {q2}</search>",
        f"<think> birthplace is {read}</think><answer> {read}</answer>",
    )
    assert [step.verdict for step in judge(library.world, *chain, steps)] == verdicts


def test_stopping_early_not_searching_and_a_forgotten_tag_are_mistakes(library: Library) -> None:
    chain, creator, answer = two_hops(library)
    opening = "<think> need painter</think>"
    early = steps_of(
        library,
        f"{opening}<search> {chain[0]}</search>",
        f"<think> painter is {creator}</think><answer> {creator}</answer>",
    )
    assert [step.verdict for step in judge(library.world, *chain, early)] == ["value"]
    blind = steps_of(library, f"{opening}<answer> {answer}</answer>")
    assert [step.verdict for step in judge(library.world, *chain, blind)] == ["expression"]
    forgot = steps_of(
        library,
        f"{opening} {chain[0]}</search>",
        f"<search> {chain[0]}</search>",
        f"<think> painter is {creator}, need birthplace</think><search> {creator}</search>",
        f"<think> birthplace is {answer}</think><answer> {answer}</answer>",
    )
    assert [step.verdict for step in judge(library.world, *chain, forgot)] == ["value", "right"]


# ------------------------------------------------------------------ the checkpoints


@pytest.fixture(scope="module")
def engines() -> dict[str, HFEngine]:
    loaded = {name: HFEngine(str(ASSETS / name), batch_size=128) for name in ("student", "teacher")}
    for engine in loaded.values():
        engine.start()
    return loaded


@pytest.fixture(scope="module")
def played(task: SmallWorldTask, engines: dict[str, HFEngine]) -> dict[str, list[Played]]:
    """Greedy trajectories for some validation problems."""
    problems = task.problems("validation")[:64]
    return {name: play(engine, task, problems, 0.0) for name, engine in engines.items()}


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_checkpoint_is_small_and_loads(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name)
    assert model.config.vocab_size == len(vocabulary.TOKENS)
    assert model.config.hidden_size // model.config.num_attention_heads == 32
    assert sum(path.stat().st_size for path in ASSETS.rglob("*")) < 5_000_000


def test_the_teacher_searches_and_the_student_has_much_to_learn(played: dict[str, list[Played]]) -> None:
    share = {name: sum(p.grade.correct for p in rows) / len(rows) for name, rows in played.items()}
    assert share["teacher"] >= 0.9
    assert 0.15 <= share["student"] <= 0.4
    two = [p for p in played["teacher"] if p.problem.meta["hops"] == 2 and p.grade.correct]
    assert all(p.text.count("<information>") == 2 for p in two)


def test_the_teacher_scores_right_steps_higher(played: dict[str, list[Played]], engines: dict[str, HFEngine]) -> None:
    rows = [(p, k) for p in [*played["student"], *played["teacher"]] for k in range(len(p.steps))]
    prompts = [step_prompt(p.problem.question, p.steps[:k], p.steps[k], SCALE) for p, k in rows]
    distributions, mass = score_distributions(engines["teacher"], prompts)
    expected = distributions @ torch.arange(10.0)
    right = torch.tensor([p.verdicts[k] == "right" for p, k in rows])
    assert mass.min() > 0.9
    assert auc(expected, right) > 0.95
    assert expected[right].mean() > 6.5
    assert expected[~right].mean() < 3.5


# ----------------------------------------------------------------------- the run


@pytest.mark.vllm
@pytest.mark.slow
def test_the_config_trains_in_turns_with_a_teacher_who_searches(tmp_path: Path) -> None:
    cli.fit(tmp_path, config="configs/quickstart_web.yaml")
    rounds = cli.rounds(tmp_path)
    assert len(rounds) == 3
    for row in rounds:
        assert row["environment/turns_mean"] > 1.5
        assert row["environment/observation_tokens_mean"] > 10
        assert row["environment/failed_searches"] == row["score/parse_failures"] == 0
        assert row["reward/mixture"] > row["reward/student"]
        assert row["ovd/teacher_reward"] > 0.8
        # A turn is generated after the very tokens that the trainer sees: more than rounding would be another history.
        assert row["mismatch/logprob_abs_max"] < 1e-3
