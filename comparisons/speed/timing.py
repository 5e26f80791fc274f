"""Seconds per step, for several arms in turns, so that what slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Clock = Callable[[], float]


class Budget(NamedTuple):
    """How long one workload is timed."""

    seconds: float
    most: int  # rounds, where the time allows
    least: int  # rounds, whatever they take


def time_in_turns(
    steps: Mapping[str, Callable[[], object]],
    budget: Budget,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call, for every arm and round; the turns of all arms are equally long.

    A round gives every arm a turn. There are fewer rounds where steps are slow. A turn begins with
    a step that does not count: caches hold another arm's data then, and its threads are awake.
    """
    alone = {name: _second_call(step, clock) for name, step in steps.items()}
    fitting = int(budget.seconds / max(2 * sum(alone.values()), 1e-9))
    rounds = max(budget.least, min(budget.most, fitting))
    turn = budget.seconds / (rounds * len(steps))
    repeats = {n: max(1, min(1000, round(turn / max(s, 1e-9)) - 1)) for n, s in alone.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds):
        shift = number % len(names)  # every arm goes first as often as the others
        for name in names[shift:] + names[:shift]:
            step, count = steps[name], repeats[name]
            step()
            start = clock()
            for _ in range(count):
                step()
            times[name].append((clock() - start) / count)
    return times


def _second_call(step: Callable[[], object], clock: Clock) -> float:
    """How long a step takes when caches, allocators and kernels are warm."""
    step()
    start = clock()
    step()
    return clock() - start


def clock_of(device: torch.device) -> Clock:
    """The device's own clock."""
    return CudaClock() if device.type == "cuda" else time.perf_counter


class CudaClock:
    """Seconds by the GPU's events; a reading waits for all the work before it and counts it.

    The time between two readings is that of the work or of Python's launches, whichever is longer.
    For a reading returns when its event has happened, so the GPU is idle then. The next event comes
    on the stream behind the last kernel, so it counts every pause in which the GPU waited for a
    launch. Work on another stream (JAX's) counts because the step waits for it before it returns.
    """

    def __init__(self) -> None:
        self._now, self._last = 0.0, self._event()

    def __call__(self) -> float:
        event = self._event()
        self._now += self._last.elapsed_time(event) / 1e3  # summed here: its own sum is float32
        self._last = event
        return self._now

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        event.synchronize()
        return event
