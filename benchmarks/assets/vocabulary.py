"""Vocabularies of tiny models: characters, and fixed phrases as one token each; and the quickstart's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
DIGITS = "0123456789"


class Vocabulary:
    """The tokens of a model, an entry's place its id. The first thirteen are the same in every vocabulary: packing and
    the loss rely on them.

    Args:
        characters: beside the digits.
        phrases: texts that are one token each, the longest first where several fit.
        words: the same, each a space and letters; a word matches whole or not at all.
    """

    def __init__(self, characters: str, phrases: Sequence[str], words: Sequence[str] = ()) -> None:
        self.added = [*phrases, *words]
        """Entries that the tokenizer looks for as they stand; none is special, so decoding keeps them."""
        self.tokens = [PAD, EOS, UNK, *DIGITS, *characters, *self.added]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        pieces = [re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)]
        self._piece = re.compile("|".join([*pieces, *([r" [A-Za-z]+"] if words else []), r"[\s\S]"]))

    def encode(self, text: str) -> list[int]:
        """What the tokenizer gives, without it: fast enough to make training batches on the fly."""
        return [self.ids[piece] for piece in self._piece.findall(text) if piece in self.ids]

    def save_tokenizer(self, directory: Path) -> None:
        """Write the tokenizer files that transformers and vLLM load.

        It is a Qwen2 tokenizer without merges, its phrases added tokens: transformers makes that class of whatever
        stands beside a Qwen2 checkpoint, so a tokenizer of another kind would be loaded as something else. Like
        every Qwen2 tokenizer it leaves out characters that it does not know.
        """
        from tokenizers import AddedToken
        from transformers import Qwen2Tokenizer

        aliases = {" ": "Ġ", "\n": "Ċ"}  # how a byte-level vocabulary writes them
        tokenizer = Qwen2Tokenizer(
            vocab={aliases.get(token, token): i for token, i in self.ids.items() if token not in self.added},
            merges=[],
            pad_token=PAD,
            eos_token=EOS,
            unk_token=UNK,
            clean_up_tokenization_spaces=False,
            model_max_length=256,
            padding_side="left",
        )
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in self.added])
        tokenizer.save_pretrained(directory)


BOX = "\\boxed{"
PROBLEM, PREVIOUS, CURRENT, SOLUTION = "Problem: ", "\nPrevious Steps: ", "\nCurrent Step: ", "\nSolution: "

_SCALE = SCALES["zero_to_nine"]
STEP_TAIL = step_prompt("", [], "", _SCALE).removeprefix(PROBLEM + PREVIOUS + CURRENT)
"""The rubric of the step prompt, from its line break to the colon after which the score comes."""
TRAJECTORY_TAIL = response_prompt("", "", _SCALE).removeprefix(PROBLEM + SOLUTION)

PHRASES = [BOX, PROBLEM, PREVIOUS, CURRENT, SOLUTION, STEP_TAIL, TRAJECTORY_TAIL]
ARITHMETIC = Vocabulary("+-*/=()?}\n .", PHRASES)
"""The quickstart's 32 entries."""
TOKENS, IDS, encode, save_tokenizer = ARITHMETIC.tokens, ARITHMETIC.ids, ARITHMETIC.encode, ARITHMETIC.save_tokenizer
