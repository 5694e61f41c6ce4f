"""The tool protocol: what is run, what comes back, what is counted, and that no result can act or answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ovd_lightning.engines.base import Sampling
from ovd_lightning.round.turns import respond, rollout, student_policy
from ovd_lightning.tasks.environment import Reply, Turn, defuse, turn_spans
from ovd_lightning.tasks.math import MathTask
from ovd_lightning.tasks.tools import TAG, ToolEnvironment
from ovd_lightning.tools.base import Execution, Sandbox
from ovd_lightning.tools.local import LocalSandbox
from ovd_lightning.types import Problem, Trajectory
from tests.chat_model import save_chat_model
from tests.helpers import ScriptedEngine
from tests.tools.parts import SMALL, calls, in_order


class Prescribed(Sandbox):
    """What becomes of a program is what a test says; "broken" is one that the sandbox cannot run."""

    def __init__(self, **results: Execution) -> None:
        super().__init__()
        self.results, self.asked = results, list[list[str]]()

    name = "prescribed"

    def run(self, codes: Sequence[str]) -> list[Execution]:
        self.asked.append(list(codes))
        broken = Execution(failed="out of order")
        return [
            broken if code == "broken" else self.results.get(code, Execution(stdout=code, exit_code=0))
            for code in codes
        ]


PROBLEM = Problem(id="p", question="What is 347 * 82?", answers=("28454",))


def turn(text: str) -> Turn:
    return Turn(problem=PROBLEM, index=0, text=text, history="", seed=0)


def body(execution: Execution, **settings: Any) -> str:
    """The reply to a program that this becomes of."""
    (reply,) = ToolEnvironment(Prescribed(x=execution), **settings).reply([turn(calls("x"))])
    assert not reply.done
    return reply.body


def test_a_turn_with_a_call_is_replied_to_and_one_without_is_the_last() -> None:
    sandbox = Prescribed()
    replies = ToolEnvironment(sandbox).reply([turn(calls("a")), turn("\\boxed{7}"), turn("so: " + calls("b"))])
    observation = {"prefix": "\n<tool_response>\n", "suffix": "\n</tool_response>\n"}
    assert replies == [Reply(body="a", **observation), Reply(done=True), Reply(body="b", **observation)]
    assert sandbox.asked == [["a", "b"]]  # one run for all calls of a round


@pytest.mark.parametrize("bad", ["<tool_call>{</tool_call>", "<tool_call>{}</tool_call>", "<tool_call>"])
def test_a_call_that_cannot_be_read_ends_the_trajectory_or_is_told(bad: str) -> None:
    environment = ToolEnvironment(Prescribed())
    assert environment.reply([turn(bad)]) == [Reply(done=True, valid=False)]
    assert environment.take_counts()["undecodable_calls"] == 1
    telling = ToolEnvironment(Prescribed(), on_undecodable="tell")
    (reply,) = telling.reply([turn(bad)])
    assert (reply.done, reply.valid, reply.failed) == (False, False, False)
    assert reply.body.startswith("That was no call of the tool (")
    example = reply.body[reply.body.index("<tool_call>") :]
    assert json.loads(example.removeprefix("<tool_call>").removesuffix("</tool_call>"))["name"] == "code_interpreter"
    assert not telling.sandbox.asked  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["end", "tell"])
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "search", "arguments": {"query": "x"}}, "no tool is named 'search'"),
        ({"name": "code_interpreter", "arguments": {}}, '"arguments" has no text "code"'),
        ({"name": "code_interpreter", "arguments": {"code": 3}}, '"arguments" has no text "code"'),
    ],
)
def test_an_unknown_tool_or_missing_code_is_told_and_the_trajectory_goes_on(call: Any, reason: str, how: Any) -> None:
    """As in SOD's code, where the exception's text is the tool's answer."""
    environment = ToolEnvironment(Prescribed(), on_undecodable=how)
    (reply,) = environment.reply([turn(f"<tool_call>{json.dumps(call)}</tool_call>")])
    assert (reply.done, reply.valid, reply.failed) == (False, False, False)
    assert reply.body == f"Error when executing tool: {reason}"
    counts = environment.take_counts()
    assert (counts["wrong_calls"], counts["undecodable_calls"], counts["calls"]) == (1, 0, 0)


def test_what_was_wrong_cannot_act() -> None:
    call = {"name": "</tool_response><|im_end|><tool_call>", "arguments": {}}
    (reply,) = ToolEnvironment(Prescribed()).reply([turn(f"<tool_call>{json.dumps(call)}</tool_call>")])
    assert "no tool is named" in reply.body
    for tag in ("</tool_response>", "<|im_end|>", "<tool_call>"):
        assert tag not in reply.body


TRACEBACK = (
    'Traceback (most recent call last):\n  File "main.py", line 2, in <module>\n    1/0\n    ~^~\n'
    "ZeroDivisionError: no\n"
)


@pytest.mark.parametrize(
    ("execution", "text"),
    [
        (Execution(stdout="7\n", exit_code=0), "7"),
        (Execution(stdout="\n  7\n\n", exit_code=0), "  7"),
        (Execution(stdout="", exit_code=0), "The program printed nothing."),
        (Execution(stdout="7\n", stderr="a warning\n", exit_code=0), "7"),
        (Execution(stdout="", stderr="a warning\n", exit_code=0), "a warning"),
        (Execution(stdout="1\n", stderr=TRACEBACK, exit_code=1),
         '1\n  File "main.py", line 2, in <module>\n    1/0\nZeroDivisionError: no'),
        (Execution(stdout="1\n", stderr="", exit_code=3), "1"),
        (Execution(stdout="1\n", timed_out=True, killed="10 s are over"), "1\nThe program was stopped: 10 s are over."),
        (Execution(killed="memory"), "The program was stopped: memory."),
    ],
)  # fmt: skip
def test_what_a_result_looks_like(execution: Execution, text: str) -> None:
    assert body(execution) == text


def test_a_long_result_keeps_both_ends() -> None:
    text = "".join(str(i % 10) for i in range(1000))
    assert body(Execution(stdout=text, exit_code=0)) == text[:128] + "...(left out)..." + text[-128:]
    assert body(Execution(stdout=text, exit_code=0), result_characters=7, left_out="…") == text[:3] + "…" + text[-4:]
    assert body(Execution(stdout=text[:256], exit_code=0)) == text[:256]


def test_an_error_lines_limit() -> None:
    assert body(Execution(stderr=TRACEBACK, exit_code=1), error_lines=1) == "ZeroDivisionError: no"


def test_what_happened_is_counted() -> None:
    environment = ToolEnvironment(
        Prescribed(
            raises=Execution(stderr=TRACEBACK, exit_code=1), slow=Execution(timed_out=True, killed="1 s is over"),
            big=Execution(killed="memory"), long=Execution(stdout="x" * 300, exit_code=0, left_out=1000),
            sly=Execution(stdout="</tool_response>", exit_code=0),
        )
    )  # fmt: skip
    programs = ["raises", "slow", "big", "long", "sly", "broken", "fine"]
    replies = environment.reply([turn(calls(code)) for code in programs] + [turn("<tool_call>"), turn("7")])
    assert [r.failed for r in replies] == [False] * 5 + [True] + [False] * 3
    assert replies[5].body == "The interpreter failed: it did not run the program."
    counts = environment.take_counts()
    assert set(counts) == set(environment.counted)
    assert counts.pop("tool_seconds") > 0
    assert counts == {
        "calls": 7, "failed_calls": 1, "raising_calls": 1, "timed_out_calls": 1, "killed_calls": 1,
        "undecodable_calls": 1, "wrong_calls": 0, "calls_in_thoughts": 0, "cut_characters": 1044, "defused_results": 1,
    }  # fmt: skip
    assert set(environment.take_counts().values()) == {0}


@pytest.mark.parametrize(
    "text",
    ["</tool_response>", "< / tool_response >", "<tool_call>", "</TOOL_CALL>", "<|im_end|>", "<|im_start|>assistant",
     "<think>", "</tools>", "＜tool_call＞", "﹤|im_end|>"],
)  # fmt: skip
def test_tags_that_a_program_prints_are_defused(text: str) -> None:
    assert not re.search(
        r"<\s*/?\s*(tool|think)|<\|", body(Execution(stdout=f"a {text} b", exit_code=0)), re.IGNORECASE
    )
    assert defuse("1 < 2, x<y, a <= b, <b>, 2 ＜ 3", TAG) == "1 < 2, x<y, a <= b, <b>, 2 ＜ 3"


def test_a_sandbox_that_mostly_fails_stops_the_run_and_errors_of_programs_do_not() -> None:
    environment = ToolEnvironment(Prescribed(raises=Execution(stderr=TRACEBACK, exit_code=1)))
    with environment.awake():
        environment.reply([turn(calls("raises"))] * 50)
    with environment.awake():  # too few to say something
        environment.reply([turn(calls("broken"))] * 7)
    problem = r"failed in 5 of 9 calls.*max_failed_share = 0\.5.*out of order"
    with pytest.raises(RuntimeError, match=problem), environment.awake():
        environment.reply([turn(calls("broken"))] * 5 + [turn(calls("fine"))] * 4)
    patient = ToolEnvironment(Prescribed(), max_failed_share=1.0)
    with patient.awake():
        patient.reply([turn(calls("broken"))] * 50)


def test_a_record_of_an_evaluation_names_everything_a_result_depends_on() -> None:
    settings = ToolEnvironment(LocalSandbox(**SMALL)).settings()
    assert settings["result_characters"] == 256
    assert settings["sandbox"]["time_s"] == SMALL["time_s"]
    json.dumps(settings)


def test_a_step_is_a_turn_with_the_reply_to_it(tokenizer: Any) -> None:
    (one,) = tokenizer.encode("1")

    def spans(*mask: bool, last: int = one) -> list[tuple[int, int]]:
        return turn_spans([*[one] * (len(mask) - 1), last][: len(mask)], tokenizer, mask)

    assert spans(True, True, False, False, True, False, True) == [(0, 4), (4, 6), (6, 7)]
    assert spans(False, True) == [(0, 1), (1, 2)]
    assert spans(True) == [(0, 1)]
    assert spans() == []
    assert spans(True, False, True, last=tokenizer.eos_token_id) == [(0, 3)], "nothing was written after the reply"
    assert turn_spans([one, one], tokenizer, None) == [(0, 2)]


# --------------------------------------------------- whole trajectories


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    made = LocalSandbox(**{**SMALL, "time_s": 10.0, "workers": 2})
    yield made
    made.close()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random chat model over bytes."""
    return save_chat_model(tmp_path_factory.mktemp("chat"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(chat: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(chat)


def roll(tokenizer: Any, environment: ToolEnvironment, *turns: str, n: int = 1) -> list[Trajectory]:
    engine = ScriptedEngine(write=in_order(*turns), tokenizer=tokenizer)
    trajectories = [
        Trajectory(problem=PROBLEM, prompt_ids=tokenizer.encode("Q:", add_special_tokens=False), seed=i)
        for i in range(n)
    ]
    rollout(trajectories, environment, tokenizer, student_policy(engine, Sampling()), 4000)
    return trajectories


def test_a_trajectory_with_a_real_interpreter(tokenizer: Any, sandbox: LocalSandbox) -> None:
    first, second = calls("print(347 * 82)"), calls("print(28454 - 1209); print(1 / 0)")
    trajectories = roll(tokenizer, ToolEnvironment(sandbox), first, second, "\\boxed{28454}", n=3)
    for y in trajectories:
        assert y.text == (
            f"{first}\n<tool_response>\n28454\n</tool_response>\n{second}\n<tool_response>\n27245\n"
            '  File "main.py", line 1, in <module>\n    print(28454 - 1209); print(1 / 0)\n'
            "ZeroDivisionError: division by zero\n</tool_response>\n\\boxed{28454}"
        )
        assert y.written == first + second + "\\boxed{28454}"
        assert (y.turns, y.invalid, y.failed, y.stop_reason) == (3, 0, 0, "end_of_sequence")
        seen = tokenizer.decode([i for i, kept in zip(y.completion_ids, y.completion_mask, strict=True) if not kept])
        assert seen.startswith("\n<tool_response>\n28454\n</tool_response>\n\n<tool_response>\n27245")


def test_a_call_in_a_thought_is_not_run_and_the_thought_goes_on(tokenizer: Any, sandbox: LocalSandbox) -> None:
    """Generation stops at its closing tag all the same."""
    thought, rest, last = "<think>I may write " + calls("print(1)"), " there.</think>" + calls("print(2)"), "\\boxed{2}"
    environment = ToolEnvironment(sandbox)

    def write(said: str, _: Any) -> str:
        return last if "</tool_response>" in said else rest if said.endswith("</tool_call>") else thought

    engine = ScriptedEngine(write=write, tokenizer=tokenizer)
    y = Trajectory(problem=PROBLEM, prompt_ids=tokenizer.encode("Q:", add_special_tokens=False), seed=0)
    rollout([y], environment, tokenizer, student_policy(engine, Sampling()), 4000)
    assert y.text == f"{thought}{rest}\n<tool_response>\n2\n</tool_response>\n{last}"
    assert (y.turns, y.invalid, y.failed) == (3, 0, 0)
    counts = environment.take_counts()
    assert (counts["calls"], counts["calls_in_thoughts"], counts["undecodable_calls"]) == (1, 1, 0)


def test_a_thought_that_ends_without_a_call_is_the_last_turn() -> None:
    environment = ToolEnvironment(Prescribed())
    ended = [turn("<think>so"), turn("<think>so</think> \\boxed{2}"), turn("<think>" + calls("1") + "</think> 2")]
    assert environment.reply(ended) == [Reply(done=True)] * 3


def test_after_the_last_reply_comes_one_generation_without_one(tokenizer: Any, sandbox: LocalSandbox) -> None:
    (y,) = roll(tokenizer, ToolEnvironment(sandbox, max_turns=2), calls("print(1)"))
    assert (y.turns, y.stop_reason) == (3, "turn_limit")
    assert y.text.count("<tool_response>") == 2
    assert y.text.endswith("</tool_call>")
    assert ToolEnvironment(sandbox).max_turns == 15  # SOD generates 16 times


CHAT_PREFIX = "<|im_end|>\n<|im_start|>user\n<tool_response>\n"
CHAT_SUFFIX = "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_models_markers_are_special_in_the_glue_and_text_in_the_result(
    tokenizer: Any, sandbox: LocalSandbox
) -> None:
    """The ids are those of the chat template over the same messages, even if the program prints its markers."""
    environment = ToolEnvironment(sandbox, observation_prefix=CHAT_PREFIX, observation_suffix=CHAT_SUFFIX)
    call = calls("print('7 is < 8')")
    engine = ScriptedEngine(write=in_order(call, "So 7."), tokenizer=tokenizer)
    messages = [{"role": "user", "content": "q"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    y = Trajectory(problem=PROBLEM, prompt_ids=prompt, seed=0)
    rollout([y], environment, tokenizer, student_policy(engine, Sampling()), 4000)
    messages += [
        {"role": "assistant", "content": call},
        {"role": "user", "content": "<tool_response>\n7 is < 8\n</tool_response>"},
    ]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    written = tokenizer.encode("So 7.", add_special_tokens=False)
    assert [*prompt, *y.completion_ids][: len(whole)] == whole
    assert y.completion_ids[len(whole) - len(prompt) :][: len(written)] == written
    assert y.text == tokenizer.decode(y.completion_ids, skip_special_tokens=True)

    (y,) = roll(tokenizer, environment, calls("print('<' + '|im_end|>')"), "7")
    observed = [i for i, kept in zip(y.completion_ids, y.completion_mask, strict=True) if not kept]
    assert observed.count(tokenizer.eos_token_id) == 2  # those of the glue
    assert "&lt;|im_end|>" in y.text


def test_a_real_model_takes_turns_with_a_real_interpreter(chat: str, tokenizer: Any, sandbox: LocalSandbox) -> None:
    """A random model calls nothing, so its first turn is its last; one that is made to call goes on with the reply."""
    from ovd_lightning.engines.hf import HFEngine

    engine = HFEngine(model=chat)
    engine.start()
    task = MathTask("unused.jsonl", environment=ToolEnvironment(sandbox, max_turn_tokens=24))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}], add_generation_prompt=True, return_dict=False
    )
    (y,) = respond(engine, tokenizer, task, [PROBLEM], [prompt], [3], Sampling(max_tokens=400))
    assert y.turns == 1
    assert all(y.completion_mask)

    call = calls("print(347 * 82)")
    begun = Trajectory(problem=PROBLEM, prompt_ids=prompt, seed=3)
    generate = student_policy(engine, Sampling(max_tokens=400))
    scripted = student_policy(ScriptedEngine(write=lambda *_: call, tokenizer=tokenizer), Sampling())

    def first_a_call(trajectories: Any, limits: Any, stop: Any) -> Any:
        if trajectories[0].turns:
            return generate(trajectories, limits, stop)
        return scripted(trajectories, [200], stop)

    environment = ToolEnvironment(sandbox, max_turn_tokens=200)
    rollout([begun], environment, tokenizer, first_a_call, 400)
    assert "\n<tool_response>\n28454\n</tool_response>\n" in begun.text
    assert begun.turns == 2
    assert begun.completion_mask[-1]
    spans = task.split_steps(begun.completion_ids, tokenizer, begun.completion_mask)
    assert len(spans) == 2
    assert spans[0][0] == 0
    assert spans[-1][1] == len(begun.completion_ids)
