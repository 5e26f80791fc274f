"""One side of a comparison: a module, a function or an autograd.Function, called in one way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from manualbp.parity.judge.tolerance import bit_identical

COMPILED = "_orig_mod."  # what torch.compile puts into the names of a module's parameters

AFTER = " (after)"  # a buffer as a run has left it

Callee = Callable[..., Any]


@dataclass(frozen=True)
class Subject:
    """What is called, and the parameters it reads by the reference's names.

    ``own`` maps those names to the ones the module itself uses.
    """

    name: str
    call: Callee
    module: nn.Module | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    @property
    def buffers(self) -> set[str]:
        """The names under which its buffers are compared."""
        named = [] if self.module is None else self.module.named_buffers()
        return {f"{name.replace(COMPILED, '')}{AFTER}" for name, _ in named}

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
        return subject(module if dtype is None else module.to(dtype), self.own, mapped="own")

    def load(self, other: Subject) -> None:
        """Take over the numbers of ``other``'s parameters and buffers, in this one's dtype."""
        if self.module is None or other.module is None:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(other.parameters[name])
            for mine, theirs in zip(self.module.buffers(), other.module.buffers(), strict=True):
                mine.copy_(theirs)
        self.module.train(other.module.training)


def subject(arm: Any, names: Mapping[str, str] | None = None, mapped: str = "reference") -> Subject:
    """The arm as a Subject. ``names``: the module's own parameter name -> the reference's.

    With ``mapped="own"`` the map is the other way round.

    Raises:
        TypeError: ``arm`` is nothing that can be compared.
        ValueError: ``names`` has a name that the module does not have, or one name twice.
    """
    if isinstance(arm, nn.Module):
        known = dict(arm.named_parameters())
        renamed = dict(names or {})
        if mapped == "own":
            renamed = {own: name for name, own in renamed.items()}
        short = {name.replace(COMPILED, ""): name for name in known}
        unknown = [name for name in renamed if name not in short and name not in known]
        if unknown:
            raise ValueError(
                f"expected the names of {type(arm).__name__}'s parameters in the parameter map, "
                f"got {unknown[0]!r}; it has {', '.join(short) or 'none'}"
            )
        own = {renamed.get(n, renamed.get(s, s)): n for s, n in short.items()}
        if len(own) != len(known):
            raise ValueError(
                "expected a parameter map that gives every parameter a name of its own, "
                f"got {sorted(renamed.values())}"
            )
        parameters: dict[str, Tensor] = {name: known[path] for name, path in own.items()}
        return Subject(type(arm).__name__, arm, arm, parameters, own)
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


def load_parameters(
    candidate: nn.Module, reference: nn.Module, parameters: Mapping[str, str] | None = None
) -> None:
    """Give the candidate the reference's numbers, by the parameter map, and buffers of equal name.

    Raises:
        ValueError: a name or a shape has no counterpart; nothing is changed then.
    """
    ours, theirs = subject(candidate, parameters), subject(reference)
    for name, parameter in ours.parameters.items():
        twin = theirs.parameters.get(name)
        if twin is None or twin.shape != parameter.shape:
            got = "no such parameter" if twin is None else f"shape {tuple(twin.shape)}"
            raise ValueError(
                f"expected {name} {tuple(parameter.shape)} in the reference, got {got}; "
                "map the candidate's name to it with parameters={candidate's: reference's}"
            )
    buffers = dict(reference.named_buffers())
    with torch.no_grad():
        for name, parameter in ours.parameters.items():
            parameter.copy_(theirs.parameters[name])
        for name, buffer in candidate.named_buffers():
            source = buffers.get(name.replace(COMPILED, ""))
            if source is not None and source.shape == buffer.shape:
                buffer.copy_(source)


def check_parameters(candidate: Subject, reference: Subject) -> None:
    """Parameters of one name, shape and dtype hold the same bits, or nothing can be compared.

    Raises:
        ValueError: they do not, or no name is common although both have parameters.
    """
    ours, theirs = candidate.parameters, reference.parameters
    if ours and theirs and not set(ours) & set(theirs):
        raise ValueError(
            f"expected common parameter names, got {', '.join(ours)} and {', '.join(theirs)}; "
            "pass parameters={candidate's: reference's}"
        )
    for name, parameter in theirs.items():
        twin = ours.get(name)
        alike = twin is not None and (twin.shape, twin.dtype) == (parameter.shape, parameter.dtype)
        if twin is not None and alike and not bit_identical(twin, parameter):
            raise ValueError(
                f"expected both modules to hold the same parameters, got different {name}; "
                "use candidate.load_state_dict(reference.state_dict()), or "
                "manualbp.parity.load_parameters where names differ"
            )


def check_apart(candidate: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """No memory belongs to a parameter of both, or one arm's step would move the other.

    Raises:
        ValueError: some does.
    """
    own = {parameter.data_ptr() for parameter in candidate.values() if parameter.numel()}
    for name, parameter in reference.items():
        if parameter.numel() and parameter.data_ptr() in own:
            raise ValueError(
                f"expected each arm to have its own parameters, got {name} in both, so that both "
                f"train the same {name}; give one arm copy.deepcopy(module)"
            )


@contextmanager
def borrowed(*modules: nn.Module | None) -> Iterator[None]:
    """Whatever is done to the modules inside, afterwards they are as before, by the bit.

    Parameters and buffers (also their dtype and device), ``.grad``, ``requires_grad``, the
    train/eval mode of every child, and the global random state.
    """
    present = [module for module in modules if module is not None]
    parameters = [
        (p, p.data, p.data.clone(), p.grad, p.requires_grad)
        for module in present for p in module.parameters()
    ]  # fmt: skip
    buffers = [
        (child, name, buffer, buffer.clone())
        for module in present for child in module.modules()
        for name, buffer in child.named_buffers(recurse=False)
    ]  # fmt: skip
    modes = [(child, child.training) for module in present for child in module.modules()]
    devices = {p.device for p, *_ in parameters if p.device.type == "cuda"}
    for parameter, *_ in parameters:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for p, data, before, grad, requires_grad in parameters:
                p.grad = None  # of another dtype or device, it would refuse the old data
                p.data = data.copy_(before)
                p.grad = grad
                p.requires_grad_(requires_grad)
            for child, name, buffer, before in buffers:
                setattr(child, name, buffer.copy_(before))
        for child, training in modes:
            child.training = training
