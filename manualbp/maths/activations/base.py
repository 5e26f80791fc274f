"""What every activation has: f, f', f'', f''', and what they are computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

aten = torch.ops.aten


class Activation(ABC):
    """a = f(z) with its derivatives, elementwise on tensors of any shape, dtype and device.

    ``needs`` says what f' is computed from: "z"; or "a" where f' can be computed from f's output
    (sigmoid, tanh, ReLU), so that z need not be kept. That tensor is the ``cache`` below.
    """

    needs: ClassVar[Literal["z", "a"]]
    # Elements of z from which f'' below is faster than PyTorch's second order, as measured by
    # `comparisons speed`; None: nowhere.
    r_operator_from: ClassVar[int | None] = None

    @abstractmethod
    def f(self, z: Tensor) -> Tensor:
        """a = f(z)."""

    @abstractmethod
    def derivative(self, cache: Tensor) -> Tensor:
        """f'(z), the written formula."""

    def second_derivative(self, cache: Tensor) -> Tensor | None:
        """Slope of ``derivative`` in its own argument; None where that is 0 everywhere."""
        return None

    def derivatives(self, cache: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """f', f'' and f''' in z, the written formulas; None for 0 everywhere.

        At a kink they are what PyTorch has there, so f'' and f''' of a piecewise linear f are 0.
        """
        return self.derivative(cache), None, None

    @abstractmethod
    def backward(self, delta: Tensor, cache: Tensor, into: Tensor | None = None) -> Tensor:
        """delta * f'(z), with the rounding of autograd; in ``into`` where that is given."""

    def formula(self, delta: Tensor, cache: Tensor) -> Tensor:
        """delta * f'(z), as it is written."""
        return delta * self.derivative(cache)

    @property
    def recorded(self) -> Activation:
        """The rule while autograd records: this one, unless PyTorch then rounds differently."""
        return self

    def double_backward(self, v: Tensor, delta: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of sum(v * delta * f'): v f' for delta, and v delta f'' for cache."""
        # In half precision the cubes and exponentials of f'' would overflow.
        half = cache.dtype in (torch.float16, torch.bfloat16)
        curvature = self.second_derivative(cache.float() if half else cache)
        if curvature is None:
            return self.backward(v, cache), torch.zeros_like(cache)
        curvature, both = curvature.to(cache.dtype), v * delta
        for_cache = both * curvature if torch.is_grad_enabled() else both.mul_(curvature)
        return self.backward(v, cache), for_cache


def run(kernel: Any, into: Tensor | None, *args: Any, **options: Any) -> Tensor:
    """What PyTorch's derivative kernel computes, in ``into`` where that is given."""
    if into is None:
        return kernel.default(*args, **options)
    return kernel.grad_input(*args, **options, grad_input=into)
