"""Every private probe of PyTorch's that this package uses, what it answers, and since when.

All exist in torch 2.6 to 2.13. Where one is younger the fallback stands beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules
from torch.utils._device import DeviceContext

_C: Any = torch._C
F = TypeVar("F", bound=Callable[..., Any])

# What a call of a module runs, as it is before anyone replaces it.
CALL: Any = nn.Module.__call__
# Hooks on every module there is. A call without hooks is a call of forward, and nothing else.
GLOBAL_HOOKS = (
    modules._global_forward_hooks,
    modules._global_forward_pre_hooks,
    modules._global_backward_hooks,
    modules._global_backward_pre_hooks,
)
# Whether a transform of torch.func is at work, such as vmap or grad.
transforms_active: Callable[[], bool] = _C._are_functorch_transforms_active

# Whether a tensor was made inside a transform of torch.func that has ended.
escaped_a_transform: Callable[[Tensor], bool] = _C._functorch.is_dead_tensor_wrapper

# How many torch-function modes watch the program.
function_modes: Callable[[], int] = _C._len_torch_function_stack

# How many modes watch PyTorch's operators (FakeTensorMode, FlopCounterMode, ...).
dispatch_modes: Callable[[], int] = _C._len_torch_dispatch_stack

# What torch.jit.trace is at work on; None where it is not.
tracing: Callable[[], Any] = _C._get_tracing_state


def forward_mode() -> bool:
    """Whether a level of forward-mode AD is open."""
    return forward_ad._current_level >= 0


def only_default_devices() -> bool:
    """Whether all torch-function modes are ``torch.set_default_device``'s.

    That mode changes factory functions alone.
    """
    modes = map(_C._get_function_stack_at, range(function_modes()))
    return all(type(mode) is DeviceContext for mode in modes)


def distributed() -> bool:
    """Whether this process trains together with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooks(module: nn.Module) -> str | None:
    """The kind of hooks that the module has, in words; None where it has none."""
    return next((name[1:].replace("_", " ") for name in HOOKS if getattr(module, name)), None)


def own_call(module: nn.Module) -> bool:
    """Whether to call the module is to call its class's forward, apart from hooks."""
    return not (
        "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or type(module).__call__ is not CALL
    )


def unhooked(module: nn.Module) -> bool:
    """Whether to call the module is to call its class's forward, and nothing else."""
    return hooks(module) is None and own_call(module)


def scripted_as(forward: Callable[..., Any]) -> Callable[[F], F]:
    """Has TorchScript compile that forward instead of the decorated one, which it cannot read.

    It takes the source of what ``__wrapped__`` names.
    """
    return cast(Callable[[F], F], functools.wraps(forward, assigned=()))


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without its search for tensors that escaped a transform.

    That search takes 2 us, a tenth of a small forward pass. The caller makes sure that no
    transform is active and that x has not escaped one.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def batched(tensor: Tensor) -> bool:
    """Whether it stands for a batch of tensors, under vmap or ``is_grads_batched``."""
    return bool(_C._functorch.is_legacy_batchedtensor(tensor)) or transforms_active()


def nobody_records(tensor: Tensor) -> bool:
    """Whether it is one tensor, not a batch under vmap, and no graph or compiler records it."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or batched(tensor))


def asked_for(node: Any) -> bool:
    """Whether this very backward pass wants a gradient to arrive at the node."""
    try:
        return bool(_C._will_engine_execute_node(node))
    except RuntimeError:  # so it answers for a leaf that autograd.grad was asked for
        return True


def wanted(ctx: Any, needs: Sequence[bool], present: Sequence[bool]) -> tuple[bool, ...]:
    """Which inputs this very backward pass asks a gradient of. So autograd prunes its own nodes.

    Args:
        ctx: of a Function, while its backward runs.
        needs: ``ctx.needs_input_grad`` of its last inputs.
        present: which of those are tensors; the others are None.
    """
    if torch.compiler.is_compiling():  # compiled autograd cannot be asked, and prunes by itself
        return tuple(needs)
    nodes = iter(ctx.next_functions)
    there = [next(nodes)[0] if found else None for found in present]
    return tuple(need and asked_for(node) for need, node in zip(needs, there, strict=True))


def graph_is_kept() -> bool:
    """Whether this backward pass may be followed by another over the same graph.

    True where it cannot be known: PyTorch says so since 2.8 or so.
    """
    asked = getattr(_C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or bool(asked())


def pybind11_names() -> dict[str, str]:
    """What PyTorch's pybind11 was compiled by: with the same names exceptions keep their class.

    Seen in 2.7.1. Empty in 2.11 and 2.13, which need none.
    """
    names = ("COMPILER_TYPE", "STDLIB", "BUILD_ABI")
    values = {name: getattr(_C, f"_PYBIND11_{name}", None) for name in names}
    return {name: value for name, value in values.items() if value}
