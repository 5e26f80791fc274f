"""What only a GPU has: many rows, 64-bit indices, CUDA graphs, streams, devices, TF32."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast.gpu.kernels import functions, linear
from manualbp.maths import activations
from manualbp.parity import bit_identical
from tests.fast.gpu.kernels.conftest import CUDA
from tests.fast.gpu.kernels.costs import Expression, OnePass, gradients, network
from tests.fast.gpu.kernels.judged import differing
from tests.fast.gpu.kernels.test_linear import tensors, wrong_down, wrong_up

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.usefixtures("by_kernels"),
    pytest.mark.skipif(not CUDA, reason="needs a GPU"),
]

GELU = activations.GELU()


def fast(widths: tuple[int, ...]) -> tuple[manualbp.Sequential, nn.Sequential]:
    """Our Sequential in fast mode and PyTorch's, with the same numbers."""
    twin = network(widths, GELU).cuda()
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    manualbp.set_mode("fast", model)
    return model, twin


def passed(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    output = model(x)
    found = torch.autograd.grad(output, [x, *model.parameters()], cotangent)
    return {"output": output.detach(), **{str(i): g for i, g in enumerate(found)}}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(bit_identical(t, b[name]) for name, t in a.items())


@pytest.fixture
def precision() -> Iterator[None]:
    """PyTorch's flag for TF32, put back."""
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_million_rows(launches: Counter[str]) -> None:
    """By the harness's rule."""
    torch.manual_seed(0)
    rows, loss = 2**20, nn.MSELoss()
    x, y = torch.randn(rows, 16, device="cuda"), torch.randn(rows, 3, device="cuda")
    model, twin = fast((16, 64, 32, 3))
    double = copy.deepcopy(twin).double()
    exact = passed(double, x.double(), y.double())
    assert differing(passed(model, x, y), passed(twin, x, y), exact) == []
    net, x = copy.deepcopy(twin), x.requires_grad_()
    ours, theirs = gradients(OnePass(net, loss, y), x), gradients(Expression(twin, loss, y), x)
    wide = gradients(Expression(double, loss, y), x.detach().double().requires_grad_())
    assert differing(ours, theirs, wide) == []
    assert launches["forward"] >= 2 and launches["input_gradient"] >= 2 and launches["step"] == 1


def test_more_numbers_than_32_bits_count() -> None:
    """Bit-exact: the last rows of more than 2^31 numbers have the bits of the same rows alone."""
    columns, part = 128, 1000
    rows = 2**31 // columns + part
    if torch.cuda.mem_get_info()[0] < 5 * rows * columns * 2:
        pytest.skip("needs five tensors of 4 GiB")
    torch.manual_seed(0)
    h = torch.zeros(rows, columns, dtype=torch.float16, device="cuda")
    h[-part:].normal_()
    w = torch.randn(columns, columns, dtype=torch.float16, device="cuda") / columns**0.5
    code, last = functions.code(GELU), slice(rows - part, rows)
    a, z = linear.forward(h, w, None, code, True)
    small = linear.forward(h[last].clone(), w, None, code, True)
    assert bit_identical(a[last], small[0]) and bit_identical(z[last], small[1])
    assert not a[:-part].any()
    del a
    below, _ = linear.input_gradient(h, w, z, code, False)
    small_below, _ = linear.input_gradient(h[last].clone(), w, z[last].clone(), code, False)
    assert bit_identical(below[last], small_below) and not below[:-part].any()


def test_graphed_callables_equal_eager() -> None:
    """Bit-exact: the same launches."""
    model, _ = fast((16, 64, 32, 3))
    x = torch.randn(512, 16, device="cuda", requires_grad=True)
    cotangent = torch.randn(512, 3, device="cuda")
    expected = passed(model, x, cotangent)
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(model), (x,))
    assert same(passed(graphed, x, cotangent), expected)
    other = torch.randn_like(x)
    assert same(passed(graphed, other, cotangent), passed(model, other, cotangent))


def test_a_graph_of_a_whole_step(launches: Counter[str]) -> None:
    """Bit-exact, replayed on other numbers."""
    net, loss = network((16, 64, 3)).cuda(), nn.MSELoss()
    x, y = torch.randn(512, 16, device="cuda"), torch.randn(512, 3, device="cuda")
    cost, parameters = manualbp.FusedLoss(net, loss), list(net.parameters())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiled before it is captured
        for _ in range(3):
            torch.autograd.grad(cost(x, y), parameters)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cost(x, y)
        of_parameters = torch.autograd.grad(captured, parameters)
    x.normal_()
    y.normal_()
    graph.replay()
    again = cost(x, y)
    expected = torch.autograd.grad(again, parameters)
    assert bit_identical(captured, again) and all(map(bit_identical, of_parameters, expected))
    assert launches["step"] == 5


@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms() -> None:
    """Bit-exact, twice."""
    model, twin = fast((16, 64, 32, 3))
    x, y = torch.randn(5000, 16, device="cuda"), torch.randn(5000, 3, device="cuda")
    assert same(passed(model, x, y), passed(model, x, y))
    cost = OnePass(twin, nn.MSELoss(), y)
    first = copy.deepcopy(gradients(cost, x))
    cost.zero_grad()
    second = gradients(cost, x)
    assert all(g is second[k] is None or bit_identical(g, second[k]) for k, g in first.items())


def test_another_stream() -> None:
    """Bit-exact."""
    model, _ = fast((16, 64, 32, 3))
    x, y = torch.randn(5000, 16, device="cuda"), torch.randn(5000, 3, device="cuda")
    expected, stream = passed(model, x, y), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = passed(model, x, y)
    stream.synchronize()
    assert same(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device() -> None:
    """By the harness's rule: tensors on one device while another one is the current one."""
    with torch.cuda.device(0):
        h, w, b, delta, z = tensors((300, 37, 40), "cuda:1")
        assert wrong_up(h, w, b, GELU) == wrong_down(delta, w, z, GELU) == []


@pytest.mark.usefixtures("precision")
def test_ieee_and_tf32() -> None:
    """By the harness's rule without TF32; with it 2e-3 of each tensor's norm, and other bits."""
    h, w, b, delta, z = tensors((300, 128, 128), "cuda")
    code = functions.code(GELU)
    torch.backends.cuda.matmul.allow_tf32 = False
    assert wrong_up(h, w, b, GELU) == wrong_down(delta, w, z, GELU) == []
    found = []
    for flag in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = flag
        below, _ = linear.input_gradient(delta, w, z, code, False)
        found.append((linear.forward(h, w, b, code, True)[1], below))
    for one, other in zip(*found, strict=True):
        assert not torch.equal(one, other)
        assert (one - other).norm() <= 2e-3 * one.norm()
