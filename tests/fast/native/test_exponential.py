"""e^x of C++, and what is made of it, number by number against float64.

Through a chain of Linear(1, 1) with w = 1, whose z is x.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast.native import exact

pytestmark = pytest.mark.skipif(exact.library() is None, reason="the native step is not built")

TINY, HUGE = 1e-40, 1e30  # below the least normal number; far above what e^x can be
SIZES = [0.0, torch.inf, TINY, HUGE, 88.0, 104.0]
SPECIAL = [*SIZES, *(-size for size in SIZES), torch.nan]


def of(f: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and f'(x), each computed in C++."""
    line = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        line.weight.fill_(1)
    u, du = manualbp.derivatives(nn.Sequential(line, f), x[:, None])
    return u[:, 0].detach(), du[:, 0, 0].detach()


def units(got: Tensor, want: Tensor) -> Tensor:
    """How many units of the last bit each is off."""
    near = want.float()
    unit = torch.nextafter(near.abs(), torch.tensor(torch.inf)) - near.abs()
    return (got.double() - want).abs() / unit.double()


@pytest.mark.parametrize(
    ("f", "most", "mean"),
    # tanh as exponential.h says; ELU has e^x - 1 alone, rounded once more where alpha is not 1.
    [(nn.Tanh(), 2.25, 0.35), (nn.ELU(), 2.0, 0.45), (nn.SELU(), 3.0, 0.7)],
    ids=lambda f: type(f).__name__ if isinstance(f, nn.Module) else "",
)
def test_is_off_by_few_units_of_the_last_bit(f: nn.Module, most: float, mean: float) -> None:
    sizes = torch.cat([torch.logspace(-30, 1.2, 100_001), torch.linspace(0, 10, 100_001)])
    x = torch.cat([-sizes, sizes])
    off = units(of(f, x)[0], f(x.double()))
    assert off.max() <= most
    assert off.mean() <= mean


@pytest.mark.parametrize("f", [nn.Tanh(), nn.ELU(), nn.SELU(), nn.GELU("tanh")], ids=str)
def test_special_numbers_are_pytorchs(f: nn.Module) -> None:
    # Of whole registers: where a few are left, PyTorch has ELU's f'(NaN) = 1 instead of NaN.
    x = torch.tensor(SPECIAL).repeat(64)
    u, du = of(f, x)
    given = x.clone().requires_grad_()
    want = f(given)
    (by_autograd,) = torch.autograd.grad(want.sum(), given)
    if isinstance(f, nn.GELU):  # whose f' PyTorch has NaN of numbers that large
        du = du.where(by_autograd.isfinite(), torch.nan)
    # e^-88 and below is 0 here, 1e-38 and less there.
    for ours, theirs in ((u, want.detach()), (du, by_autograd)):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-37, equal_nan=True)
