"""The quickstart's tokenizer: characters, the box, and each fixed phrase of the scoring prompts as one token."""

from __future__ import annotations

import re
from pathlib import Path

from ovd_lightning.teachers.prompts import SCALES, step_prompt, trajectory_prompt

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
BOX = "\\boxed{"
PROBLEM, PREVIOUS, CURRENT, SOLUTION = "Problem: ", "\nPrevious Steps: ", "\nCurrent Step: ", "\nSolution: "

_SCALE = SCALES["zero_to_nine"]
STEP_TAIL = step_prompt("", [], "", _SCALE).removeprefix(PROBLEM + PREVIOUS + CURRENT)
"""The rubric of the step prompt, from its line break to the colon after which the score comes."""
TRAJECTORY_TAIL = trajectory_prompt("", "", _SCALE).removeprefix(PROBLEM + SOLUTION)

PHRASES = [BOX, PROBLEM, PREVIOUS, CURRENT, SOLUTION, STEP_TAIL, TRAJECTORY_TAIL]
TOKENS = [PAD, EOS, UNK, *"0123456789", *"+-*/=()?}\n .", *PHRASES]
"""The 32 entries; an entry's place is its id."""
IDS = {token: i for i, token in enumerate(TOKENS)}

_PIECES = "|".join([*(re.escape(phrase) for phrase in sorted(PHRASES, key=len, reverse=True)), r"[\s\S]"])
_PIECE = re.compile(_PIECES)


def encode(text: str) -> list[int]:
    """What the tokenizer gives, without it: fast enough to make training batches on the fly."""
    return [IDS[piece] for piece in _PIECE.findall(text) if piece in IDS]


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer files that transformers and vLLM load.

    It is a Qwen2 tokenizer without merges, its phrases added tokens: transformers makes that class of whatever
    stands beside a Qwen2 checkpoint, so a tokenizer of another kind would be loaded as something else. Like
    every Qwen2 tokenizer it leaves out characters that it does not know.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    aliases = {" ": "Ġ", "\n": "Ċ"}  # how a byte-level vocabulary writes them
    vocabulary = {aliases.get(token, token): i for token, i in IDS.items() if token not in PHRASES}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in PHRASES])
    tokenizer.save_pretrained(directory)
