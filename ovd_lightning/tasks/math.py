"""Mathematical reasoning: training problems from anywhere, the paper's ten test sets, and their grading.

The reward is 1 for an answer that is equivalent to the reference, else 0 (eq. 2). Answers are found and compared by
``ovd_lightning.grading``, whose ``extract_answer``, ``is_equivalent`` and ``grade`` can be imported from here as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.grading import Grader, Mode, extract_answer, grade, is_equivalent
from ovd_lightning.grading.extract import reference, worked
from ovd_lightning.grading.grader import TIMEOUT_S
from ovd_lightning.settings.ranges import GradingSeconds, NonNegativeInt
from ovd_lightning.settings.texts import NonEmptyText, QuestionPrompt
from ovd_lightning.tasks.base import Benchmark, Split, Suite, Task, check_names, find_entry
from ovd_lightning.tasks.environment import Environment, turn_spans
from ovd_lightning.tasks.math_benchmarks import ENTRIES, TABLE_4, load_problems
from ovd_lightning.tasks.math_demonstrations import LETTERS, Demonstration, with_choices
from ovd_lightning.tasks.rewards import RewardFunction
from ovd_lightning.tasks.sentences import sentence_spans
from ovd_lightning.tasks.sources import (
    Row,
    Source,
    Splits,
    field,
    load_rows,
    make_problems,
    meta_of,
    row_errors,
    text,
    texts,
)
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MathBenchmark", "MathSuite", "MathTask", "extract_answer", "grade", "is_equivalent"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The system message of the reference evaluation, and the default of Qwen2.5-Math's chat template."""

TRAINING_PROMPT = "{question} Let's think step by step and output the final answer within \\boxed{}."
"""The prompt of the recipe that the paper trains by (One-Shot-RLVR), a user message after the template's own system
message."""

Style = Literal["chat", "plain"]

_PLACE = "{question}"


class Graded(Task):
    """What training and evaluation share: steps and the checker.

    Args:
        grading: "strict" takes the last box of a response; "qwen" follows the reference evaluation.
        timeout_s: seconds of processor time after which comparing an answer is given up and counts as wrong.
        steps: "blocks": a step ends with ``step_separator``, by default a blank line; "sentences": with a sentence or
            a line. The paper says "sentences or logical derivations".
        step_separator: of the blocks.
        environment: replies to the turns of a trajectory, e.g. a ToolEnvironment; a step is then a turn. null: a
            trajectory is one generation.
        reward: module.function that gives the reward of a response to a problem; null: 1 for an equivalent answer,
            else 0.
    """

    def __init__(
        self,
        grading: Mode,
        timeout_s: GradingSeconds = TIMEOUT_S,
        steps: Literal["blocks", "sentences"] = "blocks",
        step_separator: NonEmptyText = "\n\n",
        environment: Environment | None = None,
        reward: str | RewardFunction | None = None,
    ) -> None:
        super().__init__(reward)
        self.grading = grading
        self.timeout_s = timeout_s
        self.steps = steps
        self.step_separator = step_separator
        self.environment = environment

    @property
    def step_rule(self) -> str:
        return self.step_separator if self.steps == "blocks" else "a sentence"

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        """With an environment a step is a turn with the reply to it."""
        if self.environment is None or mask is None:
            if self.steps == "sentences":
                return sentence_spans(token_ids, tokenizer)
            return super().split_steps(token_ids, tokenizer, mask)
        return turn_spans(token_ids, tokenizer, mask)

    def response(self, text: str) -> str:
        """The part of a completion that answers the question."""
        return text

    def grade(self, response: str, problem: Problem) -> Grade:
        return self._checked([response], [problem])[0]

    def grade_many(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """In order, in parallel, each for at most ``timeout_s`` seconds; all tasks of a process share its checkers."""
        return self._checked(responses, problems)

    def _checked(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        responses = [self.response(response) for response in responses]
        return _grader(self.grading, self.timeout_s).grade_many(responses, problems)

    def check(self, problems: Sequence[Problem]) -> None:
        """Every reference must be found by the checker where it is boxed: a response could not be right either."""
        super().check(problems)
        if self.reward_function is not None or type(self).grade is not Graded.grade:
            return  # who answers in what form is then not known
        boxed = [[f"\\boxed{{{answer}}}" for answer in map(reference, p.answers)] for p in problems]
        asked = [(response, p) for p, responses in zip(problems, boxed, strict=True) for response in responses]
        grades = _grader(self.grading, self.timeout_s).grade_many([r for r, _ in asked], [p for _, p in asked])
        found = {p.id for (_, p), grade in zip(asked, grades, strict=True) if grade.correct}
        for problem in problems:
            if problem.answers and (problem.id not in found or all(map(worked, problem.answers))):
                raise ConfigError(
                    f"{type(self).__name__} ({self.name})",
                    f"problem {problem.id!r}: no response meets its reference {problem.answers[0]!r:.200}.",
                    "Name the field that holds the answer alone, behind #### or in a box where it is a worked solution "
                    "(MathTask.answers_field), or leave the problem out (MathTask.exclude).",
                )


@cache
def _grader(mode: Mode, timeout_s: GradingSeconds) -> Grader:
    """The checker of all tasks with these settings. Global, so that ten benchmarks share one set of worker processes,
    which start with the first answer that needs them and end with this process."""
    return Grader(mode, timeout_s)


class MathTask(Graded):
    """Problems to train on: a set of the hub, a file or a folder.

    A row is a problem; a row without a question or an answer stops the run, as does an id that comes twice. Files of
    the common shape (docs/benchmarks.md) need no further setting; other rows are read by naming their fields, such as
    question_field "prompt.0.content" and answers_field "reward_model.ground_truth" for files made for verl.

    Args:
        data: a hub id like "openai/gsm8k", or the path of a .jsonl, .json, .parquet, .csv or .tsv file or of a folder
            of such.
        config: configuration of a hub set that has several.
        split: what to train on, with slices as in "train[:90%]". A file is all one split, named "train".
        validation_split: problems of the same data to validate on; null: none, see data.benchmarks.
        test_split: problems of the same data to test on; null: none.
        revision: branch, tag or commit of a hub set.
        ids: train on these problems only, in this order; null: on all. One or two make the runs of appendix A.2.
        exclude: ids of problems to leave out of training.
        question_field: field of the question; dots lead into nested fields.
        answers_field: field of the reference answer, or of a list of alternatives. Of a worked solution as in GSM8K
            the text after #### is the answer, else the content of its last box.
        solution_field: field of a worked solution, for the methods that use one (OPSD, GKD with outputs "dataset");
            null: "solution" of the row's "meta", if there is one.
        id_field: field of the problem's id; null: "id" if the rows have it, else the row's number.
        prompt: what the student is asked; {question} is replaced by the question. An instruction that the data already
            append to their questions is not repeated.
        system: system message where rollout.chat is true; null: the chat template's own.
        grading: "strict" takes the last box of a response; "qwen" follows the reference evaluation.
        **shared: timeout_s, steps, step_separator, environment, reward: see `Graded`.

    Raises:
        ConfigError: a setting is wrong; when problems are first asked for, also that the data are.
    """

    name = "math"

    def __init__(
        self,
        data: NonEmptyText,
        config: str | None = None,
        split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = None,
        revision: str | None = None,
        ids: list[str] | None = None,
        exclude: list[str] | None = None,
        question_field: str = "question",
        answers_field: str = "answers",
        solution_field: str | None = None,
        id_field: str | None = None,
        prompt: QuestionPrompt = TRAINING_PROMPT,
        system: str | None = None,
        grading: Mode = "strict",
        **shared: Any,
    ) -> None:
        super().__init__(grading, **shared)
        if ids is not None:
            check_names("MathTask.ids", ids)
        self.data, self.config, self.revision = data, config, revision
        self.ids, self.exclude = ids, exclude or []
        self.question_field, self.answers_field, self.id_field = question_field, answers_field, id_field
        self.solution_field = solution_field
        self.template, self.system = prompt, system
        self._instruction = prompt.partition(_PLACE)[2].strip()
        parts: dict[Split, str | None] = {"train": split, "validation": validation_split, "test": test_split}
        self._splits = Splits("MathTask", data, parts, self._load)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._splits.problems(split)

    def _load(self, split: Split, part: str) -> list[Problem]:
        source = Source(data=self.data, config=self.config, split=part, revision=self.revision)
        rows = list(enumerate(load_rows(source, "MathTask.data")))
        if split == "train" and (self.ids is not None or self.exclude):
            rows = self._choose(rows)
        hint = (
            "Say which fields hold the question, the answers, the id and, where it is set, the solution "
            "(question_field, answers_field, id_field, solution_field), or leave the row out (exclude)."
        )
        return make_problems(rows, self._problem, "MathTask.data", hint)

    def _choose(self, rows: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
        """The rows that ``ids`` and ``exclude`` leave, with their numbers."""
        by_id: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for number, row in rows:
            with row_errors("MathTask.id_field", number, "Name the field of ids."):
                by_id.setdefault(self._id(row, number), []).append((number, row))
        named = {"ids": self.ids or [], "exclude": self.exclude}
        unknown = {setting: [id for id in ids if id not in by_id] for setting, ids in named.items()}
        raise_errors(
            ConfigError(
                f"MathTask.{setting}",
                f"names {', '.join(ids[:5])}; {self.data} has no such problem.",
                f"Its ids are like {', '.join(list(by_id)[:3])}.",
            )
            for setting, ids in unknown.items()
            if ids
        )
        order = list(by_id) if self.ids is None else self.ids
        return [pair for id in order if id not in self.exclude for pair in by_id[id]]

    def _id(self, row: Row, number: int) -> str:
        if self.id_field is not None:
            return text(field(row, self.id_field), self.id_field)
        return f"{self.name}-{number}" if row.get("id") is None else text(row["id"], "id")

    def _problem(self, row: Row, number: int) -> Problem:
        question = text(field(row, self.question_field), self.question_field)
        question = question.removesuffix(self._instruction).rstrip() if self._instruction else question
        answers = tuple(map(reference, texts(field(row, self.answers_field), self.answers_field)))
        meta = meta_of(row)
        if self.solution_field is not None:
            meta["solution"] = text(field(row, self.solution_field), self.solution_field)
        choices = texts(row.get("choices") or (), "choices")
        if choices:
            meta["choices"] = list(choices)
            if all(len(answer) == 1 and answer in LETTERS for answer in answers):
                question = with_choices(question, choices)
        return Problem(id=self._id(row, number), question=question, answers=answers, meta=meta)

    def prompt(self, problem: Problem) -> str:
        return self.template.replace(_PLACE, problem.question)


class MathBenchmark(Graded, Benchmark):
    """One named test set, with the prompts of the reference evaluation.

    In style "chat" the instruction is the system message, and the question, after worked examples where the entry
    has some, is the user message (rollout.chat true). In style "plain", for models without a chat template, prompts
    are a text with the instruction in front (rollout.chat false).

    Args:
        benchmark: name of the set: svamp, asdiv, mawps, tabmwp, minerva_math, olympiadbench, sat_math, mmlu_stem,
            gaokao, aime24; also math500, gsm8k, gaokao2024_I, gaokao2024_II, gaokao2024_mix, gaokao2023en.
        folder: a folder with a local copy of the set, see docs/benchmarks.md; null: from the hub.
        grading: "qwen" compares with published numbers; "strict" takes the last box of a response.
        shots: worked examples in front of a single-choice question; null: as many as the reference evaluation shows.
        style: "chat" or "plain".
        system: system message of style "chat"; null: the instruction of the reference evaluation.
        prompt: what is asked in place of the reference evaluation's prompt, with the template's own system message, as
            in training; {question} is replaced by the question. null: the reference evaluation's.
        **shared: timeout_s, steps, step_separator, environment, reward: see `Graded`.

    Raises:
        ConfigError: a setting is wrong; when problems are first asked for, also that the set is not available or not
            of the size it must be.
    """

    trained_on = "MathTask"

    def __init__(
        self,
        benchmark: str,
        folder: str | None = None,
        grading: Mode = "qwen",
        shots: NonNegativeInt | None = None,
        style: Style = "chat",
        system: str | None = None,
        prompt: QuestionPrompt | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(grading, **shared)
        self.entry = find_entry(ENTRIES, benchmark, "MathBenchmark.benchmark")
        self.name, self.title = self.entry.name, self.entry.title
        raise_errors(self._errors(shots, style, system, prompt))
        self.template = prompt
        self.shots = self.entry.shots if shots is None else shots
        self.folder = folder
        self.style = style
        self.system = (INSTRUCTION if system is None and prompt is None else system) if style == "chat" else None

    def _errors(self, shots: int | None, style: Style, system: str | None, prompt: str | None) -> Iterator[ConfigError]:
        available = len(self.entry.demonstrations)
        if shots is not None and shots > available:
            problem = f"is {shots}; {self.name} has {available} worked examples."
            yield ConfigError("MathBenchmark.shots", problem, "Use fewer.")
        if system is not None and style != "chat":
            yield ConfigError("MathBenchmark.system", f"is set, but style is {style!r}.", 'Use style "chat".')
        if shots and prompt is not None:
            yield ConfigError("MathBenchmark.shots", f"is {shots}, but prompt takes their place.", "Set one of them.")

    def load(self) -> list[Problem]:
        setting = "MathBenchmark.benchmark" if self.folder is None else "MathBenchmark.folder"
        return load_problems(self.entry, self.folder, setting)

    def prompt(self, problem: Problem) -> str:
        if self.template is not None:
            return self.template.replace(_PLACE, problem.question)
        shown = self.entry.demonstrations[: self.shots] if _single_choice(problem) else ()
        return _chat(shown, problem.question) if self.style == "chat" else _plain(shown, problem.question)

    def response(self, text: str) -> str:
        """In style "plain" a model may continue with a question of its own: only the text before that counts."""
        return text if self.style == "chat" else text.partition("\nQuestion:")[0]


class MathSuite(Suite):
    """Named test sets under one setting: by default the ten of Table 4, and MATH-500 to validate on.

    Args:
        names: what is tested on, in the order of the table; the sets that MathBenchmark names.
        validation: what is validated on during training. data.validation_limit shortens it.
        folder: a folder with local copies of the sets, see docs/benchmarks.md; null: from the hub.
        shots: worked examples in front of a single-choice question; null: as many as the reference evaluation shows.
        **shared: grading, style, system, prompt, timeout_s, steps, step_separator, environment, reward: see
            `MathBenchmark`.

    Raises:
        ConfigError: a name is unknown or comes twice, or there is none.
    """

    def __init__(
        self,
        names: list[str] | None = None,
        validation: list[str] | None = None,
        folder: str | None = None,
        shots: NonNegativeInt | None = None,
        **shared: Any,
    ) -> None:
        self.names = list(TABLE_4) if names is None else names
        self.validation = ["math500"] if validation is None else validation
        chosen = {"MathSuite.names": self.names, "MathSuite.validation": self.validation}
        for setting, names in chosen.items():
            check_names(setting, names)
        entries = [find_entry(ENTRIES, name, setting) for setting, names in chosen.items() for name in names]
        self._tasks = {
            entry.name: MathBenchmark(
                entry.name, folder=folder, shots=shots if entry.demonstrations else None, **shared
            )
            for entry in entries
        }

    def tasks(self, split: Split) -> dict[str, Task]:
        return {name: self._tasks[name] for name in (self.validation if split == "validation" else self.names)}


def _single_choice(problem: Problem) -> bool:
    """Whether the gold is one letter: what the reference evaluation shows worked examples before."""
    return len(problem.answers) == 1 and problem.answers[0] in list("ABCDE")


def _chat(shown: Sequence[Demonstration], question: str) -> str:
    """The user message: worked examples and the question, empty lines between them."""
    return "\n\n".join([*(f"{d.question}\n{d.answer}" for d in shown), question])


def _plain(shown: Sequence[Demonstration], question: str) -> str:
    """A text that the answer continues."""
    blocks = [f"Question: {d.question}\nAnswer: {d.answer}" for d in shown]
    return "\n\n".join([INSTRUCTION, *blocks, f"Question: {question}\nAnswer:"])
