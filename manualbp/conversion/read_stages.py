"""A model as stages, which are layers in a row, for derivatives by its input."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from manualbp.autograd.segment import Segment
from manualbp.autograd.stages import Stages
from manualbp.autograd.torch_internals import own_call, unhooked
from manualbp.conversion.blocks import Block, is_sequential, resolve
from manualbp.conversion.read_forward import read
from manualbp.maths import layers
from manualbp.modules import refusal
from manualbp.modules.sequential import Residual, Sequential

# As they are before anyone replaces them.
_IN_ORDER = (Sequential.forward, nn.Sequential.forward, Residual.forward)


class Reason(str):
    """Why there is no way by hand."""


class Leaves(NamedTuple):
    """The modules that are called in order, and the stages: (modules, whether residual)."""

    modules: tuple[nn.Module, ...]
    ends: tuple[tuple[int, bool], ...]
    containers: tuple[nn.Module, ...]  # that call them, the model first


def leaves_of(model: nn.Module) -> Leaves | Reason:
    """What calling the model calls, one after the other."""
    found = _Walk([], [], [])
    reason = found.into(model)
    return Leaves(*map(tuple, found)) if reason is None else reason  # type: ignore[arg-type]


def stages_of(leaves: Leaves) -> Stages | Reason:
    """The layers of every module; a residual one by itself."""
    segments, residual, start = [], [], 0
    for count, is_residual in leaves.ends:
        found: list[layers.Layer] = []
        thetas: list[layers.Theta] = []
        for module in leaves.modules[start : start + count]:
            reason = refusal.of_module(module)
            if reason is not None:
                return Reason(f"{type(module).__name__}: {reason}")
            layer, theta = layers.from_module(module)  # type: ignore[misc]
            if not isinstance(layer, (layers.Linear, layers.Elementwise, type(None))):
                return Reason(f"{type(module).__name__}: no derivatives by hand for it")
            if layer is not None:
                found.append(layer)
                thetas.append(theta)
        segments.append(Segment(found, thetas))
        residual.append(is_residual)
        start += count
    if not any(segment.tensors() for segment in segments):
        return Reason("it has no nn.Linear")
    ours = any(isinstance(each, (Sequential, Block)) for each in leaves.containers)
    return Stages(segments, residual, ours)


class _Walk(NamedTuple):
    """Leaves, while they are collected."""

    modules: list[nn.Module]
    ends: list[tuple[int, bool]]
    containers: list[nn.Module]

    def into(self, module: Any) -> Reason | None:
        """Adds what the module calls; or why that is not known."""
        kind = type(module)
        if kind in refusal.FORWARDS:
            self.modules.append(module)
            self._grow()
            return None
        if not (unhooked(module) and own_call(module)):
            return Reason(f"{kind.__name__}: it has hooks, or its forward was replaced")
        self.containers.append(module)
        children, residual = _children(module)
        if isinstance(children, Reason):
            return children
        inner = self._replace(ends=[]) if residual else self
        for child in children:
            if (reason := inner.into(child)) is not None:
                return reason
        if residual and any(is_residual for _, is_residual in inner.ends):
            return Reason(f"{kind.__name__}: a residual block inside another")
        if residual:
            self.ends.append((sum(count for count, _ in inner.ends), True))
        return None

    def _grow(self) -> None:
        """One more module in the stage at the end, or in a new one."""
        count, residual = self.ends.pop() if self.ends and not self.ends[-1][1] else (0, False)
        self.ends.append((count + 1, residual))


def _children(module: Any) -> tuple[Any, bool]:
    """What it calls in order, and whether it adds its input; or why that is not known."""
    kind = type(module)
    forward = kind.as_read if issubclass(kind, Block) else kind.forward
    if issubclass(kind, Block) and kind.original.forward is not forward:
        return Reason(f"{kind.__name__}: its class's forward was replaced"), False
    if forward in _IN_ORDER:
        return module._modules.values(), forward is Residual.forward
    if issubclass(kind, Block) and is_sequential(kind.original):
        return module._modules.values(), False
    reading = read(forward)
    if isinstance(reading, str):
        return Reason(f"{kind.__name__}: {reading}"), False
    steps = resolve(module, reading.steps)
    if reading.gate is not None or steps is None or not reading.holds():
        return Reason(f"{kind.__name__}: its forward is no chain of modules"), False
    return steps, reading.residual
