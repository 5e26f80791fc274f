"""The floors: operations and bytes of a step, and the rates that the machine reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from comparisons.speed import floor, workloads
from comparisons.speed.arms.arm import AUTOGRAD, problem
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.floor import Rates
from comparisons.speed.results import Result
from comparisons.speed.workloads import LAPLACIAN, TRAINING, Workload

CPU = torch.device("cpu")


def test_operations_by_hand() -> None:
    """N = 5 rows, layers 2-3 and 3-4: forward and dC/dW 6 + 12 each, dC/dh of the second alone."""
    row = Workload(TRAINING, (2, 3, 4), 5, "relu")
    assert floor.operations(row) == 2 * 5 * (18 + 18 + 12)


def test_bytes_by_hand() -> None:
    """N = 5 rows of 2 and of 4 numbers; 6 + 3 and 12 + 4 parameters, read once, written once."""
    row = Workload(TRAINING, (2, 3, 4), 5, "relu")
    assert floor.bytes_moved(row) == 4 * (5 * 2 + 5 * 4 + 2 * (9 + 16))
    halves = [replace(row, dtype=dtype) for dtype in ("float16", "tf32", "float64")]
    assert [floor.bytes_moved(each) for each in halves] == [160, 320, 640]


def test_the_larger_floor_counts() -> None:
    """480 operations and 320 bytes: 10 s and 5 s, or 10 s and 20 s."""
    row, none = Workload(TRAINING, (2, 3, 4), 5, "relu"), Workload(LAPLACIAN, (2, 3, 1), 5, "tanh")
    found = floor.floors(row, Rates({"float32": 48.0}, 64.0))
    assert found == {"products": 10.0, "bytes": 5.0}
    assert Result("rows", row, {}, found).floor == 10.0
    slower = floor.floors(row, Rates({"float32": 48.0}, 16.0))
    assert Result("rows", row, {}, slower).floor == 20.0
    assert floor.floors(none, Rates({"float32": 48.0}, 64.0)) == {}
    assert Result("rows", none, {}).floor is None


def test_tf32_has_a_rate_of_its_own() -> None:
    row = Workload(TRAINING, (2, 3, 4), 5, "relu", "tf32")
    assert floor.floors(row, Rates({"float32": 48.0, "tf32": 96.0}, 64.0))["products"] == 5.0


def test_operations_by_pytorchs_own_count() -> None:
    row = Workload(TRAINING, (7, 5, 6, 3), 11, "tanh")
    step = eager_arms(problem(row, 0, CPU))[AUTOGRAD].step
    with FlopCounterMode(display=False) as counted:
        step()
    assert counted.get_total_flops() == floor.operations(row)
    deeper = Workload(TRAINING, (7, 5, 6, 6, 3), 11, "tanh")
    assert counted.get_total_flops() != floor.operations(deeper)


def test_the_rate_is_of_the_shortest_time() -> None:
    now, costs = [0.0], iter([9.0, 4.0, 2.0, 4.0])  # the first is warming up

    def product() -> torch.Tensor:
        now[0] += next(costs)
        return torch.empty(0)

    assert floor.best_rate(product, 12000, 10.0, lambda: now[0]) == 12000 / 2.0


def test_the_rate_is_of_every_call_between_two_readings() -> None:
    """Of 12, 6 and 6 seconds for 3 calls of 100 operations each, after one call of 2."""
    now, costs = [0.0], iter([2.0, 4.0, 4.0, 4.0, *[2.0] * 6])

    def product() -> torch.Tensor:
        now[0] += next(costs)
        return torch.empty(0)

    assert floor.best_rate(product, 100, 24.0, lambda: now[0], calls=3) == 300 / 6.0


def test_the_higher_rate_counts() -> None:
    before = Rates({"float32": 2.0, "float64": 1.0}, 7.0)
    after = Rates({"float32": 1.5, "float64": 1.2}, 8.0)
    assert before.raised(after) == Rates({"float32": 2.0, "float64": 1.2}, 8.0)


def test_rates_of_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "SHAPES", ((32, 16, 8),))
    monkeypatch.setattr(floor, "COPIED", 2**16)
    found = floor.measured_rates(["float32", "float64", "bfloat16", "tf32", "float32"], CPU, 0.0)
    assert list(found.operations) == ["float32", "float64", "bfloat16", "tf32"]
    assert min(*found.operations.values(), found.bytes) > 0


def test_the_bandwidth_counts_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of 1000 bytes in half a second, whatever the processor takes for it."""
    readings = iter(range(100))
    monkeypatch.setattr(floor, "clock_of", lambda _: lambda: next(readings) / 2)
    monkeypatch.setattr(floor, "COPIED", 1000)
    assert floor.measured_rates([], CPU, 0.0).bytes == 2000 / 0.5


def test_tf32_is_a_flag_for_its_rows_alone() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for outside in (False, True):
        matmul.allow_tf32 = outside
        try:
            seen = []
            for name in ("tf32", "float32"):
                with workloads.product_precision(name):
                    seen.append(matmul.allow_tf32)
            with pytest.raises(KeyError), workloads.product_precision("tf32"):
                raise KeyError
            assert seen == [True, False] and matmul.allow_tf32 is outside
        finally:
            matmul.allow_tf32 = before
