"""Testing rejection, with students and teachers that say what a test prescribes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from ovd_lightning.engines.base import Completion, Request, Sampling
from ovd_lightning.errors import ConfigError
from ovd_lightning.evaluation.rejection import TestingRejection, VerifiedCompletion
from ovd_lightning.judges.base import JudgeRequest
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import step_prompt
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.tasks.arithmetic import ArithmeticTask
from ovd_lightning.tasks.environment import Environment, Reply, Turn
from ovd_lightning.teachers.verbal import VerbalTeacher
from ovd_lightning.tokens import decode
from tests.helpers import EOS, Scores, ScriptedEngine, as_text, problem

QUESTION = "1+1+0=?"
GOOD, BAD = 9, 1


class Writer(ScriptedEngine):
    """Ends at a stop text as real engines do: with the token that completes it. ``write`` gives the whole rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[tuple[list[Request], Sampling]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.calls.append((list(requests), sampling))
        return super().generate(requests, sampling)

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        text = self.write(as_text(request.prompt, self._tokenizer), request)
        if text is not None:
            ends = [at + len(s) for s in sampling.stop if (at := text.find(s)) >= 0]
            text = text[: min(ends, default=len(text))]
        kept, self.write = self.write, lambda prompt, given: text
        try:
            return super()._complete(request, sampling)
        finally:
            self.write = kept


def lines(*script: str, end: str = "\n") -> Callable[[str, Request], str]:
    """Says these lines, going on after as many as there are behind the question."""

    def write(prompt: str, request: Request) -> str:
        said = prompt.split("=?\n", 1)[1].count(end)
        return end.join(script[said:])

    return write


def judge(scores: dict[str, Scores], otherwise: Scores = GOOD) -> Callable[[str], Scores]:
    """A score for each step by its text."""
    return lambda prompt: scores.get(prompt.split("Current Step: ")[1].split("\nRate the quality")[0], otherwise)


@dataclass
class Table:
    """A student, a teacher, and what they are asked; ``play`` sits them down."""

    tokenizer: Any
    student: Callable[[str, Request], str | None] = field(default_factory=lambda: lines("a", "b", "c"))
    teacher: Callable[[str, Request], str | None] = field(default_factory=lambda: lines("A", "B", "C"))
    judge: Callable[[str], Scores] = field(default_factory=lambda: judge({}))
    task: ArithmeticTask = field(default_factory=lambda: ArithmeticTask(train_size=1))
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the verbal teacher."""
    demonstrator: type[Writer] = Writer
    max_tokens: int = 64
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    context: int | None = None

    def play(
        self, threshold: float = 5, n: int = 1, seeds: Sequence[int | None] | None = None, **settings: Any
    ) -> list[VerifiedCompletion]:
        self.writer = Writer(write=self.student, tokenizer=self.tokenizer, context=self.context)
        self.scorer = ScriptedEngine(self.judge, tokenizer=self.tokenizer)
        self.author = self.demonstrator(write=self.teacher, tokenizer=self.tokenizer)
        self.verbal = VerbalTeacher(self.scorer, demonstrator=self.author, **self.settings)
        problems = [problem(f"p{i}", QUESTION) for i in range(n)]
        prompts = [self.tokenizer.encode(self.task.prompt(p), add_special_tokens=False) for p in problems]
        sampling = Sampling(max_tokens=self.max_tokens, temperature=self.temperature, stop=self.stop)
        rejection = TestingRejection(threshold, **settings)
        rejection.check(self.verbal)
        return rejection.generate(self.writer, self.verbal, self.task, problems, prompts, sampling, seeds or [None] * n)

    @property
    def tokens(self) -> Callable[[str], list[int]]:
        return lambda text: list(self.tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture
def table(tokenizer: Any) -> Table:
    return Table(tokenizer)


def who(completion: VerifiedCompletion) -> list[tuple[str, str]]:
    return [(step.source, step.text) for step in completion.steps]


# ------------------------------------------------------------------ steps


def test_what_the_teacher_accepts_is_what_the_student_would_have_written(table: Table) -> None:
    (y,) = table.play()
    assert y.text == y.written == "a\nb\nc"
    assert y.token_ids == [*table.tokens("a\nb\nc"), EOS]
    assert who(y) == [("student", "a"), ("student", "b"), ("student", "c")]
    assert [s.tokens for s in y.steps] == [2, 2, 2], "the separator and the end of sequence belong to their steps"
    assert (y.completion_tokens, y.truncated, y.turns) == (6, False, 1)
    assert (y.teacher_step_share, y.teacher_token_share, y.wasted_tokens) == (0, 0, 0)
    assert table.author.calls == []


def test_steps_are_scored_with_the_prompt_of_the_training(table: Table) -> None:
    table.play()
    previous: list[list[str]] = [[], ["a"], ["a", "b"]]
    expected = [step_prompt(QUESTION, p, s, SCALES["zero_to_nine"]) for p, s in zip(previous, "abc", strict=True)]
    assert table.scorer.judged == expected


def test_a_low_step_is_rewritten_and_the_student_goes_on_from_there(table: Table) -> None:
    table.judge = judge({"b": BAD})
    (y,) = table.play()
    assert y.text == "a\nB\nc"
    assert y.token_ids == [*table.tokens("a\nB\nc"), EOS]
    assert who(y) == [("student", "a"), ("teacher", "B"), ("student", "c")]
    assert [s.score for s in y.steps] == [GOOD, BAD, GOOD], "a rewritten step keeps the score of its draft"
    assert (y.steps[1].draft, y.steps[1].draft_tokens, y.steps[1].tokens) == ("b", 2, 2)
    assert y.teacher_step_share == 1 / 3
    assert y.teacher_token_share == 2 / 6
    assert y.wasted_tokens == 2
    assert y.teacher_generated_tokens == 2
    (asked,) = table.author.written
    assert asked.prompt == f"{QUESTION}\na\n", "the teacher goes on from the text so far"
    assert "Previous Steps: a\nB\nCurrent Step: c" in table.scorer.judged[-1]
    assert as_text(table.writer.written[-1].prompt, table.tokenizer) == f"{QUESTION}\na\nB\n"


def test_nothing_the_student_wrote_is_tokenised_again(table: Table, tokenizer: Any) -> None:
    """Tokens that its own tokenizer would not make of their text come through."""
    odd = [*table.tokens("a"), tokenizer.unk_token_id, *table.tokens("\n")]

    class Odd(Writer):
        def _complete(self, request: Request, sampling: Sampling) -> Completion:
            completion = super()._complete(request, sampling)
            if completion.text == "a\n":
                completion.token_ids = list(odd)
            return completion

    table.judge = judge({"b": BAD})
    engine = Odd(write=lines("a", "b", "c"), tokenizer=tokenizer)
    teacher = VerbalTeacher(
        ScriptedEngine(table.judge, tokenizer=tokenizer), demonstrator=Writer(write=lines("A", "B", "C"))
    )
    prompt = table.tokens(f"{QUESTION}\n")
    (y,) = TestingRejection(5).generate(
        engine, teacher, table.task, [problem()], [prompt], Sampling(temperature=0.0), [None]
    )
    assert y.token_ids == [*odd, *table.tokens("B\nc"), EOS]
    assert engine.written[1].prompt == [*prompt, *odd]


def test_all_answers_advance_together(table: Table) -> None:
    table.judge = judge({"b": BAD})
    answers = table.play(n=7)
    assert {y.text for y in answers} == {"a\nB\nc"}
    assert [len(requests) for requests, _ in table.writer.calls] == [7, 7, 7]
    assert [len(requests) for requests, _ in table.author.calls] == [7]
    assert table.scorer.awakenings == table.writer.awakenings == table.author.awakenings == 1


def test_an_answer_that_is_over_waits_for_nobody(table: Table) -> None:
    table.student = lambda prompt, request: lines("a", "b", "c", "d")(prompt, request) if "0" in prompt else "a"
    table.judge = judge({})
    questions = [problem("long", "1+0=?"), problem("short", "1+1=?")]
    prompts = [table.tokens(table.task.prompt(p)) for p in questions]
    table.play()
    engine = Writer(write=table.student, tokenizer=table.tokenizer)
    answers = TestingRejection(5).generate(
        engine, table.verbal, table.task, questions, prompts, Sampling(temperature=0.0), [None, None]
    )
    assert [y.text for y in answers] == ["a\nb\nc\nd", "a"]
    assert [len(requests) for requests, _ in engine.calls] == [2, 1, 1, 1]


def test_reject_all_leaves_the_student_no_step(table: Table) -> None:
    (y,) = table.play(threshold=SCALES["zero_to_nine"].reject_all)
    assert who(y) == [("teacher", "A"), ("teacher", "B"), ("teacher", "C")]
    assert (y.text, y.truncated) == ("A\nB\nC", False)
    assert y.token_ids == [*table.tokens("A\nB\nC"), EOS], "ends as the student's own answers do"
    assert (y.teacher_step_share, y.teacher_token_share) == (1, 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_threshold_that_accepts_everything_is_plain_decoding(table: Table, temperature: float) -> None:
    table.judge, table.temperature = judge({}, 0), temperature
    (y,) = table.play(threshold=0, seeds=[17])
    assert y.text == "a\nb\nc"
    assert who(y) == [("student", "a"), ("student", "b"), ("student", "c")]
    assert [s.score for s in y.steps] == [None] * 3
    ((requests, sampling),) = table.writer.calls
    assert (requests[0].seed, sampling.stop) == (17, ()), "the request that an evaluation without a teacher makes"
    assert table.scorer.judged == []
    assert table.scorer.awakenings == 0
    assert not TestingRejection(0).needs_teacher(table.verbal)
    assert TestingRejection(0.5).needs_teacher(table.verbal)
    assert not TestingRejection(1).needs_teacher(VerbalTeacher(ScriptedEngine(), VerbalJudge(scale="one_to_ten")))


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_a_separator_alone_ends_no_step(table: Table, separator: str) -> None:
    text = f"{separator}a{separator}{separator}{separator}b{separator}"
    table.student = lambda prompt, request: text[len(prompt.split("=?\n", 1)[1]) :]
    table.task.step_separator = separator
    (y,) = table.play()
    spans = table.task.split_steps(y.token_ids, table.tokenizer)
    assert y.text == text
    assert [s.text for s in y.steps] == ["a", "b"]
    assert [s.tokens for s in y.steps] == [b - a for a, b in spans]
    assert len(table.scorer.judged) == 2


class Semicolons(ArithmeticTask):
    """Splits in a way of its own."""

    def split_steps(self, token_ids: Sequence[int], tokenizer: Any, mask: Any = None) -> list[tuple[int, int]]:
        ends = [i + 1 for i, token in enumerate(token_ids) if decode(tokenizer, [token]) == ";"]
        ends += [] if ends and not decode(tokenizer, token_ids[ends[-1] :]).strip() else [len(token_ids)]
        ends[-1] = len(token_ids)
        return list(zip([0, *ends[:-1]], ends, strict=True))


def test_a_task_that_splits_in_its_own_way(table: Table) -> None:
    """Its drafts reach to the end: those behind a rejected step are lost, whoever wrote them."""
    table.task = Semicolons(train_size=1)
    table.student, table.teacher = lines("a", "b", "c", "d", end=";"), lines("A", "B", "C", "D", end=";")
    table.judge = judge({"b;": BAD, "D": GOOD})
    (y,) = table.play()
    assert who(y) == [("student", "a;"), ("teacher", "B;"), ("student", "c;"), ("student", "d")]
    assert y.token_ids == [*table.tokens("a;B;c;d"), EOS]
    assert [len(requests) for requests, _ in table.writer.calls] == [1, 1]
    assert y.wasted_tokens == len(["b", ";", "c", ";", "d", "<eos>"])
    table.judge = judge({"d": BAD})
    (y,) = table.play()
    assert who(y)[-1] == ("teacher", "D")
    assert y.token_ids == [*table.tokens("a;b;c;D"), EOS]


# ------------------------------------------------------------------ the teacher's part


def test_a_teacher_that_ends_the_answer_ends_it(table: Table) -> None:
    table.judge, table.teacher = judge({"b": BAD}), lambda prompt, request: "the end"
    (y,) = table.play()
    assert y.token_ids == [*table.tokens("a\nthe end"), EOS]
    assert who(y) == [("student", "a"), ("teacher", "the end")]
    assert not y.truncated


def test_a_teacher_with_nothing_to_add_ends_the_answer(table: Table) -> None:
    table.judge, table.teacher = judge({"b": BAD}), lambda prompt, request: ""
    (y,) = table.play()
    assert (y.token_ids, y.failed_rewrites) == ([*table.tokens("a\n"), EOS], 0)


def test_a_teacher_that_fails_leaves_the_draft_and_is_counted(table: Table) -> None:
    table.judge, table.teacher = judge({"b": BAD, "c": BAD}), lambda prompt, request: None
    (y,) = table.play()
    assert y.text == "a\nb\nc"
    assert y.token_ids == [*table.tokens("a\nb\nc"), EOS]
    assert [(s.source, s.score) for s in y.steps] == [("student", GOOD), ("student", BAD), ("student", BAD)]
    assert (y.failed_rewrites, y.wasted_tokens, y.teacher_step_share) == (2, 0, 0)


def test_a_step_that_its_own_limit_cuts_off_is_a_failure(table: Table) -> None:
    table.judge, table.teacher = judge({"b": BAD}), lines("A", "BBBBBBBB", "C")
    table.settings = {"demonstration_tokens": 4}
    (y,) = table.play()
    assert (y.text, y.failed_rewrites, y.teacher_generated_tokens) == ("a\nb\nc", 1, 4)


def test_a_failure_behind_which_more_was_drafted(table: Table) -> None:
    table.task = Semicolons(train_size=1)
    table.student = lines("a", "b", "c", end=";")
    table.judge, table.teacher = judge({"b;": BAD}), lambda prompt, request: None
    (y,) = table.play()
    assert (y.text, y.failed_rewrites) == ("a;b;c", 1)
    assert [len(requests) for requests, _ in table.writer.calls] == [1, 1], "drafted again: it had not been looked at"


class BlackBox(Writer):
    """Cuts stop texts off, as OpenAI's protocol has it, and hides its vocabulary."""

    keeps_stop = False

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        completion = super()._complete(request, sampling)
        for stop in sampling.stop:
            completion.text = completion.text.removesuffix(stop)
        completion.token_ids = None
        return completion


def test_a_black_box_is_not_asked_to_stop(table: Table) -> None:
    """It could not be told whether it ended a step or the answer."""
    table.judge, table.demonstrator = judge({"b": BAD, "c": BAD}), BlackBox
    (y,) = table.play()
    assert who(y) == [("student", "a"), ("teacher", "B"), ("teacher", "C")]
    assert y.token_ids == [*table.tokens("a\nB\nC"), EOS]
    assert [sampling.stop for _, sampling in table.author.calls] == [(), ()]
    assert y.teacher_generated_tokens == len("B\nC") + 1 + len("C") + 1


class Hidden(Writer):
    """A vocabulary that nobody knows."""

    def __init__(self, *args: Any, tokenizer: Any, **kwargs: Any) -> None:
        super().__init__(*args, tokenizer=None, **kwargs)


def test_a_thinking_teacher_is_asked_for_its_answer_alone(table: Table) -> None:
    table.judge, table.demonstrator = judge({"b": BAD, "c": BAD}), Hidden
    table.settings = {"demonstration_thinking": "strip", "demonstration_tokens": 50}
    table.teacher = lambda prompt, request: "<think>\nmaybe\nb?\n</think>\n\n" + lines("A", "B", "C")(prompt, request)
    (y,) = table.play()
    assert who(y) == [("student", "a"), ("teacher", "B"), ("teacher", "C")]
    assert y.token_ids == [*table.tokens("a\nB\nC"), EOS]
    assert [sampling.stop for _, sampling in table.author.calls] == [(), ()], "a thought has lines, too"
    table.settings["demonstration_tokens"] = 20
    (y,) = table.play()
    assert (y.text, y.failed_rewrites) == ("a\nb\nc", 2), "the thought did not end"


@pytest.mark.parametrize("teacher", [Writer, BlackBox])
def test_a_teacher_that_begins_with_a_separator(table: Table, teacher: type[Writer]) -> None:
    table.judge, table.demonstrator = judge({"b": BAD}), teacher
    table.teacher = lambda prompt, request: "\n\nB\nC"
    (y,) = table.play()
    assert y.text.startswith("a\n\n\nB\n")
    assert who(y)[:2] == [("student", "a"), ("teacher", "B")]


# ------------------------------------------------------------------ scores


def test_a_step_without_a_score_is_accepted_and_counted(table: Table) -> None:
    table.judge = judge({"a": {"x": 1.0}, "b": BAD})
    (y,) = table.play()
    assert [(s.source, s.score) for s in y.steps] == [("student", None), ("teacher", BAD), ("student", GOOD)]
    assert y.unscored_steps == 1


def test_a_teacher_without_scores_stops_the_evaluation(table: Table) -> None:
    """As in training, but not for the few steps of the last answers: those say little of a teacher."""
    table.judge = judge({"a": {"x": 1.0}, "b": {"x": 1.0}, "c": {"x": 1.0}})
    assert [y.unscored_steps for y in table.play(n=5)] == [3] * 5
    with pytest.raises(RuntimeError, match="18 of 18 scoring prompts got no score"):
        table.play(n=6)


TORN: Scores = {"2": 0.5, "9": 0.5}


def test_a_drawn_score_follows_the_teachers_distribution(table: Table) -> None:
    table.judge, table.temperature = judge({"a": {"2": 0.3, "9": 0.7}}), 1.0
    seeds = list(range(400))
    first = table.play(n=400, seeds=seeds, score_reading="sample", score_temperature=1.0)
    share = sum(y.steps[0].source == "teacher" for y in first) / 400
    assert 0.22 < share < 0.38, "0.3, within three and a half standard deviations"
    assert {y.steps[0].score for y in first} == {2, 9}
    again = table.play(n=400, seeds=seeds, score_reading="sample", score_temperature=1.0)
    assert [y.token_ids for y in again] == [y.token_ids for y in first]
    other = table.play(n=400, seeds=[s + 1000 for s in seeds], score_reading="sample", score_temperature=1.0)
    assert [y.token_ids for y in other] != [y.token_ids for y in first]
    sharp = table.play(n=400, seeds=seeds, score_reading="sample", score_temperature=0.1)
    assert all(y.steps[0].score == 9 for y in sharp), "0.3^10 against 0.7^10"


def test_a_drawn_score_is_drawn_anew_for_every_step(table: Table) -> None:
    table.judge = judge({}, TORN)
    answers = table.play(n=100, score_reading="sample")
    assert len({tuple(s.score for s in y.steps) for y in answers}) == 2**3


@pytest.mark.parametrize(
    ("reading", "distribution", "rewritten"),
    [
        ("argmax", {"2": 0.4, "9": 0.6}, False),
        ("argmax", {"2": 0.6, "9": 0.4}, True),
        ("mean", {"2": 0.4, "9": 0.6}, False),  # 6.2
        ("mean", {"2": 0.6, "9": 0.4}, True),  # 4.8
        ("mean", {"0": 0.4, "8": 0.6}, True),  # 4.8, likeliest 8
    ],
)
def test_deterministic_scores(table: Table, reading: Any, distribution: Scores, rewritten: bool) -> None:
    table.judge = judge({"b": distribution})
    for y in table.play(n=20, score_reading=reading):
        assert (y.steps[1].source == "teacher") == rewritten


def test_a_score_at_the_threshold_is_accepted(table: Table) -> None:
    table.judge = judge({"b": 5})
    assert table.play(threshold=5)[0].teacher_step_share == 0
    assert table.play(threshold=5.5)[0].teacher_step_share == 1 / 3


def test_every_draft_of_a_sampled_answer_has_a_seed_of_its_own(table: Table) -> None:
    table.temperature, table.judge = 1.0, judge({"b": BAD})
    table.play(n=2, seeds=[1, 2])
    seeds = [request.seed for request in table.writer.written] + [request.seed for request in table.author.written]
    assert len(set(seeds)) == len(seeds) == 2 * 4
    table.play(n=2, seeds=[1, 2])
    assert [request.seed for request in table.writer.written] == seeds[:6]


def test_rewritten_steps_of_one_problem_differ_by_seed(table: Table) -> None:
    table.judge, table.teacher = judge({"b": BAD}), lambda prompt, request: f"{request.seed}\n"
    assert len({y.text for y in table.play(n=4, seeds=[1, 2, 3, 4])}) == 4
    assert len({y.text for y in table.play(n=4)}) == 4, "without seeds the problem's id takes their place"


# ------------------------------------------------------------------ limits


def test_the_token_limit_holds_for_student_and_teacher_together(table: Table) -> None:
    table.judge = judge({"b": BAD})
    for limit in range(1, 7):
        table.max_tokens = limit
        (y,) = table.play()
        assert y.token_ids == [*table.tokens("a\nB\nc"), EOS][:limit]
        assert y.truncated == (limit < 6)
        assert sum(s.tokens for s in y.steps) == y.completion_tokens == limit


def test_the_engines_context_is_a_limit_too(table: Table) -> None:
    table.context = len(table.tokens(f"{QUESTION}\n")) + 4
    (y,) = table.play()
    assert (y.text, y.truncated) == ("a\nb\n", True)


def test_a_teachers_step_may_be_cut_by_the_limit(table: Table) -> None:
    table.judge, table.teacher, table.max_tokens = judge({"b": BAD}), lines("A", "BBBBBBBB", "C"), 6
    for demonstrator in (Writer, BlackBox):
        table.demonstrator = demonstrator
        (y,) = table.play()
        assert (y.text, y.truncated) == ("a\nBBBB", True)
        assert who(y) == [("student", "a"), ("teacher", "BBBB")]
        assert len(y.token_ids) == 6


def test_after_so_many_drafts_nobody_looks(table: Table) -> None:
    table.judge, table.student = judge({"a": BAD, "d": BAD}), lines("a", "b", "c", "d", "e")
    (y,) = table.play(max_steps=2)
    assert who(y) == [("teacher", "A"), ("student", "b"), ("student", "c"), ("student", "d"), ("student", "e")]
    assert [s.score for s in y.steps] == [BAD, GOOD, None, None, None]
    assert (y.unchecked_steps, y.unscored_steps) == (3, 0)
    assert y.token_ids == [*table.tokens("A\nb\nc\nd\ne"), EOS]
    assert len(table.writer.calls) == 3


def test_an_end_that_the_caller_names_ends_the_answer(table: Table) -> None:
    table.stop = ("b",)
    (y,) = table.play()
    assert (y.text, y.truncated) == ("a\nb", False)
    table.judge, table.teacher, table.stop = judge({"a": BAD}), lines("AB", "C"), ("B",)
    (y,) = table.play()
    assert (y.text, who(y)) == ("AB", [("teacher", "AB")])


# ------------------------------------------------------------------ environments


class Library(Environment):
    """Answers ``look(x)`` with what is known of x; ``end.`` ends."""

    stop = (")", ".")

    def reply(self, turns: Sequence[Turn], progress: float | None = None) -> list[Reply]:
        return [
            Reply(done=True) if t.text.endswith("end.") else Reply(prefix="{", body=t.text.upper(), suffix="}\n")
            for t in turns
        ]


def test_steps_of_turns_with_an_environment(table: Table) -> None:
    table.task.environment = Library(max_turns=3)

    def student(prompt: str, request: Request) -> str:
        said = prompt.split("=?\n", 1)[1]
        turn = said.rsplit("}\n", 1)[-1]
        plan = ["i\nlook(a)", "j\nlook(b)", "k\nend."][said.count("}")]
        return plan[len(turn) :] if len(turn) < 3 else ""

    table.student = student
    table.teacher = lambda prompt, request: "J\nlook(b)" if prompt.endswith("}\n") else "look(c)"
    table.judge = judge({"j": BAD})
    (y,) = table.play()
    assert y.text == "i\nlook(a){I\nLOOK(A)}\nJ\nlook(b){J\nLOOK(B)}\nk\nend."
    assert y.written == "i\nlook(a)J\nlook(b)k\nend."
    assert y.turns == 3
    assert y.completion_tokens == len(y.written)
    assert [s.source for s in y.steps].count("teacher") == 1
    assert sum(s.tokens for s in y.steps) == y.completion_tokens
    assert "LOOK" not in "".join(s.text for s in y.steps)
    assert any("LOOK" in prompt for prompt in table.scorer.judged), "observations are context of the score"
    plain = table.play(threshold=0)[0]
    assert (plain.written, plain.turns) == ("i\nlook(a)j\nlook(b)k\nend.", 3)


class Triples(ArithmeticTask):
    """A step is a look, what it showed, and the thought on it up to the next look, as in Web Q&A."""

    def split_steps(self, token_ids: Sequence[int], tokenizer: Any, mask: Any = None) -> list[tuple[int, int]]:
        text = decode(tokenizer, token_ids)  # one token a character
        looks = [i for i in range(len(text)) if text.startswith("look(", i) and mask[i]]
        return list(pairwise([0, *looks[1:], len(token_ids)]))


def test_steps_that_begin_in_one_turn_and_end_in_the_next(table: Table) -> None:
    """The look is scored before it is made, the thought together with what was seen."""
    table.task = Triples(train_size=1)
    table.task.environment = Library(max_turns=3)

    def write(plan: list[str]) -> Callable[[str, Request], str]:
        def rest(prompt: str, request: Request) -> str:
            said = prompt.split("=?\n", 1)[1]
            return plan[said.count("}")][len(said.rsplit("}\n", 1)[-1]) :]

        return rest

    table.student = write(["i look(a)", "j look(b)", "k end."])
    table.teacher = write(["I look(A)", "J look(B)", "K end."])
    table.judge = judge({"i look(a){I LOOK(A)}\nj": BAD, "look(B)": BAD})
    (y,) = table.play()
    assert y.text == "i look(a){I LOOK(A)}\nJ look(b){J LOOK(B)}\nk end."
    assert who(y) == [("student", "i look(a)"), ("teacher", "J"), ("student", "look(b)"), ("student", "k end.")]
    currents = [p.split("Current Step: ")[1].split("\nRate the quality")[0] for p in table.scorer.judged]
    assert currents == [
        "i look(a)",
        "i look(a){I LOOK(A)}\nj", "look(b)",  # one draft; the second was lost with the first
        "look(b)",  # behind the teacher's thought
        "look(b){J LOOK(B)}\nk end.",
    ]  # fmt: skip
    assert sum(s.tokens for s in y.steps) == y.completion_tokens == len(y.written)
    table.judge = judge({"look(b)": BAD})
    (y,) = table.play()
    assert y.text == "i look(a){I LOOK(A)}\nj look(B){J LOOK(B)}\nk end."


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(("scale", "threshold"), [("zero_to_nine", -1), ("zero_to_nine", 11), ("one_to_ten", 0)])
def test_a_threshold_must_be_on_the_teachers_scale(scale: Any, threshold: float) -> None:
    teacher = VerbalTeacher(ScriptedEngine(), VerbalJudge(scale=scale))
    with pytest.raises(ConfigError, match=r"^benchmark\.rejection\.threshold: is "):
        TestingRejection(threshold).check(teacher)


def test_a_verbal_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"^benchmark\.rejection: needs a verbal teacher"):
        TestingRejection(5).check(None)


def test_settings_tell_what_answers_depend_on(table: Table) -> None:
    assert TestingRejection(5).settings() == {
        "threshold": 5, "score_reading": "argmax", "score_temperature": None, "max_steps": 64,
    }  # fmt: skip
    assert TestingRejection(5, "sample").settings()["score_temperature"] == 0.7
    one, other = (VerbalTeacher(ScriptedEngine(name=name)) for name in ("one", "other"))
    assert TestingRejection(5).settings(one) != TestingRejection(5).settings(other)
    assert TestingRejection(0).settings(one) == TestingRejection(0).settings(other), "nobody is asked"


def test_a_rounds_ledger_holds_nothing_of_an_evaluation(table: Table) -> None:
    table.play()
    table.verbal.score([JudgeRequest.of_text(QUESTION, step="p")])
    TestingRejection(5).generate(
        table.writer, table.verbal, table.task, [problem("q")], [table.tokens(f"{QUESTION}\n")], Sampling(), [1]
    )
    ledger = table.verbal.take_ledger()
    assert (ledger.scores, ledger.demonstrations) == (1, 0)


def test_config_files_and_flags_name_it(tmp_path: Any) -> None:
    from jsonargparse import ArgumentParser

    class Callback:
        def __init__(self, rejection: TestingRejection | None = None) -> None:
            self.rejection = rejection

    parser = ArgumentParser()
    parser.add_class_arguments(Callback, "benchmark")
    flags = parser.parse_args(["--benchmark.rejection.threshold=7", "--benchmark.rejection.score_reading=sample"])
    assert parser.instantiate(flags).benchmark.rejection.settings()["score_temperature"] == 0.7
    assert parser.instantiate(parser.parse_args([])).benchmark.rejection is None


def test_a_line_of_signs_belongs_to_the_step_behind_it_or_to_the_last(table: Table) -> None:
    """As LaTeX has formulas on lines of their own: no sign is judged, and none is lost, whoever writes it."""
    table.student = lines("\\(", "a", "\\)", "b", "\\)")
    table.teacher = lambda prompt, request: "\\(\nB\n\\)\nC"
    table.judge = judge({"\\)\nb": BAD, "\\)\nb\n\\)": BAD})
    (y,) = table.play()
    assert y.text.startswith("\\(\na\n\\(\nB\n")
    assert who(y)[:2] == [("student", "\\(\na"), ("teacher", "\\(\nB")]
    table.judge = judge({})
    (y,) = table.play()
    assert y.text == "\\(\na\n\\)\nb\n\\)"
    assert who(y) == [("student", "\\(\na"), ("student", "\\)\nb")]
    assert sum(step.tokens for step in y.steps) == y.completion_tokens
