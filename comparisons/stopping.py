"""Ctrl-C and SIGTERM, also where a library would keep them to itself. Imports nothing slow."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal asked to stop. No KeyboardInterrupt: scikit-learn's fit would go on after one."""

    @property
    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + int(self.args[0])


@contextmanager
def by_signals() -> Iterator[list[Stopped]]:
    """While it lasts a signal raises Stopped; what it yields has each that was raised.

    A signal that is ignored, or that a caller handles himself, stays as it is.
    """
    raised: list[Stopped] = []

    def stop(number: int, _: FrameType | None) -> None:
        raised.append(Stopped(number))
        raise raised[-1]

    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    ours = [
        number for number, handler in usual.items()
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is handler
    ]  # fmt: skip
    for number in ours:
        signal.signal(number, stop)
    try:
        yield raised
    finally:
        for number in ours:
            if signal.getsignal(number) is stop:
                signal.signal(number, usual[number])
