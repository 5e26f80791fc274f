"""What is compared: networks and losses, ours and their counterparts in torch.nn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

import manualbp
from manualbp.fast import native

# torch.nn's losses and ours.
LOSSES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mse": (nn.MSELoss, manualbp.MSELoss),
    "l1": (nn.L1Loss, manualbp.L1Loss),
    "huber": (nn.HuberLoss, manualbp.HuberLoss),
    "smooth_l1": (nn.SmoothL1Loss, manualbp.SmoothL1Loss),
    "cross_entropy": (nn.CrossEntropyLoss, manualbp.CrossEntropyLoss),
    "bce_with_logits": (nn.BCEWithLogitsLoss, manualbp.BCEWithLogitsLoss),
}


def autograd_twin(model: nn.Sequential) -> nn.Sequential:
    """nn.Sequential of copied modules: equal weights, gradients by autograd."""
    return nn.Sequential(*copy.deepcopy(list(model)))


def in_fast_mode(model: nn.Sequential) -> nn.Sequential:
    """A copy in fast mode."""
    fast = copy.deepcopy(model)
    manualbp.set_mode("fast", fast)
    return fast


@contextmanager
def in_python() -> Iterator[None]:
    """Inside, nothing runs in C++: as with MANUALBP_NATIVE=0, but in one process with the rest.

    For models that run here alone: a guard goes on with what C++ has served outside.
    """
    found = native.library
    native.library = _no_library  # type: ignore[assignment]
    try:
        yield
    finally:
        native.library = found


def _no_library() -> None:
    """What ``native.library`` says where nothing was built."""


def linears(model: nn.Sequential) -> list[nn.Linear]:
    """The layers that have weights."""
    return [module for module in model if isinstance(module, nn.Linear)]


class WithLoss(nn.Module):
    """C(model(x), y): a model and its loss as one module."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.model(x), y)
