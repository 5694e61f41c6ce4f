"""Runs one program in this process, as ``python main.py`` would. Standard library only."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import sys
import threading
import types
from typing import Any, NoReturn

NAME = "main.py"
"""The program's file name in tracebacks."""


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    # line buffering, so that output from before a kill is not lost
    return io.TextIOWrapper(
        open(descriptor, mode + "b", closefd=False), "utf-8", "backslashreplace", line_buffering=mode == "w"
    )


def _seed() -> None:
    """Reset the inherited random state, so that the same program prints the same."""
    if (random := sys.modules.get("random")) is not None:
        random.seed(0)
    if (numpy := sys.modules.get("numpy.random")) is not None:
        numpy.seed(0)


def run_main(code: str, names: dict[str, Any], print_value: bool) -> None:
    """Run a program with the globals ``names``. Self-contained: its source is sent to remote sandboxes.

    Args:
        print_value: print the value of the last line if it is an expression and not None, like an interactive
            interpreter.
    """
    import ast
    import linecache

    code = code.removeprefix("\ufeff")  # a file may begin with a byte order mark, a text for compile() may not
    linecache.cache["main.py"] = (len(code), None, code.splitlines(keepends=True), "main.py")
    tree: Any = compile(code, "main.py", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if print_value and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "main.py", "exec", dont_inherit=True), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "main.py", "eval", dont_inherit=True), names)
        if value is not None:
            print(value)


def traceback_of(error: BaseException) -> str:
    """The traceback as the interpreter prints it for ``main.py``. Self-contained, see above."""
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != "main.py":
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def execute(code: str, print_value: bool) -> NoReturn:
    """Run the program and end this process with its exit code; an exception prints its traceback."""
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = _stream(descriptor, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__=NAME)
    sys.modules["__main__"] = module
    sys.argv = [NAME]
    sys.path.insert(0, "")
    _seed()
    status = _run(code, module.__dict__, print_value)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, like the interpreter
        atexit._run_exitfuncs()
    except BaseException:
        status = status or 1
    for output in (sys.stdout, sys.stderr):
        if not getattr(output, "closed", False):
            try:
                output.flush()
            except (OSError, ValueError, AttributeError):  # the program replaced it
                status = status or 120
    os._exit(status)


def _run(code: str, names: dict[str, Any], print_value: bool) -> int:
    try:
        run_main(code, names, print_value)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        _print_error(str(end.code) + "\n")
        return 1
    except BaseException as error:
        try:
            _print_error(traceback_of(error))
        except BaseException:  # out of memory
            _print_error(type(error).__name__ + "\n")
        return 1
    return 0


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # the program closed it
        while data:
            data = data[os.write(2, data) :]
