"""The prompts of Web Q&A: with a search engine, and the baselines of Table 3 without one.

Plain texts that a base model continues, and that a chat template may wrap as a user message. All of them want the
answer inside ``<answer>``, so that one rule finds every answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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

TEMPLATES: Mapping[str, str] = {"search": SEARCH, "direct": DIRECT, "cot": COT, "rag": RAG}

QUESTION, DOCUMENTS = "{question}", "{documents}"


def fill(template: str, question: str, documents: str = "") -> str:
    """The prompt; braces within question and documents mean nothing."""
    values = {QUESTION: question, DOCUMENTS: documents}
    return re.sub(r"\{(?:question|documents)\}", lambda place: values[place[0]], template)
