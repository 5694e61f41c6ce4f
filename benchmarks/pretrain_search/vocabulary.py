"""The tokenizer of the small world: words with the space before them, tags, and fixed phrases as one token each.

Every word stands behind a space wherever it occurs, so it has one token, and a name can be copied from the question
into a query and from a document into an answer. The first thirteen entries are those of the arithmetic quickstart, so
that its packing and its loss serve here too.
"""

from __future__ import annotations

import re
from pathlib import Path

from ovd_lightning.tasks.small_world import (
    ADJECTIVE,
    COUNTRY,
    FIRST,
    LAST,
    MAKERS,
    NOUN,
    PREFIX,
    RELATIONS,
    STEM,
    STREAM,
    TOWNS,
)
from ovd_lightning.teachers.prompts import SCALES, step_prompt, trajectory_prompt

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
TAGS = ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"]
OPEN, CLOSE = "\n<information>", "</information>\n"
INVALID, EMPTY, FAILED = "\nNo action was found: search or answer.", "Nothing was found.", "The search failed."
"""What the environment says to a turn without an action, and in place of documents."""
PROBLEM, PREVIOUS, CURRENT, SOLUTION = "Problem:", "\nPrevious Steps:", "\nCurrent Step:", "\nSolution:"
QUESTION = "Question:"

_SCALE = SCALES["zero_to_nine"]
STEP_TAIL = step_prompt("", [], "", _SCALE).removeprefix(f"{PROBLEM} {PREVIOUS} {CURRENT} ")
"""The rubric of the step prompt, from its line break to the colon after which the score comes."""
TRAJECTORY_TAIL = trajectory_prompt("", "", _SCALE).removeprefix(f"{PROBLEM} {SOLUTION} ")

JOINED = [" is a", " set in", " born in", " and taught by", " on the river", " with mayor"]
"""What several words of a document are together, as one token."""
_PARTS = [*FIRST, *LAST, *PREFIX, *STEM, *ADJECTIVE, *NOUN, *COUNTRY, *STREAM]
_SPOKEN = " ".join([*(text for r in RELATIONS.values() for text in (r.ask, r.of)), *RELATIONS, "need by is in"])
_NOUNS = [*MAKERS, *MAKERS.values(), *TOWNS]
WORDS = list(dict.fromkeys(f" {w}" for w in [*_PARTS, *re.findall(r"[A-Za-z]+", _SPOKEN), *_NOUNS]))
SAID = [OPEN, CLOSE, INVALID, EMPTY, FAILED]
PHRASES = [*SAID, PROBLEM, PREVIOUS, CURRENT, SOLUTION, QUESTION, STEP_TAIL, TRAJECTORY_TAIL, *JOINED]
ADDED = [*TAGS, *PHRASES, *WORDS]
"""Entries that the tokenizer looks for as they stand, the longest first; none is special, so decoding keeps them."""
TOKENS = [PAD, EOS, UNK, *"0123456789", *"\n .,?-:", *ADDED]
"""An entry's place is its id."""
IDS = {token: i for i, token in enumerate(TOKENS)}

_PIECE = re.compile(
    "|".join([*(re.escape(t) for t in sorted([*TAGS, *PHRASES], key=len, reverse=True)), r" [A-Za-z]+|[\s\S]"])
)


def encode(text: str) -> list[int]:
    """What the tokenizer gives for texts of this world, without it: fast enough to make batches on the fly."""
    return [IDS[piece] for piece in _PIECE.findall(text) if piece in IDS]


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer files that transformers and vLLM load: a Qwen2 tokenizer without merges, as that of the
    arithmetic quickstart, its words and phrases added tokens. It leaves out what it does not know."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    aliases = {" ": "Ġ", "\n": "Ċ"}  # how a byte-level vocabulary writes them
    tokenizer = Qwen2Tokenizer(
        vocab={aliases.get(token, token): i for token, i in IDS.items() if token not in ADDED},
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in ADDED])
    tokenizer.save_pretrained(directory)
