"""PyTorch's own databases of modules and optimizers, which its wheel ships for its own tests."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch


@functools.cache
def databases() -> tuple[dict[type, Any], dict[type, Any]]:
    """What they know of each class of module and of optimizer.

    They are imported late, since that takes seconds. And what PyTorch's test suite changes in the
    process when it is imported is undone.
    """
    calls = [(kind, kind.__call__) for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod)]
    frozen = torch.backends.__allow_nonbracketed_mutation_flag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
        from torch.testing._internal.common_optimizers import optim_db
    torch.backends.__allow_nonbracketed_mutation_flag = frozen
    for kind, call in calls:
        kind.__call__ = call
    return {m.module_cls: m for m in module_db}, {o.optim_cls: o for o in optim_db}


def samples(kind: type, dtype: torch.dtype, training: bool = True) -> list[Any]:
    """How a module can be made and called; of ``constructor_input`` and ``forward_input``."""
    info = databases()[0][kind]
    torch.manual_seed(0)
    made: list[Any] = info.module_inputs_func(info, "cpu", dtype, True, training)
    return made


def error_samples(kind: type) -> list[Any]:
    """How a module cannot be made or called; none for most."""
    info = databases()[0][kind]
    if info.module_error_inputs_func is None:
        return []
    torch.manual_seed(0)
    made: list[Any] = info.module_error_inputs_func(info, "cpu", torch.float32, True, True)
    return made
