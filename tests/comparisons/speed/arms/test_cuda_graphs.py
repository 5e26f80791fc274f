"""The arms of CUDA graphs take the same step; without a GPU, all but the recording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comparisons.speed.arms import pytorch
from comparisons.speed.arms.arm import (
    AUTOGRAD_GRAPHS,
    FAST_GRAPHS,
    FUSED_GRAPHS,
    problem,
)
from comparisons.speed.arms.pytorch import eager_arms
from comparisons.speed.workloads import LAPLACIAN, TRAINING, Workload
from tests.comparisons.speed.arms.equal_gradients import differing, of


@pytest.fixture
def uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of the graphs' arms but the record, which only a GPU can make."""
    monkeypatch.setattr(pytorch, "captured", lambda module, x, y: (module, 100))


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_arms_of_graphs(uncaptured: None, dtype: str) -> None:
    """As the arms without graphs; in bfloat16, which autograd rounds in the same way, to 2 %."""
    given = of(TRAINING, (4, 128, 64, 3), 600, "tanh", dtype)
    found = {name: make() for name, make in pytorch.graph_makers(given).items()}
    fused = [] if dtype == "bfloat16" else [FUSED_GRAPHS]
    assert list(found) == [AUTOGRAD_GRAPHS, FAST_GRAPHS, *fused]
    tolerance = 0.02 if dtype == "bfloat16" else 1e-4
    assert differing({**eager_arms(given), **found}, tolerance) == []
    assert all((arm.peak() or 0) > 100 for arm in found.values())


def test_graphs_are_of_first_derivatives_alone() -> None:
    assert pytorch.graph_makers(of(LAPLACIAN, (2, 4, 1), 8, "tanh")) == {}


def test_gradients_stay_when_a_graph_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay writes into the memory of the gradients before it."""
    given = of(TRAINING, (4, 8, 1), 16, "tanh")
    static = [torch.zeros_like(p) for p in given.model.parameters()]

    class Replayed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *parameters: Tensor) -> Tensor:
            return parameters[0].new_zeros(())

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return tuple(each.add_(1).detach() for each in static)

    def captured(module: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, int]:
        module.forward = lambda x, y: Replayed.apply(*module.parameters())  # type: ignore
        return module, 0

    monkeypatch.setattr(pytorch, "captured", captured)
    arm = pytorch.graph_makers(given)[AUTOGRAD_GRAPHS]()
    first = arm.computed().gradients
    arm.step()
    assert all((g == 1).all() for g in first) and all((g == 2).all() for g in static)


class Streams:
    """CUDA's current stream, which a record that fails leaves at its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
        self.now, self.fails, self.seen = "ours", fails, []
        self.pool = (0, 7)
        for name in ("current_stream", "stream", "make_graphed_callables"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: self.pool)
        monkeypatch.setattr(pytorch.memory, "reserved", lambda pool: {self.pool: 4096}[pool])

    def current_stream(self, device: torch.device) -> str:
        return self.now

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def make_graphed_callables(self, module: nn.Module, args: Any, pool: Any) -> nn.Module:
        self.seen.append((module, args, pool))
        self.now = "the record's"
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.now = "ours"
        return module


def test_a_record_is_of_the_rows_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, given = Streams(monkeypatch, fails=False), of(TRAINING, (4, 8, 1), 16, "tanh")
    assert pytorch.captured(given.model, given.x, given.y) == (given.model, 4096)
    assert streams.seen == [(given.model, (given.x, given.y), streams.pool)]


def test_a_record_that_fails_leaves_our_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, given = Streams(monkeypatch, fails=True), of(TRAINING, (4, 8, 1), 16, "tanh")
    with pytest.raises(RuntimeError, match="not permitted"):
        pytorch.captured(given.model, given.x, given.y)
    assert streams.now == "ours"


def test_pytorch_graphs_these_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its make_graphed_callables on CPU, where a record that is replayed is what was recorded.

    It records backward from a cotangent that it fills in later, with 1 for a loss: so from ones.
    """
    Streams(monkeypatch, fails=False)
    replayed = []
    recorded = SimpleNamespace(replay=lambda: replayed.append(1))
    for name, value in (
        ("CUDAGraph", lambda: recorded), ("graph", lambda graph, pool: nullcontext()),
        ("Stream", lambda: "beside"), ("synchronize", lambda: None),
        ("make_graphed_callables", torch.cuda.graphs.make_graphed_callables),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "empty_like", torch.ones_like)
    given = of(TRAINING, (4, 128, 64, 3), 600, "tanh", "float32")
    found = {name: make() for name, make in pytorch.graph_makers(given).items()}
    assert list(found) == [AUTOGRAD_GRAPHS, FAST_GRAPHS, FUSED_GRAPHS] and not replayed
    assert differing({**eager_arms(given), **found}, 1e-4) == []
    assert len(replayed) == 2 * len(found)  # forward and backward


# PyTorch's own: what a graph was recorded from lives on, with the stream of the record.
on_its_stream = pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning")


@on_its_stream
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("dtype", "batch"), [("float64", 16), ("float64", 600_000), ("float32", 4096)]
)
def test_graphs_on_a_gpu(dtype: str, batch: int) -> None:
    """Small steps run as operators, large ones by hand, in tiles or as kernels.

    fp64 relative 1e-10, fp32 1e-4: sums over all rows in another order.
    """
    given = problem(Workload(TRAINING, (4, 128, 64, 3), batch, "tanh", dtype), 0, torch.device(0))
    found = {name: make() for name, make in pytorch.graph_makers(given).items()}
    for _ in range(3):
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        assert differing({**eager_arms(given), **found}, tolerance) == []
    assert all((arm.peak() or 0) >= 2**21 for arm in found.values())


@on_its_stream
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_read_the_weights_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step of an optimizer the same graphs have its gradients."""
    given = problem(Workload(TRAINING, (4, 8, 3), 16, "tanh", "float64"), 0, torch.device(0))
    modules, captured = [], pytorch.captured
    keep = lambda module, x, y: modules.append(module) or captured(module, x, y)  # noqa: E731
    monkeypatch.setattr(pytorch, "captured", keep)
    found = {name: make() for name, make in pytorch.graph_makers(given).items()}
    with torch.no_grad():
        for parameters in (given.model.parameters(), *(m.parameters() for m in modules)):
            for p in parameters:
                p.mul_(1.5)
    assert differing({**eager_arms(given), **found}, 1e-10) == []
