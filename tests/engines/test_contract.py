"""What every engine promises, against transformers run one sequence at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.errors import ConfigError

from .tiny import CONTEXT, DIGITS, KINDS, VOCABULARY, Reference

TOLERANCE = 1e-4
PROMPTS = [[10, 20, 30], list(range(6, 56)), [7] * 17, [40, 41, 42, 43]]
TRAINED = KINDS[:3]


def sample(engine: Engine, prompts: list[list[int]], seeds: list[int], **settings: object) -> list[Completion]:
    requests = [Request(prompt=p, seed=s) for p, s in zip(prompts, seeds, strict=True)]
    return engine.generate(requests, Sampling(**{"max_tokens": 24, **settings}))  # type: ignore[arg-type]


def ids(completions: list[Completion]) -> list[list[int] | None]:
    return [completion.token_ids for completion in completions]


def gap(values: object, expected: torch.Tensor) -> float:
    actual = torch.as_tensor(values)
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


def test_completions_are_tokens_and_their_decoding(engine: Engine) -> None:
    assert engine.tokenizer is not None
    for prompt, completion in zip(PROMPTS, sample(engine, PROMPTS, [0, 1, 2, 3]), strict=True):
        tokens = completion.token_ids
        assert tokens is not None
        assert 0 < len(tokens) <= 24
        assert all(0 <= token < len(VOCABULARY) for token in tokens)
        assert completion.text == engine.tokenizer.decode(tokens, skip_special_tokens=True)
        assert completion.error is None
        assert (completion.prompt_tokens, completion.completion_tokens) == (len(prompt), len(tokens))
        assert completion.truncated == (tokens[-1] not in (1, 2))
        assert not {1, 2} & set(tokens[:-1]), "both ends of sequence end it"


def test_seeds(engine: Engine) -> None:
    prompts, seeds = [PROMPTS[1]] * 4, [1, 2, 3, 4]
    first = ids(sample(engine, prompts, seeds))
    assert ids(sample(engine, prompts, seeds)) == first
    assert len({tuple(tokens or ()) for tokens in first}) == 4
    assert ids(sample(engine, [PROMPTS[0], PROMPTS[1], PROMPTS[2]], [9, 3, 9]))[1] == first[2], "neighbours matter"


def test_requests_without_seed_differ(engine: Engine) -> None:
    requests = [Request(prompt=PROMPTS[1])] * 4
    assert len({tuple(c.token_ids or ()) for c in engine.generate(requests, Sampling(max_tokens=12))}) > 1


def test_greedy_is_that_of_transformers(engine: Engine, reference: Reference) -> None:
    completions = sample(engine, PROMPTS, [0] * 4, temperature=0.0, max_tokens=12)
    assert ids(completions) == [reference.greedy(prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_sampled_logprobs(engine: Engine, reference: Reference, temperature: float) -> None:
    """Greedy ones are at temperature 1."""
    for prompt, c in zip(PROMPTS, sample(engine, PROMPTS, [5, 6, 7, 8], temperature=temperature), strict=True):
        assert c.token_ids is not None
        assert gap(c.logprobs, reference.of(prompt, c.token_ids, temperature or 1.0)) < TOLERANCE


def test_samples_follow_the_distribution(engine: Engine, reference: Reference) -> None:
    """All tokens, not the two that the model's own generation settings would leave."""
    completions = sample(engine, [PROMPTS[0]] * 200, list(range(200)), max_tokens=1, temperature=1.5)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in completions if c.token_ids]), minlength=64)
    expected = reference.logprobs(PROMPTS[0], 1.5)[-1].exp()
    assert float((counts[: len(expected)] / 200 - expected).abs().sum()) < 0.6
    assert int((counts > 0).sum()) > 10


def test_top_p_leaves_the_tail_out(engine: Engine, reference: Reference) -> None:
    ranked, index = reference.logprobs(PROMPTS[0])[-1].exp().sort(descending=True)
    nucleus = set(index[: int((ranked.cumsum(0) < 0.5).sum()) + 1].tolist())
    completions = sample(engine, [PROMPTS[0]] * 40, list(range(40)), max_tokens=1, top_p=0.5)
    assert {c.token_ids[0] for c in completions if c.token_ids} <= nucleus


def test_next_token_logprobs(engine: Engine, reference: Reference) -> None:
    expected = torch.stack([reference.logprobs(prompt)[-1, DIGITS] for prompt in PROMPTS])
    assert gap(engine.next_token_logprobs(PROMPTS, DIGITS), expected) < TOLERANCE
    assert gap(engine.next_text_logprobs(PROMPTS, [VOCABULARY[i] for i in DIGITS]), expected) < TOLERANCE
    assert engine.next_token_logprobs(PROMPTS, DIGITS).dtype == torch.float32


def test_candidate_text_must_be_one_token(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="'10' is 2 tokens"):
        engine.next_text_logprobs([PROMPTS[0]], ["10"])


def test_score(engine: Engine, reference: Reference) -> None:
    completions = [[6, 7, 8, 9, 1], list(range(20, 20 + CONTEXT - 50)), [], [11]]
    completions[1] = [token % len(VOCABULARY) for token in completions[1]]
    assert len(PROMPTS[1]) + len(completions[1]) == CONTEXT, "fills the context"
    scores = engine.score(PROMPTS, completions)
    for prompt, completion, score in zip(PROMPTS, completions, scores, strict=True):
        assert score.shape == (len(completion),)
        if completion:
            assert gap(score, reference.of(prompt, completion)) < TOLERANCE


def test_text_and_messages(engine: Engine, reference: Reference) -> None:
    """Rendered by the engine's tokenizer; a last message of the assistant is continued."""
    tokens = {word: index for index, word in enumerate(VOCABULARY)}
    user = {"role": "user", "content": "ab"}
    rendered = [
        [tokens["a"], tokens["b"]],
        [tokens["<user>"], tokens["a"], tokens["b"], tokens["<model>"]],
        [tokens["<user>"], tokens["a"], tokens["b"], tokens["<model>"], tokens["c"]],
    ]
    prompts: list[Prompt] = ["ab", [user], [user, {"role": "assistant", "content": "c"}]]
    expected = torch.stack([reference.logprobs(prompt)[-1, DIGITS] for prompt in rendered])
    assert gap(engine.next_token_logprobs(prompts, DIGITS), expected) < TOLERANCE


def test_limits(engine: Engine) -> None:
    requests = [Request(prompt=PROMPTS[1], seed=s, max_tokens=m) for s, m in ((1, 2), (1, None), (2, 1))]
    completions = engine.generate(requests, Sampling(max_tokens=4))
    full = completions[1].token_ids
    assert full is not None
    assert completions[0].token_ids == full[:2]
    assert [len(c.token_ids or ()) for c in completions] == [2, 4, 1]
    assert [c.truncated for c in completions] == [True, True, True]
    long = engine.generate([Request(prompt=[9] * (CONTEXT - 3), seed=0)], Sampling(max_tokens=50))[0]
    assert len(long.token_ids or ()) <= 3


def test_stop_text_stays(engine: Engine) -> None:
    """Two characters, hence two tokens, of what would be generated anyway."""
    free = sample(engine, [PROMPTS[1]], [3], temperature=1.5)[0]
    assert len(free.text) > 6
    stop = free.text[3:5]
    cut = sample(engine, [PROMPTS[1]], [3], temperature=1.5, stop=(stop, "never seen"))[0]
    assert cut.text == free.text[: free.text.index(stop) + 2]
    assert cut.token_ids == (free.token_ids or [])[: len(cut.token_ids or ())]
    assert not cut.truncated


def test_no_tokens_asked(engine: Engine) -> None:
    with pytest.raises(ValueError, match="request 1 asks for 0 tokens"):
        engine.generate([Request(prompt=[9]), Request(prompt=[9], max_tokens=0)], Sampling())


def test_nothing_asked(engine: Engine) -> None:
    assert engine.generate([], Sampling()) == []
    assert engine.score([], []) == []
    assert engine.next_token_logprobs([], DIGITS).shape == (0, 10)


def test_prompt_beyond_the_context_is_named(engine: Engine) -> None:
    with pytest.raises(ValueError, match=f"request 1 .*{CONTEXT + 5} tokens.*{CONTEXT}"):
        sample(engine, [[9], [9] * (CONTEXT + 5)], [0, 0])


def test_process_state_is_untouched(engine: Engine) -> None:
    torch.manual_seed(5)
    before = (
        torch.get_rng_state(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        random.getstate(),
        torch.get_num_threads(),
    )
    engine.start()
    sample(engine, PROMPTS, [0, 1, 2, 3])
    engine.generate([Request(prompt=PROMPTS[0])], Sampling(max_tokens=4))
    engine.next_token_logprobs(PROMPTS, DIGITS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[1]
    assert random.getstate() == before[2]
    assert torch.get_num_threads() == before[3]


def test_only_local_engines_are_synchronised(engine: Engine) -> None:
    assert engine.trainable != isinstance(engine, OpenAIEngine)
    if not engine.trainable:
        with pytest.raises(RuntimeError, match="is frozen"):
            engine.sync([], 1)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("tied", [True, False])
def test_sync_follows_the_student(
    kind: str,
    tied: bool,
    tied_path: str,
    untied_path: str,
    start_engine: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state(), torch.get_num_threads()
    path = tied_path if tied else untied_path
    engine, student = start_engine(kind, path, use="sync"), Reference(path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert engine.version == -1

    def agree() -> None:
        for prompt, c in zip(PROMPTS, sample(engine, PROMPTS, [1, 2, 3, 4], temperature=0.7), strict=True):
            assert c.token_ids is not None
            assert gap(c.logprobs, student.of(prompt, c.token_ids, 0.7)) < TOLERANCE
        expected = torch.stack([student.logprobs(prompt)[-1, DIGITS] for prompt in PROMPTS])
        assert gap(engine.next_token_logprobs(PROMPTS, DIGITS), expected) < TOLERANCE
        assert gap(engine.score([PROMPTS[1]], [[8, 9]])[0], student.of(PROMPTS[1], [8, 9])) < TOLERANCE

    agree()
    for version in (7, 8):
        stale = student.logprobs(PROMPTS[1])[-1]
        student.perturb(0.1, seed=version)
        assert gap(stale, student.logprobs(PROMPTS[1])[-1]) > 0.1, "the perturbation shows"
        engine.sync(student.model.named_parameters(), version)
        assert engine.version == version
        agree()

    weights = list(student.model.named_parameters())
    with pytest.raises(RuntimeError, match=r"'model\.norm\.weight' is missing"):
        engine.sync([(name, p) for name, p in weights if name != "model.norm.weight"], 9)
    with pytest.raises(RuntimeError, match=r"unknown parameter 'model\.extra'"):
        engine.sync([*weights, ("model.extra", torch.zeros(2))], 9)
    with pytest.raises(RuntimeError, match=r"'model\.norm\.weight' has shape \(3,\)"):
        engine.sync([("model.norm.weight", torch.zeros(3))], 9)
    if not tied:
        with pytest.raises(RuntimeError, match=r"'lm_head\.weight' is missing"):
            engine.sync([(name, p) for name, p in weights if name != "lm_head.weight"], 9)
    assert engine.version == 8
    agree()
    if tied:  # a state dict names the tied head as well
        engine.sync(student.model.named_parameters(remove_duplicate=False), 10)
        agree()
    if kind == "vllm":  # by the way that reaches other processes
        monkeypatch.setattr(engine, "_in_process", False)
        student.perturb(0.1, seed=11)
        engine.sync(student.model.named_parameters(remove_duplicate=False), 11)
        agree()


@pytest.mark.vllm
def test_seeded_prompts_beyond_one_scheduling_step(start_engine: Callable[..., Engine], tied_path: str) -> None:
    """More prompt tokens than a step takes: none of them may be split, which seeded requests do not survive."""
    engine = start_engine("vllm", tied_path)
    draw = random.Random(0)
    prompts = [[draw.randrange(6, 60) for _ in range(100)] for _ in range(200)]
    completions = sample(engine, prompts, list(range(200)), max_tokens=2)
    assert len(completions) == 200
    assert all(completion.token_ids for completion in completions)


@pytest.mark.parametrize("kind", TRAINED)
def test_closing_one_leaves_the_others(kind: str, start_engine: Callable[..., Engine], tied_path: str) -> None:
    first, second = start_engine(kind, tied_path), start_engine(kind, tied_path)
    expected = second.next_token_logprobs(PROMPTS, DIGITS)
    first.close()
    first.close()
    with pytest.raises(RuntimeError, match=r"closed|not running"):
        first.next_token_logprobs(PROMPTS, DIGITS)
    assert torch.equal(second.next_token_logprobs(PROMPTS, DIGITS), expected)


def test_what_was_read_and_written_is_counted(engine: Engine) -> None:
    before = engine.used
    completions = sample(engine, PROMPTS, [0, 1, 2, 3])
    read, written = sum(map(len, PROMPTS)), sum(c.completion_tokens for c in completions)
    assert (engine.used.prompt - before.prompt, engine.used.completion - before.completion) == (read, written)
    before = engine.used
    engine.next_token_logprobs(PROMPTS, [10, 11])
    assert engine.used.prompt - before.prompt == read
    assert engine.used.completion - before.completion == len(PROMPTS), "a score is one token"


def test_log_probabilities_that_nobody_reads_change_no_token(engine: Engine) -> None:
    requests = [Request(prompt=prompt, seed=7 + i) for i, prompt in enumerate(PROMPTS)]
    expected = engine.generate(requests, Sampling(max_tokens=24))
    completions = engine.generate(requests, Sampling(max_tokens=24, logprobs=False))
    assert ids(completions) == ids(expected)
    assert all(c.logprobs for c in expected)
    if not engine.name.startswith("hf"):
        assert all(c.logprobs is None for c in completions)


def test_completions_as_they_are_finished(engine: Engine) -> None:
    """Each once, short ones before long ones, and what is raised in between ends the call and nothing else."""
    requests = [Request(prompt=PROMPTS[1], seed=s, max_tokens=m) for s, m in ((1, 24), (2, 1), (3, 8))]
    expected = engine.generate(requests, Sampling(max_tokens=24))
    arrived: list[tuple[int, Completion]] = []
    completions = engine.generate_as_ready(requests, Sampling(max_tokens=24), lambda i, c: arrived.append((i, c)))
    assert ids(completions) == ids(expected)
    assert dict(arrived) == dict(enumerate(completions))
    if engine.name.startswith("vllm:"):  # a server's answers may overtake one another on their way
        assert arrived[0][0] == 1

    def refuse(index: int, completion: Completion) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        engine.generate_as_ready(requests, Sampling(max_tokens=24), refuse)
    arrived.clear()
    again = engine.generate_as_ready(requests, Sampling(max_tokens=24), lambda i, c: arrived.append((i, c)))
    assert ids(again) == ids(expected)
    assert sorted(index for index, _ in arrived) == [0, 1, 2], "nothing of the call before"
