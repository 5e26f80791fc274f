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


class Reason(str):
    """Why there is no way by hand."""


class Leaves(NamedTuple):
    """The modules that are called in order, and the stages: (modules, whether residual)."""

    modules: tuple[nn.Module, ...]
    ends: tuple[tuple[int, bool], ...]


def leaves_of(model: nn.Module) -> Leaves | Reason:
    """What calling the model calls, one after the other."""
    modules: list[nn.Module] = []
    ends: list[tuple[int, bool]] = []
    reason = _walk(model, modules, ends)
    return Leaves(tuple(modules), tuple(ends)) if reason is None else reason


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
    return Stages(segments, residual)


def _walk(module: Any, modules: list[nn.Module], ends: list[tuple[int, bool]]) -> Reason | None:
    kind = type(module)
    if kind in refusal.FORWARDS:
        modules.append(module)
        _grow(ends)
        return None
    if not (unhooked(module) and own_call(module)):
        return Reason(f"{kind.__name__}: it has hooks, or its forward was replaced")
    children, residual = _children(module)
    if isinstance(children, Reason):
        return children
    if not residual:
        for child in children:
            if (reason := _walk(child, modules, ends)) is not None:
                return reason
        return None
    inner: list[tuple[int, bool]] = []
    for child in children:
        if (reason := _walk(child, modules, inner)) is not None:
            return reason
    if any(is_residual for _, is_residual in inner):
        return Reason(f"{kind.__name__}: a residual block inside another")
    ends.append((sum(count for count, _ in inner), True))
    return None


def _grow(ends: list[tuple[int, bool]]) -> None:
    """One more module in the stage at the end, or in a new one."""
    count, residual = ends.pop() if ends and not ends[-1][1] else (0, False)
    ends.append((count + 1, residual))


def _children(module: Any) -> tuple[Any, bool]:
    """What it calls in order, and whether it adds its input; or why that is not known."""
    kind = type(module)
    forward = kind.as_read if issubclass(kind, Block) else kind.forward
    if forward in (Sequential.forward, nn.Sequential.forward, Residual.forward):
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
