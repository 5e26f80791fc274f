"""Ctrl-C and SIGTERM wait until a step is over, so that what it changed can be written whole."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Held:
    """The signals that are ``waiting``, and what they did before."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def hold(self) -> None:
        """From now on the first one waits; what the program ignores is ignored."""
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # None: set by a program in C
                self._before[number] = before
                signal.signal(number, self._arrived)

    def release(self) -> None:
        """From now on they do what they did before."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def deliver(self) -> None:
        """Let the one that waits do what it did before."""
        if self.waiting:
            number = self.waiting[0]
            self.waiting.clear()
            self.release()
            signal.raise_signal(number)

    def _arrived(self, number: int, _frame: object) -> None:
        self.waiting.append(number)
        forked = os.getpid() != self._process  # a child, such as a reader of data, has no steps
        if forked or len(self.waiting) > 1:  # asked twice: at once
            self.deliver()


@contextmanager
def held(wanted: bool) -> Iterator[Held]:
    """Inside, the signals wait for ``deliver``; at the end they are delivered in any case.

    Only the main thread can hold signals; elsewhere nothing is changed.
    """
    signals = Held()
    if wanted and threading.current_thread() is threading.main_thread():
        signals.hold()
    try:
        yield signals
    finally:
        signals.release()
        signals.deliver()
