"""convert(model) puts hand-written forwards into a model; explain(model) says where they serve."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from manualbp.autograd.torch_internals import refusal
from manualbp.conversion.blocks import Block, by_hand, is_sequential, resolve
from manualbp.conversion.read_forward import read
from manualbp.modules.gated import GatedMLP, gate_refusal
from manualbp.modules.plan import Run, gather
from manualbp.modules.sequential import Sequential


def convert(model: nn.Module) -> nn.Module:
    """Give every block of ``model`` that is an MLP a forward by hand, in place.

    Taken are

    - nn.Sequential, and subclasses with its forward (torchvision's MLP), that hold an nn.Linear;
    - blocks whose own forward names children one after the other (timm's Mlp, any
      ``fc2(act(fc1(x)))``), adds the input (``x + f(x)``), or multiplies a gate
      (``down_proj(act_fn(gate_proj(x)) * up_proj(x))``).

    Only the class of a module changes, to ``Sequential`` or to a subclass of its own class:
    parameters, hooks, state_dict keys, isinstance and every reference to it stay, so an optimizer
    made before goes on working. ``explain`` says what was taken and what not.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is no nn.Module.
    """
    for module in _modules(model):
        if not _is_ours(module) and _refusal(module) is None:
            module.__class__ = (
                Sequential if type(module) is nn.Sequential else by_hand(type(module))
            )
    return model


class Entry(NamedTuple):
    """One line of an explanation."""

    name: str  # of the module in the model; "" is the model itself
    kind: str  # its class
    by_hand: bool
    detail: str


class Explanation(tuple[Entry, ...]):
    """Entries that print as a table."""

    def __str__(self) -> str:
        rows = [("module", "class", "backward", "why")]
        for e in self:
            rows.append(
                (e.name or "(model)", e.kind, "by hand" if e.by_hand else "autograd", e.detail)
            )
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
        return "\n".join(lines)


def explain(model: nn.Module) -> Explanation:
    """Every module of ``model`` that holds or is an nn.Linear: by hand or not, and why.

    It describes the model as it stands: training or not, with its hooks. What depends on the call
    (autocast, torch.compile, function transforms, the dtype of the input) is in docs/drop-in.md.

    Raises:
        TypeError: ``model`` is no nn.Module.
    """
    _modules(model)
    entries = []
    for name, module in model.named_modules():
        if _is_ours(module):
            entries.append(_ours(name, module))
        elif _has_linear(module):
            detail = _refusal(module) or "manualbp.convert(model) would take it"
            entries.append(Entry(name, type(module).__name__, False, detail))
    return Explanation(entries)


def _modules(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got {type(model).__name__}; pass the model itself")
    return list(model.modules())


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, (Sequential, Block, GatedMLP))


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Linear) for child in module.children())


def _refusal(module: nn.Module) -> str | None:
    """Why ``convert`` leaves a module alone; None if it takes it."""
    if "forward" in module.__dict__:
        return "forward is overridden on this instance"
    if not any(type(child) is nn.Linear for child in module.children()):
        return "it has no nn.Linear of its own"
    if is_sequential(type(module)):
        return None
    if type(module).forward is nn.Module.forward:
        return "it has no forward of its own"
    reading = read(type(module).forward)
    if isinstance(reading, str):
        return reading
    sides = [reading.steps, *(reading.gate or ())]
    if any(resolve(module, steps) is None for steps in sides):
        return "its forward calls something that is no module and no known function"
    return None


def _ours(name: str, module: nn.Module) -> Entry:
    """Which steps of a module of ours go by hand, and why the others do not."""
    kind = type(module).__name__
    if "forward" in module.__dict__:
        return Entry(name, kind, False, "forward is overridden on this instance")
    if isinstance(module, Block) and module.original.forward is not module.as_read:
        return Entry(name, kind, False, "its class's forward was replaced")
    gate, steps = _steps(module)
    if gate is not None:
        reason = gate_refusal(gate[0], gate[1], steps)
        return Entry(name, kind, reason is None, reason or "gate, up and down as one Function")
    by_hand, reasons = 0, []
    for step in gather(steps):
        if isinstance(step, Run):
            by_hand += len(step.modules)
        else:
            reasons.append(f"{type(step).__name__}: {refusal(step) or 'no nn.Linear beside it'}")
    detail = "; ".join([f"{by_hand} of {len(steps)} steps", *dict.fromkeys(reasons)])
    return Entry(name, kind, by_hand > 0, detail)


def _steps(module: Any) -> tuple[Any, list[nn.Module]]:
    """The two sides of a gate, if there is one, and the steps of the chain."""
    if isinstance(module, GatedMLP):
        return ([module.gate_proj, module.act_fn], [module.up_proj]), [module.down_proj]
    if isinstance(module, Sequential) or is_sequential(module.original):
        return None, list(module)
    reading: Any = read(module.as_read)
    sides = reading.gate and tuple(resolve(module, side) or [] for side in reading.gate)
    return sides, resolve(module, reading.steps) or []
