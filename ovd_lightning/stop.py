"""Ending a process on SIGTERM or SIGINT: within seconds in any phase, with what is finished saved first.

The handler raises :class:`Stopped` in the main thread at once, or at the end of a section where something is half done.
Python runs a handler only between two bytecodes of the main thread, and code that catches everything can swallow what
it raises; so a second thread hears of the signal too, and ends the process itself where the main thread does not.
Standard library only, until the end: it is in place before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 4.0
"""Seconds in which the main thread must have begun to end the process; then the other thread does."""
HELD_S = 2.0
"""... and as many more where the main thread is changing the weights."""
LIMIT_S = 8.0
"""Seconds from the signal to the end, where writing the checkpoint takes none."""
LOGGERS_S = 3.0
"""Seconds that loggers have to send what they hold; what they do not send is in the run's folder."""
SAME_S = 1.0
"""A second signal within this many seconds is the first one again: ``timeout`` and launchers send it to a process and
to its group."""
PARENT_S = 600.0
"""Seconds that a rank which rank 0 started waits for rank 0 to save and end it; less where rank 0 is gone."""
ALONE_S = 5.0
"""Seconds after its own error in which a rank expects rank 0 to end by the same one."""
FAILED_S = 20.0
"""Seconds that a rank has to end by itself after an error: what it still waits for may wait for the others."""


class Stopped(BaseException):
    """A signal asks the process to end. Not an Exception, so that what handles failures does not handle it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Signals:
    """The handlers of one process, and how it ends."""

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the signal that ends this process."""
        self.last_words: Callable[[], None] | None = None
        """Saves what is finished. Set by whoever has something to lose; may run in another thread than the main one,
        while the main thread does not move."""
        self.hard_end = False
        """An error ends this process without waiting for anything, too."""
        self.status: int | None = None
        """Exit status, where it is not that of the signal: another rank failed, and asked this one to end."""
        self._depth = self._writing = 0
        self._held = self._raised = False
        self._claim = threading.Lock()
        self._begun, self._saved = threading.Event(), threading.Event()
        self._first_at = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, object] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    # ------------------------------------------------------------- handlers

    def install(self) -> None:
        """Main thread only."""
        reader, writer = self._sockets = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        os.register_at_fork(after_in_child=self._forget)

    def take_over(self, *others: int) -> None:
        """Be the handler again where a library has put its own in place, which would wait for other ranks.

        Args:
            others: signals whose handler stays, but no longer runs where something is half done.
        """
        for number in SIGNALS:
            signal.signal(number, self._handle)
        for other in others:
            handler = signal.getsignal(other)
            if callable(handler) and not isinstance(handler, _Deferred):
                signal.signal(other, _Deferred(self, handler))

    def uninstall(self) -> None:
        if self._sockets is None or self._pid != os.getpid():
            return
        for known, handler in self._previous.items():
            signal.signal(known, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(-1)
        for end in self._sockets:
            end.close()
        self._sockets = None

    def _forget(self) -> None:
        """In a fork: the signals are its own, and the socket is its parent's."""
        if self._sockets is None:
            return
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)
        for end in self._sockets:
            end.close()
        self._sockets = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        self._raise()

    def _raise(self) -> None:
        if self.received is not None and not self._depth and not self._raised:
            self._raised = True
            raise Stopped(self.received)

    # ------------------------------------------------------------- sections

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A signal that arrives inside is raised at the end."""
        self._depth += 1
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self._depth -= 1
            self._raise()

    def hold(self) -> None:
        """As :meth:`shielded`, until :meth:`release`: while weights change, and the records beside them."""
        if self._claim.locked() and not self._begun.is_set():
            self._wait_for_the_end()  # the other thread is saving the weights
        if not self._held:
            self._held = True
            self._depth += 1

    def release(self) -> None:
        if self._held:
            self._held = False
            self._depth -= 1
            self._raise()

    # ------------------------------------------------------------------ end

    def _watch(self, reader: socket.socket) -> None:
        while True:
            try:
                numbers = reader.recv(64)
            except OSError:
                return
            if not numbers:
                return
            for number in numbers:
                if number not in SIGNALS:
                    continue
                if not self._first_at:
                    self._first_at = time.monotonic()
                    threading.Thread(target=self._limit, args=(number,), name="end", daemon=True).start()
                elif time.monotonic() - self._first_at > SAME_S:
                    _kill_children()
                    os._exit(128 + number)

    def _limit(self, number: int) -> None:
        """Ends the process where the main thread does not."""
        if not self._begun.wait(GRACE_S):
            until = time.monotonic() + HELD_S
            while self._writing or (self._held and time.monotonic() < until):
                time.sleep(0.05)
            if self._claim.acquire(blocking=False):
                self.received = self.received or number
                self._say_last_words()
                self.finish(128 + number)
        self._saved.wait()
        time.sleep(max(self._first_at + LIMIT_S - time.monotonic(), LOGGERS_S + 1))
        _kill_children()
        os._exit(128 + number if self.status is None else self.status)

    def begin(self) -> None:
        """The main thread has begun to end the process; does not return where the other thread has."""
        if self._begun.is_set():
            return
        if not self._claim.acquire(blocking=False):
            self._wait_for_the_end()
        self._begun.set()

    def end_soon(self) -> None:
        """After an error on one of several ranks, when everything is saved."""
        self.hard_end = True
        timer = threading.Timer(FAILED_S, self.finish, (1,))
        timer.daemon = True
        timer.start()

    def end(self, number: int) -> NoReturn:
        """Save what is finished, and end. From the main thread."""
        self.begin()
        if not self._saved.is_set():
            self._say_last_words()
        self.finish(128 + number)

    def saved(self) -> None:
        """Everything is saved: only what is bounded in time is left to do."""
        self.last_words = None
        self._saved.set()

    def _say_last_words(self) -> None:
        try:
            if self.last_words is not None:
                self.last_words()
            else:
                print(f"{Stopped(self.received or signal.SIGTERM)}", file=sys.stderr, flush=True)
        except BaseException as error:  # the process ends all the same
            with contextlib.suppress(OSError):
                print(f"what was finished could not be saved: {error}", file=sys.stderr, flush=True)
        finally:
            self.saved()

    def finish(self, status: int) -> NoReturn:
        """No exit handlers: they join threads and engines that may wait for an answer for minutes."""
        status = status if self.status is None else self.status
        closed = _within(LOGGERS_S, lambda: _close_wandb(status))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if _started_by_rank_zero():
            parent, until = os.getppid(), time.monotonic() + PARENT_S
            while os.getppid() == parent and time.monotonic() < until:
                time.sleep(0.05)  # a rank that ends first would have rank 0 killed while it saves
        _kill_children(spare_wandb=not closed)
        os._exit(status)

    @staticmethod
    def _wait_for_the_end() -> NoReturn:
        while True:
            time.sleep(60)


class _Deferred:
    """A library's handler, which runs when nothing is half done."""

    def __init__(self, signals: Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        self.signals = signals
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signals._depth:
            again = threading.Timer(0.1, signal.raise_signal, (number,))
            again.daemon = True
            again.start()
        else:
            self.handler(number, frame)


_CURRENT: ContextVar[Signals | None] = ContextVar("signals", default=None)


def current() -> Signals | None:
    """The signals of this process; None in a program that does not end on them, and in other threads."""
    return _CURRENT.get()


@contextmanager
def shielded() -> Iterator[None]:
    """Something is half done inside: a signal is raised at the end."""
    signals = current()
    with contextlib.nullcontext() if signals is None else signals.shielded():
        yield


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the process, with status 143 and 130. Inside another of its kind, nothing."""
    if current() is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = Signals()
    token = _CURRENT.set(signals)
    signals.install()
    try:
        yield
    except BaseException as error:
        if signals.received is not None:  # Stopped itself, or what it led to on the way
            signals.end(signals.received)
        if signals.hard_end:
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            signals.finish(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)
        raise
    else:
        if signals.received is not None:
            signals.end(signals.received)
    finally:
        signals.uninstall()
        _CURRENT.reset(token)


def _started_by_rank_zero() -> bool:
    """By Lightning, which kills rank 0 when another rank ends."""
    elsewhere = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
    return os.environ.get("LOCAL_RANK", "0") != "0" and not elsewhere


def tell_rank_zero() -> None:
    """That another rank cannot go on: it saves, and ends all of them. Other launchers end the ranks themselves.

    After a while, in which rank 0 may end by itself: a wrong setting is found by every rank.
    """
    if not _started_by_rank_zero():
        return
    parent = os.getppid()

    def tell() -> None:
        if os.getppid() == parent:
            os.kill(parent, signal.SIGTERM)

    timer = threading.Timer(ALONE_S, tell)
    timer.daemon = True
    timer.start()


def _within(seconds: float, work: Callable[[], None]) -> bool:
    """Whether it ended by then. It is let go where it did not."""

    def run() -> None:
        with contextlib.suppress(BaseException):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _close_wandb(status: int) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.run.finish(exit_code=status)
        wandb.teardown(exit_code=status)


def _kill_children(spare_wandb: bool = True) -> None:
    """Engines, workers, sandboxes, ranks. W&B's process writes what it holds and ends by itself."""
    with contextlib.suppress(Exception):
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if not (spare_wandb and child.name().startswith("wandb")):
                    child.kill()
