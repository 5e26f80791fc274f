"""The instruments of the speed comparison: clock and turns, memory, floor."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from comparisons.speed import floor, grid, memory
from comparisons.speed.arms import AUTOGRAD, problem, torch_arms
from comparisons.speed.grid import Row
from comparisons.speed.results import ratio
from comparisons.speed.steps import LAPLACIAN, TRAINING
from comparisons.speed.timing import Budget, CudaClock, measure

CPU = torch.device("cpu")
MEGABYTE = 2**18  # float32 elements


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
        return measure(self.arms, budget, lambda: self.now)


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
def test_a_gpu_is_timed_and_its_memory_counted() -> None:
    device = torch.device("cuda")
    arms = torch_arms(problem(Row(TRAINING, (64, 256, 1), 4096, "relu"), 0, device))
    times = measure({n: a.step for n, a in arms.items()}, Budget(0.1, 3, 3), CudaClock())
    assert all(len(found) == 3 and min(found) > 0 for found in times.values())
    assert memory.peak(lambda: torch.empty(MEGABYTE, device=device), device) == 2**20
    assert floor.rates(["float32"], device, 0.0)["float32"] > 0


def test_memory_of_known_allocations() -> None:
    """3 MB, released, then 2: the peak is 3, not their sum, and not what is left."""
    kept = []

    def step() -> None:
        first = torch.empty(2 * MEGABYTE)
        second = torch.empty(MEGABYTE)
        del first, second
        kept.append(torch.empty(2 * MEGABYTE))

    assert memory.peak(step, CPU) == 3 * 2**20
    assert memory.peak(lambda: None, CPU) == 0


def test_memory_is_the_highest_running_sum() -> None:
    assert memory.highest([4, -4, 1, 6, -6]) == 7
    assert memory.highest([-4, 1]) == memory.highest([]) == 0


def test_memory_of_old_gradients_does_not_count() -> None:
    """Three steps in a row take the same: the arm lets go of its gradients before it starts."""
    arm = torch_arms(problem(Row(TRAINING, (512, 512, 1), 4, "relu"), 0, CPU))[AUTOGRAD]
    peaks = []
    for _ in range(3):
        arm.step()
        peaks.append(arm.peak())
    weights = 4 * 512 * 512
    assert len(set(peaks)) == 1 and weights < peaks[0] < 1.1 * weights


def test_memory_of_a_training_step() -> None:
    """u = relu(x W^T + b) V^T + c, N rows, H hidden: at its peak a, dC/da and dC/dz, N H each."""
    rows, hidden = 4096, 256
    given = problem(Row(TRAINING, (2, hidden, 1), rows, "relu"), 0, CPU)
    size = 4 * rows * hidden
    assert 3 * size <= torch_arms(given)[AUTOGRAD].peak() <= 3.01 * size


def test_memory_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")

    def step() -> None:
        numpy.ones(2**20)
        numpy.ones(2**18)

    assert 2**23 <= memory.traced(step) < 2**23 + 10_000


def test_operations_by_hand() -> None:
    """N = 5 rows, layers 2-3 and 3-4: forward and dC/dW 6 + 12 each, dC/dh of the second alone."""
    row = Row(TRAINING, (2, 3, 4), 5, "relu")
    assert floor.operations(row) == 2 * 5 * (18 + 18 + 12)
    assert floor.seconds(row, {"float32": 48.0}) == 10.0
    assert floor.operations(Row(LAPLACIAN, (2, 3, 1), 5, "tanh")) is None
    assert floor.seconds(Row(LAPLACIAN, (2, 3, 1), 5, "tanh"), {"float32": 48.0}) is None


def test_operations_by_pytorchs_own_count() -> None:
    row = Row(TRAINING, (7, 5, 6, 3), 11, "tanh")
    step = torch_arms(problem(row, 0, CPU))[AUTOGRAD].step
    with FlopCounterMode(display=False) as counted:
        step()
    assert counted.get_total_flops() == floor.operations(row)
    deeper = Row(TRAINING, (7, 5, 6, 6, 3), 11, "tanh")
    assert counted.get_total_flops() != floor.operations(deeper)


def test_the_rate_is_of_the_shortest_time() -> None:
    now, costs = [0.0], iter([9.0, 4.0, 2.0, 4.0])  # the first is warming up

    def product() -> torch.Tensor:
        now[0] += next(costs)
        return torch.empty(0)

    assert floor.rate(product, (10, 20, 30), 10.0, lambda: now[0]) == 2 * 10 * 20 * 30 / 2.0


def test_the_higher_rate_counts() -> None:
    before, after = {"float32": 2.0, "float64": 1.0}, {"float32": 1.5, "float64": 1.2}
    assert floor.raised(before, after) == {"float32": 2.0, "float64": 1.2}


def test_rates_of_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "SHAPES", ((32, 16, 8),))
    found = floor.rates(["float32", "float64", "bfloat16", "float32"], CPU, 0.0)
    assert list(found) == ["float32", "float64", "bfloat16"] and min(found.values()) > 0


def test_too_large() -> None:
    row = Row(TRAINING, (64, 512, 512, 1), 262144, "relu")
    assert "a step would take about 3 s" in str(grid.too_large("batch", row, 1.5))
    assert grid.too_large("batch", row, 0.25) is None
    assert grid.too_large("rows", row, 1.5) is None
    assert grid.too_large("batch", row, 0.05, quick=True) is not None
    wide = Row(TRAINING, (64, 8191, 1), 262144, "relu")
    assert "a step would take about 26.0 GB" in str(grid.too_large("batch", wide, 0.1))
