"""Parse the documents that a language model wrote in the place of a search engine."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from ovd_lightning.search.base import Document, read_document
from ovd_lightning.thoughts import spoken

_NUMBER = r"[一二三四五六七八九十]|\d{1,3}"
_TITLE = r"(?:\(\s*title\s*:\s*(?P<title>.*?)\))?"
_DOC = rf"doc(?:ument)?[\s*_#]*(?P<number>\d+)[\s*_\])]*{_TITLE}[\s*_]*"
MARK = re.compile(r"^[ \t>*_#\[(\-]*" + _DOC + r"[:：.)\]\-–—]*[\s*_]*", re.IGNORECASE | re.MULTILINE)
"""Where a document begins: "Doc 1:", "**Document 2**:", "[Doc 3] ", "Doc 4(Title: ...) "."""
INLINE_MARK = re.compile(r"\b" + _DOC + r"[:：][\s*_]*", re.IGNORECASE)
"""The same where all documents are on one line."""

_LABELS = (
    r"documents?|documentos?|dokumente?|документ|文档|文檔|文件|文章|文献|文獻|文本|资料|資料|结果|結果"
    r"|搜索结果|檢索結果|检索结果|网页|網頁|段落|文書|ドキュメント|検索結果|문서|결과"
    r"|(?:search |web )?results?|résultat|resultado|ergebnis|passages?|sources?|snippets?"
    r"|articles?|(?:web ?)?pages?|paragraphs?|items?|entry|reference|hit"
)
_LABELLED = re.compile(
    rf"^[ \t>*_#\[(【\-]*(?:(?:{_LABELS})[\s*_#]*[\[(]?(?:no\.?\s*)?(?P<number>{_NUMBER})"
    rf"|第\s*(?P<nth>{_NUMBER})\s*(?:篇|个|個|条|條|份|則|则|つ目の|件)?\s*(?:的)?(?:{_LABELS})?)"
    rf"[\s*_]*{_TITLE}[ \t*_]*(?:[:：.．)）\]】、\-–—|]+[\s*_]*|\n)",
    re.IGNORECASE | re.MULTILINE,
)
"""Other labels. What follows them must show that they are some: "Page 3 of the report" begins no document."""
_LISTED = re.compile(
    rf"^[ \t>*_#]*(?:(?:[\[(（【](?P<number>{_NUMBER})[\])）】]|(?P<nth>{_NUMBER})[*_]*(?:[.)）:：、．]|\s[-–—]))"
    rf"[*_]*[ \t]+(?=\S)|[\[(（【](?P<bare>{_NUMBER})[\])）】][*_]*(?=\S)|(?P<dense>{_NUMBER})(?:、|．)(?=\S))",
    re.MULTILINE,
)
_INLINE_LISTED = re.compile(r"(?:^|(?<=\s))(?:\[(?P<number>\d)\]|(?P<nth>\d)[.)])\s+(?=\S)")
_BULLET = re.compile(r"^[ \t]*[-*•‣▪][ \t]+(?=\S)", re.MULTILINE)
_ELEMENT = re.compile(
    r"<(?P<name>doc(?:ument)?|result|passage|source|snippet)(?P<number>[ _]?\d+)?(?P<rest>[^<>]*)>(?P<text>.*?)"
    r"</(?P=name)(?:[ _]?\d+)?\s*>",
    re.IGNORECASE | re.DOTALL,
)


def read_documents(text: str) -> list[Document]:
    """The documents, in order; none where no mark shows where one begins.

    "Doc 1: ...", the form that is requested; else elements (``<doc>``), a JSON list, other labels and languages
    ("Result 1:", "文档1："), a numbered list, or a list of bullets. Thoughts and text before the first are left
    out.
    """
    text = spoken(text)[0].strip()
    marks = list(MARK.finditer(text))
    if len(marks) == 1:
        marks = list(INLINE_MARK.finditer(text)) or marks
    if marks:
        return _between(text, marks)
    return _elements(text) or _of_json(text) or _between(text, _marks(text))


def _marks(text: str) -> list[re.Match[str]]:
    labelled = list(_LABELLED.finditer(text))
    listed = labelled or _in_order(_LISTED, text)
    if len(listed) < 2:
        listed = max(listed, _in_order(_INLINE_LISTED, text), key=len) if not labelled else listed
    if listed:
        return listed
    bullets = list(_BULLET.finditer(text))
    return bullets if len(bullets) > 1 else []


def _in_order(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Those numbered 1, 2, 3, ...: another number at the beginning of a line belongs to the text."""
    found: list[re.Match[str]] = []
    for mark in pattern.finditer(text):
        if _number(mark) == str(len(found) + 1):
            found.append(mark)
    return found


def _number(mark: re.Match[str]) -> str:
    groups = mark.groupdict()
    written = next((groups[name] for name in ("number", "nth", "bare", "dense") if groups.get(name)), "")
    return "".join(str(int(unicodedata.numeric(c))) if not c.isascii() else c for c in written)


def _between(text: str, marks: list[re.Match[str]]) -> list[Document]:
    documents = []
    for i, mark in enumerate(marks):
        end = marks[i + 1].start() if i + 1 < len(marks) else len(text)
        body = " ".join(text[mark.end() : end].split()).strip("*_ ")
        if body:
            title = (mark.groupdict().get("title") or "").strip().strip('"')
            documents.append(Document(text=body, title=title, id=_number(mark) or str(i + 1)))
    return documents


def _elements(text: str) -> list[Document]:
    found = []
    for i, element in enumerate(_ELEMENT.finditer(text), 1):
        title = re.search(r"<title>(.*?)</title>", element["text"], re.IGNORECASE | re.DOTALL)
        named = title or re.search(r"title\s*=\s*[\"'](.*?)[\"']", element["rest"], re.IGNORECASE)
        body = element["text"].replace(title[0], "") if title else element["text"]
        body = " ".join(re.sub(r"</?(?:text|content|contents|snippet)>", "", body).split())
        if body:
            number = re.search(r"\d+", (element["number"] or "") + element["rest"])
            found.append(
                Document(text=body, title=named[1].strip() if named else "", id=number[0] if number else str(i))
            )
    return found


def _of_json(text: str) -> list[Document]:
    """A list of objects or texts, or an object that holds one."""
    start = re.search(r"[\[{]", text)
    if start is None:
        return []
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start.start())
    except (ValueError, RecursionError):
        return []
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        numbered = [v for k, v in value.items() if re.fullmatch(rf"(?:{_LABELS}|doc)?[ _]?\d+", str(k), re.IGNORECASE)]
        value = lists[0] if lists else numbered
    documents = (_json_document(part, i) for i, part in enumerate(value, 1)) if isinstance(value, list) else ()
    return [document for document in documents if document is not None and document.text]


def _json_document(part: Any, number: int) -> Document | None:
    if isinstance(part, str):
        return Document(text=" ".join(part.split()), id=str(number))
    if not isinstance(part, dict):
        return None
    body = next(
        (part[n] for n in ("text", "content", "snippet", "body", "passage") if isinstance(part.get(n), str)), None
    )
    try:
        return read_document({**part, **({"text": body} if body is not None else {}), "id": part.get("id", number)})
    except ValueError:
        return None
