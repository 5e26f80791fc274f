"""Edits between the passes and bad input: the layers raise PyTorch's errors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import manualbp
from tests.maths.swept import SWEPT, around, plain
from tests.versions import REFUSES_EPS

EDITS = ["0.weight", "2.weight", "2.bias", "3.weight", "2.running_mean", "2.running_var"]


@pytest.mark.parametrize("kind", SWEPT)
@pytest.mark.parametrize("wants_x", [True, False])
def test_edits_between_forward_and_backward(kind: str, wants_x: bool) -> None:
    """Raise where PyTorch's raise, in its words; elsewhere bit-exact."""
    torch.manual_seed(0)
    twin = nn.Sequential(*around(plain(kind)))
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    named = {*dict(twin.named_parameters()), *dict(twin.named_buffers())}
    for name in [edit for edit in EDITS if edit in named]:
        outcomes = []
        for net in (model, twin):
            x = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
            x.requires_grad_(wants_x)
            torch.manual_seed(1)
            output = net(x).sum()
            with torch.no_grad():
                {**dict(net.named_parameters()), **dict(net.named_buffers())}[name].mul_(2)
            try:
                outcomes.append(torch.autograd.grad(output, net[0].weight)[0])
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
                outcomes.append(None)
        ours, theirs = outcomes
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.equal(ours, theirs), name


def changed(module: nn.Module, **attributes: object) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


BAD: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "one value": (lambda: [nn.BatchNorm1d(8)], (1, 5)),
    "no batch": (lambda: [nn.BatchNorm1d(8)], (5,)),
    "four dimensions": (lambda: [nn.BatchNorm1d(3)], (2, 3, 4, 5)),
    "features": (lambda: [nn.BatchNorm1d(7)], (4, 5)),
    "eps": (lambda: [nn.BatchNorm1d(8, eps=0)], (4, 5)),
    "layernorm": (lambda: [nn.LayerNorm(7)], (4, 5)),
    "rmsnorm": (lambda: [nn.RMSNorm(7)], (4, 5)),
    "weight": (lambda: [changed(nn.RMSNorm(8), weight=nn.Parameter(torch.ones(1)))], (4, 5)),
    "gamma": (lambda: [changed(nn.LayerNorm(8), weight=nn.Parameter(torch.ones(1)))], (4, 5)),
    "p": (lambda: [changed(nn.Dropout(), p=1.5)], (4, 5)),
    "in place": (lambda: [nn.LeakyReLU(-0.5, inplace=True)], (4, 5)),
}


@pytest.mark.parametrize("case", [case for case in BAD if case != "eps" or REFUSES_EPS])
def test_bad_input_raises_as_pytorch(case: str) -> None:
    children, shape = BAD[case]
    seen = []
    for kind in (manualbp.Sequential, nn.Sequential):
        with pytest.raises(Exception) as raised:
            kind(nn.Linear(5, 8), *children())(torch.randn(shape)).sum().backward()
        seen.append((raised.type, str(raised.value)))
    assert seen[0] == seen[1]
