"""Words around numbers in a judge's answer: labels of scores, of other numbers, and what is counted, in the languages
that judges write."""

from __future__ import annotations

import re


def _words(*alternatives: str) -> str:
    """Any of some words: those of scripts with spaces as whole words, others wherever they stand."""
    spaced = [word for word in alternatives if not re.search(r"[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]", word)]
    dense = [word for word in alternatives if word not in spaced]
    whole = rf"(?<![^\W\d])(?:{'|'.join(spaced)})(?![^\W\d])"
    return f"(?:{whole}|{'|'.join(dense)})" if dense else whole


SCORE = _words(
    "scores?", "ratings?", "评分", "分数", "得分", "打分", "总分", "分值", "评级", "評分", "分數", "總分",
    "評級", "スコア", "評価", "評点", "点数", "得点", "採点", "점수(?:는|은|가)?", "평점(?:은|이)?",
    "bewertung", "punktzahl", "wertung", "punktestand", "notation", "évaluation", "puntuación", "puntaje",
    "calificación", "valoración", "pontuação", "avaliação", "classificação", "punteggio", "valutazione",
    "оценка", "оценку", "балл", "баллы", "рейтинг", "оцінка", "бал", "ocena", "beoordeling", "betyg", "poäng",
    "puan", "điểm(?: số)?", "skor", "nilai", "(?:ال)?درجة", "(?:ال)?تقييم", "(?:ال)?نتيجة", "امتیاز", "نمره",
    "अंक", "स्कोर", "रेटिंग", "คะแนน", "ציון", "hodnocení", "skóre", "βαθμολογία", "arvosana", "pisteet",
)  # fmt: skip
"""Labels that mean a score wherever they stand."""
WEAK = _words(
    "grade", "marks?", "points?", "quality", "evaluation", "assessment", "verdict", "judge?ment", "answer",
    "output", "result", "number", "value", "note", "nota", "voto", "cijfer", "punkte", "quality level", "评价",
    "回答", "答案", "结果", "答え", "평가", "답", "antwort", "réponse", "respuesta", "ответ",
)  # fmt: skip
"""Labels that may mean something else: they need a colon or the like, and the number right behind it."""
FINAL = _words(
    "final", "finally", "overall", "total", "revised", "updated", "adjusted", "corrected", "最终", "最終",
    "综合", "綜合", "总", "總", "総合", "最终的", "최종", "종합", "gesamt", "finale?", "итоговая", "общая",
    "global", "общий",
)  # fmt: skip
EARLIER = _words(
    "initial", "initially", "previous", "original", "first", "provisional", "preliminary", "earlier", "former",
    "old", "初始", "之前的?", "最初",
)  # fmt: skip
BOUND = _words(
    "max", "min", "maximum", "minimum", "maximal", "highest", "lowest", "top", "full", "possible", "threshold",
    "passing", "pass", "average", "mean", "confidence", "similarity", "满分", "最高", "最低", "平均", "置信",
)  # fmt: skip
"""Before a label: it names a bound of the scale or something else than the score."""
UNITS = r"(?:points?|pts?|stars?|marks?|punkten?|puntos|pontos|punti|баллов|балла|балл|分|點|点|점|★|⭐)"
OTHER = _words(
    "confidence", "certainty", "errors?", "mistakes?", "probability", "weight", "temperature", "threshold",
    "tokens?", "count", "max", "min", "maximum", "minimum", "index", "id", "置信度", "信心", "错误", "步骤",
    "confiance", "konfidenz",
)  # fmt: skip
"""Labels of other numbers than the score."""
INDEX = _words(
    "steps?", "formulas?", "equations?", "eqs?", "lines?", "parts?", "cases?", "problems?", "questions?",
    "items?", "options?", "theorems?", "lemmas?", "examples?", "figures?", "tables?", "pages?", "chapters?",
    "rows?", "columns?", "levels?", "versions?", "rules?", "facts?", "claims?", "paragraphs?", "sections?",
    "student", "solution", "criteri(?:on|a)", "schritte?", "étapes?", "pasos?", "шаге?", "步骤", "步", "公式",
    "第", "ステップ", "式", "단계",
)  # fmt: skip
COUNTED = _words(
    "errors?", "mistakes?", "steps?", "facts?", "issues?", "problems?", "reasons?", "lines?", "terms?", "times",
    "digits?", "people", "parts?", "points? off", "flaws?", "cases?", "of the", "of these", "of its",
    "of their", "more", "fewer", "sentences?", "things?", "criteria", "assumptions?", "fehlern?", "erreurs?",
    "errores", "ошиб\\w+", "formulas?", "equations?", "paragraphs?", "words?", "minor", "major", "small",
    "correct steps?", "students?", "distinct", "different", "logical", "个", "處", "处", "步", "条", "項", "项",
    "次", "つ", "箇所", "か所", "개",
)  # fmt: skip
"""Behind a number: it counts these."""
GOES_ON = _words(
    "because", "since", "as", "and", "but", "for", "on", "is", "was", "i", "the", "this", "it", "which", "due", "given",
    "with", "overall", "here", "so", "then", "if", "in", "to", "from", "at", "would", "seems", "though", "although",
    "that",
)  # fmt: skip
"""What may follow a score in a sentence; any other word behind a number is what it counts."""
LOST = r"(?:deduct|deducting|deducted|minus|lose|loses|lost|subtract|subtracted|扣|减|減点)\w*\s*$"
DENIED = re.compile(
    r"(?:(?:\bnot|n't|\b(?:never|cannot|rather than|instead of|short of|below|under|above|over|less than|more than"
    r"|at least|at most|up to|exceed(?:s|ing)?))\b|不是|不到|低于|高于|至少|最多)\s*(?:[^\W\d]+\s+){0,3}$",
    re.IGNORECASE,
)
SUPPOSED = re.compile(
    r"\s*(?:would|could|requires?|needs?|means?|is reserved|is for|indicates?|denotes?|represents?|stands for|表示|代表"
    r"|(?:=|is|being)\s*(?:the )?(?:worst|best|lowest|highest|perfect|optimal|excellent|terrible|very bad|poor)\b)",
    re.IGNORECASE,
)  # fmt: skip
