"""Trajectories of several turns: limits, masks, tokens, and that nothing an environment says is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from ovd_lightning.engines.base import Sampling
from ovd_lightning.methods.grpo import GRPO
from ovd_lightning.round.collate import collate
from ovd_lightning.round.metrics import log_environment
from ovd_lightning.round.turns import Generation, respond, rollout, student_policy
from ovd_lightning.student import Student
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.types import Group, Trajectory
from tests.helpers import PAD, ScriptedEngine, make_round, problem


class Echo(Environment):
    """Replies to ``ask(...)`` with what was asked; ``end`` ends; anything else is no action."""

    stop = (")", ".")
    counted = ("asked",)

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.calls: list[list[Turn]] = []
        self.progress: list[float | None] = []

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        self.calls.append(list(turns))
        self.progress.append(progress)
        return [self._one(turn.text) for turn in turns]

    def _one(self, text: str) -> Reply:
        if text.endswith("end."):
            return Reply(done=True)
        if "ask(" in text and text.endswith(")"):
            return Reply(prefix="{", body=text.split("ask(")[1][:-1], suffix="}")
        return Reply(body="!", valid=False, failed="down" in text)

    def take_counts(self) -> dict[str, float]:
        return {"asked": float(sum(len(call) for call in self.calls))}


def script(*turns: str) -> Any:
    """A student that says these in order, by the number of observations in its prompt."""
    return lambda prompt, request: turns[min(prompt.count("}") + prompt.count("!"), len(turns) - 1)]


def run(tokenizer: Any, write: Any, environment: Echo, max_tokens: int = 64, n: int = 1) -> list[Trajectory]:
    engine = ScriptedEngine(write=write, tokenizer=tokenizer)
    prompt = tokenizer.encode("p:", add_special_tokens=False)
    task = ArithmeticTask(train_size=1, validation_size=1, test_size=1)
    task.environment = environment
    return respond(
        engine, tokenizer, task, [problem()] * n, [prompt] * n, list(range(n)), Sampling(max_tokens=max_tokens)
    )


def test_turns_alternate_until_the_environment_is_done(tokenizer: Any) -> None:
    (y,) = run(tokenizer, script("ask(a)", "ask(b)", "end."), Echo(max_turns=4))
    assert y.text == "ask(a){a}ask(b){b}end."
    assert y.written == "ask(a)ask(b)end."
    assert (y.turns, y.invalid, y.stop_reason) == (3, 0, "stop_text")
    observed = [i for i, kept in zip(y.completion_ids, y.completion_mask, strict=True) if not kept]
    assert tokenizer.decode(observed) == "{a}{b}"
    assert [math.isnan(p) for p in y.behaviour_logprobs] == [not kept for kept in y.completion_mask]


def test_after_the_last_reply_comes_one_generation_without_one(tokenizer: Any) -> None:
    environment = Echo(max_turns=2)
    (y,) = run(tokenizer, script("ask(a)", "ask(b)", "ask(c)"), environment)
    assert (y.text, y.stop_reason) == ("ask(a){a}ask(b){b}ask(c)", "turn_limit")
    assert len(environment.calls) == 2


def test_all_live_trajectories_share_a_call_and_finished_ones_leave_it(tokenizer: Any) -> None:
    environment = Echo(max_turns=3)
    turns = iter(["ask(a)", "end.", "ask(b)", "end.", "end."])
    trajectories = run(tokenizer, lambda prompt, request: next(turns), environment, n=3)
    assert [len(call) for call in environment.calls] == [3, 2]
    assert [y.text for y in trajectories] == ["ask(a){a}end.", "end.", "ask(b){b}end."]


def test_what_was_generated_is_the_next_prompt_token_for_token(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=script("ask(a)", "nonsense", "end."), tokenizer=tokenizer)
    y = Trajectory(problem=problem(), prompt_ids=[5, 6, 7], seed=0)
    rollout([y], Echo(), tokenizer, student_policy(engine, Sampling(max_tokens=64)), 64)
    prompts = [request.prompt for request in engine.written]
    assert prompts[0] == [5, 6, 7]
    for shorter, longer in pairwise(prompts):
        assert longer[: len(shorter)] == shorter
    assert [5, 6, 7, *y.completion_ids][: len(prompts[-1])] == prompts[-1]
    assert len({request.seed for request in engine.written}) == len(prompts)


def test_an_invalid_turn_is_told_so_and_counted(tokenizer: Any) -> None:
    (y,) = run(tokenizer, script("what", "end."), Echo())
    assert y.text.startswith("what")
    assert "!" in y.text
    assert y.invalid == 1
    assert (run(tokenizer, script("down", "end."), Echo()))[0].failed == 1


def test_limits_of_a_turn_an_observation_and_the_completion(tokenizer: Any) -> None:
    (y,) = run(tokenizer, script("ask(abcdefgh)", "end."), Echo(max_observation_tokens=3))
    assert "{abc}" in y.text  # the body is cut, the tags stay
    engine_limits = ScriptedEngine(write=script("x" * 50), tokenizer=tokenizer)
    y = Trajectory(problem=problem(), prompt_ids=[5], seed=0)
    rollout([y], Echo(max_turns=1, max_turn_tokens=7), tokenizer, student_policy(engine_limits, Sampling()), 64)
    assert [r.max_tokens for r in engine_limits.written] == [7, 7]
    assert y.stop_reason == "token_limit"
    (cut,) = run(tokenizer, script("ask(abcdefgh)"), Echo(max_turns=9), max_tokens=20)
    assert len(cut.completion_ids) == len(cut.completion_mask) == len(cut.behaviour_logprobs) == 20
    assert cut.stop_reason == "token_limit"
    (held,) = run(tokenizer, script("ask(abcdefgh)"), Echo(max_turns=9), max_tokens=17)
    assert held.text == "ask(abcdefgh){abc"  # an observation that fills the completion is cut where it ends
    assert held.stop_reason == "token_limit"


def test_the_context_of_the_engine_is_a_limit_too(tokenizer: Any) -> None:
    engine = ScriptedEngine(write=script("ask(abcdefgh)"), tokenizer=tokenizer)
    y = Trajectory(problem=problem(), prompt_ids=[5] * 10, seed=0)
    rollout([y], Echo(), tokenizer, student_policy(engine, Sampling()), 64, max_context=30)
    assert len(y.completion_ids) == 20


def test_a_generation_that_failed_ends_its_trajectory_alone(tokenizer: Any) -> None:
    def generate(trajectories: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]) -> list[Generation]:
        return [
            Generation(ids=[], text="", stop_reason="error", error="down")
            if y.seed == 0
            else Generation(ids=[5], text="end.", stop_reason="stop_text")
            for y in trajectories
        ]

    trajectories = [Trajectory(problem=problem(), prompt_ids=[5], seed=s) for s in (0, 1)]
    environment = Echo()
    rollout(trajectories, environment, tokenizer, generate, 64)
    assert [(y.error, y.stop_reason) for y in trajectories] == [("down", "error"), (None, "stop_text")]
    assert [len(call) for call in environment.calls] == [1]


# --------------------------------------------------------------- in a round


def make_groups(tokenizer: Any, tmp_observation: str = "a") -> tuple[Any, list[Group]]:
    engine = ScriptedEngine(write=script(f"ask({tmp_observation})", "end."), tokenizer=tokenizer)
    round = make_round(tokenizer, engine=engine, progress=0.25)
    round.task.environment = Echo()
    groups = round.sample_student([problem()], 2)
    return round, groups


def test_a_round_reports_turns_and_counts_only_what_the_student_wrote(tokenizer: Any) -> None:
    round, groups = make_groups(tokenizer)
    y = groups[0].sampled[0]
    assert y.written == "ask(a)end."
    assert y.trainable_tokens == len("ask(a)end.")
    assert len(y.completion_ids) == len("ask(a){a}end.")
    assert round.metrics.means["environment/turns_mean"] == (4.0, 2)
    assert round.metrics.means["environment/observation_tokens_mean"] == (6.0, 2)
    assert round.metrics.means["completion/length_mean"] == (20.0, 2)
    assert round.metrics.sums["throughput/generated_tokens"] == 20
    log_environment(round.task.environment, round.metrics)
    assert round.metrics.sums["environment/asked"] == 4
    assert round.task.environment.progress == [0.25, 0.25]
    assert {"generate", "environment", "grade"} <= set(round.metrics.seconds)


def test_only_what_was_written_is_graded(tokenizer: Any) -> None:
    """A document that holds a boxed answer answers nothing."""
    engine = ScriptedEngine(write=script("ask(\\boxed{2})", "end."), tokenizer=tokenizer)
    round = make_round(tokenizer, engine=engine)

    class Boxed(Echo):
        def _one(self, text: str) -> Reply:
            return Reply(done=True) if text == "end." else Reply(body="\\boxed{2}")

    engine.write = script("ask(a)", "end.")
    round.task.environment = Boxed()
    engine.write = lambda prompt, request: "end." if "boxed" in prompt else "ask(a)"
    (group,) = round.sample_student([problem()], 1)
    (y,) = group.sampled
    assert "\\boxed{2}" in y.text
    assert y.reward == 0


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_observations_carry_no_gradient_and_no_metric(tokenizer: Any, tiny_model: str, kl: float) -> None:
    """Changing what the loss says of observation tokens changes nothing: their logits get no gradient, and loss,
    KL, entropy and every token statistic are the same for any values there."""
    _, groups = make_groups(tokenizer)
    method = GRPO(group_size=2, kl_coefficient=kl, entropy_coefficient=0.1)
    for y, advantage in zip(groups[0].sampled, (1.0, -1.0), strict=True):
        y.advantages = [advantage] * len(y.completion_ids)
    groups[0].mixture = groups[0].sampled
    ((batch,),) = collate(
        groups, mini_batches=1, accumulate=1, aggregation="token_mean", max_tokens=64, pad_id=PAD, temperature=1.0,
        round=0, policy_version=0,
    )  # fmt: skip
    observed = (batch.attention_mask[:, 1:] == 1) & ~batch.completion_mask
    observed[:, : len(groups[0].sampled[0].prompt_ids) - 1] = False
    assert int(observed.sum()) == 6
    assert float(batch.weights[observed].abs().sum()) == 0
    assert float(batch.advantages[observed].abs().sum()) == 0
    assert float(batch.weights.sum()) == pytest.approx(1)
    if kl:
        batch.reference_logprobs = torch.full_like(batch.weights, -2.0)
    student = Student(tiny_model)
    seen: dict[str, torch.Tensor] = {}

    def with_observations(value: float) -> tuple[float, dict[str, float]]:
        """The loss when log-probabilities and entropies of observation tokens are ``value`` more than they are."""
        added = torch.zeros_like(batch.weights)
        added[observed] = value
        added.requires_grad_()

        def forward(*inputs: Any, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
            logprobs, entropies = student(*inputs, **settings)
            return logprobs + added, entropies + added

        output = method.loss(forward, batch)  # type: ignore[arg-type]
        seen["gradient"] = torch.autograd.grad(output.loss, added)[0]
        means = {name: float(v.double().mean()) for name, v in output.means.items() if v.numel()}
        return output.loss.item(), means

    loss, means = with_observations(0.0)
    assert float(seen["gradient"][observed].abs().max()) == 0
    assert float(seen["gradient"][batch.completion_mask].abs().max()) > 0  # while written tokens do have one
    assert with_observations(3.0) == (loss, means)


# ------------------------------------------------------------- the teacher


def make_demonstrations(
    tokenizer: Any, turns: tuple[str, ...], kept: int, environment: Echo, own: bool = True
) -> tuple[Any, Any]:
    """A student's trajectory ``ask(a){a}end.`` and what the teacher makes of it after its first ``kept`` tokens."""
    engine = ScriptedEngine(write=script("ask(a)", "end."), tokenizer=tokenizer)
    round = make_round(tokenizer, engine=engine)
    round.task.environment = Echo()
    (group,) = round.sample_student([problem()], 1)
    round.task.environment = environment
    teacher = VerbalTeacher(ScriptedEngine(write=script(*turns), tokenizer=tokenizer if own else None))
    (written,) = round.demonstrate(teacher, group.sampled, [kept])
    return group.sampled[0], written


@pytest.mark.parametrize("own", [True, False], ids=["same vocabulary", "black box"])
def test_a_demonstration_takes_turns_with_the_environment_too(tokenizer: Any, own: bool) -> None:
    _, y = make_demonstrations(tokenizer, ("ask(b)", "ask(c)", "end."), 0, Echo(), own)
    assert y.text == "ask(b){b}ask(c){c}end."
    assert y.written == "ask(b)ask(c)end."
    assert (y.source, y.student_tokens, y.turns, y.stop_reason) == ("teacher", 0, 3, "stop_text")
    assert all(map(math.isnan, y.behaviour_logprobs))
    assert y.trainable_tokens == len(y.written)  # a turn that ends at a stop text gets no end of sequence
    assert tokenizer.decode(y.completion_ids) == y.text


def test_a_continued_trajectory_keeps_the_students_prefix_with_its_observation(tokenizer: Any) -> None:
    environment = Echo(max_turns=2)
    before, y = make_demonstrations(tokenizer, ("never", "ask(d)", "end."), len("ask(a){a}"), environment)
    assert y.text == "ask(a){a}ask(d){d}end."
    assert (y.source, y.student_tokens, y.turns) == ("mixed", len("ask(a){a}"), 3)
    assert y.completion_ids[: y.student_tokens] == before.completion_ids[: y.student_tokens]
    assert y.completion_mask[: y.student_tokens] == before.completion_mask[: y.student_tokens]
    assert len(environment.calls) == 1  # the reply that the prefix had counts: the next generation is the last


def test_a_teacher_that_fails_in_a_later_turn_writes_nothing(tokenizer: Any) -> None:
    def write(prompt: str, request: Any) -> str | None:
        return None if "}" in prompt else "ask(b)"

    engine = ScriptedEngine(write=script("end."), tokenizer=tokenizer)
    round = make_round(tokenizer, engine=engine)
    round.task.environment = Echo()
    (group,) = round.sample_student([problem()], 2)
    written = round.demonstrate(VerbalTeacher(ScriptedEngine(write=write)), group.sampled, [0, 0])
    assert written == [None, None]
    assert round.metrics.sums["teacher/demonstration_failures"] == 2


def test_an_observation_is_text_and_holds_no_special_token(tokenizer: Any) -> None:
    class Injects(Echo):
        def _one(self, text: str) -> Reply:
            return Reply(done=True) if text.endswith("end.") else Reply(prefix="{", body="a<eos>b", suffix="}")

    (y,) = run(tokenizer, script("ask(a)", "end."), Injects())
    observed = [i for i, kept in zip(y.completion_ids, y.completion_mask, strict=True) if not kept]
    assert tokenizer.eos_token_id not in observed
    assert "eos" in tokenizer.decode(observed)


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bytes, "[a" and "!y", with a chat template's markers: a text has other tokens than its parts."""
    from transformers import AutoTokenizer, Qwen2Tokenizer

    from tests.chat_model import END, START, byte_alphabet

    vocabulary = {text: i for i, text in enumerate([*byte_alphabet(), "[a", "!y", START, END])}
    path = tmp_path_factory.mktemp("merging")
    Qwen2Tokenizer(
        vocab=vocabulary, merges=[("[", "a"), ("!", "y")], eos_token=END, pad_token=END, unk_token=END,
        additional_special_tokens=[START],
    ).save_pretrained(path)  # fmt: skip
    return AutoTokenizer.from_pretrained(path)


def observe(tokenizer: Any, reply: Reply, limit: int = 500) -> tuple[list[str], Trajectory]:
    """The observation's tokens as text, and the trajectory that it follows on "ask(x)"."""

    class Fixed(Echo):
        def _one(self, text: str) -> Reply:
            return reply

    def generate(trajectories: Sequence[Trajectory], limits: Sequence[int], stop: tuple[str, ...]) -> list[Generation]:
        ids = tokenizer.encode("ask(x)", add_special_tokens=False)
        return [Generation(ids=ids, text="ask(x)", stop_reason="stop_text") for _ in trajectories]

    y = Trajectory(problem=problem(), prompt_ids=[5], seed=0)
    rollout([y], Fixed(max_turns=1, max_observation_tokens=limit), tokenizer, generate, 400)
    observed = [i for i, kept in zip(y.completion_ids, y.completion_mask, strict=True) if not kept]
    assert y.text == tokenizer.decode(y.completion_ids, skip_special_tokens=True)
    return tokenizer.convert_ids_to_tokens(observed), y


def test_an_observation_without_special_tokens_is_encoded_as_one_text(merging: Any) -> None:
    assert observe(merging, Reply(prefix="x[", body="ab!", suffix="y]"))[0] == ["x", "[a", "b", "!y", "]"]
    tokens, _ = observe(merging, Reply(prefix="x[", body="a<|im_end|>b!", suffix="y]"))
    assert tokens == ["x", "[a", *"<|im_end|>", "b", "!y", "]"]


def test_special_tokens_of_the_environment_are_special_and_those_of_a_body_are_text(merging: Any) -> None:
    reply = Reply(prefix="<|im_end|>x<|im_start|>u[", body="a<|im_end|>b!", suffix="y<|im_end|>y<|im_start|>z")
    tokens, y = observe(merging, reply)
    start, end = "<|im_start|>", "<|im_end|>"
    assert tokens == [end, "x", start, "u", "[a", *"<|im_end|>", "b", "!y", end, "y", start, "z"]
    assert y.text == "ask(x)xu[a<|im_end|>b!yyzask(x)"
    assert [math.isnan(p) for p in y.behaviour_logprobs][6:-6] == [True] * len(tokens)


def test_a_body_is_cut_and_the_markers_around_it_are_not(merging: Any) -> None:
    reply = Reply(prefix="<|im_end|>[", body="a" * 9, suffix="]<|im_start|>")
    assert observe(merging, reply, limit=3)[0] == ["<|im_end|>", "[a", "a", "a", "]", "<|im_start|>"]
    only = Reply(prefix="<|im_end|>", body="", suffix="<|im_start|>")
    assert observe(merging, only)[0] == ["<|im_end|>", "<|im_start|>"]
