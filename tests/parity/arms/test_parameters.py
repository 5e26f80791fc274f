"""Both arms get and hold the same parameters, by names that may differ."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import load_parameters
from manualbp.parity.arms.parameters import check_parameters
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
