"""Which routine computes the matrix products of a layer: the policy, and the products.

exact   ATen's, in autograd's order: the bits of nn.Linear
fast    oneDNN's inner product, where it was measured to be the faster one, with bias and activation
        in the same pass; ATen's elsewhere

oneDNN is reached through ``torch.ops.mkldnn._linear_pointwise``, as PyTorch's own compiler does. It
is private, so it is tried once here; where it is missing, fast runs ATen's products.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.setting import Setting


class set_mode(Setting):  # a function to its users, like torch.set_grad_enabled
    """How products are computed from now on; as a context manager, until its end.

        manualbp.set_mode("fast")             for the whole process
        with manualbp.set_mode("fast"): ...   for a while
        manualbp.set_mode("fast", model)      for the modules of this model, whatever else is set

    Args:
        mode: "exact" has autograd's bits; "fast" is held to autograd's own distance from float64.
        model: None, or a model whose modules keep the mode.

    Raises:
        ValueError: an unknown mode.
        TypeError: ``model`` is no nn.Module.
    """

    name = "mode"
    choices = ("exact", "fast")
    now = "exact"

    def __init__(self, mode: str, model: nn.Module | None = None) -> None:
        super().__init__(mode, model)


def fast(module: nn.Module) -> bool:
    """Whether the module is to be computed by the fastest routines."""
    return set_mode.of(module) == "fast"


def small(modules: Iterable[nn.Module], x: Any) -> bool:
    """Whether PyTorch's own forward and backward take less time than Python's steps by hand."""
    if not isinstance(x, Tensor) or x.dim() == 0:
        return False
    weights = sum(m.weight.numel() for m in modules if type(m) is nn.Linear)
    return x.numel() // max(x.shape[-1], 1) * weights < LEAST_WORK


def _works() -> bool:
    """Whether the operator is there and computes what it should."""
    try:
        x, w, b = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
        return bool((_onednn(x, w, b, "relu") == 4).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _onednn(x: Tensor, w: Tensor, b: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, w, b, activation, [], "")


AVAILABLE = torch.backends.mkldnn.is_available() and _works()  # type: ignore[no-untyped-call]


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster one for x W^T; x (N, I), W (O, I)."""
    return (
        AVAILABLE
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and weight.shape[0] >= 16
        and x.numel() * weight.shape[0] >= 2**21
    )


def linear(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """f(h W^T + b), f by its name in oneDNN."""
    if not suits(h, weight):
        z = F.linear(h, weight, bias)
    elif activation in IN_ONE_PASS:
        return _onednn(h, weight, bias, activation)
    else:
        z = _onednn(h, weight, bias, "none")
    return z if activation == "none" else ATEN[activation](z)


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """g W."""
    return _onednn(g, weight.t(), None, "none") if suits(g, weight.t()) else g.mm(weight)


def weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """g^T h: over long batches ATen's product is the faster one."""
    return g.t().mm(h)


# Multiplications of a forward pass below which a step by hand takes longer than PyTorch's own,
# since its Python takes longer than the products.
LEAST_WORK = 2**25

IN_ONE_PASS = ("tanh", "sigmoid")  # its ReLU makes 0 of NaN
ATEN = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}
