"""Hand-made blocks by hand: a class of PyTorch's or of a user's, with another ``forward``.

``by_hand(cls)`` is a subclass of ``cls`` with another ``forward``, which runs what read_forward.py
has read. So isinstance, parameters and state_dict keys stay. Where a Function cannot do it, the
class's own forward runs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from manualbp.autograd.torch_internals import unhooked
from manualbp.conversion.read_forward import Reading, Steps, module_of, read
from manualbp.modules import refusal
from manualbp.modules.gated import gated
from manualbp.modules.plan import KEY, call


class Block:
    """Marks a class that ``by_hand`` made."""

    original: type[nn.Module]
    as_read: Callable[..., Any]  # the original's forward when this class was made

    def __init_subclass__(cls) -> None:
        """Does nothing: the original's own is not called, since no user wrote this class."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By the original class, since this one cannot be found by a name."""
        own: Any = self.original
        state = own.__getstate__(self)
        if isinstance(state, dict):
            state = {key: value for key, value in state.items() if key != KEY}
        return _restore, (own,), state

    def __prepare_scriptable__(self) -> Any:
        """For TorchScript, which compiles the class's own forward."""
        own = copy.copy(self)
        own.__class__ = self.original  # type: ignore[assignment]
        return own


def by_hand(cls: type[nn.Module]) -> type[nn.Module]:
    """``cls`` with a forward by hand.

    Raises:
        ValueError: what its forward computes is not understood.
    """
    if cls not in _MADE:
        reading = SEQUENTIAL if is_sequential(cls) else read(cls.forward)
        if isinstance(reading, str):
            raise ValueError(f"{cls.__name__} cannot be done by hand: {reading}")
        _MADE[cls] = _made(cls, reading)
    return _MADE[cls]


SEQUENTIAL = Reading("input", ())  # stands for: the children in order
_MADE: dict[type[nn.Module], type[nn.Module]] = {}


def is_sequential(cls: type[nn.Module]) -> bool:
    """Whether its forward is nn.Sequential's own."""
    return issubclass(cls, nn.Sequential) and cls.forward is nn.Sequential.forward


def resolve(block: nn.Module, steps: Steps) -> list[nn.Module] | None:
    """The modules that the steps mean now; None where one is no module."""
    found: list[nn.Module] = []
    for step in steps:
        part: Any = step
        if isinstance(step, str):  # a property is not read: that may run code
            computed = isinstance(getattr(type(block), step, None), property)
            part = None if computed else getattr(block, step, None)
        module = _of_function(part)
        if not isinstance(module, nn.Module):
            return None
        found.extend(_inner(module))
    return found


def _made(cls: type[nn.Module], reading: Reading) -> type[nn.Module]:
    as_read = cls.forward

    @functools.wraps(as_read)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and list(kwargs) == [reading.argument]:
            args, kwargs = (kwargs[reading.argument],), {}
        patched = cls.forward is not as_read or not reading.holds()
        if len(args) != 1 or kwargs or patched or refusal.of_call(args[0]) is not None:
            return cls.forward(self, *args, **kwargs)
        if reading is SEQUENTIAL:
            return call(self, self._modules, args[0])
        return _run(self, reading, cls, args[0])

    # torch.compile counts recompilations by code object, so each class gets its own.
    code: Any = forward
    code.__code__ = code.__code__.replace(co_name=f"forward_of_{cls.__name__}")
    own = {
        "forward": forward,
        "original": cls,
        "as_read": staticmethod(as_read),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return type(cls.__name__, (Block, cls), own)


def _run(block: nn.Module, reading: Reading, cls: Any, x: Any) -> Any:
    """Runs what the reading says, with the children as they are now."""
    steps = resolve(block, reading.steps)
    if steps is not None and reading.gate is None:
        return call(block, tuple(steps), x, reading.residual)
    left, right = (resolve(block, side) for side in reading.gate or ((), ()))
    output = None
    if steps is not None and left is not None and right is not None:
        output = gated(block, left, right, steps, x)
    return cls.forward(block, x) if output is None else output


def _of_function(step: Any) -> Any:
    """The module itself, or one for a known function that a block holds as an attribute."""
    options = {}
    if type(step) is functools.partial and not step.args:
        step, options = step.func, step.keywords
    if isinstance(step, nn.Module):
        return step
    try:
        return _module(step, **options)
    except TypeError:  # the module has no such option, or the option has no hash
        return None


@functools.lru_cache
def _module(function: Any, **options: Any) -> nn.Module | None:
    """One module for equal calls, so that a plan finds it again."""
    known = module_of(function)
    return known(**options) if known else None


def _inner(module: nn.Module) -> list[nn.Module]:
    """The module; where its forward only calls known functions, the modules for those."""
    leaf = not type(module).__module__.startswith("torch.") and not list(module.children())
    reading = read(type(module).forward) if leaf and unhooked(module) else "it is called"
    if isinstance(reading, str) or reading.gate or reading.residual or not reading.holds():
        return [module]
    return resolve(module, reading.steps) or [module]


def _restore(cls: type[nn.Module]) -> nn.Module:
    try:
        kind = by_hand(cls)
    except ValueError:  # its forward has changed since
        kind = cls
    return kind.__new__(kind)
