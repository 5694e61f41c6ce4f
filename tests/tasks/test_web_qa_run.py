"""All eight sets through the real ``test`` command: a tiny model that searches, BM25 that finds, known scores."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.tasks.web_benchmarks import ENTRIES, TABLE_3
from tests.search.parts import save_byte_tokenizer, write_corpus
from tests.tasks.web_rows import write_copies
from tests.workflow import cli

ASKS, ANSWERS = ["<search>", " bridge 7 ", "</search>"], ["<answer>", " Ostrava 7 ", "</answer>"]
SAYS = {"search": {"\n": ASKS, ">": ANSWERS}, "rag": {"\n": ANSWERS}}
"""What the model says after a text that ends so: a prompt ends with a line, an observation with a tag."""
LIMIT = 20


def save_model(folder: Path, says: dict[str, list[str]]) -> str:
    """A Qwen2 whose next token depends on the last one alone: layers add nothing, and the head holds, for each token,
    the embedding of the one that it follows."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    save_byte_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([word for words in says.values() for word in words])
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=4096,
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
        for end, words in says.items():
            tokens = [tokenizer.encode(end)[-1], *(tokenizer.convert_tokens_to_ids(word) for word in words)]
            for before, after in pairwise(tokens):
                head[after] = embeddings[before]
    model.save_pretrained(folder)
    return str(folder)


def overlay(folder: Path, data: str, template: str = "search") -> str:
    """What a config of Web Q&A says, for this model."""
    corpus = write_corpus(folder / "corpus.jsonl", [(f"bridge {i}", f"In Ostrava {i}.") for i in range(60)])
    environment: dict[str, Any] = {
        "class_path": "ovd_lightning.tasks.search.SearchEnvironment",
        "init_args": {
            "search": {
                "class_path": "ovd_lightning.search.bm25.BM25Search",
                "init_args": {"corpus": str(corpus), "index": str(folder / "index")},
            },
            "top_k": 2,
            "observation_suffix": "</information>",
        },
    }
    shared = {"environment": environment, "template": template}
    settings = {
        "task": {
            "class_path": "ovd_lightning.tasks.web_qa.WebQATask",
            "init_args": {"data": f"{data}/bamboogle.jsonl", **shared},
        },
        "model": {"student": save_model(folder / "model", SAYS[template])},
        "data": {
            "benchmarks": {
                "class_path": "ovd_lightning.tasks.web_qa.WebQASuite",
                "init_args": {"folder": data, **shared},
            },
            "test_limit": LIMIT,
        },
        "rollout": {"max_tokens": 1000},
        "benchmark": {"samples": 0},
    }
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(settings))
    return f"--config={path}"


def evaluate(folder: Path, *settings: str) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """(the table's file, the answers, what was printed)"""
    fixed = ["--config=configs/quickstart.yaml", f"--trainer.default_root_dir={folder}", *cli.GRPO, *cli.HF]
    done = cli.run("test", *fixed, *settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    table = json.loads((folder / "evaluations" / "test-000000.json").read_text())
    answers = [json.loads(line) for line in (folder / "evaluations" / "test-000000.jsonl").open()]
    return table, answers, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("template", ["search", "rag"])
def test_the_eight_of_table_3(tmp_path: Path, template: str) -> None:
    """Only problem 7 has "Ostrava 7" for an answer; half of what is said is in all others, but in GAIA's odd ones."""
    data = write_copies(tmp_path / "data")
    table, answers, printed = evaluate(tmp_path / "run", overlay(tmp_path, data, template))
    assert list(table["benchmarks"]) == list(TABLE_3)
    assert len(answers) == len({(row["benchmark"], row["id"]) for row in answers}) == 8 * LIMIT
    for name, found in table["benchmarks"].items():
        assert (found["title"], found["answered"], found["tells_answer"]) == (ENTRIES[name].title, LIMIT, False)
        scores = {kind: score["value"] for kind, score in found["scores"].items()}
        assert scores["em"] == scores["sub_em"] == scores["accuracy"] == pytest.approx((name != "gaia") / LIMIT)
        assert scores["f1"] == pytest.approx(0.25 if name == "gaia" else (1 + 0.5 * (LIMIT - 1)) / LIMIT)
        assert found["title"] in printed
    one = next(row for row in answers if row["id"] == "nq-test_7")
    assert one["correct"] is True
    if template == "search":
        assert one["turns"] == 2
        assert one["written"] == "<search> bridge 7 </search><answer> Ostrava 7 </answer>"
        assert "<information>Doc 1(Title: bridge 7) In Ostrava 7." in one["response"]
        assert sum(table["environment"][name] for name in ("searches",)) == 8 * LIMIT
    else:
        assert (one["turns"], one["response"]) == (1, "<answer> Ostrava 7 </answer>")
