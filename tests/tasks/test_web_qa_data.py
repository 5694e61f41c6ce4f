"""The eight sets of Table 3: rows, sizes, where they come from; and training problems."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.data import OVDDataModule
from ovd_lightning.errors import ConfigError
from ovd_lightning.loader import ProblemLoader
from ovd_lightning.tasks.environment import Environment, Reply
from ovd_lightning.tasks.web_benchmarks import ENTRIES, TABLE_3, load_problems
from ovd_lightning.tasks.web_qa import WebQABenchmark, WebQASuite, WebQATask
from tests.tasks.web_rows import common_rows, own_rows, write_copies, write_jsonl, write_parquet

DOCS = Path(__file__).parents[2] / "docs" / "web_qa.md"
DENOMINATORS = {**dict.fromkeys(TABLE_3[:6], 500), "bamboogle": 125, "gaia": 165}
WHOLE = {
    "nq": 3610,
    "triviaqa": 11313,
    "popqa": 14267,
    "hotpotqa": 7405,
    "2wikimultihopqa": 12576,
    "musique": 2417,
    "bamboogle": 125,
    "gaia": 165,
}


class Silent(Environment):
    tells_answer = True

    def reply(self, turns: Any, progress: float | None = None) -> list[Reply]:
        return [Reply(done=True) for _ in turns]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_copies(tmp_path_factory.mktemp("copies"))


def benchmark(name: str, folder: str | Path | None, limit: int | None = 500) -> WebQABenchmark:
    return WebQABenchmark(name, folder=None if folder is None else str(folder), limit=limit, template="direct")


# ------------------------------------------------------------------------ sizes


def test_the_eight_of_table_3_have_the_denominators_of_the_papers(copies: str) -> None:
    suite = WebQASuite(folder=copies, template="direct")
    tasks = suite.tasks("test")
    assert list(tasks) == ["nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "gaia"]
    assert {name: len(task.problems("test")) for name, task in tasks.items()} == DENOMINATORS
    titles = [task.title for task in tasks.values()]  # type: ignore[attr-defined]
    assert titles == ["NQ", "TriviaQA", "PopQA", "HotpotQA", "2Wiki", "Musique", "Bamboogle", "GAIA"]
    assert {name: ENTRIES[name].size for name in TABLE_3} == WHOLE


@pytest.mark.parametrize("name", TABLE_3)
def test_no_rank_drops_a_problem(copies: str, name: str) -> None:
    problems = benchmark(name, copies).problems("test")
    answered = [
        p.id for rank in range(3) for batch in ProblemLoader(name, problems, 64, rank, 3) for p in batch.problems
    ]
    assert sorted(answered) == sorted(p.id for p in problems)
    assert len(answered) == DENOMINATORS[name]


@pytest.mark.parametrize("name", ["bamboogle", "gaia", "nq"])
def test_a_file_with_too_few_rows_is_noticed(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / f"{name}.jsonl", own_rows(name, DENOMINATORS[name] - 1))
    with pytest.raises(ConfigError, match=f"has {DENOMINATORS[name] - 1} rows, not {ENTRIES[name].size}") as caught:
        benchmark(name, tmp_path).problems("test")
    assert caught.value.setting == "WebQABenchmark.folder"


@pytest.mark.parametrize("name", ["bamboogle", "gaia"])
def test_a_file_with_too_many_rows_is_noticed(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / f"{name}.jsonl", own_rows(name, ENTRIES[name].size + 1))
    with pytest.raises(ConfigError, match=f"not {ENTRIES[name].size}"):
        benchmark(name, tmp_path).problems("test")


def test_the_whole_split_must_be_whole(copies: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 500 rows, not 2417"):
        benchmark("musique", copies, limit=None).problems("test")
    write_jsonl(tmp_path / "musique" / "dev.jsonl", own_rows("musique"))
    assert len(benchmark("musique", tmp_path, limit=None).problems("test")) == 2417
    first = benchmark("musique", tmp_path).problems("test")
    assert [p.id for p in first] == [f"musique-dev_{i}" for i in range(500)]


def test_a_sample_that_is_not_the_head_of_the_split_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = common_rows("popqa", 600)
    with caplog.at_level(logging.WARNING):
        write_jsonl(tmp_path / "popqa.jsonl", rows)
        benchmark("popqa", tmp_path).problems("test")
        assert not caplog.text
        write_jsonl(tmp_path / "popqa.jsonl", rows[50:])
        benchmark("popqa", tmp_path).problems("test")
        assert "500 problems are not the first of the split" in caplog.text


# ------------------------------------------------------------- what a row means


@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "gaia"])
def test_flashrags_fields_and_the_common_shape_mean_the_same(tmp_path: Path, name: str) -> None:
    size = ENTRIES[name].rows(500)
    files = ENTRIES[name].files
    assert len(set(files)) == 2
    write_jsonl(tmp_path / "own" / f"{files[1]}.jsonl", own_rows(name, size))
    write_parquet(tmp_path / "common" / f"{files[0]}.parquet", common_rows(name, size))
    own = benchmark(name, tmp_path / "own").problems("test")
    common = benchmark(name, tmp_path / "common").problems("test")
    assert [(p.id, p.question, p.answers) for p in own] == [(p.id, p.question, p.answers) for p in common]
    split = ENTRIES[name].source.split
    assert own[7].id == f"{name}-{split}_7"
    assert own[7].answers == ("Ostrava 7", "Town of Ostrava 7")  # an empty alias is none: it would be in any answer
    assert own[7].meta == {"flashrag_id": f"{split}_7", "benchmark": name}


def test_gaias_own_fields(copies: str) -> None:
    problems = benchmark("gaia", copies).problems("test")
    assert (problems[4].id, problems[4].answers) == ("gaia-0000-0004", ("Ostrava 4",))
    assert problems[4].meta == {"level": "2", "has_attachment": True, "file_name": "4.xlsx", "benchmark": "gaia"}
    assert problems[5].meta == {"level": "3", "has_attachment": False, "benchmark": "gaia"}
    assert sum(p.meta["has_attachment"] for p in problems) == 42  # kept: the denominator is 165


def test_a_snapshot_of_gaias_hub_set_will_do(tmp_path: Path) -> None:
    write_parquet(tmp_path / "2023" / "validation" / "metadata.parquet", own_rows("gaia"))
    assert len(benchmark("gaia", tmp_path).problems("test")) == 165


@pytest.mark.parametrize(("other", "name"), [("2wiki", "2wikimultihopqa"), ("hotpot", "hotpotqa")])
def test_other_names(copies: str, other: str, name: str) -> None:
    assert benchmark(other, copies).name == name


def test_a_row_that_is_none_is_named(tmp_path: Path) -> None:
    rows = own_rows("bamboogle")
    rows[3] = {**rows[3], "golden_answers": [" "]}
    write_jsonl(tmp_path / "bamboogle.jsonl", rows)
    with pytest.raises(ConfigError, match=r"row 3 \(bamboogle-test_3\) has an empty answer"):
        benchmark("bamboogle", tmp_path).problems("test")
    write_jsonl(tmp_path / "bamboogle.jsonl", [{"id": row["id"], "question": row["question"]} for row in rows])
    with pytest.raises(ConfigError, match="no field 'golden_answers'; it has id, question") as caught:
        benchmark("bamboogle", tmp_path).problems("test")
    assert "docs/web_qa.md" in caught.value.hint


# --------------------------------------------------------------------- the hub


def run_on_hub(home: Path, *command: str, endpoint: str = "") -> subprocess.CompletedProcess[str]:
    extra = {"HF_ENDPOINT": endpoint} if endpoint else {}
    environment = {**os.environ, "HF_HOME": str(home), **extra}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_set_loads_from_the_hub_in_its_own_fields(tmp_path: Path) -> None:
    """From a hub on this machine, whole splits, in the file that their entries name."""
    for name, entry in ENTRIES.items():
        assert entry.source.file is not None
        write = write_parquet if entry.source.file.endswith(".parquet") else write_jsonl
        write(tmp_path / "hub" / entry.source.data / entry.source.file, own_rows(name))
    program = (
        "import json, sys\n"
        "from ovd_lightning.tasks.web_qa import WebQABenchmark\n"
        "for name in sys.argv[1:]:\n"
        "    problems = WebQABenchmark(name, template='direct').problems('test')\n"
        "    print(json.dumps([name, len(problems), problems[1].id]))\n"
    )
    command = [sys.executable, "-m", "tests.hub", str(tmp_path / "hub"), sys.executable, "-c", program, *ENTRIES]
    done = run_on_hub(tmp_path / "home", *command)
    assert done.returncode == 0, done.stderr
    ids = {name: "gaia-0000-0001" if name == "gaia" else f"{name}-{e.source.split}_1" for name, e in ENTRIES.items()}
    expected = [[name, DENOMINATORS.get(name, 500), ids[name]] for name in ENTRIES]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


GATE = """
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Gate(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_HEAD = do_POST = answer
    def log_message(self, *args): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
threading.Thread(target=server.serve_forever, daemon=True).start()
import os
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from ovd_lightning.errors import ConfigError
from ovd_lightning.tasks.web_qa import WebQABenchmark
try:
    WebQABenchmark("gaia", template="direct").problems("test")
except ConfigError as error:
    print(error)
"""


def test_without_access_gaia_says_how_to_get_it(tmp_path: Path) -> None:
    done = run_on_hub(tmp_path / "home", sys.executable, "-c", GATE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("WebQABenchmark.benchmark: gaia-benchmark/GAIA")
    assert "GatedRepoError" in done.stdout
    assert "accept its terms at https://huggingface.co/datasets/gaia-benchmark/GAIA" in done.stdout
    assert "hf auth login" in done.stdout
    assert "--local-dir FOLDER" in done.stdout


def test_a_folder_without_gaia_says_so_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no gaia") as caught:
        benchmark("gaia", tmp_path).problems("test")
    assert "gaia.jsonl" in caught.value.hint
    assert "gated" in caught.value.hint
    with pytest.raises(ConfigError, match="has no nq") as caught:
        benchmark("nq", tmp_path).problems("test")
    assert (
        caught.value.hint == "Give a folder with one of nq.jsonl, nq.json, nq.parquet, nq.csv, nq.tsv, "
        "nq/test.jsonl, nq/test.json, nq/test.parquet, nq/test.csv, nq/test.tsv."
    )
    with pytest.raises(ConfigError, match="is not a folder"):
        benchmark("nq", tmp_path / "nowhere").problems("test")


# -------------------------------------------------------------------- the suite


def test_a_suite_shares_its_setting(copies: str) -> None:
    environment = Silent()
    suite = WebQASuite(["nq", "2wiki"], ["bamboogle"], copies, limit=20, environment=environment, system="Search.")
    assert list(suite.tasks("test")) == ["nq", "2wikimultihopqa"]
    assert list(suite.tasks("validation")) == ["bamboogle"]
    for task in (*suite.tasks("test").values(), *suite.tasks("validation").values()):
        assert (task.environment, task.system, len(task.problems("test"))) == (environment, "Search.", 20)
        assert task.tells_answer  # type: ignore[attr-defined]


def test_a_suite_validates_on_the_sets_of_the_training_questions(copies: str) -> None:
    suite = WebQASuite(folder=copies, template="direct")
    assert list(suite.tasks("validation")) == ["nq", "hotpotqa"]
    data = OVDDataModule(WebQATask(f"{copies}/nq.jsonl", template="direct"), benchmarks=suite, validation_limit=10)
    assert {name: len(problems) for name, problems in data.eval_problems("validation").items()} == {
        "nq": 10,
        "hotpotqa": 10,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"names": ["nq", "squad"]}, "'squad', which is no test set. There are nq, triviaqa"),
        ({"names": []}, "at least one"),
        ({"names": ["2wiki", "2wikimultihopqa"]}, "once"),
        ({"validation": ["nq", "nq"]}, "once"),
    ],
)
def test_a_suite_of_wrong_names(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WebQASuite(**settings, template="direct")


def test_a_test_set_is_not_trained_on(copies: str) -> None:
    with pytest.raises(ConfigError, match="NQ, a test set"):
        benchmark("nq", copies).problems("train")


def test_the_documentation_lists_every_entry() -> None:
    lines = DOCS.read_text().splitlines()
    for name, entry in ENTRIES.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert f"| {entry.title} |" in line
        assert f"| `{entry.source.data}` : `{entry.source.file}` | `{entry.aliases}` |" in line
        assert line.endswith(f"| {entry.origin} |")
        assert f"| {entry.size} |" in line
        assert f"| {entry.rows(500)} |" in line


# -------------------------------------------------------------------- training


def train(path: str, **settings: Any) -> WebQATask:
    return WebQATask(path, template="direct", **settings)


def test_files_made_for_search_r1_need_no_setting(tmp_path: Path) -> None:
    """Two sources with the same ids, as Search-R1's training file has them."""
    rows = [
        {
            "id": f"train_{i}",
            "question": f"{source} question {i}?",
            "golden_answers": [f"answer {i}"],
            "data_source": source,
            "prompt": [{"role": "user", "content": "..."}],
            "reward_model": {"ground_truth": {"target": [f"answer {i}"]}, "style": "rule"},
        }
        for source in ("nq", "hotpotqa")
        for i in range(2)
    ]
    problems = train(write_parquet(tmp_path / "train.parquet", rows)).problems("train")
    assert [p.id for p in problems] == ["nq-train_0", "nq-train_1", "hotpotqa-train_0", "hotpotqa-train_1"]
    assert problems[3].answers == ("answer 1",)
    bare = [{key: row[key] for key in ("question", "reward_model")} for row in rows]
    problems = train(write_jsonl(tmp_path / "bare.jsonl", bare)).problems("train")
    assert [(p.id, p.answers) for p in problems[:2]] == [("web_qa-0", ("answer 0",)), ("web_qa-1", ("answer 1",))]


def test_fields_by_name_and_slices(tmp_path: Path) -> None:
    rows = [{"key": i, "q": {"text": f"who {i}"}, "a": i} for i in range(10)]
    task = train(
        write_jsonl(tmp_path / "a.jsonl", rows),
        question_field="q.text",
        answers_field="a",
        id_field="key",
        split="train[:8]",
        validation_split="train[8:]",
    )
    assert [(p.id, p.question, p.answers) for p in task.problems("train")[:1]] == [("0", "who 0", ("0",))]
    assert [p.id for p in task.problems("validation")] == ["8", "9"]
    with pytest.raises(ConfigError, match="test_split: is not set"):
        task.problems("test")


def test_splits_that_share_a_question(tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": f"who {i % 9}", "answers": ["x"]} for i in range(10)]
    task = train(write_jsonl(tmp_path / "a.jsonl", rows), split="train[:8]", validation_split="train[8:]")
    with pytest.raises(ConfigError, match="1 of its questions are trained on, the first is '9'"):
        task.problems("validation")


def test_fields_that_are_missing_are_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "question": "who", "solution": "y"}])
    with pytest.raises(ConfigError, match=r"no field .reward_model\.ground_truth\.target.; it has") as caught:
        train(path).problems("train")
    assert "answers_field" in caught.value.hint


# ------------------------------------------------------------------ the real sets

FOLDER = os.environ.get("OVD_BENCHMARK_DATA", "")


@pytest.mark.skipif(not FOLDER, reason="name a folder with the sets (docs/web_qa.md) in OVD_BENCHMARK_DATA")
@pytest.mark.parametrize("name", TABLE_3[:7])
def test_the_real_sets(name: str) -> None:
    """Every row is a problem, and its gold is graded right."""
    task = benchmark(name, FOLDER)
    problems = task.problems("test")
    assert len(problems) == DENOMINATORS[name]
    path = next(p for p in (Path(FOLDER) / f"{name}.jsonl", Path(FOLDER) / f"{name}.parquet") if p.exists())
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    assert [p.id for p in problems] == [row["id"] for row in rows[: len(problems)]]
    for problem in problems:
        for alias in problem.answers:
            grade = task.grade(f"<think> ... </think> <answer> {alias} </answer>", problem)
            assert (grade.correct, grade.metrics["sub_em"]) == (True, 1.0), (problem, alias)
    if len(rows) < ENTRIES[name].size:
        with pytest.raises(ConfigError, match="rows, not"):
            load_problems(ENTRIES[name], FOLDER, None, "folder")
