"""Equality by math-verify and sympy. Only workers import this: it can hang, and it takes a third of a second.

No text is evaluated. latex2sympy parses with a grammar, but two ways lead from there to Python's ``eval``: math-verify
evaluates plain arithmetic (``3+4``), and every number goes through ``sympy.Number(text)``, which evaluates it. Both are
replaced by readers of numbers and operators, in :func:`disarm`.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from typing import Any, NoReturn

import math_verify.parser
import sympy
import sympy.parsing.sympy_parser
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import sympy_expr_eq
from sympy.core.function import AppliedUndef

from ovd_lightning.grading import lists, named, quantity, regions, strict
from ovd_lightning.grading.text import tidy

_NORMAL = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last")
_ANSWER = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMAL),)
_PROSE = (LatexExtractionConfig(), ExprExtractionConfig())
_E_NOTATION = re.compile(r"(?<![A-Za-z\\])([0-9.]+)[eE]([-+]?[0-9]+)(?![0-9A-Za-z.])")
_FUNCTION = re.compile(r"(?<![A-Za-z\\])(?:arc(?:sin|cos|tan)|sin|cos|tan|exp|ln|log|pi)(?![A-Za-z])")
_ENERGY = re.compile(r"(?<![A-Za-z\\])E(?=\s*_)")  # the grammar takes E for Euler's number, with an index too
_SUBSCRIPT = re.compile(r"_\s*\{\s*\\(max|min)\s*(?=[^A-Za-z])")
_GREATER = re.compile(r"(>=|>|\\g(?:e|eq|eqslant)(?![A-Za-z]))")
_LESS = re.compile(r"[<=]|\\l(?:e|eq|eqslant)(?![A-Za-z])|\\n(?:e|eq)(?![A-Za-z])")
_FLIPPED = {">": " < ", ">=": r" \le ", r"\ge": r" \le ", r"\geq": r" \le ", r"\geqslant": r" \le "}
_DEGREES = re.compile(r"(?<![0-9.])([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_ANGULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])|(?<![A-Za-z\\])(?:sin|cos|tan)(?![A-Za-z])")
_COMBINATIONS = re.compile(r"(?<![A-Za-z\\])C_\s*\{?\s*([1-9][0-9]+)\s*\}?\s*\^\s*\{?\s*([0-9]{1,4})\s*\}?")
# The grammar takes an integer and what follows it for a mixed number, so that 8(2) and 4\binom{4}{2} would be 10. A
# product after a number, a fraction, a binomial coefficient or a bracket gets its sign; 2\frac{1}{2} is kept.
_PRODUCT = re.compile(
    r"(?<![A-Za-z0-9_^{.}\\])[0-9]+\s*(?=\(|\\binom)|\\(?:frac|binom)\s*\{[^{}]*\}\s*\{[^{}]*\}\s*(?=\\frac|\\binom|\(|[0-9])"
    r"|(?<=\))\s*(?=\(|\\frac|\\binom|[0-9])"
)
_ARITHMETIC = re.compile(r"[0-9.\s+\-*×/÷^()]*")
_NUMERAL = re.compile(r"[0-9]+|[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+\.?(?:[eE][-+]?[0-9]+)?")
_DIGITS = 30
_NOTHING = sympy.Float("1e-120")
"""A sum that is zero, such as log(8, 2) - 3, is evaluated to less than this: no digit of it is significant."""


_POINT = [
    sympy.Rational(*pair) for pair in ((7, 5), (11, 13), (17, 7), (19, 23), (29, 11), (31, 37), (41, 17), (43, 47))
]


_POINTS = 3
"""Points at which two expressions must agree."""


class EvaluationError(RuntimeError):
    """A text was about to be handed to Python's ``eval``."""


def _arithmetic(text: str, evaluate: bool = False) -> sympy.Basic:
    """What math-verify would have evaluated: digits and operators, read by latex2sympy's grammar instead."""
    if not _ARITHMETIC.fullmatch(text):
        raise EvaluationError("not arithmetic")
    text = text.replace("**", "^").replace("×", "*").replace("÷", "/")
    return latex2sympy(text, is_real=True, normalization_config=_NORMAL)


def _numeral(text: str, *_: Any, **__: Any) -> sympy.Basic:
    """What sympy would have evaluated where it is given a text: a number, or (in modules of its own) a name."""
    if text.isidentifier():
        return sympy.Symbol(text)
    if not _NUMERAL.fullmatch(text):
        raise EvaluationError("neither a number nor a name")
    return sympy.Integer(int(text)) if text.isdigit() else sympy.Float(text)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise EvaluationError("text is never evaluated here")


def disarm() -> None:
    """Close the ways from text to ``eval`` in this process; :func:`equal` works only afterwards."""
    math_verify.parser.parse_expr = _arithmetic
    sympy.parsing.sympy_parser.parse_expr = _numeral
    sympy.parsing.sympy_parser.eval_expr = _refuse
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _parse(text: str, config: Any) -> list[Any]:
    if math_verify.parser.parse_expr is not _arithmetic:
        raise EvaluationError("disarm() was not called")
    return list(parse(text, config, parsing_timeout=None))


def equivalent(prediction: str, reference: str, tolerance: Fraction | None = None, depth: int = strict.DEPTH) -> bool:
    """Strict equality: what :func:`strict.decide` leaves open is parsed, element by element where there are several."""
    verdict = strict.decide(prediction, reference, tolerance)
    if verdict is not None:
        return verdict
    one, other = tidy(prediction), tidy(reference)
    if bare := named.unassigned(one, other):
        one, other = bare
    if depth:
        named_ = named.match(one, other, lambda a, b: equivalent(a, b, tolerance, depth - 1))
        if named_ is not None:
            return named_
        one, other = lists.spread(one), lists.spread(other)
        if lists.match(one, other, lambda a, b: equivalent(a, b, tolerance, depth - 1)):
            return True
    one, other = _radians(one, other)
    (one, first), (other, second) = quantity.split_unit(one), quantity.split_unit(other)
    if quantity.conflict(first, second):
        return False
    same = regions.equal(one, other, read)
    return equal(_latex(one), _latex(other), tolerance) if same is None else same


def _radians(one: str, other: str) -> tuple[str, str]:
    """Degrees as radians: in the argument of a function, and where one answer is in degrees and the other names pi."""
    if _DEGREES.search(one + " " + other) and (_ANGULAR.search(one + other) or r"\pi" in one + other):
        return tuple(_DEGREES.sub(r"\\frac{\1\\pi}{180}", text) for text in (one, other))  # type: ignore[return-value]
    return one, other


def read(text: str) -> Any:
    """A text as a sympy expression; None where the grammar cannot read it."""
    parsed = _parse(f"${_latex(text)}$", _ANSWER)
    return parsed[0] if parsed and isinstance(parsed[0], sympy.Basic) else None


def _latex(text: str) -> str:
    """Rewrites what the grammar cannot read: e-notation, functions without a backslash, E with an index."""
    text = _E_NOTATION.sub(r"\1 \\times 10^{\2}", text.replace("\u2009", " ").replace("np.", ""))
    text = _SUBSCRIPT.sub(r"_{\1", _ENERGY.sub(r"\\Xi ", text).replace(r"\odot", "o"))
    text = _FUNCTION.sub(lambda found: f"\\{found[0]} ", text)
    text = _COMBINATIONS.sub(lambda found: f"\\binom{{{found[1]}}}{{{found[2]}}}", text)
    text = _PRODUCT.sub(r"\g<0>\\cdot ", text)
    chain = _GREATER.split(text)
    if len(chain) > 3 and not _LESS.search(text):  # b > a > c, as c < a < b
        text = "".join(_FLIPPED.get(part.strip(), part) for part in reversed(chain))
    return text


def equal(prediction: str, reference: str, tolerance: Fraction | None = None) -> bool:
    """Equality of two mathematical expressions in LaTeX without delimiters."""
    found, gold = _parse(f"${prediction}$", _ANSWER), _parse(f"${reference}$", _ANSWER)
    if not found or not gold:
        return False
    found[0], gold[0] = _same_symbols(found[0], gold[0])
    verdict = _numbers(found[0], gold[0], tolerance)
    if verdict is not None:
        return verdict
    if _differ(found[0], gold[0]):
        return False
    if _agree(found[0], gold[0]):
        return True
    same = verify(gold, found, allow_set_relation_comp=True, timeout_seconds=None)
    return bool(same) and not _vacuous(found[0], gold[0])


def prose(prediction: str, reference: str) -> bool:
    """Equality of the answer that math-verify finds in a text, which may be a complete response."""
    gold = reference if "$" in reference or "boxed" in reference else f"${reference}$"
    return bool(verify(_parse(gold, _PROSE), _parse(prediction, _PROSE), timeout_seconds=None))


def _numbers(found: Any, gold: Any, tolerance: Fraction | None) -> bool | None:
    """Two constants are compared by value, decimals as in :func:`quantity.close`; None for anything else."""
    if not isinstance(found, sympy.Expr) or not isinstance(gold, sympy.Expr):
        return None
    exact = not (found.has(sympy.Float) or gold.has(sympy.Float))
    values = [_value(found), _value(gold)]
    if None in values:
        return None
    difference = abs(sympy.N(values[0] - values[1], _DIGITS))
    if tolerance is not None:
        return bool(difference <= sympy.Rational(tolerance.numerator, tolerance.denominator))
    largest = max(abs(values[0]), abs(values[1]))
    margin = largest * sympy.Float("1e-20")
    if not exact:
        margin = max(margin, min(sympy.Rational(1, 10**6), largest / 10**4))
    return bool(difference <= margin or largest < _NOTHING)


def _same_symbols(found: Any, gold: Any) -> tuple[Any, Any]:
    """Both in the same real variables, with i as the imaginary unit.

    The grammar makes a variable of i, and calls the variables of a text real unless it sees an i in it, so that the
    same letter in two texts may be two symbols.
    """
    if not all(isinstance(one, sympy.Expr | sympy.core.relational.Relational) for one in (found, gold)):
        return found, gold
    symbols = found.free_symbols | gold.free_symbols
    if len({symbol.name for symbol in symbols} - {"i"}) == len(symbols):
        return found, gold
    table = {symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True) for symbol in symbols}
    return found.xreplace(table), gold.xreplace(table)


def _value(expression: sympy.Expr) -> Any:
    """A constant to 30 digits; None for anything else, and for an explicit percentage."""
    if expression.free_symbols or expression.has(sympy.UnevaluatedExpr):
        return None
    value = sympy.N(expression, _DIGITS)
    return value if value.is_number and value.is_finite else None


def _differ(found: Any, gold: Any) -> bool:
    """Two expressions have different values where their variables have some positive ones, so they are not equal.

    Spares the search for a simplification that does not exist, which is where most time would go.
    """
    symbols = _variables(found, gold)
    values = _values(found, gold, dict(zip(symbols, _POINT, strict=False))) if symbols else None
    return values is not None and not _close(values, "1e-5")


def _agree(found: Any, gold: Any) -> bool:
    """Equality of two exact expressions by their values: wherever letters are positive, and, where they are not,
    wherever both are real. A root or a logarithm of a letter implies that letters are positive quantities: then
    sqrt(a^2 b) is a sqrt(b), unless there is an absolute value, which implies the contrary."""
    symbols = _variables(found, gold)
    if not symbols or any(one.has(sympy.Float) or one.atoms(AppliedUndef) for one in (found, gold)):
        return False
    for shift in range(_POINTS):
        values = _values(found, gold, dict(zip(symbols, _POINT[shift:] + _POINT[:shift], strict=False)))
        if values is None or not _close(values, "1e-20"):
            return False
    differ = positive = False
    for negative in [*([symbol] for symbol in symbols), symbols]:
        at = {symbol: -x if symbol in negative else x for symbol, x in zip(symbols, _POINT, strict=False)}
        values = _values(found, gold, at)
        real = values is not None and all(value.is_real for value in values)
        positive = positive or not real
        differ = differ or (real and values is not None and not _close(values, "1e-20"))
    if not differ:
        return True
    return positive and len(symbols) > 1 and not (found.has(sympy.Abs) or gold.has(sympy.Abs))


def _variables(found: Any, gold: Any) -> list[Any]:
    """Of two expressions, in order; none where both are words, which are products of their letters to the grammar."""
    if not isinstance(found, sympy.Expr) or not isinstance(gold, sympy.Expr):
        return []
    symbols = sorted(found.free_symbols | gold.free_symbols, key=str)
    words = all(_word(one) for one in (found, gold))
    return [] if words or len(symbols) > len(_POINT) else symbols


def _word(expression: sympy.Expr) -> bool:
    """A product of letters alone."""
    factors = expression.args if expression.is_Mul else (expression,)
    return all(one.is_Symbol or (one.is_Pow and one.base.is_Symbol and one.exp.is_Integer) for one in factors)


def _values(found: Any, gold: Any, point: dict[Any, Any]) -> list[Any] | None:
    values = [sympy.N(one.subs(point), _DIGITS) for one in (found, gold)]
    return values if all(value.is_number and value.is_finite for value in values) else None


def _close(values: list[Any], relative: str) -> bool:
    return bool(abs(values[0] - values[1]) <= sympy.Float(relative) * max(abs(values[0]), abs(values[1])))


def _vacuous(found: Any, gold: Any) -> bool:
    """math-verify calls two equations equal that sympy finds no solution of; only proportional ones are."""
    if not (isinstance(found, sympy.Eq) and isinstance(gold, sympy.Eq)):
        return False
    one, other = found.lhs - found.rhs, gold.lhs - gold.rhs
    if sympy_expr_eq(one, other, 6, 15) or sympy.simplify(one / other).is_number:
        return False
    return not sympy.solve(gold, list(gold.free_symbols))


def harness(prediction: str, reference: str) -> bool:
    """Symbolic equality in qwen mode: equal by form, by simplification, as equations, or to a ten-thousandth."""
    if re.search(r"\{,\}|\\approx", prediction + reference):  # the harness's parsers fail: 10{,}000 equals only itself
        return False
    one, other = _grammar(prediction), _grammar(reference)
    if any(side is None or isinstance(side, sympy.Set | sympy.Tuple) for side in (one, other)):  # they read no sets
        return False
    if str(one) == str(other) or one == other:
        return True
    for rule in (_simplified, _equations, _near, _rounded):
        try:
            if rule(one, other):
                return True
        except (TypeError, ValueError, AttributeError, NotImplementedError, ArithmeticError):
            continue
    return False


def _grammar(text: str) -> Any:
    text = _PRODUCT.sub(r"\g<0>\\cdot ", text)
    for candidate in (text.replace("\\\\", "\\"), text):
        try:
            return latex2sympy(
                normalize_latex(candidate, NormalizationConfig(boxed="none")), is_real=None, normalization_config=None
            )
        except Exception:  # the parser raises bare exceptions
            continue
    return None


def _simplified(one: Any, other: Any) -> bool:
    return bool(one.equals(other)) or sympy.simplify(one - other) == 0


def _equations(one: Any, other: Any) -> bool:
    return bool(abs(one.lhs - one.rhs).equals(abs(other.lhs - other.rhs)))


def _near(one: Any, other: Any) -> bool:
    """To a ten-thousandth. Infinity is near nothing, and neither is what has no value."""
    first, second = sympy.N(one), sympy.N(other)
    if not (first.is_real and second.is_real and first.is_finite and second.is_finite):
        return False
    return bool(abs(first - second) <= sympy.Float("1e-4") * max(abs(first), abs(second)))


def _rounded(one: Any, other: Any) -> bool:
    rounded = (matrix.applyfunc(lambda x: round(x, 3)) for matrix in (one, other))
    first, second = rounded
    return one.shape == other.shape and bool(first.equals(second))
