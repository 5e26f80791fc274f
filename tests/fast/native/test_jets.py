"""Derivatives in C++: what is kept for the way down, and that it may be computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import native
from manualbp.fast.native import jets
from tests.conversion.derived import ByHand, Nested, everything, mlp, points

pytestmark = pytest.mark.skipif(native.library() is None, reason="no library for this machine")


def saved(net: nn.Module, x: Tensor, second: Any) -> int:
    """The numbers that autograd holds for the way down, beside x, lines and parameters."""
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        manualbp.derivatives(net, x, second)
    most = max(p.numel() for p in (x, *net.parameters()))
    return sum(t.numel() for t in held if t.numel() > most)


@pytest.mark.parametrize("second", [None, "laplacian", "hessian", [(0, 1)]], ids=str)
@pytest.mark.parametrize("outputs", [1, 5])
def test_computed_again_are_the_same_bits(
    second: Any, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for fresh in (jets.FRESH_BYTES, 1):
        monkeypatch.setattr(jets, "FRESH_BYTES", fresh)
        net, x = mlp(3, 24, 17, outputs).float(), points(700, 3, torch.float32)
        assert bool(saved(net, x, second)) == (fresh > 1)
        results.append(everything(ByHand(net, second), x, orders=1))
    for kept, again in zip(*results, strict=True):
        assert torch.equal(kept, again)


@pytest.mark.parametrize(
    ("second", "numbers"),  # of the first layer for a point, and of all the others
    [(None, (2 * 24, 2 * 18)), ("laplacian", (4 * 24, 5 * 18)), ("hessian", (4 * 24, 10 * 18))],
)
def test_which_are_kept(
    second: Any, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All z together, not the widest layer's alone; and always where a layer is wider."""
    x, size = points(40, 3, torch.float32), 40 * sum(numbers)
    for fresh, widest, kept in ((size + 1, 24, size), (size, 24, 0), (size, 23, size)):
        monkeypatch.setattr(jets, "FRESH_BYTES", 4 * fresh)
        monkeypatch.setattr(jets, "WIDEST", widest)
        assert saved(mlp(3, 24, 17, 1).float(), x, second) == kept


@pytest.mark.parametrize("second", [None, "laplacian"], ids=str)
def test_a_block_from_the_system(second: Any) -> None:
    """z of more than 32 MiB: within 1e-5 of the norms in float64, as sums of 16,000 float32 are."""
    net, x = mlp(2, 300, 1).float(), points(16_000, 2, torch.float32, trained=False)
    assert 4 * saved(net, x, second) > 2**25
    found = everything(ByHand(net, second), x, orders=1)
    expected = everything(Nested(net.double(), second), x.double(), orders=1)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
