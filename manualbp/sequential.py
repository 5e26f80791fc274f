"""Drop-in shells: ``Sequential`` for nn.Sequential, ``MLP`` to build one, ``convert`` for a model.

The children stay real torch.nn modules, so state_dict, indexing, repr, ``.to`` and optimizers are
nn.Sequential's own. Only ``forward`` differs: every run of Linear and activation children goes
through one hand-written Function (function.py); every other child is called as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manualbp import activations
from manualbp.activations import Activation, Identity
from manualbp.eligible import alike, plain_module, unobserved
from manualbp.function import Chain


class Sequential(nn.Sequential):
    """nn.Sequential whose Linear and activation runs are differentiated by hand.

    Takes what nn.Sequential takes and returns what it returns; on CPU the outputs and all
    gradients are bit-identical. Where a hand-written Function cannot serve (torch.compile,
    torch.func, forward-mode AD, autocast, hooks on a child, tensor subclasses, ...)
    nn.Sequential's own forward runs, and its errors are the ones you see.
    """

    # No annotations: TorchScript reads them, and a bare argument is a Tensor to it.
    def forward(self, input):  # type: ignore[no-untyped-def]
        """The children in order, as nn.Sequential.forward."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            for module in self:
                input = module(input)
            return input
        return self._by_hand(input)

    @torch.jit.unused
    def _by_hand(self, input):  # type: ignore[no-untyped-def]
        if not unobserved(input):
            return super().forward(input)  # type: ignore[no-untyped-call]
        for step in _steps(self):
            input = step(input)
        return input


class _Run(NamedTuple):
    """Consecutive children that make a chain: Linear, at most one activation, Linear, ..."""

    modules: list[nn.Module]
    activations: list[Activation]
    parameters: list[Tensor | None]  # W_1, b_1, W_2, b_2, ...

    def __call__(self, x: Tensor) -> Tensor:
        tensors = [x, *(p for p in self.parameters if p is not None)]
        if alike(tensors) and self._fits(x) and any(t.requires_grad for t in tensors):
            pairs = zip(self.parameters[-2::-2], self.parameters[::-2], strict=True)
            backwards = (p for pair in pairs for p in pair)
            return Chain.apply(self.activations, *backwards, x)  # type: ignore[no-untyped-call]
        for module in self.modules:
            x = module(x)
        return x

    def _fits(self, x: Tensor) -> bool:
        """Whether the shapes chain; where they do not, nn.Linear's own error is to be seen.

        Also whether x and the biases are laid out plainly: for other strides F.linear may choose
        batched products or sum a bias gradient in another order, which rounds differently.
        """
        width = x.shape[-1] if x.dim() else -1
        for weight, bias in zip(self.parameters[0::2], self.parameters[1::2], strict=True):
            if weight is None or weight.dim() != 2 or weight.shape[1] != width:
                return False
            width = weight.shape[0]
            if bias is not None and (bias.shape != (width,) or not bias.is_contiguous()):
                return False
        return x.dim() == 2 or _row_major(x)


def _row_major(x: Tensor) -> bool:
    """Whether the strides are those of a fresh tensor, also where a dimension has size 1."""
    stride = 1
    for size, own in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if own != stride:
            return False
        stride *= max(size, 1)
    return True


def _steps(modules: nn.Sequential) -> Iterator[_Run | nn.Module]:
    """The children, with every Linear/activation run gathered into one step."""
    run: _Run | None = None
    open_layer = False  # the run's last Linear has no activation yet
    for module in modules:
        activation = activations.from_module(module)
        if type(module) is nn.Linear and plain_module(module):
            run = run or _Run([], [], [])
            run.modules.append(module)
            run.activations.append(Identity())
            run.parameters.extend((module.weight, module.bias))
            open_layer = True
        elif run and open_layer and activation is not None and plain_module(module):
            run.modules.append(module)
            run.activations[-1] = activation
            open_layer = isinstance(activation, Identity)
        else:
            if run:
                yield run
            run = None
            yield module
    if run:
        yield run


class MLP(Sequential):
    """a_l = f(a_{l-1} W_l^T + b_l): Linear layers with an activation between them.

    Args:
        widths: features of the input, of every hidden layer and of the output: ``(64, 128, 10)``.
        activation: the hidden layers' f, a key of ``activations.ACTIVATIONS``.
        output_activation: the output layer's f; none by default.
        bias: whether every layer has a bias.
        device: device of the parameters.
        dtype: floating dtype of the parameters.

    Raises:
        ValueError: fewer than two widths, a width below 1, an unknown activation.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str = "relu",
        output_activation: str | None = None,
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


def convert(model: nn.Module) -> nn.Module:
    """Turn every eligible nn.Sequential inside ``model`` into ``Sequential``, in place.

    Eligible is an instance of exactly nn.Sequential with at least one nn.Linear among its direct
    children. Only its class changes: parameters, hooks, state_dict keys and every reference to it
    stay as they are, so an optimizer made before goes on working.

    Returns:
        ``model`` itself.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"convert expects an nn.Module, got {type(model).__name__}; pass the model itself"
        )
    for module in model.modules():
        if type(module) is nn.Sequential and any(type(child) is nn.Linear for child in module):
            module.__class__ = Sequential
    return model
