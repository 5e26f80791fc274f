"""One side of a comparison: a module, a function or an autograd.Function, called in one way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.parity.arms.layouts import copy_as_laid, laid_as

COMPILED = "_orig_mod."  # what torch.compile puts into the names of a module's parameters
AFTER = " (after)"  # ends the name of a buffer as a run has left it


class Exited(RuntimeError):
    """An arm called ``sys.exit``: here it is an error like any other."""


@contextmanager
def kept_running() -> Iterator[None]:
    """What is run inside cannot end the program.

    Raises:
        Exited: it wanted to.
    """
    try:
        yield
    except SystemExit as error:
        left = Exited(f"SystemExit({'' if error.code is None else repr(error.code)})")
        raise left.with_traceback(error.__traceback__) from error


@dataclass(frozen=True)
class Subject:
    """What is called, and the parameters it reads by the reference's names.

    ``own`` maps those names to the ones the module itself uses.
    """

    name: str
    call: Callable[..., Any]
    module: nn.Module | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers as they stand."""
        named = () if self.module is None else self.module.named_buffers()
        return {name.replace(COMPILED, ""): buffer for name, buffer in named}

    def copy(self, dtype: torch.dtype | None = None) -> Subject:
        """The same with parameters and buffers of its own, in ``dtype`` if one is given.

        Raises:
            ValueError: the module cannot be copied.
        """
        if self.module is None:
            return self
        try:
            module = copy.deepcopy(self.module)
        except Exception as error:
            raise ValueError(
                f"expected a reference that can be copied, got {self.name}: {error}; pass the "
                "plain module, not one that is wrapped, compiled or inside a graph"
            ) from error
        for new, old in zip(module.parameters(), self.module.parameters(), strict=True):
            new.data = laid_as(old.detach(), new.detach())  # a deepcopy is dense
        move(module, dtype)
        return subject(module, {own: name for name, own in self.own.items()})

    def load(self, other: Subject) -> None:
        """Take over the numbers of ``other``'s parameters and buffers, in this one's dtype."""
        if self.module is None or other.module is None:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(other.parameters[name])
            for mine, theirs in zip(self.module.buffers(), other.module.buffers(), strict=True):
                mine.copy_(theirs)
        for child, twin in zip(self.module.modules(), other.module.modules(), strict=True):
            child.training = twin.training


def move(
    module: nn.Module, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> None:
    """``module.to``; the parameters keep their layouts, complex buffers their imaginary parts."""
    before = [p.data for p in module.parameters()]
    own = ((child, *named) for child in module.modules()
           for named in child.named_buffers(recurse=False))  # fmt: skip
    held = [(child, name, buffer) for child, name, buffer in own if buffer.is_complex()]
    for child, name, _ in held:
        setattr(child, name, None)
    module.to(device=device, dtype=dtype)
    for child, name, buffer in held:
        wanted = buffer.dtype if dtype is None else torch.promote_types(dtype, torch.complex64)
        setattr(child, name, buffer.to(device, wanted))
    for p, old in zip(module.parameters(), before, strict=True):
        if p.stride() != old.stride():
            laid = copy_as_laid(old, partial(Tensor.to, device=p.device, dtype=p.dtype))
            p.data = laid_as(laid, p.data)


def subject(arm: Any, names: Mapping[str, str] | None = None) -> Subject:
    """The arm as a Subject. ``names``: the module's own parameter name -> the reference's.

    Raises:
        TypeError: ``arm`` is nothing that can be compared.
        ValueError: ``names`` has a name that the module does not have, or one name twice.
    """
    if isinstance(arm, nn.Module):
        return _of_module(arm, names or {})
    if names:
        raise ValueError("expected a module with the parameter map, got a function without names")
    if isinstance(arm, type) and issubclass(arm, torch.autograd.Function):
        return Subject(arm.__name__, arm.apply)
    if callable(arm) and not isinstance(arm, type):
        return Subject(getattr(arm, "__name__", type(arm).__name__), arm)
    raise TypeError(
        "expected a module, a function or a subclass of torch.autograd.Function, "
        f"got {arm!r}; a class of modules must be called first"
    )


def _of_module(module: nn.Module, names: Mapping[str, str]) -> Subject:
    """A module; ``names`` may leave out what torch.compile puts into them."""
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    short = {name.replace(COMPILED, ""): name for name in parameters}
    unknown = [name for name in names if name not in short and name not in parameters]
    if unknown:
        raise ValueError(
            f"expected the names of {type(module).__name__}'s parameters in the parameter map, "
            f"got {unknown[0]!r}; it has {', '.join(short) or 'none'}"
        )
    own = {names.get(name, names.get(s, s)): name for s, name in short.items()}
    if len(own) != len(parameters):
        raise ValueError(
            "expected a parameter map that gives every parameter a name of its own, "
            f"got {sorted(names.values())}"
        )
    renamed = {name: parameters[path] for name, path in own.items()}
    return Subject(type(module).__name__, module, module, renamed, own)
