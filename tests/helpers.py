"""Parts that unit tests share: a tiny random student, hand-made trajectories, an engine that follows a script."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovd_lightning.engines.base import Completion, Engine, Prompt, Request, Sampling
from ovd_lightning.round.context import Round
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.types import Group, Problem, Trajectory

PAD, EOS = 0, 1
CHARACTERS = ["<pad>", "<eos>", "<unk>", *string.digits, *string.ascii_letters, *" \n\\{}=+-*/().,:;?!_'"]
V = len(CHARACTERS)
HEAD_DIM = 32


def plain(value: object) -> str:
    """A parameter as a test's id, the same in every process: without addresses of objects."""
    return re.sub(r"<([\w.]+) object at 0x\w+>", r"\1", str(value))


def save_tokenizer(path: Path) -> None:
    """One token a character: a Qwen2 tokenizer without merges, which is what transformers loads beside such a model."""
    from transformers import Qwen2Tokenizer

    aliases = {" ": "Ġ", "\n": "Ċ"}  # how a byte-level vocabulary writes them
    vocabulary = {aliases.get(character, character): i for i, character in enumerate(CHARACTERS)}
    Qwen2Tokenizer(
        vocab=vocabulary, merges=[], pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)


def save_tiny_model(path: Path, tied: bool, seed: int = 0, context: int = 128) -> str:
    """A random two-layer Qwen2 over :data:`CHARACTERS`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=V,
        hidden_size=2 * HEAD_DIM,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(path)
    save_tokenizer(path)
    return str(path)


Scores = Mapping[str, float] | int | None
"""What a scripted judge answers: probabilities of next texts, a digit with certainty, or nothing that is a score."""


class ScriptedEngine(Engine):
    """Generates what a test prescribes, at the boundary of an engine: next-token probabilities, and texts.

    Args:
        judge: prompt -> what comes next.
        write: (prompt, request) -> the text of a completion; None fails the request.
        tokenizer: its vocabulary; None hides it.
    """

    def __init__(
        self,
        judge: Callable[[str], Scores] = lambda prompt: 9,
        write: Callable[[str, Request], str | None] = lambda prompt, request: "",
        tokenizer: Any = None,
        name: str = "scripted",
        context: int | None = None,
    ) -> None:
        super().__init__()
        self.judge, self.write = judge, write
        self._tokenizer, self._name, self._context = tokenizer, name, context
        self.judged: list[str] = []
        """Every scoring prompt that came in, in order."""
        self.written: list[Request] = []
        self.checks = self.awakenings = 0
        self.closed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def max_context(self) -> int | None:
        return self._context

    def check(self) -> None:
        self.checks += 1

    def start(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.awakenings += 1
        yield

    def sync(self, named_parameters: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.written += requests
        completions = [self._complete(request, sampling) for request in requests]
        self.count(sum(len(as_text(r.prompt, self._tokenizer)) for r in requests),
                   sum(c.completion_tokens for c in completions))  # fmt: skip
        return completions

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        text = self.write(as_text(request.prompt, self._tokenizer), request)
        if text is None:
            return Completion(text="", token_ids=None, logprobs=None, truncated=False, error="no answer")
        limit = sampling.max_tokens if request.max_tokens is None else request.max_tokens
        if self._tokenizer is None:
            cut = text[:limit]
            return Completion(
                text=cut, token_ids=None, logprobs=None, truncated=len(text) > limit, completion_tokens=len(cut)
            )
        stopped = text.endswith(sampling.stop) if sampling.stop else False  # at a stop text, not at an end of sequence
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        ids = ids if stopped else [*ids, self._tokenizer.eos_token_id]
        kept = ids[:limit]
        return Completion(
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            token_ids=kept,
            logprobs=[-1.0] * len(kept),
            truncated=len(kept) < len(ids),
            completion_tokens=len(kept),
        )

    def next_text_logprobs(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        rows = []
        for prompt in prompts:
            text = as_text(prompt, self._tokenizer)
            self.judged.append(text)
            scores = self.judge(text)
            if isinstance(scores, int):
                scores = {str(scores): 1.0}
            rows.append([math.nan if scores is None else log(scores.get(t, 0.0)) for t in texts])
        return torch.tensor(rows).reshape(len(prompts), len(texts))

    def next_token_logprobs(self, prompts: Sequence[Prompt], token_ids: Sequence[int]) -> Tensor:
        return self.next_text_logprobs(prompts, [self._tokenizer.decode([token]) for token in token_ids])

    def score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Tensor]:
        raise NotImplementedError


def log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


def as_text(prompt: Prompt, tokenizer: Any = None) -> str:
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], int):
        return str(tokenizer.decode(prompt))
    return "".join(message["content"] for message in prompt)  # type: ignore[index]


def problem(name: str = "p", question: str = "1+1+0=?", answer: str = "2") -> Problem:
    return Problem(id=name, question=question, answers=(answer,))


def make_round(tokenizer: Any, index: int = 0, seed: int = 0, max_tokens: int = 64, **settings: Any) -> Round:
    return Round(
        index=index,
        run_seed=seed,
        task=ArithmeticTask(train_size=1, validation_size=1, test_size=1),
        engine=settings.pop("engine", None) or ScriptedEngine(tokenizer=tokenizer),
        tokenizer=tokenizer,
        sampling=Sampling(max_tokens=max_tokens),
        policy_version=0,
        **settings,
    )


def make_group(round: Round, texts: Sequence[str], of: Problem | None = None, group: int = 0) -> Group:
    """What the student is made to have sampled: each text, an end of sequence, graded and cut into steps."""
    of = of or problem()
    tokenizer = round.tokenizer
    sampled = []
    for sample, text in enumerate(texts):
        ids = [*tokenizer.encode(text, add_special_tokens=False), EOS]
        y = Trajectory(
            problem=of,
            group=group,
            sample=sample,
            prompt_ids=tokenizer.encode(round.task.prompt(of), add_special_tokens=False),
            completion_ids=ids,
            completion_mask=[True] * len(ids),
            text=text,
            written=text,
            turns=1,
            stop_reason="end_of_sequence",
            behaviour_logprobs=[-0.5] * len(ids),
            policy_version=0,
            student_tokens=len(ids),
        )
        sampled.append(y)
    round.finish(sampled)
    return Group(problem=of, index=group, sampled=sampled)


def trajectory(prompt: int, completion: int, group: int = 0, sample: int = 0, **fields: Any) -> Trajectory:
    """One of given lengths, over distinguishable token ids; reward 0 unless given."""
    settings: dict[str, Any] = {
        "problem": problem(),
        "group": group,
        "sample": sample,
        "prompt_ids": [3 + i % (V - 3) for i in range(prompt)],
        "completion_ids": [5 + (7 * i + sample) % (V - 5) for i in range(completion)],
        "completion_mask": [True] * completion,
        "turns": 1,
        "stop_reason": "end_of_sequence",
        "student_tokens": completion,
        "behaviour_logprobs": [-0.1 * (i + 1) for i in range(completion)],
        "advantages": [1.0] * completion,
    }
    return Trajectory(**{**settings, **fields})


def mean(round: Round, name: str) -> float:
    total, count = round.metrics.means[name]
    return total / count


def read_answers(folder: Path, stem: str) -> list[dict[str, Any]]:
    """The rows of an evaluation, over all ranks' files."""
    return [json.loads(line) for path in sorted(folder.glob(f"{stem}*.jsonl")) for line in path.open()]
