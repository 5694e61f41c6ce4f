"""The words of a text in any script, and what is found by them."""

from __future__ import annotations

import pytest

from ovd_lightning.search.bm25 import BM25Search
from ovd_lightning.search.words import words
from tests.search.parts import query, write_corpus


@pytest.mark.parametrize(
    ("text", "document", "asked"),
    [
        ("Vitamin C, snake_case!", ["vitamin", "c", "snake_case"], None),
        ("café Cafe\u0301 CAFE", ["cafe"] * 3, None),
        ("İstanbul STRASSE Straße", ["istanbul", "strasse", "strasse"], None),
        ("Ｈｅｌｌｏ ﬁne", ["hello", "fine"], None),
        ("1987 １９８７ ١٩٨٧ १९८७", ["1987"] * 4, None),
        ("Прага ёлка", ["прага", "елка"], None),
        ("ΟΔΟΣ οδός", ["οδοσ", "οδοσ"], None),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"], None),
        ("العربية", ["العربية"], None),
        ("国際標準", ["国", "際", "標", "準", "国際", "際標", "標準"], ["国際", "際標", "標準"]),
        ("手", ["手"], ["手"]),
        ("ｶﾞｲﾄﾞ", ["ガ", "イ", "ド", "ガイ", "イド"], ["ガイ", "イド"]),
        ("iPhone15手机", ["iphone15", "手", "机", "手机"], ["iphone15", "手机"]),
        ("1987年", ["1987", "年"], ["1987", "年"]),
        ("서울은", ["서", "울", "은", "서울", "울은"], ["서울", "울은"]),
        ("", [], []),
        ("。、！", [], []),
    ],
)
def test_words(text: str, document: list[str], asked: list[str] | None) -> None:
    assert words(text) == document
    assert words(text, query=True) == (document if asked is None else asked)


DOCUMENTS = [
    "国際標準化機構はジュネーブにあります。",
    "北京是中华人民共和国的首都。",
    "東京タワーは1958年に完成した。",
    "서울은 대한민국의 수도이다.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "The cafe\u0301 in Zu\u0308rich serves cre\u0300me bru\u0302le\u0301e.",
    "Разрыв сердца. Ёлка стоит.",
    "नई दिल्ली भारत की राजधानी है।",
    "Tiếng Việt có sáu thanh điệu.",
    "The engineer built a bridge in Ostrava.",
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> BM25Search:
    folder = tmp_path_factory.mktemp("words")
    corpus = write_corpus(folder / "c.jsonl", [(str(i), text) for i, text in enumerate(DOCUMENTS)])
    return BM25Search(str(corpus), index=str(folder / "index"))


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("国際標準化", "0"),
        ("国际", None),  # simplified for 国際: another character
        ("首都北京在哪里", "1"),
        ("中华人民共和国", "1"),
        ("東京", "2"),
        ("タワー", "2"),
        ("ﾀﾜｰ", "2"),
        ("１９５８", "2"),
        ("서울의 수도", "3"),
        ("ประเทศไทย", "4"),
        ("café", "5"),
        ("CAFE", "5"),
        ("Zürich", "5"),
        ("crème brûlée", "5"),
        ("разрыв", "6"),
        ("елка", "6"),
        ("दिल्ली", "7"),
        ("tieng viet", "8"),
        ("engineers", "9"),
        ("犬", None),
        ("ラーメン", None),
        ("zzz", None),
    ],
)
def test_what_is_found_in_any_script(engine: BM25Search, asked: str, first: str | None) -> None:
    (result,) = engine.search([query(asked)], 3)
    assert result.error is None
    assert [d.title for d in result.documents][:1] == ([] if first is None else [first])


def test_an_index_of_other_rules_is_built_anew(engine: BM25Search, monkeypatch: pytest.MonkeyPatch) -> None:
    other = BM25Search(str(engine.corpus), index=str(engine.index))
    monkeypatch.setattr("ovd_lightning.search.bm25.VERSION", 0)
    assert other.digest != engine.digest
