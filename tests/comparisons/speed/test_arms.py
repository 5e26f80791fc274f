"""Every arm of the speed comparison takes the same step: equal gradients from equal weights."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comparisons.speed.arms import cuda_graphs as graphs
from comparisons.speed.arms import peers
from comparisons.speed.arms.pytorch import (
    AUTOGRAD,
    AUTOGRAD_GRAPHS,
    COMPILE,
    COMPILE_LOSS,
    COMPILE_MAX,
    EXACT,
    FAST,
    FAST_GRAPHS,
    JAX,
    ONE_PASS,
    ONE_PASS_GRAPHS,
    SKLEARN,
    Arm,
    Compiler,
    Problem,
    problem,
    torch_arms,
)
from comparisons.speed.costs import INPUT_GRADIENT, LAPLACIAN, STEPS, TRAINING
from comparisons.speed.workloads import BATCH, DEPTH, ROWS, WIDTH, Row
from manualbp import gemm, kernels

CPU = torch.device("cpu")


def of(step: str, widths: tuple[int, ...], batch: int, f: str, dtype: str = "float64") -> Problem:
    return problem(Row(step, widths, batch, f, dtype), 0, CPU)


def differing(arms: dict[str, Arm], tolerance: float) -> list[str]:
    """The arms with a gradient that is off by more than ``tolerance`` of its largest element.

    Only those that autograd has: the last bias is in no derivative with respect to x.
    """
    expected = arms[AUTOGRAD].gradients()
    assert expected and all(g.abs().max() > 0 for g in expected)
    return [name for name, arm in arms.items() if not close(arm.gradients(), expected, tolerance)]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    pairs = list(zip(found, expected, strict=False))
    return len(pairs) == len(expected) and all(
        (a - b).abs().max() <= tolerance * b.abs().max() for a, b in pairs
    )


@pytest.mark.parametrize("step", STEPS)
def test_torch_arms(step: str) -> None:
    """fp32, 3 layers, sums over 600 rows, up to third derivatives: relative 1e-4."""
    outputs = 3 if step == TRAINING else 1
    found = torch_arms(of(step, (4, 128, 64, outputs), 600, "tanh", "float32"))
    assert list(found) == [AUTOGRAD, EXACT, FAST, *([ONE_PASS] if step == TRAINING else [])]
    assert differing(found, 1e-4) == []


def test_one_pass_is_absent_where_it_would_fall_back() -> None:
    assert ONE_PASS not in torch_arms(of(TRAINING, (4, 8, 1), 16, "tanh", "bfloat16"))


def test_one_pass_is_there_in_half_precision_where_it_is_one_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "takes", lambda x: True)
    narrow, wide = ((4, width, 1) for width in (128, 129))
    assert ONE_PASS in torch_arms(of(TRAINING, narrow, 16, "tanh", "float16"))
    assert ONE_PASS not in torch_arms(of(TRAINING, wide, 16, "tanh", "float16"))


def test_another_step_is_noticed() -> None:
    given = of(TRAINING, (4, 8, 3), 16, "tanh")
    found = torch_arms(given)
    wrong = torch_arms(replace(given, y=given.y * 1.001))[EXACT]
    assert differing({**found, "wrong": wrong}, 1e-6) == ["wrong"]
    fewer = replace(found[EXACT], gradients=lambda: found[EXACT].gradients()[:-1])
    assert differing({**found, "fewer": fewer}, 1e-6) == ["fewer"]


@pytest.fixture
def uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of the graphs' arms but the record, which only a GPU can make."""
    monkeypatch.setattr(graphs, "captured", lambda module, x, y: (module, 100))


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_arms_of_graphs(uncaptured: None, dtype: str) -> None:
    """As the arms without graphs; in bfloat16, which autograd rounds in the same way, to 2 %."""
    given = of(TRAINING, (4, 128, 64, 3), 600, "tanh", dtype)
    found = {name: make() for name, make in graphs.makers(given).items()}
    one_pass = [] if dtype == "bfloat16" else [ONE_PASS_GRAPHS]
    assert list(found) == [AUTOGRAD_GRAPHS, FAST_GRAPHS, *one_pass]
    tolerance = 0.02 if dtype == "bfloat16" else 1e-4
    assert differing({**torch_arms(given), **found}, tolerance) == []
    assert all((arm.peak() or 0) > 100 for arm in found.values())


def test_graphs_are_of_first_derivatives_alone() -> None:
    assert graphs.makers(of(LAPLACIAN, (2, 4, 1), 8, "tanh")) == {}


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

    monkeypatch.setattr(graphs, "captured", captured)
    arm = graphs.makers(given)[AUTOGRAD_GRAPHS]()
    first = arm.gradients()
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
        monkeypatch.setattr(graphs.memory, "reserved", lambda pool: {self.pool: 4096}[pool])

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
    assert graphs.captured(given.model, given.x, given.y) == (given.model, 4096)
    assert streams.seen == [(given.model, (given.x, given.y), streams.pool)]


def test_a_record_that_fails_leaves_our_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, given = Streams(monkeypatch, fails=True), of(TRAINING, (4, 8, 1), 16, "tanh")
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.captured(given.model, given.x, given.y)
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
    found = {name: make() for name, make in graphs.makers(given).items()}
    assert list(found) == [AUTOGRAD_GRAPHS, FAST_GRAPHS, ONE_PASS_GRAPHS] and not replayed
    assert differing({**torch_arms(given), **found}, 1e-4) == []
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
    given = problem(Row(TRAINING, (4, 128, 64, 3), batch, "tanh", dtype), 0, torch.device(0))
    found = {name: make() for name, make in graphs.makers(given).items()}
    for _ in range(3):
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        assert differing({**torch_arms(given), **found}, tolerance) == []
    assert all((arm.peak() or 0) >= 2**21 for arm in found.values())


@on_its_stream
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_read_the_weights_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step of an optimizer the same graphs have its gradients."""
    given = problem(Row(TRAINING, (4, 8, 3), 16, "tanh", "float64"), 0, torch.device(0))
    modules, captured = [], graphs.captured
    keep = lambda module, x, y: modules.append(module) or captured(module, x, y)  # noqa: E731
    monkeypatch.setattr(graphs, "captured", keep)
    found = {name: make() for name, make in graphs.makers(given).items()}
    with torch.no_grad():
        for parameters in (given.model.parameters(), *(m.parameters() for m in modules)):
            for p in parameters:
                p.mul_(1.5)
    assert differing({**torch_arms(given), **found}, 1e-10) == []


@pytest.mark.parametrize(
    ("step", "f"),
    [(TRAINING, "relu"), (TRAINING, "tanh"), (INPUT_GRADIENT, "softplus"), (LAPLACIAN, "silu")],
)
def test_jax(step: str, f: str) -> None:
    """fp64, sums over 20 rows in another order: relative 1e-10."""
    pytest.importorskip("jax", reason="JAX is not installed: the extra peers")
    given = of(step, (2, 6, 5, 1), 20, f)
    found, _ = peers.available(CPU)
    arms = {**torch_arms(given), JAX: found[JAX](given)}
    assert differing(arms, 1e-10) == []
    assert arms[JAX].peak() > 0
    arms[JAX].step()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_computes_in_the_rows_dtype(dtype: str) -> None:
    """Its gradients are off by as much as that dtype rounds: a twentieth of eps, or 20 of them."""
    pytest.importorskip("jax", reason="JAX is not installed: the extra peers")
    found, _ = peers.available(CPU)
    given = of(TRAINING, (4, 32, 1), 64, "tanh", dtype)
    gradients = found[JAX](given).gradients()
    wide = Problem(given.row, given.model.double(), given.x.double(), given.y.double())
    expected = torch_arms(wide)[AUTOGRAD].gradients()
    apart = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, expected, strict=True)
    )
    assert 0.05 < apart / torch.finfo(getattr(torch, dtype)).eps < 20


@pytest.mark.slow
def test_jax_takes_as_many_threads() -> None:
    """One, when PyTorch has one: no more processor time than time."""
    pytest.importorskip("jax", reason="JAX is not installed: the extra peers")
    program = (
        "import time, torch; torch.set_num_threads(1)\n"
        "from tests.comparisons.speed.test_arms import *\n"
        "arm = peers.available(CPU)[0][JAX](of(TRAINING, (256, 512, 512, 1), 1024, 'relu'))\n"
        "arm.step(); wall, own = time.perf_counter(), time.process_time()\n"
        "[arm.step() for _ in range(5)]\n"
        "print((time.process_time() - own) / (time.perf_counter() - wall))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "NPROC"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept
    )
    assert float(done.stdout) < 1.2


@pytest.mark.parametrize("f", ["relu", "tanh"])
def test_sklearn(f: str) -> None:
    """fp64; its gradients are (W - W_new) / 1e-3, which leaves 1e-12 of them."""
    given = of(TRAINING, (4, 8, 6, 3), 50, f)
    found, _ = peers.available(CPU)
    arms = {**torch_arms(given), SKLEARN: found[SKLEARN](given)}
    expected = [g.abs().max() for g in arms[AUTOGRAD].gradients()]
    assert min(expected) > 1e-4
    assert differing(arms, 1e-8) == []
    assert arms[SKLEARN].peak() > 0


@pytest.mark.parametrize(
    ("step", "f", "dtype"),
    [(LAPLACIAN, "tanh", "float32"), (TRAINING, "silu", "float32"), (TRAINING, "relu", "bfloat16")],
)
def test_sklearn_is_absent_where_it_has_no_such_step(step: str, f: str, dtype: str) -> None:
    found, _ = peers.available(CPU)
    assert found[SKLEARN](of(step, (4, 8, 1), 16, f, dtype)) is None


def test_absent_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    found, notes = peers.available(CPU)
    assert found == {}
    assert notes == [
        'no JAX: install it with: pip install -e ".[peers]"',
        'no scikit-learn: install it with: pip install -e ".[comparisons]"',
    ]


@pytest.mark.parametrize(("dtype", "products"), [("tf32", 5), ("float32", 0)])
def test_jax_rounds_to_tf32_in_its_rows_alone(
    dtype: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HIGH is TF32 on a GPU; the two products of forward, and three of backward."""
    jax = pytest.importorskip("jax", reason="JAX is not installed: the extra peers")
    traced = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f: traced.append(f) or jit(f))
    given = of(TRAINING, (4, 8, 1), 16, "tanh", dtype)
    arm = peers.available(CPU)[0][JAX](given)
    assert differing({**torch_arms(given), JAX: arm}, 1e-4) == []
    thetas = [(jax.numpy.ones((o, i)), jax.numpy.ones(o)) for i, o in ((4, 8), (8, 1))]
    program = jax.make_jaxpr(traced[0])(thetas, jax.numpy.array(given.x), jax.numpy.array(given.y))
    assert str(program).count("(Precision.HIGH, Precision.HIGH)") == products


def test_peers_without_a_gpu_are_named() -> None:
    _, notes = peers.available(torch.device("cuda"))
    assert "no scikit-learn: it has no GPU" in notes


@pytest.mark.slow
def test_compiled() -> None:
    """fp64, relative 1e-10: a compiler may take the sums in another order."""
    compiler = Compiler()
    if reason := compiler.missing(CPU):
        pytest.skip(reason)
    for batch in (16, 40):
        given = of(TRAINING, (4, 8, 3), batch, "tanh")
        for dynamic in (False, True):
            arms = {**torch_arms(given), **compiler.arms(given, dynamic)}
            assert (COMPILE in arms) is not dynamic and COMPILE_LOSS in arms
            assert differing(arms, 1e-10) == []
    assert compiler.arms(of(LAPLACIAN, (2, 8, 1), 8, "tanh"), False) == {}


def test_max_autotune_is_an_arm_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of model and loss, for the one batch; its memory nobody tells."""
    asked = []

    def compiled(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(nn.Module, "compile", lambda module: None)
    given = of(TRAINING, (4, 8, 3), 16, "tanh")
    arms = Compiler(tuning=True).arms(given, dynamic=False)
    assert {"mode": "max-autotune"} in asked and list(arms)[-1] == COMPILE_MAX
    assert differing({**torch_arms(given), **arms}, 1e-10) == []
    assert arms[COMPILE_MAX].peak() is None and arms[COMPILE].peak() is not None
    for compiler, dynamic in ((Compiler(tuning=True), True), (Compiler(), False)):
        assert COMPILE_MAX not in compiler.arms(given, dynamic)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_max_autotune_on_a_gpu() -> None:
    """fp64, relative 1e-10, at its record, its replay, and after another arm's step."""
    compiler = Compiler(tuning=True)
    if reason := compiler.missing(torch.device(0)):
        pytest.skip(reason)
    given = problem(Row(TRAINING, (4, 64, 3), 64, "tanh", "float64"), 0, torch.device(0))
    arms = {**torch_arms(given), **compiler.arms(given, dynamic=False)}
    assert COMPILE_MAX in arms
    for _ in range(4):
        assert differing(arms, 1e-10) == []


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: object) -> object:
        def call(x: Tensor) -> Tensor:
            raise RuntimeError("no working C++ compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    reason = Compiler().missing(CPU)
    assert reason is not None and "C++ compiler, such as g++ (no working C++ compiler)" in reason


def off_kinks(given: Problem, wide: nn.Module) -> Problem:
    """The rows on which no ReLU's z is so small that rounding decides on which side of 0 it is."""
    off, h = torch.ones(len(given.x), dtype=torch.bool), given.x.double()
    with torch.no_grad():
        for module in wide.children():
            off &= (h.abs() > 1e-5).all(1) | (not isinstance(module, nn.ReLU))
            h = module(h)
    assert off.sum() > len(off) / 2
    return replace(given, x=given.x[off], y=given.y[off])


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [ROWS, BATCH, DEPTH, WIDTH], ids=["rows", "batch", "depth", "width"]
)
def test_error_against_float64_over_the_grid(part: Sequence[Row]) -> None:
    """At most 1.5 times autograd's own, and half an ulp of the size, of every gradient.

    A tensor of few numbers may have almost none by chance: those get 10 times.
    """
    checked = 0
    for row in part:
        if row.dtype != "float32" or row.batch * sum(row.widths) > 4e7 or max(row.widths) > 2048:
            continue
        given = problem(row, 0, CPU)
        wide = copy.deepcopy(given.model).double()
        given = off_kinks(given, wide)
        nn.functional.mse_loss(wide(given.x.double()), given.y.double()).backward()
        arms = torch_arms(given)
        autograd = arms[AUTOGRAD].gradients()
        for name in (FAST, ONE_PASS):
            for p, ours, theirs in zip(
                wide.parameters(), arms[name].gradients(), autograd, strict=True
            ):
                exact = p.grad
                assert exact is not None
                errors = [float((g.double() - exact).norm()) for g in (ours, theirs)]
                times = 1.5 if exact.numel() >= 8 else 10
                assert errors[0] <= times * errors[1] + 6e-8 * float(exact.norm()), (row, name)
                checked += 1
    assert checked > 20


@pytest.mark.slow
def test_a_worse_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight gradients with three bits less."""
    right = gemm.weight_gradient

    def worse(*args: Any) -> Tensor:
        found = right(*args)
        return found + found.abs() * torch.finfo(found.dtype).eps * 8 * torch.rand_like(found)

    monkeypatch.setattr(gemm, "weight_gradient", worse)
    with pytest.raises(AssertionError, match="Row"):
        test_error_against_float64_over_the_grid(WIDTH)
