"""Small chains as PyTorch's operators: bit-exact, and module calls wherever somebody sees them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from manualbp.modules.plan import directly

ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.SiLU(inplace=True),
    nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.LeakyReLU(0.3), nn.Identity(), nn.Dropout(0.5),
    nn.LayerNorm(6),
]  # fmt: skip


def chain(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 3, bias=False))


def passed(forward: Callable[[Tensor], Tensor], net: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(5, 4, requires_grad=True)
    output = forward(x)
    wanted = [x, *[p for p in net.parameters() if p.requires_grad]]
    return [output, *torch.autograd.grad(output.square().sum(), wanted)]


def assert_alike(net: nn.Sequential) -> None:
    twin = copy.deepcopy(net)
    for a, b in zip(passed(lambda x: directly(net, x), net), passed(twin, twin), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("f", ACTIVATIONS, ids=repr)
def test_bits_and_nodes(f: nn.Module) -> None:
    net = chain(f)
    assert_alike(net)
    for steps in (directly(net, torch.randn(5, 4)), net(torch.randn(5, 4))):
        assert type(steps.grad_fn).__name__ == "MmBackward0"


def test_a_linear_whose_weight_is_no_parameter() -> None:
    """As after `del linear.weight; linear.weight = tensor`, and with weight_norm."""
    net = chain(nn.Tanh())
    weight = net[0].weight.detach() * 2
    del net[0].weight
    net[0].weight = weight
    assert_alike(net)
    net[0].register_parameter("scale", nn.Parameter(torch.ones(())))
    twin = copy.deepcopy(net)
    x = torch.randn(5, 4)
    assert torch.equal(directly(net, x), twin(x))
    net = chain(nn.Tanh())
    nn.utils.parametrizations.weight_norm(net[0])
    assert_alike(net)


class Twice(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_subclasses_hooks_and_patches_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_alike(nn.Sequential(Twice(4, 6), nn.Linear(6, 3)))
    hooked = chain(nn.Tanh())
    hooked[1].register_forward_hook(lambda m, args, o: 2 * o)
    assert_alike(hooked)
    seen: list[Any] = []
    handle = register_module_forward_hook(lambda m, args, o: seen.append(m))
    net = chain(nn.Tanh())
    try:
        directly(net, torch.randn(5, 4))
    finally:
        handle.remove()
    assert seen == list(net)
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: 3 * x)
    assert_alike(chain(nn.Tanh()))
