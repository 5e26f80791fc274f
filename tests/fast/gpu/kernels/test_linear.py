"""A linear layer and the activation next to it, up and down, against autograd and float64.

The judge is the harness's own: at most 2 times autograd's distance from float64, and its floors.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manualbp
from manualbp.fast.gpu.kernels import functions, linear
from manualbp.maths import activations
from manualbp.maths.activations import Activation, to_module
from manualbp.parity import bit_identical, compare_gradients
from tests.fast.gpu.kernels.judged import DTYPES, FS, differing, elsewhere_finite

pytestmark = pytest.mark.kernels

GELU = activations.GELU()
# N, I, O: edges of tiles and of steps, one row, one column, none of either, sums of many terms.
SIZES = [(1, 1, 1), (5, 1, 7), (7, 6, 1), (0, 5, 3), (4, 0, 3), (4, 3, 0), (16, 16, 16),
         (129, 65, 33), (200, 17, 130), (257, 40, 64), (3, 1000, 5), (2, 9, 300)]  # fmt: skip


def up(h: Tensor, w: Tensor, b: Tensor | None, f: Activation) -> dict[str, Tensor]:
    """f(h W^T + b) by the kernel."""
    a, z = linear.forward(h, w, b, functions.code(f), True)
    return {"a": a, "z": z}


def up_by_pytorch(h: Tensor, w: Tensor, b: Tensor | None, f: Activation) -> dict[str, Tensor]:
    z = F.linear(h, w, b)
    return {"a": to_module(f)(z), "z": z}


def down(delta: Tensor, w: Tensor, z: Tensor, f: Activation) -> dict[str, Tensor]:
    """(delta W) * f' and its sum by the kernel; the cache is what the layer below has kept."""
    cache = f.f(z) if f.needs == "a" else z
    below, sums = linear.input_gradient(delta, w, cache, functions.code(f), True)
    return {"below": below, "sums": sums}


def down_by_autograd(delta: Tensor, w: Tensor, z: Tensor, f: Activation) -> dict[str, Tensor]:
    z = z.detach().requires_grad_()
    (below,) = torch.autograd.grad(to_module(f)(z), z, delta @ w)
    return {"below": below, "sums": below.sum(0)}


def wrong_up(h: Tensor, w: Tensor, b: Tensor | None, f: Activation) -> list[str]:
    exact = up_by_pytorch(h.double(), w.double(), None if b is None else b.double(), f)
    return differing(up(h, w, b, f), up_by_pytorch(h, w, b, f), exact)


def wrong_down(delta: Tensor, w: Tensor, z: Tensor, f: Activation) -> list[str]:
    exact = down_by_autograd(delta.double(), w.double(), z.double(), f)
    return differing(down(delta, w, z, f), down_by_autograd(delta, w, z, f), exact)


def tensors(size: tuple[int, int, int], device: str) -> list[Tensor]:
    """h (N, I), W (O, I), b (O,), delta (N, O), z of the layer below (N, I)."""
    generator = torch.Generator().manual_seed(0)
    n, i, o = size
    shapes = [(n, i), (o, i), (o,), (n, o), (n, i)]
    found = [torch.randn(shape, generator=generator) for shape in shapes]
    found[1] /= max(i, 1) ** 0.5
    return [t.to(device) for t in found]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("f", FS, ids=str)
def test_every_activation(f: Activation, dtype: torch.dtype, device: str) -> None:
    h, w, b, delta, z = (t.to(dtype) for t in tensors((70, 37, 53), device))
    assert wrong_up(2 * h, w, b, f) == []
    assert wrong_down(delta, w, 2 * z, f) == []


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size(size: tuple[int, int, int], device: str) -> None:
    h, w, b, delta, z = tensors(size, device)
    assert wrong_up(h, w, b, GELU) == wrong_up(h, w, None, GELU) == []
    assert wrong_down(delta, w, z, GELU) == []


def layouts(t: Tensor) -> dict[str, Tensor]:
    """The same numbers in other strides; of an expanded one, its first row in every row."""
    wide = torch.full((2 * len(t), 3 * t.shape[1] + 5), torch.nan, dtype=t.dtype, device=t.device)
    strided = wide[::2, 5::3]
    strided.copy_(t)
    return {"transposed": t.t().contiguous().t(), "strided": strided, "rows": t[:1].expand_as(t),
            "columns": t[:, :1].expand_as(t), "shifted": t.flip(0).contiguous()[1:]}  # fmt: skip


@pytest.mark.parametrize("layout", ["transposed", "strided", "rows", "columns", "shifted"])
def test_every_layout(layout: str, device: str) -> None:
    """One of the factors, or all of them; nothing beside them is read (it is NaN)."""
    h, w, b, delta, z = tensors((67, 37, 41), device)
    others = [layouts(t)[layout] for t in (h, w, delta, z)]
    short = layout == "shifted"
    pieces = [t[1:] if short else t for t in (h, delta, z)]
    assert wrong_up(others[0], w, b, GELU) == wrong_down(others[2], w, pieces[2], GELU) == []
    assert wrong_down(pieces[1], w, others[3], GELU) == []
    if not short:
        assert wrong_up(h, others[1], b, GELU) == wrong_down(delta, others[1], z, GELU) == []
    weight, bias = (others[1], b[1:]) if short else (others[1], b)
    assert wrong_up(others[0], weight, bias, GELU) == []
    assert wrong_down(others[2][:, 1:] if short else others[2], weight, others[3], GELU) == []


@pytest.mark.parametrize("f", FS, ids=str)
def test_nan_and_infinity_where_autograd_has_them(f: Activation, device: str) -> None:
    h, w, b, delta, z = tensors((40, 20, 30), device)
    for t in (h, delta, z):
        t[0, 0], t[1, 1], t[2, 2], t[3, 3], t[4, 4] = torch.inf, -torch.inf, torch.nan, 1e30, -1e30
    exact = [t.double() for t in (h, w, b)]
    assert elsewhere_finite(up(h, w, b, f), up_by_pytorch(h, w, b, f),
                            up_by_pytorch(*exact, f)) == []  # fmt: skip
    for above, cache in ((delta.nan_to_num(0, 0, 0), z), (delta, z.nan_to_num(0).clamp(-4, 4))):
        exact = [t.double() for t in (above, w, cache)]
        assert elsewhere_finite(down(above, w, cache, f), down_by_autograd(above, w, cache, f),
                                down_by_autograd(*exact, f)) == []  # fmt: skip


def test_the_same_bits_every_time(device: str) -> None:
    """Bit-exact, many tiles of rows and of columns."""
    h, w, b, delta, z = tensors((700, 70, 150), device)
    for way, args in ((up, (h, w, b, GELU)), (down, (delta, w, z, GELU))):
        first, second = way(*args), way(*args)
        assert all(bit_identical(first[name], second[name]) for name in first)


def test_only_what_is_wanted(device: str) -> None:
    """No z and no sums where nobody reads them; the rest has the same bits."""
    h, w, b, delta, z = tensors((70, 37, 53), device)
    a, kept = linear.forward(h, w, b, functions.code(GELU), False)
    assert kept.numel() == 0 and bit_identical(a, up(h, w, b, GELU)["a"])
    below, sums = linear.input_gradient(delta, w, z, functions.code(GELU), False)
    assert sums.numel() == 0 and bit_identical(below, down(delta, w, z, GELU)["below"])


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("f", FS[1:], ids=str)
def test_whole_nets(f: Activation, device: str, launches: Counter[str]) -> None:
    """Sequential in fast mode, by the harness, with faults of its own that it has to see."""
    torch.manual_seed(0)
    sizes = [(19, 45), (45, 33), (33, 3)]
    layers = [m for i, o in sizes for m in (nn.Linear(i, o), to_module(f))][:-1]
    reference = nn.Sequential(*layers).to(device)
    candidate = manualbp.Sequential(*layers)
    manualbp.set_mode("fast", candidate)
    report = compare_gradients(candidate, reference, torch.randn(67, 19, device=device), seeds=(0,),
                               situations=False)  # fmt: skip
    assert report.agrees, report.verdict
    assert launches["forward"] >= 2 and launches["input_gradient"] >= 2
