"""Both arms get and hold the same parameters, by names that may differ, and come back unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import bit_identical, load_parameters
from manualbp.parity.arms.parameters import borrowed, check_parameters
from manualbp.parity.arms.subject import subject


class Named(nn.Module):
    """nn.Linear with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.t() + self.b


NAMES = {"w": "weight", "b": "bias"}
X = torch.arange(6.0).reshape(2, 3)


def test_load_parameters_by_the_map() -> None:
    candidate, reference = Named(), nn.Linear(3, 2)
    load_parameters(candidate, reference, NAMES)
    assert torch.equal(candidate.w, reference.weight) and torch.equal(candidate.b, reference.bias)
    check_parameters(subject(candidate, NAMES), subject(reference))


def test_load_parameters_takes_buffers_of_equal_name() -> None:
    candidate, reference = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    reference(X)
    load_parameters(candidate, reference)
    assert torch.equal(candidate.running_mean, reference.running_mean)
    assert candidate.num_batches_tracked == 1


def test_what_cannot_be_loaded_changes_nothing() -> None:
    candidate = Named()
    before = copy.deepcopy(candidate.state_dict())
    for reference, names, words in (
        (nn.Linear(3, 2, bias=False), NAMES, r"expected bias \(2,\) in the reference, got no such"),
        (nn.Linear(3, 2), {}, r"expected w \(2, 3\) in the reference, got no such parameter"),
        (nn.Linear(4, 2), NAMES, r"expected weight \(2, 3\) in the reference, got shape \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            load_parameters(candidate, reference, names)
        assert all(torch.equal(v, before[n]) for n, v in candidate.state_dict().items())


def test_parameters_are_checked_by_the_bit() -> None:
    reference = nn.Linear(3, 2)
    candidate = copy.deepcopy(reference)
    check_parameters(subject(candidate), subject(reference))
    with torch.no_grad():
        candidate.bias[1] = torch.nextafter(candidate.bias[1], torch.tensor(9.0))
    with pytest.raises(ValueError, match=r"got different bias; .*load_parameters"):
        check_parameters(subject(candidate), subject(reference))
    with pytest.raises(ValueError, match=r"common parameter names, got w, b and weight, bias"):
        check_parameters(subject(Named()), subject(reference))
    check_parameters(subject(torch.tanh), subject(reference))  # a function reads others


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
