"""The clock and the turns of the arms."""

from __future__ import annotations

import time

import pytest
import torch

from comparisons.speed.results import ratio
from comparisons.speed.timing import Budget, CudaClock, time_in_turns


class Counting:
    """A clock that counts calls: an arm takes as many seconds as it is told."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.order = 0.0, ""
        self.arms = {name: self._arm(name, cost) for name, cost in seconds.items()}

    def _arm(self, name: str, cost: float):  # type: ignore[no-untyped-def]
        def call() -> None:
            self.order += name
            self.now += cost

        return call

    def measure(self, budget: Budget) -> dict[str, list[float]]:
        return time_in_turns(self.arms, budget, lambda: self.now)


def test_arms_start_alike_and_take_turns_of_equal_length() -> None:
    clock = Counting(a=2.0, b=1.0)
    assert clock.measure(Budget(32.0, 4, 1)) == {"a": [2.0] * 4, "b": [1.0] * 4}
    assert clock.order == "aabb" + "aabbbbbbbbaa" * 2  # twice alone, then a round of 8 seconds each


def test_slow_arms_get_fewer_rounds_but_never_fewer_than_the_least() -> None:
    assert len(Counting(a=1.0, b=1.0).measure(Budget(24.0, 15, 3))["a"]) == 6
    assert len(Counting(a=9.0, b=1.0).measure(Budget(12.0, 15, 3))["a"]) == 3
    assert len(Counting(a=0.1, b=0.1).measure(Budget(12.0, 15, 3))["a"]) == 15


def test_an_arm_that_is_slower_shows() -> None:
    times = Counting(a=1.0, b=2.0).measure(Budget(12.0, 5, 5))
    assert ratio(times["a"], times["b"]) == (0.5, 0.0)


def test_the_gpus_clock_adds_up_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading records an event and waits for it; milliseconds since the last become seconds."""
    stamps = iter([5.0, 8.0, 8.5])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.done = False

        def record(self) -> None:
            self.at = next(stamps)

        def synchronize(self) -> None:
            self.done = True

        def elapsed_time(self, end: Event) -> float:
            assert self.done and end.done
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = CudaClock()
    assert [clock(), clock()] == [0.003, 0.0035]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpus_clock_counts_launches() -> None:
    """A step that leaves the GPU idle for 10 ms takes 10 ms."""
    x = torch.ones(8, device="cuda")

    def step() -> None:
        x.add_(1)
        time.sleep(0.01)

    times = time_in_turns({"a": step}, Budget(0.1, 3, 3), CudaClock())["a"]
    assert 0.01 <= min(times) < 0.03
