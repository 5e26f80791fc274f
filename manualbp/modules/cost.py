"""The cost of a loss module: by hand where that serves, else torch.nn's own forward (losses.py).

Where a Function cannot serve (torch.compile, torch.func, autocast, a target that wants a gradient,
cross-entropy over images) torch.nn's own forward runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manualbp import fast
from manualbp.autograd.cost import apply_cost
from manualbp.maths import losses
from manualbp.maths.cross_entropy import CrossEntropy
from manualbp.modules import refusal
from manualbp.modules.plan import KEY, Plan
from manualbp.settings import choices_of

_compiling = torch.compiler.is_compiling  # to look it up takes as long again
MOST = 64  # losses that are remembered: delta, say, may change at every step
_KNOWN: dict[Any, losses.Loss] = {}


def _shared(kind: Callable[..., losses.Loss], *options: Any) -> losses.Loss:
    """Equal losses are one, as long as they hold no weights: they are asked for in every call."""
    found = _KNOWN.get((kind, options))
    if found is None:
        if len(_KNOWN) >= MOST:
            _KNOWN.clear()
        found = _KNOWN[kind, options] = kind(*options)
    return found


def _bce(m: Any) -> losses.Loss:
    if m.weight is None and m.pos_weight is None:
        return _shared(losses.BCEWithLogits, m.reduction)
    return losses.BCEWithLogits(m.reduction, m.weight, m.pos_weight)


def _cross_entropy(m: Any) -> losses.Loss:
    # nn.Module's own search for the attribute takes long where it is None.
    weight = m._buffers["weight"] if "weight" in m._buffers else m.weight  # noqa: SIM401
    options = m.reduction, weight, m.ignore_index, m.label_smoothing
    return _shared(CrossEntropy, *options) if weight is None else CrossEntropy(*options)


# What a module of torch.nn computes.
LOSSES: dict[type[nn.Module], Callable[[Any], losses.Loss]] = {
    nn.MSELoss: lambda m: _shared(losses.MSE, m.reduction),
    nn.L1Loss: lambda m: _shared(losses.L1, m.reduction),
    nn.HuberLoss: lambda m: _shared(losses.Huber, m.reduction, m.delta),
    nn.SmoothL1Loss: lambda m: _shared(losses.SmoothL1, m.reduction, m.beta),
    nn.BCEWithLogitsLoss: _bce,
    nn.CrossEntropyLoss: _cross_entropy,
}


def cost(module: Any, original: type[nn.Module], o: Any, y: Any) -> Any:
    """C by hand where a graph is wanted and nothing observes; else torch.nn's own forward.

    That runs in fast mode as well: it has the same kernels, and no Python between them.
    """
    plan = None if _compiling() else module.__dict__.get(KEY)
    try:
        if plan is not None and plan.guard is not None and choices_of(module)[0] == "exact":
            found = plan.guard.run(module.__dict__, False, o, y)
            if found is not None:
                return found
        return _cost(module, original, o, y)
    except IndexError as error:  # from the CPU kernel; a GPU can only report it later
        if o.dim() == 0:
            raise
        raise IndexError(
            f"class indices must be in 0...{o.shape[1 if o.dim() > 1 else 0] - 1}, one per output "
            f"of the network, got: {error}; make the last layer wider, or mark samples to skip "
            "with ignore_index"
        ) from None


def _cost(module: Any, original: type[nn.Module], o: Any, y: Any) -> Any:
    """The same, with all questions asked."""
    if not (isinstance(o, Tensor) and isinstance(y, Tensor)):
        return original.forward(module, o, y)  # fx, what stands for a tensor, and PyTorch's errors
    loss = LOSSES[original](module)
    weights, served = loss.weights, loss.check(o, y)
    if (
        not (served and choices_of(module)[0] == "exact")
        or refusal.of_cost(weights, o, y) is not None
    ):
        return original.forward(module, o, y)
    native = fast.exact.loss(loss)
    if native is not None:
        _watch(module, native, loss, o, y)
        return native.apply(loss, o, y)
    found = apply_cost(loss, o, y, *weights)
    return found if loss.before is None else found[0]


def _watch(module: Any, native: Any, loss: losses.Loss, o: Tensor, y: Tensor) -> None:
    """Has a guard run the loss in C++, as long as no option changes."""
    own, plan = module.__dict__, module.__dict__.get(KEY)
    if plan is None or plan.guard is None or not plan.guard.holds(own):
        plan = Plan()
        tensors = [d for d in (module._parameters, module._buffers) if d]
        plan.guard = fast.exact.guard(own, tensors, [], [])
        own[KEY] = plan
    plan.guard.serve_cost(native, loss, fast.exact.weights(loss), o, y)
