"""One round, from weights to micro-batches, with a scripted engine."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.callbacks.rollout import COLLECTED_EVERY, RolloutCallback
from ovd_lightning.data import OVDDataModule
from ovd_lightning.engines.base import Request
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.loop import Training, run_round
from ovd_lightning.round.transcripts import TranscriptWriter, read_transcripts
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.types import Batch
from tests.helpers import ScriptedEngine, make_round, problem

PROBLEMS = [problem(str(i)) for i in range(4)]


def training(send_weights: Callable[[], None], **settings: Any) -> tuple[Training, list[bool]]:
    """... and, for each micro-batch, whether old log-probabilities were wanted."""
    filled: list[bool] = []

    def fill(batch: Batch, old: bool) -> Batch:
        filled.append(old)
        return batch

    defaults: dict[str, Any] = {"mini_batches": 1, "epochs": 1, "accumulate": 1, "world_size": 1}
    return Training(
        send_weights=send_weights, fill_logprobs=fill, all_reduce_sum=lambda value: value, **{**defaults, **settings}
    ), filled


def write(prompt: str, request: Request) -> str:
    return "\\boxed{2}" if request.seed is not None and request.seed % 2 else "\\boxed{3}" * 20


def test_a_round(tokenizer: Any, tmp_path: Path) -> None:
    engine = ScriptedEngine(write=write, tokenizer=tokenizer)
    round = make_round(tokenizer, index=2, engine=engine, max_tokens=40)
    shape, filled = training(lambda: engine.sync([], version=0), mini_batches=2, epochs=2, accumulate=3)
    writer = TranscriptWriter(tmp_path)
    batches = run_round(PROBLEMS, GRPO(group_size=4, kl_coefficient=0), round, shape, writer.write)
    assert [batch.update for batch in batches] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [batch.last_in_round for batch in batches] == [False] * 11 + [True]
    assert sum(map(len, batches)) == 2 * 16
    assert filled == [False] * 3 + [True] * 3  # once, although two passes use them; the first step's in its update
    for first, later in zip(batches[:3], batches[6:9], strict=True):
        assert first.old_logprobs is None
        assert first.kept_logprobs is later.old_logprobs is not None
    assert all(batch.kept_logprobs is None for batch in batches[3:])
    lines = list(read_transcripts(tmp_path))
    assert {(x["reward"], x["stop_reason"], x["truncated"]) for x in lines} == {
        (1.0, "end_of_sequence", False), (0.0, "token_limit", True),
    }  # fmt: skip
    ended = sum(x["stop_reason"] == "end_of_sequence" for x in lines)
    means = round.metrics.means
    assert 0 < ended < 16
    assert means["completion/stop/end_of_sequence"] == means["reward/mixture"] == (ended, 16)
    assert means["completion/stop/token_limit"] == means["completion/truncated_fraction"] == (16 - ended, 16)
    assert means["completion/stop/turn_limit"] == means["completion/stop/error"] == (0, 16)
    assert {"sync", "logprobs", "generate", "grade"} <= set(round.metrics.seconds)


def test_one_update_a_round_needs_no_old_logprobs(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=write, tokenizer=tokenizer)
    shape, filled = training(lambda: engine.sync([], version=0), accumulate=2)
    run_round(PROBLEMS, GRPO(group_size=2, kl_coefficient=0), make_round(tokenizer, engine=engine), shape)
    assert filled == [False, False]


def test_an_engine_with_other_weights_samples_nothing(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=write, tokenizer=tokenizer)
    shape, _ = training(lambda: engine.sync([], version=7))
    with pytest.raises(RuntimeError, match="the engine holds step 7, the trainer 0"):
        run_round(PROBLEMS, GRPO(group_size=2), make_round(tokenizer, engine=engine), shape)
    assert not engine.written


def test_further_problems_are_others_and_no_later_rounds(tokenizer: Any) -> None:
    data = OVDDataModule(ArithmeticTask(train_size=64, validation_size=1, test_size=1), problems_per_round=8, rounds=2)

    def ids(**which: int) -> list[str]:
        return [p.id for p in data.problems_of_round(0, **which)[0]]

    assert ids() != ids(attempt=1) != ids(attempt=2)
    assert ids(attempt=1) == ids(rank=0, world_size=2, attempt=1) + ids(rank=1, world_size=2, attempt=1)
    assert ids(attempt=1) == ids(attempt=1)


def test_garbage_is_collected_more_rarely_while_training_only() -> None:
    before, callback = gc.get_threshold(), RolloutCallback(ScriptedEngine())
    nothing: Any = None
    try:
        callback.on_train_start(nothing, nothing)
        assert gc.get_threshold() == (COLLECTED_EVERY, *before[1:])
        assert gc.isenabled()
        callback.teardown(nothing, nothing, "fit")
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*before)
