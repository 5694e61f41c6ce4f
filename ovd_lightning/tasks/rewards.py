"""A reward that is a plain function, ``reward: my_module.my_function`` of any task::

    def my_function(response: str, problem: Problem) -> float | bool | Grade

``response`` is what was written: the completion with its thought, without the prompt and without observations. A
number becomes the reward, while the task's checker still decides what is correct; True and False are both; a `Grade`
is everything.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.types import Grade, Problem

RewardFunction = Callable[[str, Problem], float | Grade]


class RewardError(RuntimeError):
    """A reward function raised, or returned something that is no reward: the run stops, nothing is counted as 0."""


def find(reward: str | RewardFunction, setting: str, own: Sequence[str] = ()) -> RewardFunction:
    """The function itself, or the one of this import path.

    Args:
        own: names of the task's own rewards, which ``setting`` also takes.

    Raises: ConfigError naming ``setting``.
    """
    function, problem = _imported(reward) if isinstance(reward, str) else (reward, None)
    if problem is None and not callable(function):
        problem = f"{reward!r} is no function."
    elif problem is None:
        with suppress(ValueError):  # of a builtin, whose signature is not known
            try:
                inspect.signature(function).bind("", None)
            except TypeError as error:
                problem = f"{name_of(function)} cannot be called with a response and a problem ({error})."
    if problem is not None:
        use = "module.function of a function of the response (a text) and the problem that returns a number."
        raise ConfigError(setting, problem, f"Give {', '.join(own)}, or {use}" if own else f"Give {use}")
    return function


def _imported(path: str) -> tuple[Any, str | None]:
    """What an import path names, or what is wrong with it."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module or not name:
        return None, f"is {path!r}, which is no import path."
    try:
        found = importlib.import_module(module)
    except Exception as error:  # of any kind: the module is the user's
        reason = f"{type(error).__name__}: {error}"
        return None, (
            f"{path}: the module {module} cannot be imported ({reason}). Python looks for it in the folder that the "
            "command was started in and on PYTHONPATH."
        )
    if not hasattr(found, name):
        own = [n for n, value in vars(found).items() if inspect.isfunction(value) and not n.startswith("_")]
        return None, f"{path}: the module has no {name}. Its functions are {', '.join(own[:10]) or 'none'}."
    return getattr(found, name), None


def name_of(function: RewardFunction) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def apply(function: RewardFunction, grade: Grade, response: str, problem: Problem) -> Grade:
    """The grade with the function's reward in it.

    Raises: RewardError naming the function and the problem.
    """
    where = f"the reward {name_of(function)} of problem {problem.id!r}"
    try:
        value = function(response, problem)
    except Exception as error:
        raise RewardError(
            f"{where} raised {type(error).__name__}: {error}. The response: {response[-200:]!r}"
        ) from error
    if isinstance(value, Grade):
        found, given = value, value.reward
    elif type(value).__name__ in ("bool", "bool_"):  # NumPy's too
        found, given = replace(grade, reward=float(value), correct=bool(value)), float(value)
    else:
        given = _number(value)
        found = replace(grade, reward=given)
    if not math.isfinite(given):
        raise RewardError(f"{where} is {value!r}, which is no finite number. The response: {response[-200:]!r}")
    return found


def _number(value: Any) -> float:
    """NaN for what is not a number; a text never is one."""
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        return math.nan
