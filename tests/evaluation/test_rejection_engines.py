"""Testing rejection on real engines: the embedded models, and a vocabulary whose tokens hold separators."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ovd_lightning.engines.base import Engine, Request, Sampling
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.evaluation.rejection import TestingRejection, VerifiedCompletion
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tokens import decode, from_first_word
from tests.helpers import EOS, PAD, ScriptedEngine, problem

KINDS = ["hf", pytest.param("vllm", marks=pytest.mark.vllm)]
ASSETS = Path(__file__).resolve().parents[2] / "ovd_lightning" / "assets"
TASK = ArithmeticTask(validation_size=128)
PROBLEMS = list(TASK.problems("validation"))
GREEDY = Sampling(max_tokens=64, temperature=0.0)


@cache
def engine(kind: str, path: str) -> Engine:
    """Started, and kept: vLLM engines of one process must not be freed before its end."""
    if kind == "vllm" and VLLMEngine.installed() is None:
        pytest.skip("vLLM is not installed")
    started: Engine = HFEngine(path) if kind == "hf" else VLLMEngine(path, kv_cache_memory_bytes=64 << 20)
    started.start()
    return started


class Pair:
    """The embedded student and teacher."""

    def __init__(self, kind: str) -> None:
        self.student = engine(kind, str(ASSETS / "student"))
        self.teacher = VerbalTeacher(engine(kind, str(ASSETS / "teacher")))
        assert self.student.tokenizer is not None
        self.tokenizer = self.student.tokenizer
        self.prompts = [self.tokenizer.encode(TASK.prompt(p)) for p in PROBLEMS]

    def answer(
        self, rejection: TestingRejection, sampling: Sampling = GREEDY, teacher: VerbalTeacher | None = None
    ) -> list[VerifiedCompletion]:
        seeds = list(range(len(PROBLEMS)))
        return rejection.generate(self.student, teacher or self.teacher, TASK, PROBLEMS, self.prompts, sampling, seeds)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def accuracy(answers: Sequence[VerifiedCompletion]) -> float:
    grades = TASK.grade_many([y.written for y in answers], PROBLEMS)
    return statistics.mean(grade.correct for grade in grades)


def teachers_share(answers: Sequence[VerifiedCompletion]) -> float:
    return statistics.mean(y.teacher_step_share for y in answers)


@pytest.mark.parametrize("threshold", [0, 5])
def test_accepted_steps_are_those_of_plain_greedy_decoding(pair: Pair, threshold: float) -> None:
    """Token for token: nobody is asked at 0; at 5 a teacher is that likes everything, step by step."""
    plain = pair.student.generate([Request(prompt=prompt) for prompt in pair.prompts], GREEDY)
    lenient = VerbalTeacher(ScriptedEngine(lambda prompt: 9, tokenizer=pair.tokenizer))
    answers = pair.answer(TestingRejection(threshold), teacher=lenient)
    assert [y.token_ids for y in answers] == [c.token_ids for c in plain]
    assert [(y.text, y.truncated) for y in answers] == [(c.text, c.truncated) for c in plain]
    for y in answers:
        spans = TASK.split_steps(y.token_ids, pair.tokenizer)
        assert [s.text for s in y.steps] == [decode(pair.tokenizer, y.token_ids[a:b]).strip() for a, b in spans]
        assert [s.tokens for s in y.steps] == [b - a for a, b in spans]
        assert all(s.source == "student" for s in y.steps)


def test_a_sampled_answer_that_nobody_checks_is_the_plain_one(pair: Pair) -> None:
    sampling = Sampling(max_tokens=64, temperature=1.0)
    requests = [Request(prompt=prompt, seed=i) for i, prompt in enumerate(pair.prompts)]
    plain = pair.student.generate(requests, sampling)
    assert [y.token_ids for y in pair.answer(TestingRejection(0), sampling)] == [c.token_ids for c in plain]


def test_the_stricter_the_threshold_the_more_the_teacher_helps(pair: Pair) -> None:
    """The student alone is right in three of ten, the teacher alone nearly always."""
    by_threshold = {theta: pair.answer(TestingRejection(theta)) for theta in (0, 7, 10)}
    right = {theta: accuracy(answers) for theta, answers in by_threshold.items()}
    share = {theta: teachers_share(answers) for theta, answers in by_threshold.items()}
    assert right[0] < 0.45
    assert right[7] > 0.85
    assert right[10] > 0.93
    assert share[0] == 0
    assert 0.1 < share[7] < 0.5, "most of the student's steps are good"
    assert share[10] == 1
    rewritten = [s for y in by_threshold[7] for s in y.steps if s.source == "teacher"]
    assert all(s.score is not None and s.score < 7 and s.draft for s in rewritten)
    assert sum(y.failed_rewrites + y.unscored_steps + y.unchecked_steps for y in by_threshold[7]) == 0


def test_drawn_scores_help_as_well_and_repeat(pair: Pair) -> None:
    dagger = TestingRejection(5, "sample")
    answers = pair.answer(dagger)
    assert accuracy(answers) > 0.85
    assert [y.token_ids for y in pair.answer(dagger)] == [y.token_ids for y in answers]


# ------------------------------------------------------------------ separators within tokens

VOCABULARY = ["<pad>", "<eos>", "<unk>", "0", "a", "b", ".", "\n", "\n\n", ".\n\n", "\n\nN", "a\n", "\n\n\n"]
HEAD_DIM = 32


def save_model(path: Path) -> str:
    """A random model over few tokens, which writes them all, in any order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=2 * HEAD_DIM,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def separators(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("separators"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_ends_with_the_token_that_completes_the_separator(kind: str, separators: str) -> None:
    """Also where more follows within that token."""
    student = engine(kind, separators)
    sampling = Sampling(max_tokens=40, temperature=1.0, stop=("\n\n",))
    inside = 0
    for completion in student.generate([Request(prompt=[4], seed=s) for s in range(100)], sampling):
        assert completion.token_ids is not None
        pieces = [VOCABULARY[token] for token in completion.token_ids]
        assert completion.text == "".join(p for p in pieces if p not in VOCABULARY[:3])
        shown = [p for p in pieces if p not in VOCABULARY[:3]]
        assert all("\n\n" not in "".join(shown[:n]) for n in range(len(shown)))
        if pieces[-1] != "<eos>" and not completion.truncated:
            assert "\n\n" in completion.text
            inside += pieces[-1] == "\n\nN"
    assert inside > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_drafted_steps_are_those_that_the_task_finds_in_the_text(kind: str, separator: str, separators: str) -> None:
    """Bare separators, several in one token, and tokens that go on behind one. What has no letter or digit after a
    step's end belongs to it, and came when it had been judged."""
    student = engine(kind, separators)
    task = ArithmeticTask(train_size=1)
    task.step_separator = separator
    tokenizer: Any = student.tokenizer
    lenient = VerbalTeacher(ScriptedEngine(lambda prompt: 9))
    n = 100
    answers = TestingRejection(5).generate(
        student, lenient, task, [problem(str(i)) for i in range(n)], [[4]] * n,
        Sampling(max_tokens=40, temperature=1.0), list(range(n)),
    )  # fmt: skip
    for y in answers:
        spans = task.split_steps(y.token_ids, tokenizer)
        assert [s.tokens for s in y.steps] == [b - a for a, b in spans]
        for step, (a, b) in zip(y.steps, spans, strict=True):
            whole = decode(tokenizer, y.token_ids[a:b]).strip()
            assert whole.startswith(step.text)
            assert not from_first_word(whole.removeprefix(step.text))
        assert y.truncated == (y.token_ids[-1] != EOS)
        assert y.unchecked_steps == 0
    assert statistics.mean(len(y.steps) for y in answers) > 2
    assert any(y.text.startswith("\n") for y in answers)
