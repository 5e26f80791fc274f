"""The peak memory of a step: the most bytes of tensors that live at once, above its start.

On CPU the allocator tells the profiler of every allocation; on a GPU it keeps the peak itself. A
step is run for this alone, untimed. What was there before, weights and data, does not count, even
if the step releases it.

A CUDA graph's tensors live in its own memory pool, which no other step may use; a replay allocates
nothing there. So all that the pool has reserved counts, in blocks of 2 MB and more, and what the
step allocates outside of it. Which pool torch.compile's graphs have is not known: their arm has no
figure.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def peak(step: Callable[[], object], device: torch.device) -> int:
    """max over the step of sum bytes(live) - sum bytes(live at its start)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()  # garbage from before, released within the step, would hide what the step takes
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it prints a line for every profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    recorded = profiled.profiler.kineto_results.events()
    events = [event for event in recorded if event.name() == "[memory]"]
    return highest(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))


def reserved(pool: object) -> int:
    """Bytes that a graph's memory pool has taken from the GPU."""
    return sum(
        segment["total_size"]
        for segment in torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        if segment["segment_pool_id"] == pool
    )


def highest(changes: Iterable[int]) -> int:
    """The highest running sum of allocations (above 0) and releases (below), at least 0."""
    return max(accumulate(changes, initial=0))


def traced(step: Callable[[], object]) -> int:
    """The peak of NumPy's arrays, which Python's own tracer sees."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
