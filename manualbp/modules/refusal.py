"""Why something does not run by hand. All decisions to fall back are made here, with their reason.

Compilers, tracers, function transforms and modes look inside a program. A hand-written Function is
a black box to them. So wherever one is at work, PyTorch's own modules run, and the answer is the
same. Each function returns None where nothing speaks against running by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.autograd import torch_internals
from manualbp.autograd.torch_internals import (
    CALL,
    GLOBAL_HOOKS,
    dispatch_modes,
    escaped_a_transform,
    forward_mode,
    function_modes,
    only_default_devices,
    tracing,
    transforms_active,
)
from manualbp.maths import layers

PLAIN = (Tensor, nn.Parameter)
# These are asked in every call, so they stand here by name: to look them up takes as long again.
_compiling, _grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_inference_mode, _autocast = torch.is_inference_mode_enabled, torch.is_autocast_enabled
_DENSE, _MODULE = torch.strided, nn.Module
# The forward of every known class, as it is before anyone replaces it.
FORWARDS = {kind: kind.forward for kind in layers.MODULES}


# The same in words, for a model of which no call is known yet.
OF_ANY_CALL = """\
By hand unless the call says otherwise. PyTorch's own forward runs under no_grad and inference_mode,
torch.compile, torch.export, torch.jit.trace, autocast, torch.func and forward-mode AD; while a mode
or a global module hook watches; and for an input that is a tensor subclass, sparse, nested, an
inference tensor, of another dtype than the weights, or on a device other than cpu and cuda."""


def of_call(x: Any, graph: bool = True) -> str | None:
    """Why a call with x goes to PyTorch's own forward; ``graph`` says whether it needs a graph."""
    if _compiling():
        return "torch.compile or torch.export is at work"
    if graph and (not _grad_enabled() or _inference_mode()):
        return "no graph is recorded"
    if type(x) not in PLAIN:
        return f"the input is of type {type(x).__name__}"
    if not (x.is_cpu or x.is_cuda):
        return f"the input is on device {x.device.type}"
    if x.layout is not _DENSE or x.is_nested or x.is_inference():
        return "the input is sparse, nested or an inference tensor"
    if _autocast("cpu" if x.is_cpu else "cuda"):
        return "autocast is on"
    if transforms_active() or escaped_a_transform(x):
        return "a transform of torch.func is at work"
    if tracing() is not None:
        return "torch.jit.trace is at work"
    if forward_mode():
        return "forward-mode AD is at work"
    if dispatch_modes():
        return "a mode watches PyTorch's operators"
    if function_modes() and not only_default_devices():
        return "a mode watches PyTorch's functions"
    if any(GLOBAL_HOOKS) or _MODULE.__call__ is not CALL:
        return "a global module hook is set"
    return None


def of_module(module: nn.Module) -> str | None:
    """Why a child of a chain is called as it is."""
    kind = type(module)
    if kind not in FORWARDS:
        known = next((k.__name__ for k in FORWARDS if isinstance(module, k)), None)
        return f"a subclass of {known}" if known else "no layer by hand for it"
    if kind.forward is not FORWARDS[kind]:
        return "its class's forward was replaced"
    hooks = torch_internals.hooks(module)
    if hooks is not None:
        return f"has {hooks}"
    if not torch_internals.own_call(module):
        return "its forward was replaced or compiled"
    try:
        found = layers.from_module(module)
    except (TypeError, ValueError):  # an option that is no number; PyTorch says so
        found = None
    if found is None:
        return "its options are not covered by hand"
    if not plain([t for t in found[1] if t is not None]):
        return "a parameter is sparse, nested or of a class of its own"
    return None


def in_front(module: nn.Module) -> str | None:
    """Why a module that can run by hand cannot be the first of a chain: others may read its input.

    RMSNorm: autograd adds two terms of dC/dh to the gradient of h, one by one.
    """
    if type(module) is nn.RMSNorm:
        return "it comes first, and what it reads may be read elsewhere"
    return "it works in place on what is read elsewhere" if layers.in_place(module) else None


def plain(tensors: Sequence[Tensor]) -> bool:
    """Whether all are plain and dense."""
    return all(type(t) in PLAIN and t.layout is torch.strided and not t.is_nested for t in tensors)


def of_tensors(tensors: Sequence[Tensor]) -> str | None:
    """Why tensors cannot take part in one Function."""
    dtype, device = tensors[0].dtype, tensors[0].device
    if not plain(tensors) or any(t.is_inference() for t in tensors):
        return "a tensor is sparse, nested, an inference tensor or of a class of its own"
    if any(t.dtype is not dtype or t.device != device for t in tensors):
        return "the tensors are of several dtypes or devices"
    if not dtype.is_floating_point:
        return f"the tensors are of dtype {dtype}"
    return None


def of_cost(weights: Sequence[Tensor], o: Tensor, y: Tensor) -> str | None:
    """Why the loss of an output o and a target y goes to torch.nn's own forward."""
    if not o.requires_grad:
        return "the output wants no gradient"
    reason = of_call(o)
    if reason is not None:
        return reason
    if type(y) not in PLAIN or y.layout is not _DENSE or y.is_inference():
        return "the target is no plain tensor"
    if y.requires_grad or not ((o.is_cpu and y.is_cpu) or y.device == o.device):
        return "the target wants a gradient, or is on another device"
    if weights:
        if any(w.requires_grad for w in weights):
            return "a weight wants a gradient"
        return of_tensors([o, *weights, *([y] if y.is_floating_point() else [])])
    return None if o.is_floating_point() else f"the output is of dtype {o.dtype}"
