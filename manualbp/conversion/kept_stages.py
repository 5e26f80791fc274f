"""A model's stages, found once and kept until something changes.

What C++ serves, a guard runs from the second call on: it asks in one pass what ``stages_or_reason``
and modules/by_input.py ask one by one.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from manualbp.autograd.stages import Stages
from manualbp.autograd.torch_internals import HOOKS
from manualbp.conversion.blocks import Block
from manualbp.conversion.read_forward import Reading, read
from manualbp.conversion.read_stages import Leaves, Reason, leaves_of, stages_of
from manualbp.maths.order import Order
from manualbp.modules import by_input
from manualbp.modules.plan import Plan

OWN = ("forward", "_compiled_call_impl", *HOOKS)  # what a module may have of its own
_GETATTR = nn.Module.__getattr__
_compiling = torch.compiler.is_compiling  # to look it up takes as long again


class KeptStages(Plan):
    """The stages of a model, or why there are none. It holds no reference to the model."""

    def __init__(self, model: nn.Module, leaves: Leaves) -> None:
        super().__init__(leaves.modules, leaves.ends)
        self.found: Stages | Reason = stages_of(leaves)
        self.kind, self.children = type(model), model._modules
        self.parts = (*leaves.modules, *leaves.containers[1:])
        self.absent: tuple[str, ...] = ()  # among what the model's own __dict__ says

    def watch_model(self, containers: tuple[nn.Module, ...]) -> None:
        """Has a guard run the stages, where C++ takes such ones and all can be watched.

        The guard holds the __dict__ of every part, but not that of the model.
        """
        if isinstance(self.found, Reason) or self.found.residual():
            return
        dicts: list[Any] = []
        hooks: list[Any] = []
        kinds: list[Any] = []
        for container in containers:
            reading = _reading(container)
            names, named = _children(container, reading), _named(reading)
            if names is None or named is None:
                return
            if container is containers[0]:
                self.absent = (*OWN, *names)
            else:
                dicts.append((container.__dict__, ("_modules", *OWN, *names)))
                hooks += [getattr(container, name) for name in HOOKS]
            dicts += [container._modules, *named]
            kinds += [(kind, kind.forward, kind.__call__) for kind in _classes(container)]
        self.watch_with(self.parts, dicts, hooks, kinds)
        self.found.guard = self.whole


_kept: WeakKeyDictionary[nn.Module, KeptStages] = WeakKeyDictionary()


def stages_or_reason(model: nn.Module) -> Stages | Reason:
    """The model's layers; or why there are none by hand."""
    leaves = leaves_of(model)
    if isinstance(leaves, Reason):
        return leaves
    kept = _kept.get(model)
    if kept is not None and kept.holds(leaves.modules, leaves.ends):
        return kept.found
    kept = KeptStages(model, leaves)
    if kept.may_be_kept() and model not in leaves.modules:
        kept.watch_model(leaves.containers)
        _kept[model] = kept
    return kept.found


def run_guarded(
    model: nn.Module, x: Tensor, second: Any, directions: Tensor | None
) -> tuple[Tensor, ...] | None:
    """``derivatives`` where nothing has changed since such a call that C++ served; else None."""
    if _compiling() or not isinstance(model, nn.Module):
        return None
    kept = _kept.get(model)
    if kept is None or kept.whole is None:
        return None
    own = model.__dict__
    if type(model) is not kept.kind or own.get("_modules") is not kept.children:
        return None
    if any(map(own.get, kept.absent)):
        return None
    given = (x,) if directions is None else (x, directions)
    found: tuple[Tensor, ...] | None = kept.whole.run(kept.parts, second, *given)
    return found


def graph_is_faster(model: nn.Module, x: Tensor, order: Order) -> bool:
    """Whether nested autograd was the faster way when the model was last looked at.

    It is right for any model. So nothing is asked again, which would take as long as it saves.
    """
    kept = _kept.get(model)
    if kept is None or isinstance(kept.found, Reason) or by_input.has_native():
        return False
    return by_input.graph_is_faster(kept.found, x, order)


def _classes(container: nn.Module) -> tuple[Any, ...]:
    """Whose forwards say what it calls."""
    kind = type(container)
    return (kind, kind.original) if issubclass(kind, Block) else (kind,)


def _reading(container: nn.Module) -> Reading | None:
    """Of a forward that is not Sequential's, which is known."""
    found = read(_classes(container)[-1].forward)
    return None if isinstance(found, str) else found


def _children(container: nn.Module, reading: Reading | None) -> tuple[str, ...] | None:
    """The children that the forward names; None where a name may mean something else."""
    if reading is None:
        return ()
    names = tuple(step for step in reading.steps if isinstance(step, str))
    plain = type(container).__getattr__ is _GETATTR
    return names if plain and container._modules.keys() >= set(names) else None


def _named(reading: Reading | None) -> list[Any] | None:
    """Where the functions of a forward are looked up, name by name; None for what is no dict."""
    found: list[Any] = []
    if reading is None:
        return found
    for name, _ in reading.functions:
        space: Any = reading.names
        for part in name.split("."):
            if type(space) is not dict:  # of a class
                return None
            found.append((space, (part,)))
            space = getattr(space.get(part), "__dict__", None)
    return found
