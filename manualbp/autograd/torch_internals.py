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
from torch.utils._device import DeviceContext

from manualbp.maths.layers import MODULES, from_module, in_place

_PLAIN = (Tensor, nn.Parameter)
_DEVICES = ("cpu", "cuda")
_CALL: Any = nn.Module.__call__
_FORWARDS = {kind: kind.forward for kind in MODULES}  # as they are before anyone patches a class


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
        and (torch._C._len_torch_function_stack() == 0 or _only_default_devices())
        and torch._C._len_torch_dispatch_stack() == 0
        and plain_calls()
    )


def plain_calls() -> bool:
    """Whether calling a module without hooks is calling its forward and nothing else."""
    return nn.Module.__call__ is _CALL and not (
        modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )


def distributed() -> bool:
    """Whether this process trains together with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _only_default_devices() -> bool:
    """Whether the modes are those of a default device, which concern factory functions alone."""
    modes = map(torch._C._get_function_stack_at, range(torch._C._len_torch_function_stack()))
    return all(type(mode) is DeviceContext for mode in modes)


def alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all are plain, dense, floating tensors of one dtype on one device."""
    dtype, device = tensors[0].dtype, tensors[0].device
    for t in tensors:
        if t.dtype is not dtype or t.device != device or type(t) not in _PLAIN:
            return False
        if t.layout is not torch.strided or t.is_nested or t.is_inference():
            return False
    return dtype.is_floating_point


_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


def unhooked(module: nn.Module) -> bool:
    """Whether calling the module is calling its class's forward and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or type(module).__call__ is not _CALL
    )


def plain_module(module: nn.Module) -> bool:
    """Whether calling a known module does what torch.nn's does: no hooks, no overrides."""
    return type(module).forward is _FORWARDS.get(type(module)) and unhooked(module)


def refusal(module: nn.Module) -> str | None:
    """Why ``plain_module`` is False, in words; None where it is True and the layer is known."""
    kind, hooks = type(module), [h for h in _HOOKS if getattr(module, f"_{h}")]
    if kind not in _FORWARDS:
        known = next((k.__name__ for k in _FORWARDS if isinstance(module, k)), None)
        return f"a subclass of {known}" if known else "no layer by hand for it"
    if kind.forward is not _FORWARDS[kind]:
        return "its class's forward was replaced"
    if hooks:
        return f"has {hooks[0].replace('_', ' ')}"
    if not unhooked(module):
        return "its forward was replaced or compiled"
    if from_module(module) is None:
        return "its options are not covered by hand"
    if kind is nn.RMSNorm:
        return "it comes first, and what it reads may be read elsewhere"
    return "it works in place on what is read elsewhere" if in_place(module) else None
