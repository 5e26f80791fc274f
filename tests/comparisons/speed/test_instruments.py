"""The instruments of the speed comparison: clock and turns, memory, floor."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from comparisons.speed import dtypes, floor, memory
from comparisons.speed import workloads as grid
from comparisons.speed.arms.pytorch import AUTOGRAD, problem, torch_arms
from comparisons.speed.costs import LAPLACIAN, TRAINING
from comparisons.speed.floor import Rates
from comparisons.speed.results import Result, ratio
from comparisons.speed.timing import Budget, CudaClock, measure
from comparisons.speed.workloads import Row

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
    found = floor.measured(["float32", "tf32"], device, 0.0)
    assert min(*found.operations.values(), found.bytes) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpus_clock_counts_launches() -> None:
    """A step that leaves the GPU idle for 10 ms takes 10 ms."""
    x = torch.ones(8, device="cuda")

    def step() -> None:
        x.add_(1)
        time.sleep(0.01)

    times = measure({"a": step}, Budget(0.1, 3, 3), CudaClock())["a"]
    assert 0.01 <= min(times) < 0.03


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
    assert floor.operations(Row(LAPLACIAN, (2, 3, 1), 5, "tanh")) is None


def test_bytes_by_hand() -> None:
    """N = 5 rows of 2 and of 4 numbers; 6 + 3 and 12 + 4 parameters, read once, written once."""
    row = Row(TRAINING, (2, 3, 4), 5, "relu")
    assert floor.moved(row) == 4 * (5 * 2 + 5 * 4 + 2 * (9 + 16))
    halves = [replace(row, dtype=dtype) for dtype in ("float16", "tf32", "float64")]
    assert [floor.moved(each) for each in halves] == [160, 320, 640]
    assert floor.moved(Row(LAPLACIAN, (2, 3, 1), 5, "tanh")) is None


def test_the_larger_floor_counts() -> None:
    """480 operations and 320 bytes: 10 s and 5 s, or 10 s and 20 s."""
    row, none = Row(TRAINING, (2, 3, 4), 5, "relu"), Row(LAPLACIAN, (2, 3, 1), 5, "tanh")
    found = floor.floors(row, Rates({"float32": 48.0}, 64.0))
    assert found == {"products": 10.0, "bytes": 5.0}
    assert Result("rows", row, {}, {}, found).floor == 10.0
    slower = floor.floors(row, Rates({"float32": 48.0}, 16.0))
    assert Result("rows", row, {}, {}, slower).floor == 20.0
    assert floor.floors(none, Rates({"float32": 48.0}, 64.0)) == {}
    assert Result("rows", none, {}, {}).floor is None


def test_tf32_has_a_rate_of_its_own() -> None:
    row = Row(TRAINING, (2, 3, 4), 5, "relu", "tf32")
    assert floor.floors(row, Rates({"float32": 48.0, "tf32": 96.0}, 64.0))["products"] == 5.0


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

    assert floor.rate(product, 12000, 10.0, lambda: now[0]) == 12000 / 2.0


def test_the_rate_is_of_every_call_between_two_readings() -> None:
    """Of 12, 6 and 6 seconds for 3 calls of 100 operations each, after one call of 2."""
    now, costs = [0.0], iter([2.0, 4.0, 4.0, 4.0, *[2.0] * 6])

    def product() -> torch.Tensor:
        now[0] += next(costs)
        return torch.empty(0)

    assert floor.rate(product, 100, 24.0, lambda: now[0], calls=3) == 300 / 6.0


def test_the_higher_rate_counts() -> None:
    before = Rates({"float32": 2.0, "float64": 1.0}, 7.0)
    after = Rates({"float32": 1.5, "float64": 1.2}, 8.0)
    assert before.raised(after) == Rates({"float32": 2.0, "float64": 1.2}, 8.0)


def test_rates_of_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "SHAPES", ((32, 16, 8),))
    monkeypatch.setattr(floor, "COPIED", 2**16)
    found = floor.measured(["float32", "float64", "bfloat16", "tf32", "float32"], CPU, 0.0)
    assert list(found.operations) == ["float32", "float64", "bfloat16", "tf32"]
    assert min(*found.operations.values(), found.bytes) > 0


def test_the_bandwidth_counts_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of 1000 bytes in half a second, whatever the processor takes for it."""
    readings = iter(range(100))
    monkeypatch.setattr(floor, "clock_of", lambda _: lambda: next(readings) / 2)
    monkeypatch.setattr(floor, "COPIED", 1000)
    assert floor.measured([], CPU, 0.0).bytes == 2000 / 0.5


def test_tf32_is_a_flag_for_its_rows_alone() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for outside in (False, True):
        matmul.allow_tf32 = outside
        try:
            seen = []
            for name in ("tf32", "float32"):
                with dtypes.products(name):
                    seen.append(matmul.allow_tf32)
            with pytest.raises(KeyError), dtypes.products("tf32"):
                raise KeyError
            assert seen == [True, False] and matmul.allow_tf32 is outside
        finally:
            matmul.allow_tf32 = before


def test_too_large() -> None:
    row = Row(TRAINING, (64, 512, 512, 1), 262144, "relu")
    assert "a step would take about 3 s" in str(grid.too_large("batch", row, 1.5))
    assert grid.too_large("batch", row, 0.25) is None
    assert grid.too_large("rows", row, 1.5) is None
    assert grid.too_large("batch", row, 0.05, quick=True) is not None
    wide = Row(TRAINING, (64, 8191, 1), 262144, "relu")
    assert "a step would take about 26.0 GB" in str(grid.too_large("batch", wide, 0.1))
    assert grid.too_large("batch", wide, 0.1, most=27e9) is None


def test_a_gpus_memory_says_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 GB, of which several arms hold a step's each."""
    known = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: known)
    assert grid.largest(torch.device("cuda")) == 16e9 and grid.largest(CPU) == grid.LARGEST


def test_a_graphs_memory_is_all_that_its_pool_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [((0, 1), 2), ((0, 2), 3), ((0, 1), 20), ((0, 0), 50)]
    snapshot = [{"segment_pool_id": pool, "total_size": size} for pool, size in sizes]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: snapshot)
    assert memory.reserved((0, 1)) == 22
