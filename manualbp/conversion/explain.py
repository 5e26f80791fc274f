"""explain(model) says which modules run by hand, and why the others do not."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from manualbp.autograd.stages import Stages
from manualbp.conversion.blocks import Block, is_sequential, resolve
from manualbp.conversion.convert import is_ours, modules_of, refusal_of
from manualbp.conversion.kept_stages import stages_or_reason
from manualbp.conversion.read_forward import read
from manualbp.conversion.read_stages import Reason
from manualbp.modules import by_input, refusal
from manualbp.modules.gated import GatedMLP, gate_refusal
from manualbp.modules.sequential import Sequential
from manualbp.modules.stretch import Stretch, stretches


class Entry(NamedTuple):
    """One line of an explanation."""

    name: str  # of the module in the model; "" is the model itself
    kind: str  # its class
    by_hand: bool
    detail: str


class Explanation(tuple[Entry, ...]):
    """Entries that print as a table; below it the derivatives, and what depends on the call."""

    derivatives: str  # how ``derivatives`` finds those by the input

    def __str__(self) -> str:
        rows = [("module", "class", "backward", "why")]
        backward = {True: "by hand", False: "autograd"}
        rows += [(e.name or "(model)", e.kind, backward[e.by_hand], e.detail) for e in self]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
        lines += ["", f"manualbp.derivatives: {self.derivatives}"]
        by_hand = any(entry.by_hand for entry in self)
        return "\n".join([*lines, *(["", refusal.OF_ANY_CALL] if by_hand else [])])


def explain(model: nn.Module) -> Explanation:
    """Every module of ``model`` that holds an nn.Linear: by hand or not, and why.

    It describes the model as it is now: training or not, with its hooks. Below the table it says
    whether ``derivatives`` are by hand or by nested autograd, and why; and what depends on the
    call: autocast, torch.compile, function transforms, tensor subclasses, ...

    Args:
        model: any nn.Module, converted or not; it is not changed.

    Returns:
        A tuple of entries (name, kind, by_hand, detail), one for each such module, that prints as
        a table. Its ``derivatives`` says how those by the input are found.

    Raises:
        TypeError: ``model`` is no nn.Module.

    Example:
        >>> from torch import nn
        >>> import manualbp
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> manualbp.explain(model)[0].detail
        'manualbp.convert(model) would take it'
        >>> entry = manualbp.explain(manualbp.convert(model))[0]
        >>> entry.by_hand, entry.detail
        (True, '3 of 3 steps')
    """
    modules_of(model)
    entries = []
    for name, module in model.named_modules():
        if is_ours(module):
            entries.append(_ours(name, module))
        elif any(isinstance(child, nn.Linear) for child in module.children()):
            detail = refusal_of(module) or "manualbp.convert(model) would take it"
            entries.append(Entry(name, type(module).__name__, False, detail))
    found, stages = Explanation(entries), stages_or_reason(model)
    found.derivatives = _derivatives(stages)
    return found


def _derivatives(stages: Stages | Reason) -> str:
    """How those by the input are found."""
    if isinstance(stages, Reason):
        return f"nested autograd; {stages}"
    small = "" if stages.by_hand or by_input.has_native() else "; small calls by nested autograd"
    return "by hand" + small


def _ours(name: str, module: nn.Module) -> Entry:
    """Which steps of a module of ours run by hand, and why the others do not."""
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
    for part in stretches(steps):
        if isinstance(part, Stretch):
            by_hand += len(part.modules)
        else:
            reason = refusal.of_module(part) or refusal.in_front(part) or "no nn.Linear beside it"
            reasons.append(f"{type(part).__name__}: {reason}")
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
