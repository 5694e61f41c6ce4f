r"""The two protocols of Web Q&A: their prompts, where the answer is, where steps begin. Search-R1's, the usual one:

<think> ... </think> <search> a query </search>
<information> documents </information>
<think> ... </think> <answer> the answer </answer>

and that of Search-o1's code, for its own row of Table 3 and RA-Agent's:

... <|begin_search_query|> a query <|end_search_query|>
<|begin_search_result|> documents, or a summary of them <|end_search_result|>
... \boxed{the answer}
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from ovd_lightning.grading.extract import last_box
from ovd_lightning.thoughts import spoken
from ovd_lightning.tokens import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEARCH = (
    "Find the answer to the question at the end. Whenever there is something new to think about, reason first, "
    "between <think> and </think>. If a fact is missing, ask a search engine by writing the query between <search> "
    "and </search>; the documents it finds come back between <information> and </information>. Search as often as it "
    "takes. Once you know the answer, write it between <answer> and </answer>: only the answer, in as few words as "
    "possible, as in <answer> Lake Geneva </answer>. Question: {question}\n"
)
"""The protocol of Search-R1 and ZeroSearch."""

DIRECT = (
    "Write the answer to the question at the end between <answer> and </answer>, and nothing else: only the answer, "
    "in as few words as possible, as in <answer> Lake Geneva </answer>. Question: {question}\n"
)
"""Direct Answer of Table 3."""

COT = (
    "Find the answer to the question at the end. Reason step by step, between <think> and </think>. Then write the "
    "answer between <answer> and </answer>: only the answer, in as few words as possible, as in <answer> Lake Geneva "
    "</answer>. Question: {question}\n"
)
"""Chain of thought of Table 3."""

RAG = (
    "Find the answer to the question at the end. A search engine has found these documents for it, which may or may "
    "not help:\n<information>{documents}</information>\nWrite the answer between <answer> and </answer>: only the "
    "answer, in as few words as possible, as in <answer> Lake Geneva </answer>. Question: {question}\n"
)
"""Retrieval-augmented generation of Table 3: one search, with the question itself as the query."""

_AGENT = (
    "Find the answer to the question at the end by reasoning step by step. A search engine is at hand: whenever a fact "
    "is missing, write the query between <|begin_search_query|> and <|end_search_query|>. {comes} between "
    "<|begin_search_result|> and <|end_search_result|>. Then go on reasoning with it, and search again if something "
    "is still missing, at most {searches} times in all. Once you know the answer, write it as "
    "\\boxed{{answer}}: only the answer, in as few words as possible.\n\n"
    "Example:\n"
    "Question: In which town was the founder of the Nimbus circus born?\n"
    "I first need to know who founded the Nimbus circus.\n"
    "<|begin_search_query|>founder of the Nimbus circus<|end_search_query|>\n"
    "<|begin_search_result|>...<|end_search_result|>\n"
    "It was Ada Holm. Now I need her place of birth.\n"
    "<|begin_search_query|>Ada Holm place of birth<|end_search_query|>\n"
    "<|begin_search_result|>...<|end_search_result|>\n"
    "She was born in Lund. The answer is \\boxed{{Lund}}\n\n"
    "Question: {{question}}\n"
)

RA_AGENT = _AGENT.format(comes="The documents that it finds come back", searches="{searches}")
"""RA-Agent of Table 3: reasoning and searches in turn, in the manner of ReAct (arXiv 2210.03629)."""

SEARCH_O1 = _AGENT.format(
    comes="The documents that it finds are read for you, and what helps in them comes back", searches="{searches}"
)
"""Search-o1 of Table 3."""

TEMPLATES: Mapping[str, str] = {
    "search": SEARCH,
    "direct": DIRECT,
    "cot": COT,
    "rag": RAG,
    "ra_agent": RA_AGENT,
    "search_o1": SEARCH_O1,
}

QUESTION, DOCUMENTS, SEARCHES = "{question}", "{documents}", "{searches}"

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
"""Of an opening tag that is written twice, the second counts."""
_HIDDEN = "\0"
"""In place of observations, so that no tag extends over one."""
_SEARCH = re.compile(r"<search>((?:(?!</?search>)[^\0])*)</search>", re.IGNORECASE)
_INFORMATION = re.compile(r"<information>.*?(?:</information>|\Z)", re.DOTALL | re.IGNORECASE)
_QUERY = re.compile(
    r"<\|begin_search_query\|>((?:(?!<\|(?:begin|end)_search_query\|>)[^\0])*)<\|end_search_query\|>", re.IGNORECASE
)
_RESULT = re.compile(r"<\|begin_search_result\|>.*?(?:<\|end_search_result\|>|\Z)", re.DOTALL | re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|textbf|mathrm)\s*\{(.*)\}", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """What the last ``<answer>...</answer>`` holds, without white space around it; None if there is no such block, or
    nothing in the last one.

    Search-R1's rule, for a text without the prompt and without observations: those quote the tags. Besides, tags may be
    written in capitals, of an opening tag that is written twice the second counts, and an answer in a finished thought
    is none. A thought that never ends hides nothing: who forgot to close it has answered all the same.
    """
    visible, thinking = spoken(text)
    blocks = _ANSWER.findall(text if thinking else visible)
    return (blocks[-1].strip() or None) if blocks else None


def boxed_answer(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, without a ``\text{...}`` around it; None if there is none. As
    :func:`extract_answer` otherwise."""
    visible, thinking = spoken(text)
    box = last_box(text if thinking else visible)
    inner = _TEXT.fullmatch(box) if box else None
    return ((inner[1] if inner else box).strip() or None) if box else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a trajectory is written."""

    query: re.Pattern[str]
    """A complete search; its group is the query."""
    result: re.Pattern[str]
    """What comes back for one."""
    answer: Callable[[str], str | None]
    """The answer in what was written."""
    how: str
    """What the answer is found by."""


TAGS = Protocol(query=_SEARCH, result=_INFORMATION, answer=extract_answer, how="tag")
"""Search-R1's."""
MARKS = Protocol(query=_QUERY, result=_RESULT, answer=boxed_answer, how="boxed")
"""Search-o1's."""


def step_spans(
    token_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    mask: Sequence[bool] | None = None,
    protocol: Protocol = TAGS,
) -> list[tuple[int, int]]:
    """Half-open token spans of the triples (query, documents, reasoning), A.5; they cover all tokens without gap.

    Step k has the k-th search, the documents it brought and the reasoning up to the next search. What precedes the
    first search belongs to step 1, the answer to the last. A search is complete, as ``<search>...</search>`` with a
    query in it; of one turn only the first counts, which is what the environment looks at. Without any, all is one
    step. A token that ends the reasoning and begins the tag belongs to the step that it begins.

    Args:
        mask: [T] False on observations, whose tags mean nothing. None, or True throughout: no environment took part;
            then what a text itself puts between the information tags is passed over.
    """
    if not token_ids:
        return []
    pieces = _pieces(token_ids, tokenizer)
    turns = mask is not None and not all(mask)
    if mask is not None and turns:
        pieces = [piece if written else _HIDDEN for piece, written in zip(pieces, mask, strict=True)]
    text = "".join(pieces)
    if not turns:
        text = protocol.result.sub(lambda block: _HIDDEN * len(block[0]), text)
    offsets = [0, *accumulate(map(len, pieces))][:-1]
    starts: list[int] = []
    end = 0
    for search in protocol.query.finditer(text):
        same_turn = turns and starts and _HIDDEN not in text[end : search.start()]
        if same_turn or not search[1].strip():
            continue
        starts.append(bisect_right(offsets, search.start()) - 1)
        end = search.end()
    bounds = sorted({0, *starts[1:], len(token_ids)})
    return list(pairwise(bounds))


def _pieces(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token adds to a text. Behind another token, because some decoders drop a leading space."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    before = decode(tokenizer, anchor)
    known: dict[int, str] = {}
    for token in token_ids:
        if token not in known:
            both = decode(tokenizer, [*anchor, token])
            known[token] = both[len(before) :] if both.startswith(before) else decode(tokenizer, [token])
    return [known[token] for token in token_ids]


def fill(template: str, question: str, documents: str = "", searches: int | None = None) -> str:
    """The prompt; braces within question and documents mean nothing. ``searches``: how many the environment allows."""
    values = {QUESTION: question, DOCUMENTS: documents}
    if searches is not None:
        values[SEARCHES] = str(searches)
    places = "|".join(re.escape(place) for place in values)
    return re.sub(places, lambda place: values[place[0]], template)
