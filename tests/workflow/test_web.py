"""The Web Q&A experiment through the command line: configs/web_qa_qwen.yaml, scaled to a CPU, with everything real.

The environment agent is one model behind vLLM's own server, which searches, judges and writes trajectories; the student
is a model of this process; training questions and the eight test sets are local files. Both models say next what their
last token asks for, so that what must come out is known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.simulator_data import main as make_sft_data
from ovd_lightning.tasks.web_benchmarks import TABLE_3
from tests.search.parts import save_byte_tokenizer, write_corpus
from tests.served import serve
from tests.tasks.web_rows import write_copies, write_jsonl
from tests.workflow import cli

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONTEXT = 8192
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>say"
)
DOCUMENT = "Doc 1: In Ostrava 7."
RIGHT, HALF = " Ostrava 7 ", " Ostrava "
ASKS = {"<search>": [" bridge 7 "], " bridge 7 ": ["</search>"], ">": ["<answer>"]}
"""A search, and once its documents have come, which end with a tag, an answer."""
STUDENT = {"y": ["<search>"], **ASKS, "<answer>": [RIGHT, HALF], RIGHT: ["</answer>"], HALF: ["</answer>"]}
"""Behind the chat template; right or half right with even chances."""
AGENT = {
    "y": [DOCUMENT], DOCUMENT: ["<eos>"],                                           # asked in chat: it plays the search
    ":": ["2", "8"],                                                                 # the scoring prompt ends so
    "\n": ["<search>"], **ASKS, "<answer>": [RIGHT], RIGHT: ["</answer>"],           # the task's prompt ends so
}  # fmt: skip


def save_model(folder: Path, after: Mapping[str, Sequence[str]]) -> str:
    """A Qwen2 whose next token depends on the last one alone, with even chances among those named."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    save_byte_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = dict.fromkeys(word for before, words in after.items() for word in (before, *words))
    tokenizer.add_tokens([word for word in words if len(word) > 1 and word != "<eos>"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings.copy_(torch.nn.functional.normalize(torch.randn_like(embeddings), dim=1))
        head.zero_()
        for before, chosen in after.items():
            for word in chosen:
                (start,), (token,) = (tokenizer.encode(text, add_special_tokens=False) for text in (before, word))
                head[token] += embeddings[start]
    model.save_pretrained(folder)
    return str(folder)


def write_data(folder: Path) -> None:
    write_copies(folder)
    answers = {"answers": ["Ostrava 7", "Town of Ostrava 7"]}
    rows = [{"id": f"t{i}", "question": f"Which town, number {i}, has bridge 7?", **answers} for i in range(6)]
    write_jsonl(folder / "train.jsonl", rows)


@dataclass(frozen=True)
class Laptop:
    """What a laptop has."""

    folder: Path
    student: str

    def run(self, verb: str, into: str, overlay: str, *rows: str, ckpt: str | None = None) -> Path:
        """``verb`` of rows of Table 3, at a laptop's size; the folder of the run."""
        folder = self.folder / into
        args = ["--config=configs/web_qa_qwen.yaml", *(f"--config=configs/web/{row}.yaml" for row in rows)]
        args += ["--config=configs/overlays/cpu.yaml", f"--config={self.folder / overlay}"]
        args += [f"--trainer.default_root_dir={folder}", *([f"--ckpt_path={ckpt}"] if ckpt else [])]
        done = cli.run(verb, *args)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        (folder / "said").write_text(done.stdout + done.stderr)
        return folder


def write_overlay(laptop: Laptop, name: str, search: dict[str, Any], method: dict[str, Any] | None = None) -> None:
    """What a laptop must change: models, data and where the servers are."""
    environment = {"init_args": {"search": search, "observation_suffix": "</information>"}}
    overlay: dict[str, Any] = {
        "model": {"student": laptop.student},
        "task": {"init_args": {"data": str(laptop.folder / "train.jsonl"), "environment": environment}},
        "data": {"benchmarks": {"init_args": {"folder": str(laptop.folder), "environment": environment}}},
        "trainer": {"strategy": "auto"},
    }
    if method is not None:
        overlay["method"] = method
    (laptop.folder / name).write_text(yaml.safe_dump(overlay))


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    folder = tmp_path_factory.mktemp("web")
    write_data(folder)
    return Laptop(folder, save_model(folder / "student", STUDENT))


@pytest.fixture(scope="module")
def fitted(laptop: Laptop) -> Iterator[Path]:
    """OVD with the environment agent behind a server, two rounds."""
    agent = save_model(laptop.folder / "agent", AGENT)
    with serve(agent, "agent", CONTEXT, laptop.folder / "server.log") as url:
        search = {"init_args": {"engine": {"init_args": {"base_url": url, "model": "agent"}}}}
        judge = {"base_url": url, "model": "agent", "tokenizer": agent}
        teacher = {"init_args": {"engine": {"init_args": judge}, "cache": str(laptop.folder / "scores.sqlite")}}
        method = {"init_args": {"teacher": teacher, "judged": "all"}}
        write_overlay(laptop, "agent.yaml", search, method)
        yield laptop.run("fit", "ovd", "agent.yaml", "ovd_train5")


def test_the_settings_are_the_papers_where_a_laptop_can_keep_them(fitted: Path) -> None:
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    method = config["method"]["init_args"]
    assert (method["threshold"], method["group_size"], method["kl_coefficient"]) == (5, 5, 0.001)
    assert (config["model"]["learning_rate"], config["model"]["warmup_fraction"]) == (1e-6, 0.95)
    assert (config["rollout"]["temperature"], config["data"]["mini_batches"]) == (1.0, 2)
    environment = config["task"]["init_args"]["environment"]["init_args"]
    assert (environment["top_k"], environment["max_turns"], environment["max_turn_tokens"]) == (5, 5, 500)
    search = environment["search"]["init_args"]
    assert (search["noise_start"], search["noise_end"], search["temperature"]) == (0.0, 0.5, 0.8)


def test_one_model_searches_judges_and_demonstrates(fitted: Path) -> None:
    lines = cli.transcripts(fitted)
    sampled = [line for line in lines if line["source"] == "student"]
    written = [line for line in lines if line["source"] == "teacher"]
    assert len(sampled) == 2 * 4 * 5
    whole = f"<search> bridge 7 </search>\n\n<information>{DOCUMENT}</information><answer>{RIGHT}</answer>"
    texts = Counter(line["text"] for line in sampled)
    assert texts[whole] > 10
    assert texts[whole.replace(RIGHT, HALF)] > 10
    assert {round(line["reward"], 3) for line in sampled} >= {1.0, 0.667}, "F1"
    assert Counter(line["text"] for line in written).most_common(1)[0][0] == whole, "in the same environment"
    scores = [step["score"] for line in sampled for step in line["steps"]]
    assert {2.0, 8.0} <= {*scores}, "drawn from the distribution that the server reports"
    for line in sampled:
        assert line["accepted"] is (line["score"] >= 5)
        assert line["turns"] == 2 or line["text"] not in (whole, whole.replace(RIGHT, HALF))
        if line["in_mixture"]:
            assert line["accepted"]
            assert line["correct"]
    for line in written:
        assert line["advantage"] == line["reward"]
    for row in cli.rounds(fitted):
        assert row["score/mass"] > 0.9
        assert row["environment/searches"] > 0
        assert row["environment/simulator_prompt_tokens"] > 0
        assert row["ovd/replaced_fraction"] > 0.3
        assert row["ovd/teacher_reward"] > 0.9
        assert row["policy/grad_norm"] > 0
    measured = [row for row in cli.metrics(fitted) if "test/average/em" in row]
    assert {f"test/{name}/{kind}" for name in TABLE_3 for kind in ("em", "sub_em", "f1")} <= measured[-1].keys()
    assert any("eval/nq_dev/em" in row for row in cli.metrics(fitted))


def test_a_row_of_table_3_under_testing_rejection(laptop: Laptop, fitted: Path) -> None:
    """theta_test 10: the agent rewrites every step, and knows the answer to question 7."""
    folder = laptop.run(
        "test", "rejected", "agent.yaml", "ovd_train5_test10", ckpt=str(fitted / "student")
    )  # fmt: skip
    table = json.loads((folder / "evaluations/test-000000.json").read_text())
    assert list(table["benchmarks"]) == list(TABLE_3)
    assert table["settings"]["model"] == str(fitted / "student")
    rejection = table["settings"]["rejection"]
    assert (rejection["threshold"], rejection["score_reading"]) == (10, "argmax")
    for name, found in table["benchmarks"].items():
        assert found["answered"] == 8
        assert found["tells_answer"] is True
        scores = {kind: score["value"] for kind, score in found["scores"].items()}
        assert scores["teacher_step_share"] > 0.9
        assert scores["em"] == pytest.approx((name != "gaia") / 8, abs=0.13)
    assert "told the answers" in (folder / "said").read_text()


def test_search_r1_on_a_local_corpus_and_what_a_simulator_can_learn_of_it(
    laptop: Laptop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GRPO, exact match as reward, no server; its transcripts become data for a simulator."""
    corpus = write_corpus(laptop.folder / "corpus.jsonl", [(f"bridge {i}", f"In Ostrava {i}.") for i in range(20)])
    search = {"init_args": {"corpus": str(corpus), "index": str(tmp_path / "index")}}
    write_overlay(laptop, "bm25.yaml", search)
    folder = laptop.run("fit", "search_r1", "bm25.yaml", "search_r1_bm25")
    lines = cli.transcripts(folder)
    assert {line["source"] for line in lines} == {"student"}
    assert {line["reward"] for line in lines} == {0.0, 1.0}
    assert sum("<information>Doc 1(Title: bridge 7) In Ostrava 7." in line["text"] for line in lines) > 30
    table = json.loads((folder / "evaluations/test-000004.json").read_text())
    assert not any(found["tells_answer"] for found in table["benchmarks"].values())
    assert table["settings"]["rejection"] is None
    make_sft_data([str(folder), "--out", str(tmp_path / "sft"), "--validation", "0"])
    rows = [json.loads(line) for line in (tmp_path / "sft/train.jsonl").open()]
    assert any("Doc 1(Title: bridge 7) In Ostrava 7." in row["messages"][-1]["content"] for row in rows)
    assert "useful" in capsys.readouterr().out
