"""When the explicit math may stand in for autograd, and when PyTorch's own code must run.

Compilers, tracers, function transforms and modes look inside a program. A hand-written Function
is a black box to them, so wherever one is at work the caller runs PyTorch's modules instead and
the answer stays the same. The probes below are PyTorch's own, among them private ones: all exist
from torch 2.6 on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_state

_PLAIN = (Tensor, nn.Parameter)
_DEVICES = ("cpu", "cuda")

_CHILD_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = tuple("_global" + hooks for hooks in _CHILD_HOOKS)


def by_hand(*tensors: Tensor) -> bool:
    """Whether a Function on these tensors gives what PyTorch gives.

    True for plain, dense, floating tensors of one dtype and one device (CPU or CUDA) while a graph
    is being recorded and nothing observes or rewrites the program.
    """
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and all(type(t) in _PLAIN for t in tensors)
        and _alike(tensors)
        and not _observed(tensors[0].device.type)
    )


def plain_module(module: nn.Module) -> bool:
    """Whether calling ``module`` does nothing but its class's forward: no hooks, no overrides."""
    return (
        not any(getattr(module, hooks) for hooks in _CHILD_HOOKS)
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
    )


def _alike(tensors: tuple[Tensor, ...]) -> bool:
    first = tensors[0]
    return (
        first.is_floating_point()
        and first.device.type in _DEVICES
        and all(
            t.dtype is first.dtype and t.device == first.device and t.layout is torch.strided
            for t in tensors
        )
    )


def _observed(device_type: str) -> bool:
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.is_autocast_enabled(device_type)
        or any(getattr(module_state, hooks) for hooks in _GLOBAL_HOOKS)
    )
