"""SIGTERM (the end of a job's wall time) and Ctrl-C end a run in order and in bounded time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar

from mrsi_engine.errors import Interrupted

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether this process was asked to stop; asked twice, it does so at once."""

    def __init__(self) -> None:
        self._asked_by: str | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        """Whether it was asked."""
        return self._asked_by is not None

    def check(self) -> None:
        """Stop here if asked to.

        Raises
        ------
        Interrupted
            If it was asked.
        """
        if self._asked_by is not None:
            raise Interrupted(
                f"stopped by {self._asked_by}; what is done is kept, and the run goes on with the "
                "same command"
            )

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it the first signal raises, too: what runs here is given up."""
        self.check()
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Within it whoever holds the stop asks for it, whatever is so around it."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        again, self._asked_by = self.asked, signal.Signals(number).name
        if again or self._at_once:
            self.check()


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals to end are wishes meanwhile, which whoever holds the stop grants.

    One within another is the same stop. Threads other than the main one get no signals: theirs is
    never asked for.
    """
    running = signal.getsignal(signal.SIGTERM)
    if isinstance(running, Stop):
        yield running
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None is a handler that was not set from Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def interruptible(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Makes the first signal to end raise :class:`~mrsi_engine.errors.Interrupted` inside it.

    Windows of tasks inside let running ones end first.
    """

    @wraps(function)
    def stoppable_function(*given: _Given.args, **named: _Given.kwargs) -> _Found:
        with stoppable() as stop, stop.at_once():
            return function(*given, **named)

    return stoppable_function
