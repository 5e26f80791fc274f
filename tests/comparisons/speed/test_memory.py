"""The peak memory of a step."""

from __future__ import annotations

import pytest
import torch

from comparisons.speed import floor, memory
from comparisons.speed.arms.arm import AUTOGRAD, problem
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.timing import Budget, CudaClock, time_in_turns
from comparisons.speed.workloads import TRAINING, Workload

CPU = torch.device("cpu")
MEGABYTE = 2**18  # float32 elements


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
    arm = eager_arms(problem(Workload(TRAINING, (512, 512, 1), 4, "relu"), 0, CPU))[AUTOGRAD]
    peaks = []
    for _ in range(3):
        arm.step()
        peaks.append(arm.peak())
    weights = 4 * 512 * 512
    assert len(set(peaks)) == 1 and weights < peaks[0] < 1.1 * weights


def test_memory_of_a_training_step() -> None:
    """u = relu(x W^T + b) V^T + c, N rows, H hidden: at its peak a, dC/da and dC/dz, N H each."""
    rows, hidden = 4096, 256
    given = problem(Workload(TRAINING, (2, hidden, 1), rows, "relu"), 0, CPU)
    size = 4 * rows * hidden
    assert 3 * size <= eager_arms(given)[AUTOGRAD].peak() <= 3.01 * size


def test_memory_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")

    def step() -> None:
        numpy.ones(2**20)
        numpy.ones(2**18)

    assert 2**23 <= memory.traced(step) < 2**23 + 10_000


def test_a_graphs_memory_is_all_that_its_pool_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [((0, 1), 2), ((0, 2), 3), ((0, 1), 20), ((0, 0), 50)]
    snapshot = [{"segment_pool_id": pool, "total_size": size} for pool, size in sizes]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: snapshot)
    assert memory.reserved((0, 1)) == 22


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_timed_and_its_memory_counted() -> None:
    device = torch.device("cuda")
    arms = eager_arms(problem(Workload(TRAINING, (64, 256, 1), 4096, "relu"), 0, device))
    times = time_in_turns({n: a.step for n, a in arms.items()}, Budget(0.1, 3, 3), CudaClock())
    assert all(len(found) == 3 and min(found) > 0 for found in times.values())
    assert memory.peak(lambda: torch.empty(MEGABYTE, device=device), device) == 2**20
    found = floor.measured_rates(["float32", "tf32"], device, 0.0)
    assert min(*found.operations.values(), found.bytes) > 0
