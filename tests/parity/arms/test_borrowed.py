"""Modules that were lent come back as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from manualbp.parity import bit_identical
from manualbp.parity.arms.borrowed import borrowed


def spoil(module: nn.Module, dtype: torch.dtype = torch.float64) -> None:
    """Change everything that borrowed() puts back; of the same dtype in its own memory."""
    module.to(dtype)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.add_(1)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(not parameter.requires_grad)
    for child in module.modules():
        child.train(not child.training)
    torch.rand(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("raises", [False, True])
def test_everything_comes_back_by_the_bit(raises: bool, dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    module[1].eval()
    module[0].bias.requires_grad_(False)
    grad = module[0].weight.grad = torch.full((2, 3), 7.0)
    parameters, modes = dict(module.named_parameters()), [m.training for m in module.modules()]
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    try:
        with borrowed(module, None, module):  # None for a function; one module as both arms
            assert module[0].weight.grad is None
            spoil(module, dtype)
            if raises:
                raise KeyError("inside")
    except KeyError:
        assert raises
    assert {n: id(p) for n, p in module.named_parameters()} == {
        n: id(p) for n, p in parameters.items()
    }
    assert all(bit_identical(v, before[n]) for n, v in module.state_dict().items())
    assert module[0].weight.grad is grad and bool((grad == 7).all())
    assert module[1].weight.grad is None
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_memory_shared_outside_is_the_same_memory_afterwards() -> None:
    """An optimizer or a view that holds the parameter's memory must go on working."""
    module = nn.Linear(3, 2)
    view, pointer = module.weight.data[0], module.weight.data_ptr()
    with borrowed(module):
        spoil(module)
    assert module.weight.data_ptr() == pointer
    with torch.no_grad():
        module.weight.fill_(5)
    assert bool((view == 5).all())
