"""Copies that lie in memory as the original does: strides, offset, overlaps, by the element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity.arms import layouts
from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import forward
from manualbp.parity.arms.layouts import (
    clone_as_laid,
    copy_as_laid,
    expanded,
    laid_as,
    overlaps,
    sliced,
    transposed,
)
from manualbp.parity.arms.rounding import nudged
from manualbp.parity.arms.subject import subject

MEMORY = torch.randn(200, generator=torch.Generator().manual_seed(0))
LAID: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: MEMORY[:24].clone().view(4, 6),
    "offset": lambda: MEMORY[7:31].view(4, 6),
    "sliced": lambda: MEMORY[:48].view(4, 12)[:, ::2],
    "rows": lambda: MEMORY[:48].view(8, 6)[1::2],
    "transposed": lambda: MEMORY[:24].view(6, 4).t(),
    "expanded": lambda: MEMORY[3:9].expand(4, 6),
    "windows": lambda: MEMORY[:9].unfold(0, 6, 1),
    "scalar": lambda: MEMORY[5],
    "empty": lambda: MEMORY[:0].view(0, 6),
}


@pytest.mark.parametrize("name", LAID)
def test_a_copy_lies_as_the_original(name: str) -> None:
    x = LAID[name]()
    for copy in (copy_as_laid(x), clone_as_laid(x), nudged(x, 0.0, torch.Generator())):
        assert torch.equal(copy, x)
        if not x.numel():
            continue
        assert copy.data_ptr() != x.data_ptr()
        assert copy.stride() == x.stride() and copy.storage_offset() == x.storage_offset()
    double = copy_as_laid(x, torch.Tensor.double)
    assert double.dtype is torch.float64 and torch.equal(double, x.double())
    assert double.stride() == x.stride() or not x.numel()


@pytest.mark.parametrize("name", ["expanded", "windows"])
def test_what_shares_memory_goes_on_sharing_it(name: str) -> None:
    x = LAID[name]()
    assert overlaps(x) and not overlaps(LAID["sliced"]())
    off = nudged(x, 0.1, torch.Generator().manual_seed(0))
    assert not torch.equal(off, x)
    shared = (off[0] == off[1]).all() if name == "expanded" else (off[0, 1:] == off[1, :-1]).all()
    assert shared


def test_gradients_pass_and_the_copy_can_be_edited() -> None:
    x = LAID["sliced"]().clone(memory_format=torch.preserve_format)
    x = copy_as_laid(LAID["sliced"]()).requires_grad_()
    copy = clone_as_laid(x)
    copy.mul_(2)  # as nn.ReLU(inplace=True) does with its input
    (gradient,) = torch.autograd.grad(copy.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 2))


def test_numbers_in_a_layout() -> None:
    x, numbers = LAID["sliced"](), torch.arange(24.0).view(4, 6)
    laid = laid_as(x, numbers)
    assert torch.equal(laid, numbers) and laid.stride() == x.stride()
    assert torch.equal(laid_as(LAID["expanded"](), numbers), numbers)


def test_a_column_of_a_large_set_does_not_bring_the_set_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layouts, "MOST_SPAN", 100)
    column = torch.randn(64, 8)[:, 2]
    copy = copy_as_laid(column)
    assert torch.equal(copy, column) and copy.untyped_storage().size() == 64 * 4
    monkeypatch.setattr(layouts, "MOST_OFFSET", 16)
    assert copy_as_laid(MEMORY[150:160]).storage_offset() == 150 % 16


def test_other_layouts_of_the_same_numbers() -> None:
    x = LAID["dense"]()
    for layout, stride in ((sliced, (12, 2)), (transposed, (1, 4))):
        assert torch.equal(layout(x), x) and layout(x).stride() == stride
    assert expanded(x).stride() == (0, 0) and (expanded(x) == x[0, 0]).all()
    for layout in (sliced, transposed, expanded):
        for name in ("scalar", "empty"):
            assert layout(LAID[name]()).shape == LAID[name]().shape


@pytest.mark.parametrize("name", ["offset", "sliced", "transposed", "expanded"])
def test_every_arm_is_called_with_what_was_given(name: str) -> None:
    """Inputs, parameters and cotangents, also in float64."""
    x, seen = LAID[name](), []

    def arm(t: Tensor) -> Tensor:
        seen.append((t.stride(), t.storage_offset()))
        return torch.tanh(t)

    for call in (Call.of(x, None, None, 0), Call.of(x, None, None, 0).to(torch.float64)):
        forward(subject(arm), call)
    assert seen == [(x.stride(), x.storage_offset())] * 2
    assert Directions(0, {"output": x}).of("output", x.double()).stride() == x.stride()
    if name == "expanded":  # no optimizer can write over it
        return
    module = nn.Module()
    module.weight = nn.Parameter(x)
    for copy in (subject(module).copy(), subject(module).copy(torch.float64)):
        assert copy.parameters["weight"].stride() == x.stride()
        assert torch.equal(copy.parameters["weight"], x.to(copy.parameters["weight"].dtype))
