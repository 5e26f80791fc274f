r"""How far a correct run may be from the float64 run: known element by element, from twins.

A twin is the reference with every input, parameter and output gradient off by at most one eps of
the working dtype. It runs three times: in the working dtype, in float64, and in float64 with the
result of every single operator off by at most one eps as well (Monte Carlo arithmetic, Parker
1997). The first two lie apart by one more draw of e, the reference's own error; how far the third
moves, over eps, is the size s of the sums behind a number, also where large terms cancel halfway.

    s = |o| + max over twins |o_rounded - o| / eps       e = max over twins |r_twin - o_twin|

Limits only grow with the number of twins: what agrees by two agrees by all nine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from manualbp.parity.arms.calls import Call, Directions, cast_loss
from manualbp.parity.arms.runs import Run, Tensors
from manualbp.parity.arms.subject import Subject
from manualbp.parity.judge.tolerance import compare_tensors, to_double
from manualbp.parity.record import TensorReport

TWINS = 9

# KINDS of runs.py: one run of one arm.
Runner = Callable[..., Run]


@dataclass(frozen=True)
class Twins:
    """Two copies of the reference, in the working dtype and in float64, to be loaded at will."""

    working: Subject
    double: Subject

    @staticmethod
    def of(reference: Subject) -> Twins:
        """Copies of a reference.

        Raises:
            ValueError: it cannot be copied.
        """
        return Twins(reference.copy(), reference.copy(torch.float64))


class Yardstick:
    """The float64 run ``exact``, and ``sums`` and ``noise`` (s and e) by tensor name.

    Args:
        run: what is run, one of ``runs.KINDS``.
        reference: as it stands now; it is read, not run.
        call: what it is called with.
        directions: as drawn by the reference's own run.
        twins: copies of the reference, made here where none are given.

    Raises:
        ValueError: the reference has no float64 run.
    """

    def __init__(
        self,
        run: Runner,
        reference: Subject,
        call: Call,
        directions: Directions,
        twins: Twins | None = None,
    ) -> None:
        self._run, self._reference, self._directions = run, reference, directions
        self._call, self.double_call = call, _in_float64(call)
        self._twins = twins or Twins.of(reference)
        floats = [*reference.parameters.values(), *call.leaves.values()]
        self.dtype = next((t.dtype for t in floats if t.is_floating_point()), torch.float32)
        self.eps = torch.finfo(self.dtype).eps
        self._generator = torch.Generator().manual_seed(call.seed + 1)
        self.count = 0
        self._twins.double.load(reference)
        self.exact = self._in_double(self.double_call)
        self._moved = {name: torch.zeros_like(value) for name, value in self.exact.items()}
        self.noise = {name: torch.zeros_like(value) for name, value in self.exact.items()}

    @property
    def sums(self) -> dict[str, Tensor]:
        """s by name; |o| alone before the first twin."""
        return {name: self.sums_of(name) for name in self.exact}

    def sums_of(self, name: str) -> Tensor:
        """s of one tensor."""
        return self.exact[name].abs() + self._moved[name] / self.eps

    def judge(
        self, name: str, candidate: Tensor | None, reference: Tensor | None, exact: bool = False
    ) -> TensorReport:
        """The verdict on one tensor, by the twins that are drawn."""
        known = name in self.exact
        return compare_tensors(
            name, candidate, reference, self.exact.get(name),
            sums=self.sums_of(name) if known else None, noise=self.noise.get(name), exact=exact,
        )  # fmt: skip

    def extend(self, count: int) -> Yardstick:
        """Draw twins until there are ``count`` pairs."""
        while self.count < count:
            self.count += 1
            self._draw()
        return self

    def rerun(
        self, call: Call, directions: Directions, hook: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The float64 run for another call, other directions, or other gradients of the outputs."""
        self._twins.double.load(self._reference)
        return self._in_double(_in_float64(call), hook, directions)

    def _draw(self) -> None:
        working, double, generator = self._twins.working, self._twins.double, self._generator
        working.load(self._reference)
        with torch.no_grad():
            for parameter in working.parameters.values():
                parameter.copy_(nudged(parameter, self.eps, generator))
        double.load(working)
        floating = {n: x for n, x in self._call.leaves.items() if x.is_floating_point()}
        call = _with_leaves(
            self._call, {n: nudged(x, self.eps, generator) for n, x in floating.items()}
        )
        state = generator.get_state()  # both twins get the same nudge of the output's gradient

        def hook(gradient: Tensor) -> Tensor:
            return nudged(gradient, self.eps, generator)

        run = self._run(working, call, self._directions, hook).tensors
        generator.set_state(state)
        doubled = {n: x.double() for n, x in call.leaves.items() if n in floating}
        double_call = _with_leaves(self.double_call, doubled)
        moved = self._in_double(double_call, hook)
        for name in self.exact.keys() & moved.keys():
            mine, value = run.get(name), moved[name]
            if mine is not None:
                self.noise[name] = _larger(self.noise[name], to_double(mine) - value)
        double.load(working)  # its buffers have moved
        with Rounded(self.eps, generator):
            rounded = self._in_double(double_call, hook)
        for name in self.exact.keys() & rounded.keys():
            self._moved[name] = _larger(self._moved[name], rounded[name] - self.exact[name])

    def _in_double(
        self,
        call: Call,
        hook: Callable[[Tensor], Tensor] | None = None,
        directions: Directions | None = None,
    ) -> dict[str, Tensor]:
        run, double = self._run, self._twins.double
        try:
            found = run(double, call, directions or self._directions, hook).tensors
        except Exception as error:
            raise ValueError(
                f"expected a reference that also runs in float64, got {type(error).__name__}: "
                f"{error}; make every tensor it reads an input, a parameter or a buffer"
            ) from error
        return {name: to_double(value) for name, value in found.items() if value is not None}


class Rounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every operator's floating-point result is off by at most ``eps`` at random."""

    def __init__(self, eps: float, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps, self.generator = eps, generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default:  # no arithmetic
            return found
        if any(r.alias_info is not None for r in func._schema.returns):  # a view, or in place
            return found
        if torch.Tag.nondeterministic_seeded in func.tags:  # random numbers; of several results,
            if isinstance(found, Tensor):  # attention or dropout and what it keeps for later
                return found
            return (self._off(found[0]), *found[1:])
        return pytree.tree_map(self._off, found)

    def _off(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta:
            return value
        if value._is_zerotensor():  # the tangent of a constant: it has no memory to read
            return value
        return nudged(value, self.eps, self.generator)


def judge(
    candidate: Tensors,
    reference: Tensors,
    yardstick: Yardstick,
    exact: bool = False,
    pairs: Sequence[int] = (TWINS,),
) -> tuple[TensorReport, ...]:
    """One TensorReport for each tensor of either arm, the reference's order first.

    ``pairs``: how many twins are drawn at first and, as long as some tensor differs, next.
    """
    names = [*reference, *(name for name in candidate if name not in reference)]
    for count in pairs:
        yardstick.extend(count)
        reports = tuple(
            yardstick.judge(name, candidate.get(name), reference.get(name), exact) for name in names
        )
        if all(report.agrees for report in reports):
            break
    return reports


def nudged(values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Every number off by a random relative error of at most eps."""
    noise = torch.rand(values.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (values * (1 + eps * noise.to(values.device))).to(values.dtype)


def _larger(known: Tensor, apart: Tensor) -> Tensor:
    """max(known, |apart|) where that is finite: a twin that overflows says nothing about limits."""
    return torch.maximum(known, apart.abs().nan_to_num(nan=0.0, posinf=0.0))


def _with_leaves(call: Call, leaves: dict[str, Tensor]) -> Call:
    args, kwargs = call.replace(leaves)
    return replace(call, args=args, kwargs=kwargs)


def _in_float64(call: Call) -> Call:
    """The same call in float64: arguments, target, and a loss that is a module."""
    return replace(call.to(torch.float64), loss=cast_loss(call.loss, torch.float64))
