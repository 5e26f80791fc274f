"""When the explicit math may stand in for autograd, and when PyTorch's own code must run.

Compilers, tracers, function transforms and modes look inside a program. A hand-written Function
is a black box to them, so wherever one is at work the caller runs PyTorch's modules instead and
the answer stays the same. The probes below are PyTorch's own, among them private ones: all exist
from torch 2.6 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from manualbp.activations import MODULES

_PLAIN = (Tensor, nn.Parameter)
_DEVICES = ("cpu", "cuda")
_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, *MODULES)
_FORWARDS = {kind: kind.forward for kind in _KINDS}  # as they are before anyone patches a class


def unobserved(x: Any) -> bool:
    """Whether a graph is being recorded for ``x`` and nothing observes or rewrites the program."""
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and type(x) in _PLAIN
        and x.device.type in _DEVICES
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 0
        and not (
            modules._global_forward_hooks
            or modules._global_forward_pre_hooks
            or modules._global_backward_hooks
            or modules._global_backward_pre_hooks
        )
    )


def alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all are plain, dense, floating tensors of one dtype on one device."""
    dtype, device = tensors[0].dtype, tensors[0].device
    for t in tensors:
        if t.dtype is not dtype or t.device != device or type(t) not in _PLAIN:
            return False
        if t.layout is not torch.strided or t.is_nested or t.is_inference():
            return False
    return dtype.is_floating_point


def plain_module(module: nn.Module) -> bool:
    """Whether calling a Linear or activation does what torch.nn's does: no hooks, no overrides."""
    return type(module).forward is _FORWARDS.get(type(module)) and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )
