"""What both sides train on: a student, prompts and a reward function. Runs in TRL's environment too.

``LARGE`` is a random model of 41M parameters that is made so that its lengths are known: a completion walks along a
chain of tokens to the end of sequence, two tokens of the same embedding at every position, each taken with probability
1/2. How far a walk is depends on the prompt's last token alone. So every side samples the same number of tokens,
whatever its random numbers, and rewards still differ within a group.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[3] / "ovd_lightning" / "assets"
PAD, END, FIRST = 0, 1, 2
"""Tokens: padding, end of sequence, the first of the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One round of it is one update."""

    name: str
    problems: int
    group_size: int
    micro_batches: int
    max_tokens: int
    """Limit of a completion."""
    vocabulary: int = 0
    """0: the embedded student and teacher, and the quickstart's arithmetic."""
    width: int = 0
    layers: int = 0
    lengths: tuple[int, ...] = ()
    """Completion tokens of the problems of a round, the end of sequence included."""
    prompts: tuple[int, int] = (8, 32)
    """Fewest and most tokens of a prompt."""
    positions: int = 512
    """Longest prompt plus completion."""

    @property
    def sequences(self) -> int:
        return self.problems * self.group_size


EMBEDDED = Workload(name="embedded", problems=16, group_size=8, micro_batches=4, max_tokens=64, positions=256)
LARGE = Workload(
    name="41M",
    problems=6,
    group_size=2,
    micro_batches=3,
    max_tokens=480,
    vocabulary=32_000,
    width=384,
    layers=8,
    lengths=(24, 56, 96, 160, 256, 480),
)
TINY = Workload(
    name="tiny",
    problems=2,
    group_size=2,
    micro_batches=2,
    max_tokens=16,
    vocabulary=256,
    width=64,
    layers=1,
    lengths=(4, 16),
    prompts=(4, 8),
    positions=64,
)
WORKLOADS = {workload.name: workload for workload in (EMBEDDED, LARGE, TINY)}


def reward(completion: str, answer: str) -> float:
    """1 for the answer in the last box, else 0; of a walk, which has no answer, the share of tokens with an even
    number."""
    if answer:
        boxes = re.findall(r"\\boxed\{(-?\d+)\}", completion)
        return float(bool(boxes) and boxes[-1] == answer)
    numbers = [int(word[1:]) for word in completion.split() if word[1:].isdigit()]
    return sum(n % 2 == 0 for n in numbers) / max(len(numbers), 1)


def prepare(workload: Workload, folder: Path) -> None:
    """Write ``workload.json``, ``problems.jsonl`` (the prompts and answers of every round) and the checkpoints
    ``student`` and ``teacher``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.json").write_text(json.dumps(asdict(workload)))
    if not workload.vocabulary:
        from ovd_lightning.tasks.arithmetic import ArithmeticTask

        problems = ArithmeticTask().problems("train")[: workload.problems]
        rows = [{"prompt": f"{p.question}\n", "answer": p.answers[0]} for p in problems]
        for name in ("student", "teacher"):
            (folder / name).symlink_to(ASSETS / name)
    else:
        rows = [{"prompt": text, "answer": ""} for text in _prompts(workload)]
        for name, seed in (("student", 0), ("teacher", 1)):
            _save_chain_model(workload, folder / name, seed)
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(folder: Path) -> tuple[Workload, list[dict[str, str]]]:
    """What :func:`prepare` wrote."""
    settings: Any = json.loads((folder / "workload.json").read_text())
    settings |= {name: tuple(settings[name]) for name in ("lengths", "prompts")}
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    return Workload(**settings), rows


def _prompts(workload: Workload) -> list[str]:
    """Random tokens, and the position at which the walk begins: ``longest - length``."""
    rng, longest = random.Random(0), max(workload.lengths)
    filler = range(FIRST + 2 * longest, workload.vocabulary)
    texts = []
    for length in workload.lengths:
        words = [rng.choice(filler) for _ in range(rng.randint(*workload.prompts) - 1)]
        texts.append(" ".join(f"w{n}" for n in [*words, FIRST + 2 * (longest - length)]))
    return texts


def _save_chain_model(workload: Workload, folder: Path, seed: int) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.utils.logging.disable_progress_bar()
    heads, longest = workload.width // 64, max(workload.lengths)
    config = LlamaConfig(
        vocab_size=workload.vocabulary,
        hidden_size=workload.width,
        intermediate_size=workload.width * 10 // 3 // 64 * 64,
        num_hidden_layers=workload.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=workload.positions,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.mul_(0.3)  # the last hidden state is then nearly the last token's embedding
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.normal_(generator=torch.Generator().manual_seed(2))  # teacher and student walk alike
        chain = torch.arange(longest)
        embedding[FIRST + 2 * chain + 1] = embedding[FIRST + 2 * chain]
        states = embedding[FIRST + 2 * chain]  # [longest, d]
        for colour in (0, 1):
            head[FIRST + 2 * chain[1:] + colour] = states[:-1] * (26 / workload.width)
        head[END] = states[-1] * (26 / workload.width)
    model.generation_config.update(do_sample=True, eos_token_id=END, pad_token_id=PAD)
    model.save_pretrained(folder)
    vocabulary = {"<pad>": PAD, "<eos>": END} | {f"w{n}": n for n in range(FIRST, workload.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=workload.positions
    )
    fast.save_pretrained(folder)
