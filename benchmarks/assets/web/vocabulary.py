"""The tokenizer of the small world: words with the space before them, tags, and fixed phrases as one token each.

Every word stands behind a space wherever it occurs, so it has one token, and a name can be copied from the question
into a query and from a document into an answer.
"""

from __future__ import annotations

import re

from benchmarks.assets.vocabulary import EOS as EOS
from benchmarks.assets.vocabulary import PAD as PAD
from benchmarks.assets.vocabulary import UNK as UNK
from benchmarks.assets.vocabulary import Vocabulary
from ovd_lightning.judges.scale import SCALES
from ovd_lightning.judges.template import response_prompt, step_prompt
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

TAGS = ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"]
OPEN, CLOSE = "\n<information>", "</information>\n"
INVALID, EMPTY, FAILED = "\nNo action was found: search or answer.", "Nothing was found.", "The search failed."
"""The environment's messages to a turn without an action, and in place of documents."""
PROBLEM, PREVIOUS, CURRENT, SOLUTION = "Problem:", "\nPrevious Steps:", "\nCurrent Step:", "\nSolution:"
QUESTION = "Question:"

_SCALE = SCALES["zero_to_nine"]
STEP_TAIL = step_prompt("", [], "", _SCALE).removeprefix(f"{PROBLEM} {PREVIOUS} {CURRENT} ")
"""The rubric of the step prompt, from its line break to the colon after which the score comes."""
TRAJECTORY_TAIL = response_prompt("", "", _SCALE).removeprefix(f"{PROBLEM} {SOLUTION} ")

JOINED = [" is a", " set in", " born in", " and taught by", " on the river", " with mayor"]
"""What several words of a document are together, as one token."""
_PARTS = [*FIRST, *LAST, *PREFIX, *STEM, *ADJECTIVE, *NOUN, *COUNTRY, *STREAM]
_SPOKEN = " ".join([*(text for r in RELATIONS.values() for text in (r.ask, r.of)), *RELATIONS, "need by is in"])
_NOUNS = [*MAKERS, *MAKERS.values(), *TOWNS]
WORDS = list(dict.fromkeys(f" {w}" for w in [*_PARTS, *re.findall(r"[A-Za-z]+", _SPOKEN), *_NOUNS]))
SAID = [OPEN, CLOSE, INVALID, EMPTY, FAILED]
PHRASES = [*SAID, PROBLEM, PREVIOUS, CURRENT, SOLUTION, QUESTION, STEP_TAIL, TRAJECTORY_TAIL, *JOINED]
VOCABULARY = Vocabulary("\n .,?-:", [*TAGS, *PHRASES], WORDS)
TOKENS, IDS, encode, save_tokenizer = VOCABULARY.tokens, VOCABULARY.ids, VOCABULARY.encode, VOCABULARY.save_tokenizer
