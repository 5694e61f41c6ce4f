"""Web Q&A: short answers to questions that take a search or several. Training problems and the paper's eight test sets.

A trajectory is (query, documents, reasoning) x K and an answer (A.5), in the protocol of web_protocol.py. The reward is
the F1 of the answer's words (eq. 2). The task's environment replies to the queries.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.metrics import exact_match, f1_score, sub_exact_match
from ovd_lightning.settings.ranges import HalfOpenUnitInterval, PositiveInt
from ovd_lightning.settings.texts import NonEmptyText
from ovd_lightning.tasks.base import Benchmark, Split, Suite, Task, check_names
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.rewards import RewardFunction
from ovd_lightning.tasks.sources import Row, Source, Splits, field, load_rows, make_problems, meta_of, text
from ovd_lightning.tasks.web_benchmarks import SAMPLE, TABLE_3, aliases, find_entry, load_problems
from ovd_lightning.tasks.web_documents import AnswerOnly, Retrieval
from ovd_lightning.tasks.web_protocol import (
    DOCUMENTS,
    MARKS,
    QUESTION,
    TAGS,
    TEMPLATES,
    Protocol,
    extract_answer,
    fill,
    step_spans,
)
from ovd_lightning.types import Grade, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["WebQA", "WebQABenchmark", "WebQASuite", "WebQATask", "extract_answer"]

logger = logging.getLogger(__name__)

Reward = Literal["f1", "em"]
AGENTS = ("ra_agent", "search_o1")
"""Templates in Search-o1's protocol."""
CorrectWhen = Literal["em", "sub_em", "f1"]

ANSWER_FIELDS = ("answers", "golden_answers", "reward_model.ground_truth.target")
"""Of the common shape, of FlashRAG, and of files made for verl."""


class WebQA(Task):
    """What all Web Q&A shares: prompt, steps, grading. A task that makes its own problems derives from it.

    Args:
        environment: replies to searches, e.g. a SearchEnvironment; null: there are no replies, and generation ends with
            the answer.
        template: "search" (the protocol of Search-R1), or one of Table 3's baselines: "direct" and "cot", which take
            no environment, and "rag", whose environment is searched once, with the question, for documents that go
            into the prompt; "ra_agent" and "search_o1" are for an AgenticSearchEnvironment. Or a text with {question},
            and with {documents} for such documents.
        reward: "f1" (eq. 2) or "em", or module.function that gives it for a response to a problem.
        correct_when: what "incorrect" means in Algorithm 1, which the paper leaves open where the reward is soft:
            a response is correct when its "em" or "sub_em" is 1, or when its "f1" is at least f1_minimum. It is also
            what evaluations call accuracy.
        f1_minimum: see correct_when.
        system: system message where rollout.chat is true; null: the chat template's own.

    Raises: ConfigError for settings that do not go together.
    """

    name = "web_qa"
    metrics = ("em", "sub_em", "f1")
    own_rewards = get_args(Reward)

    def __init__(
        self,
        environment: Environment | None = None,
        template: str = "search",
        reward: str | RewardFunction = "f1",
        correct_when: CorrectWhen = "em",
        f1_minimum: HalfOpenUnitInterval = 1.0,
        system: str | None = None,
    ) -> None:
        kind = type(self).__name__
        self.template = TEMPLATES.get(template, template)
        self.protocol: Protocol = getattr(environment, "protocol", TAGS)
        raise_errors(self._template_errors(template, environment))
        super().__init__(None if reward in self.own_rewards else reward)
        self.reward: Reward = reward if reward in self.own_rewards else "f1"  # type: ignore[assignment]
        if environment is None and template == "search":
            logger.warning("%s.template is %r without an environment: nothing replies to a search", kind, template)
        self.environment = environment or AnswerOnly()
        self._retrieval = None if environment is None or DOCUMENTS not in self.template else Retrieval(environment)
        if self._retrieval is not None:
            self.environment = self._retrieval
        self.correct_when, self.f1_minimum = correct_when, f1_minimum
        self.system = system
        self.tells_answer = bool(getattr(environment, "tells_answer", False))
        """The environment sees the answers: results measured with it are not the student's alone."""

    def _template_errors(self, template: str, environment: Environment | None) -> Iterator[ConfigError]:
        kind = type(self).__name__
        if QUESTION not in self.template:
            known = ", ".join(TEMPLATES)
            yield ConfigError(f"{kind}.template", f"is {template!r}.", f"Use {known}, or a text with {QUESTION}.")
        if DOCUMENTS in self.template and environment is None:
            yield ConfigError(f"{kind}.template", "needs documents.", f"Give {kind}.environment, which finds them.")
        if template in AGENTS and self.protocol is not MARKS:
            hint = f"Give {kind}.environment one, as in configs/search/{template}.yaml."
            yield ConfigError(f"{kind}.template", f"{template!r} needs an AgenticSearchEnvironment.", hint)
        elif self.protocol is MARKS and (DOCUMENTS in self.template or template in {*TEMPLATES} - {*AGENTS}):
            name = type(environment).__name__
            hint = f"Use {' or '.join(AGENTS)}, or give {kind}.environment a SearchEnvironment."
            yield ConfigError(f"{kind}.template", f"asks for other searches than {name} reads.", hint)
        if DOCUMENTS in self.template and environment is not None and environment.asks_student:
            hint = "Use a search engine that gives the documents themselves."
            yield ConfigError(f"{kind}.environment", "asks the student, and these documents come before it.", hint)
        if template in ("direct", "cot") and environment is not None:
            hint = f'Set {kind}.environment to null, or use "search".'
            yield ConfigError(f"{kind}.template", f"{template!r} does not search.", hint)

    def prompt(self, problem: Problem) -> str:
        documents = "" if self._retrieval is None else self._retrieval.documents(problem)
        return fill(self.template, problem.question, documents, getattr(self.environment, "max_searches", None))

    def split_steps(
        self, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        """Triples (query, documents, reasoning): see `step_spans`."""
        return step_spans(token_ids, tokenizer, mask, self.protocol)

    def grade(self, response: str, problem: Problem) -> Grade:
        """Of the last ``<answer>``, or ``\\boxed``; without one, all scores are 0."""
        answer = self.protocol.answer(response)
        scores = {
            "em": exact_match(answer, problem.answers),
            "sub_em": sub_exact_match(answer, problem.answers),
            "f1": f1_score(answer, problem.answers),
        }
        least = self.f1_minimum if self.correct_when == "f1" else 1.0
        return Grade(
            reward=scores[self.reward],
            correct=scores[self.correct_when] >= least,
            answer=answer,
            how=None if answer is None else self.protocol.how,
            metrics=scores,
        )

    def _expect(self, problems: Sequence[Problem]) -> None:
        if self._retrieval is not None:
            self._retrieval.expect(problems)


class WebQATask(WebQA):
    """Problems to train on: a set of the hub, a file or a folder.

    A row is a problem. Rows of the common shape (docs/web_qa.md), of FlashRAG and of Search-R1's files need no
    further setting; others are read by naming their fields.

    Args:
        data: a hub id like "PeterJinGo/nq_hotpotqa_train" (what Search-R1 trains on), or the path of a .jsonl, .json,
            .parquet, .csv or .tsv file or of a folder of such.
        config: configuration of a hub set that has several.
        file: path of one file within a hub set; null: all of it, by config and split.
        split: what to train on, with slices as in "train[:90%]". A file is all one split, named "train".
        validation_split: problems of the same data to validate on; null: none, see data.benchmarks.
        test_split: problems of the same data to test on; null: none.
        revision: branch, tag or commit of a hub set.
        question_field: field of the question; dots lead into nested fields.
        answers_field: field of the reference answer and its aliases; null: the first there is of "answers",
            "golden_answers" and "reward_model.ground_truth.target".
        id_field: field of the problem's id; null: "id" after "data_source" as far as the rows have them, else the
            row's number.
        **shared: environment, template, reward, correct_when, f1_minimum, system: see `WebQA`.

    Raises: ConfigError: a setting is wrong; when problems are first asked for, also that the data are.
    """

    def __init__(
        self,
        data: NonEmptyText,
        config: str | None = None,
        file: str | None = None,
        split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = None,
        revision: str | None = None,
        question_field: str = "question",
        answers_field: str | None = None,
        id_field: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.data, self.config, self.file, self.revision = data, config, file, revision
        self.question_field, self.answers_field, self.id_field = question_field, answers_field, id_field
        parts: dict[Split, str | None] = {"train": split, "validation": validation_split, "test": test_split}
        self._splits = Splits("WebQATask", data, parts, self._load)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._splits.problems(split)

    def _load(self, split: Split, part: str) -> list[Problem]:
        source = Source(data=self.data, config=self.config, file=self.file, split=part, revision=self.revision)
        hint = "Say which fields hold the question, the answers and the id (question_field, answers_field, id_field)."
        problems = make_problems(enumerate(load_rows(source, "WebQATask.data")), self._problem, "WebQATask.data", hint)
        self._expect(problems)
        return problems

    def _problem(self, row: Row, number: int) -> Problem:
        question = text(field(row, self.question_field), self.question_field)
        return Problem(id=self._id(row, number), question=question, answers=self._answers(row), meta=meta_of(row))

    def _id(self, row: Row, number: int) -> str:
        if self.id_field is not None:
            return text(field(row, self.id_field), self.id_field)
        if row.get("id") is None:
            return f"{self.name}-{number}"
        return "-".join(text(row[name], name) for name in ("data_source", "id") if row.get(name) is not None)

    def _answers(self, row: Row) -> tuple[str, ...]:
        if self.answers_field is not None:
            return aliases(row, self.answers_field)
        for name in ANSWER_FIELDS[:-1]:
            if row.get(name) is not None:
                return aliases(row, name)
        return aliases(row, ANSWER_FIELDS[-1])


class WebQABenchmark(WebQA, Benchmark):
    """One named test set.

    Args:
        benchmark: name of the set: nq, triviaqa, popqa, hotpotqa, 2wikimultihopqa, musique, bamboogle, gaia; also
            nq_dev.
        folder: a folder with a local copy of the set, see docs/web_qa.md; null: from the hub.
        limit: the set's first problems, the papers' 500; null: the complete split.
        **shared: environment, template, reward, correct_when, f1_minimum, system: see `WebQA`.

    Raises: ConfigError: a setting is wrong; when problems are first asked for, also that the set is not available or is
        not of the size it must be.
    """

    trained_on = "WebQATask"

    def __init__(
        self,
        benchmark: str,
        folder: str | None = None,
        limit: PositiveInt | None = SAMPLE,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.entry = find_entry(benchmark, "WebQABenchmark.benchmark")
        self.name, self.title = self.entry.name, self.entry.title
        self.folder, self.limit = folder, limit

    def load(self) -> list[Problem]:
        setting = "WebQABenchmark.benchmark" if self.folder is None else "WebQABenchmark.folder"
        problems = load_problems(self.entry, self.folder, self.limit, setting)
        self._expect(problems)
        return problems


class WebQASuite(Suite):
    """Named test sets under one setting: by default the eight of Table 3.

    Args:
        names: what is tested on, in the order of the table; the sets that WebQABenchmark names.
        validation: what is validated on during training; by default NQ and HotpotQA, whose training questions the
            references train on. data.validation_limit shortens it. The same rows are tested on, so do not choose a
            checkpoint or a setting by them: nq_dev is there for that.
        folder: a folder with local copies of the sets, see docs/web_qa.md; null: from the hub.
        limit: the first problems of each set, the papers' 500; null: complete splits.
        **shared: environment, template, reward, correct_when, f1_minimum, system: see `WebQA`.

    Raises: ConfigError: a name is unknown or comes twice, or there is none; or another setting is wrong.
    """

    def __init__(
        self,
        names: list[str] | None = None,
        validation: list[str] | None = None,
        folder: str | None = None,
        limit: PositiveInt | None = SAMPLE,
        **shared: Any,
    ) -> None:
        self.names = self._known("names", TABLE_3 if names is None else names)
        self.validation = self._known("validation", ("nq", "hotpotqa") if validation is None else validation)
        self._tasks = {
            name: WebQABenchmark(name, folder=folder, limit=limit, **shared)
            for name in dict.fromkeys((*self.names, *self.validation))
        }

    @staticmethod
    def _known(setting: str, chosen: Sequence[str]) -> list[str]:
        names = [find_entry(name, f"WebQASuite.{setting}").name for name in chosen]
        check_names(f"WebQASuite.{setting}", names)
        return names

    def tasks(self, split: Split) -> dict[str, Task]:
        return {name: self._tasks[name] for name in (self.validation if split == "validation" else self.names)}
