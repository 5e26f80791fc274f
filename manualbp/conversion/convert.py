"""convert(model) puts hand-written forwards into a model that is already there."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from manualbp.conversion.blocks import Block, by_hand, is_sequential, resolve
from manualbp.conversion.read_forward import read
from manualbp.modules.gated import GatedMLP
from manualbp.modules.sequential import Sequential

M = TypeVar("M", bound=nn.Module)


def convert(model: M) -> M:
    """Give every block of ``model`` that is an MLP a forward by hand, in place.

    It takes:

    - nn.Sequential, and subclasses with its forward (torchvision's MLP), that hold an nn.Linear;
    - blocks whose own forward calls children one after the other (timm's Mlp, any
      ``fc2(act(fc1(x)))``), adds the input (``x + f(x)``), or multiplies a gate
      (``down_proj(act_fn(gate_proj(x)) * up_proj(x))``).

    Only the class of a module changes, to ``Sequential`` or to a subclass of its own class:
    parameters, hooks, state_dict keys, isinstance and every reference to it stay, so an optimizer
    that was made before still works. ``explain`` says what was taken and what was not.

    Args:
        model: any nn.Module; every module in it is looked at.

    Returns:
        ``model`` itself, to type checkers of the type it had.

    Raises:
        TypeError: ``model`` is no nn.Module.

    Example:
        >>> from torch import nn
        >>> import manualbp
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> manualbp.convert(model) is model
        True
        >>> type(model).__module__
        'manualbp.modules.sequential'
    """
    for module in modules_of(model):
        if not is_ours(module) and refusal_of(module) is None:
            kind = type(module)
            module.__class__ = Sequential if kind is nn.Sequential else by_hand(kind)
    return model


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The model's modules; raises TypeError if it is no nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got {type(model).__name__}; pass the model itself")
    return list(model.modules())


def is_ours(module: nn.Module) -> bool:
    """Whether it has a forward by hand."""
    return isinstance(module, (Sequential, Block, GatedMLP))


def refusal_of(module: nn.Module) -> str | None:
    """Why ``convert`` does not take a module; None if it does."""
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
