"""GradientDescent: the update as an optimizer (maths/descent.py), in one call where it can."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from manualbp import fast


class GradientDescent(Optimizer):
    """``w <- w - lr dC/dw``, for every parameter that has a gradient.

    The article's last step, as a torch.optim.Optimizer: parameter groups, state_dict, hooks and
    learning rate schedulers work. Bit-identical with ``torch.optim.SGD(params, lr)``. All
    parameters of a group in one call, where the native step is built.

    Args:
        params: parameters, or parameter groups, as any torch optimizer takes them.
        lr: epsilon, the learning rate; finite and > 0. A group may have its own.

    Raises:
        ValueError: lr is not finite or not > 0.
        TypeError: lr is no number.

    Example:
        >>> import torch
        >>> import manualbp
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = manualbp.GradientDescent([w], lr=0.25)
        >>> w.square().sum().backward()  # dC/dw = 2 w
        >>> optimizer.step()
        >>> w.tolist()
        [0.5, 1.0]
    """

    def __init__(self, params: ParamsT, lr: float | Tensor = 1e-3) -> None:
        _check(lr)
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim; the group's lr, if it has its own, is checked."""
        if isinstance(param_group, dict):  # else torch.optim says what is wrong
            _check(param_group.get("lr", self.defaults["lr"]))
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; ``closure`` recomputes the cost, as in torch.optim."""
        cost = None
        if closure is not None:
            with torch.enable_grad():
                cost = closure()
        for group in self.param_groups:
            fast.descend(group["params"], group["lr"])
        return cost


def _check(lr: Any) -> None:
    value = lr.item() if isinstance(lr, Tensor) and lr.numel() == 1 else lr
    message = f"lr must be a finite number > 0, got {lr!r}; try lr=0.1"
    if not isinstance(value, (Real, Tensor)):
        raise TypeError(message)
    if isinstance(value, (bool, Tensor)) or not 0 < float(value) < math.inf:
        raise ValueError(message)
