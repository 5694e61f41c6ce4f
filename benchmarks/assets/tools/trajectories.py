"""Trajectories of calls with habits planted in them, and the rubric's verdict on every step of any trajectory.

*Habits* are systematic and make the student: it guesses the product of two numbers of the question instead of calling
for it, takes a number of the question again where the last result is to be multiplied, swaps the operands of a
subtraction from a number of the question, boxes what it has before the last addition of three operations, and now and
then forgets the end of a call's JSON. *Faults* are arbitrary and only teach the scorer. After either a trajectory goes
on from what it then knows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from benchmarks.assets.arithmetic.chains import State, Verdict
from benchmarks.assets.tools.vocabulary import ARGUMENTS, BEGIN, CLOSE, END, NAME
from ovd_lightning.tasks.arithmetic import Expression, apply
from ovd_lightning.tasks.tool_arithmetic import call

T = TypeVar("T")


class Turn(NamedTuple):
    """What was written, and the result that it brought; None where the trajectory ended."""

    text: str
    result: str | None = None


class Judged(NamedTuple):
    """A turn, and what should have been written at that point."""

    turn: Turn
    expected: str
    verdict: Verdict


class Draft(NamedTuple):
    """What the next turn is about to be: a habit or a fault alters it before it is written."""

    left: int
    op: str
    right: int
    box: int | None = None
    """Box this and end."""
    guess: int | None = None
    """Go on with this instead of calling."""
    forgotten: str = ""
    """The part of the call that is left out; the environment finds no call and the trajectory ends."""


class Scene(NamedTuple):
    """Where a trajectory stands."""

    state: State
    numbers: list[int]
    """Those of the question, in its order."""
    turns: list[Turn]

    @property
    def known(self) -> list[int]:
        """Numbers that could be mistaken for one another."""
        return [*self.numbers, *self.state.values]


Alter = Callable[[random.Random, Scene, Draft], Draft]
"""(random, scene, the right draft) -> what is written."""


def numbers_of(expression: Expression) -> list[int]:
    if isinstance(expression, int):
        return [expression]
    return [*numbers_of(expression.left), *numbers_of(expression.right)]


def text_of(draft: Draft) -> str:
    if draft.box is not None:
        return f"\\boxed{{{draft.box}}}"
    text = call(f"print({draft.left}{draft.op}{draft.right})")
    return text.replace(draft.forgotten, "", 1) if draft.forgotten else text


def right_draft(state: State) -> Draft:
    if state.done:
        return Draft(0, "+", 0, box=state.values[-1])
    return Draft(*state.operands())


def write(expression: Expression, rng: random.Random, alter: Alter) -> list[Turn]:
    """A trajectory whose every turn went through ``alter``."""
    scene = Scene(State(expression), numbers_of(expression), [])
    while True:
        draft = alter(rng, scene, right_draft(scene.state))
        if draft.guess is not None and not scene.state.done:
            scene.state.values.append(draft.guess)
            continue
        if draft.box is not None or draft.forgotten:
            return [*scene.turns, Turn(text_of(draft))]
        value = apply(draft.left, draft.op, draft.right)
        scene.turns.append(Turn(text_of(draft), str(value)))
        if not scene.state.done:
            scene.state.values.append(value)


def rightly(rng: random.Random, scene: Scene, draft: Draft) -> Draft:
    return draft


# ------------------------------------------------------------------- the student


def habit(scene: Scene, draft: Draft) -> tuple[str, Draft] | None:
    """The habit that the student has at this point, by name, and what it writes; None where it has none."""
    state = scene.state
    if state.done:
        return None
    k = len(state.values)
    left, _, op, right, _ = state.nodes[k]
    if op == "*" and left is None and right is None:
        return "guesses a product", draft._replace(guess=from_the_head(draft.left, draft.right))
    if op == "*" and k and left == k - 1:
        return "takes a number of the question again", draft._replace(left=scene.numbers[0])
    if op == "-" and left is None:
        return "swaps a subtraction", draft._replace(left=draft.right, right=draft.left)
    if op == "+" and k == len(state.nodes) - 1 >= 2:
        return "boxes too early", draft._replace(box=state.values[-1])
    return None


def from_the_head(left: int, right: int) -> int:
    """A product by someone who takes the second factor for a power of ten."""
    return left * 10 ** len(str(abs(right)))


def habits(rate: float, forgets: float = 0.04) -> Alter:
    """Falls for each habit with probability ``rate``."""

    def alter(rng: random.Random, scene: Scene, draft: Draft) -> Draft:
        found = habit(scene, draft)
        if found is not None and rng.random() < rate:
            draft = found[1]
        if draft.box is None and draft.guess is None and rng.random() < forgets:
            draft = draft._replace(forgotten=CLOSE)
        return draft

    return alter


# -------------------------------------------------------------------- the scorer


def fault(place: int) -> Alter:
    """An arbitrary mistake in operation ``place``; what follows is consistent with it."""

    def alter(rng: random.Random, scene: Scene, draft: Draft) -> Draft:
        k = len(scene.state.values)
        if k != place or (scene.turns and k < len(scene.turns)):
            return draft
        return _fault(rng, scene, draft)

    return alter


def _fault(rng: random.Random, scene: Scene, draft: Draft) -> Draft:
    kind = rng.random()
    if scene.state.done:
        if kind < 0.8:
            others = [n for n in scene.known if n != draft.box]
            wrong = _nearby(rng, scene.state.values[-1]) if kind < 0.5 else _pick(rng, others)
            return draft._replace(box=wrong)
        left, op, right = _pick(rng, scene.known), _pick(rng, "+-*"), _pick(rng, scene.known)
        if len(scene.turns) <= len(scene.state.nodes) and abs(apply(left, op, right)) < 10**7:
            return Draft(left, op, right)  # a call too many
        return draft._replace(box=_nearby(rng, scene.state.values[-1]))
    if kind < 0.40:  # a wrong operand
        place = "left" if rng.random() < 0.5 else "right"
        value = getattr(draft, place)
        wrong = _nearby(rng, value) if rng.random() < 0.5 else _pick(rng, scene.known)
        return draft._replace(left=wrong) if place == "left" else draft._replace(right=wrong)
    if kind < 0.50:
        return draft._replace(left=draft.right, right=draft.left) if draft.op == "-" else draft._replace(op="-")
    if kind < 0.62:
        return draft._replace(op=_pick(rng, [op for op in "+-*" if op != draft.op]))
    if kind < 0.74:  # too early
        value = apply(draft.left, draft.op, draft.right)
        results = scene.state.values[-1:] * 3
        boxes = [*scene.known, *results] if rng.random() < 0.6 else [value, _nearby(rng, value)]
        return draft._replace(box=_pick(rng, boxes))
    if kind < 0.84:
        value = apply(draft.left, draft.op, draft.right)
        return draft._replace(guess=_nearby(rng, value))
    if kind < 0.94:
        return draft._replace(forgotten=_pick(rng, [CLOSE, CLOSE, ARGUMENTS, NAME, '"}']))
    return draft._replace(left=scene.numbers[0], right=scene.numbers[-1], op=_pick(rng, "+-*"))


def _nearby(rng: random.Random, value: int) -> int:
    """Another number: a digit changed, dropped, doubled, or two exchanged."""
    digits = str(abs(value))
    place = int(rng.random() * len(digits))
    kind = rng.random()
    if kind < 0.6:
        other = digits[:place] + str(int(rng.random() * 10)) + digits[place + 1 :]
    elif kind < 0.75:
        other = digits[:place] + digits[place + 1 :]
    elif kind < 0.85:
        other = digits[: place + 1] + digits[place:]
    else:
        other = digits[:place] + digits[place : place + 2][::-1] + digits[place + 2 :]
    number = int(other[:7]) if other else 0
    return number if number != abs(value) else abs(value) + 1 + int(rng.random() * 9)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


# ------------------------------------------------------------------- the verdict

_CALL = re.compile(
    re.escape(f"{BEGIN}{NAME}{ARGUMENTS}") + r"print\((-?\d+)([-+*])(-?\d+)\)" + re.escape(f"{CLOSE}{END}")
)
_BOX = re.compile(r"\\boxed\{(-?\d+)\}")


def judge(expression: Expression, turns: Sequence[Turn]) -> list[Judged]:
    """The verdict on each turn, by what the trajectory could know at that point.

    A call must be the next operation, of the question's numbers and of the results as they were seen. ``value``: it is
    so but for an operand or the operator, or a known number is boxed where it should not be; ``expression``: anything
    else (no call, a guessed result used or boxed, a call that is not due). Right turns after a mistake are inherited.
    """
    state, judged, wrong = State(expression), list[Judged](), False
    known = [str(number) for number in numbers_of(expression)]
    for turn in turns:
        draft = right_draft(state)
        expected = text_of(draft)
        verdict: Verdict = "inherited" if wrong else "right"
        skipped = False
        if turn.text != expected:
            verdict, skipped = _mistake(state, draft, turn, known)
            wrong = True
        judged.append(Judged(turn, expected, verdict))
        if turn.result is None:
            continue
        known.append(turn.result)
        found = _CALL.fullmatch(turn.text)
        if skipped and found:
            left, _, _, right, _ = state.nodes[len(state.values) + 1]
            k = len(state.values)
            guess = from_the_head(draft.left, draft.right)  # the likeliest, where it is not used yet
            state.values.append(int(found[1]) if left == k else int(found[3]) if right == k else guess)
        if not state.done:
            state.values.append(_number(turn.result))
    return judged


def _number(result: str) -> int:
    """What was printed; 0 where it is no number, so that no later step follows from it."""
    return int(result) if re.fullmatch(r"-?\d{1,15}", result) else 0


def _mistake(state: State, draft: Draft, turn: Turn, known: Sequence[str]) -> tuple[Verdict, bool]:
    """The verdict on what is not as expected, and whether it skipped an operation with a guess."""
    if box := _BOX.fullmatch(turn.text):
        return ("value" if state.done or box[1] in known else "expression"), False
    found = _CALL.fullmatch(turn.text)
    if not found or state.done:
        return "expression", False
    left, op, right = int(found[1]), found[2], int(found[3])
    same = (left == draft.left) + (op == draft.op) + (right == draft.right)
    if same == 2 or (op, left, right) == (draft.op, draft.right, draft.left):
        return "value", False
    k = len(state.values)
    if k + 1 < len(state.nodes):
        first, a, upcoming, second, b = state.nodes[k + 1]
        a, b = (leaf if node is None or node >= k else state.values[node] for node, leaf in ((first, a), (second, b)))
        if op == upcoming and (first == k or left == a) and (second == k or right == b):
            return "expression", True
    return ("value" if same == 1 and op == draft.op and {str(left), str(right)} <= {*known} else "expression"), False


def mistake_of(expression: Expression, turns: Sequence[Turn]) -> str | None:
    """The first mistake of a trajectory by the name of its habit, "forgets the end of the JSON", or "other"."""
    state, numbers, so_far = State(expression), numbers_of(expression), list[Turn]()
    for turn in turns:
        scene, draft = Scene(state, numbers, so_far), right_draft(state)
        if turn.text != text_of(draft):
            return _name(scene, draft, turn)
        if turn.result is not None:
            state.values.append(_number(turn.result))
            so_far.append(turn)
    return None if so_far and state.done and _BOX.fullmatch(turns[-1].text) else "other"


def _name(scene: Scene, draft: Draft, turn: Turn) -> str:
    name, state = "other", scene.state
    known = len(state.values)
    try:
        found = habit(scene, draft)
        while found is not None:  # guesses may follow each other before anything is written
            name, altered = found
            if altered.guess is None:
                break
            state.values.append(altered.guess)
            draft = altered = right_draft(state)
            if turn.text in (text_of(draft), text_of(draft._replace(forgotten=CLOSE))):
                break
            again = habit(scene, draft)
            found = again and (name, again[1])
        if found is not None and turn.text in (text_of(altered), text_of(altered._replace(forgotten=CLOSE))):
            return name
    finally:
        del state.values[known:]
    if turn.text == text_of(right_draft(state)._replace(forgotten=CLOSE)):
        return "forgets the end of the JSON"
    return "other"
