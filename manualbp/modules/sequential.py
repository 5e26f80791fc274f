"""Drop-in shells: ``Sequential`` for nn.Sequential, ``Residual``, and ``MLP`` to build one.

The children stay real torch.nn modules, so state_dict, indexing, repr, ``.to`` and optimizers are
nn.Sequential's own. Only ``forward`` differs: every stretch of Linear and activation children goes
through one hand-written Function (autograd/chain.py). Every other child is called as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from manualbp.autograd.torch_internals import scripted_as
from manualbp.maths import activations
from manualbp.maths.activations import ActivationName
from manualbp.modules.plan import call, without_plan


class Sequential(nn.Sequential):
    """``o = f_L(... f_2(f_1(x)))``: nn.Sequential whose Linear and activation children run by hand.

    Takes what nn.Sequential takes and returns what it returns; on CPU the outputs and all
    gradients are bit-identical. Where a hand-written Function cannot serve (torch.compile,
    torch.func, forward-mode AD, autocast, hooks on a child, tensor subclasses, ...)
    nn.Sequential's own forward runs, and its errors are the ones you see.

    Args:
        *args: the children, modules in their order; or one OrderedDict of them by name.

    Raises:
        TypeError: a child is no nn.Module, as in nn.Sequential.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import manualbp
        >>> layers = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)
        >>> ours, theirs = manualbp.Sequential(*layers), nn.Sequential(*layers)
        >>> x = torch.randn(5, 4)
        >>> by_hand, autograd = [torch.autograd.grad(net(x).sum(), net[0].weight)[0]
        ...                      for net in (ours, theirs)]
        >>> torch.equal(by_hand, autograd)
        True
    """

    __getstate__ = without_plan

    @scripted_as(nn.Sequential.forward)
    def forward(self, input):  # type: ignore[no-untyped-def]
        """The children in order, as nn.Sequential.forward."""
        return call(self, self._modules, input)

    def __add__(self, other):  # type: ignore[no-untyped-def]
        return _as_ours(super().__add__(other))

    def __mul__(self, other):  # type: ignore[no-untyped-def]
        return _as_ours(super().__mul__(other))


def _as_ours(chain: nn.Sequential) -> nn.Sequential:
    """nn.Sequential names itself in these operators."""
    chain.__class__ = Sequential
    return chain


def _residual(self, input):  # type: ignore[no-untyped-def]
    output = input
    for module in self:
        output = module(output)
    return input + output


class Residual(Sequential):
    """``o = x + f(x)``, f the children in order;  ``dC/dx = dC/do + (df/dx)^T dC/do``.

    A block of a residual network. f's output must have the shape of x, or broadcast with it.

    Args:
        *args: the children of f, as for ``Sequential``.

    Raises:
        TypeError: a child is no nn.Module.
        RuntimeError: in a call: f's output does not broadcast with x.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import manualbp
        >>> block = manualbp.Residual(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        >>> x = torch.randn(5, 4)
        >>> torch.equal(block(x), x + block[2](block[1](block[0](x))))
        True
    """

    @scripted_as(_residual)
    def forward(self, input):  # type: ignore[no-untyped-def]
        """input + the children in order."""
        return call(self, self._modules, input, residual=True)


class MLP(Sequential):
    """``a_l = f(a_{l-1} W_l^T + b_l)``: Linear layers with an activation between them.

    Shapes: x (..., I), o (..., O), with ``widths = (I, ..., O)``. Every W_l is (out, in).

    Args:
        widths: features of the input, of every hidden layer and of the output: ``(64, 128, 10)``.
        activation: the hidden layers' f: "identity", "sigmoid", "tanh", "relu", "leaky_relu",
            "elu", "selu", "gelu", "gelu_tanh", "silu", "softplus" or "hardtanh".
        output_activation: the output layer's f; none by default.
        bias: whether every layer has a bias.
        device: device of the parameters.
        dtype: floating dtype of the parameters.

    Raises:
        ValueError: fewer than two widths, a width below 1, an unknown activation.

    Example:
        >>> import torch
        >>> import manualbp
        >>> model = manualbp.MLP((4, 8, 3), "tanh")
        >>> model(torch.randn(5, 4)).shape
        torch.Size([5, 3])
        >>> list(model.state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: ActivationName = "relu",
        output_activation: ActivationName | None = None,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_widths(widths)
        hidden = activations.by_name(activation)
        last = None if output_activation is None else activations.by_name(output_activation)
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            layers.append(nn.Linear(fan_in, fan_out, bias=bias, device=device, dtype=dtype))
            f = hidden if i < len(widths) - 1 else last
            if f is not None:
                layers.append(activations.to_module(f))
        super().__init__(*layers)

    def __getitem__(self, idx: slice | int) -> Any:
        """A child, or for a slice a Sequential: widths no longer describe a part of the chain."""
        if isinstance(idx, slice):
            return Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)


def _check_widths(widths: Sequence[int]) -> None:
    valid = (
        isinstance(widths, Sequence)
        and not isinstance(widths, str)
        and len(widths) >= 2
        and all(isinstance(w, int) and not isinstance(w, bool) and w >= 1 for w in widths)
    )
    if not valid:
        raise ValueError(
            f"widths must be two or more integers >= 1, got {widths!r}; "
            "for 64 inputs, 128 hidden nodes and 10 outputs pass (64, 128, 10)"
        )
