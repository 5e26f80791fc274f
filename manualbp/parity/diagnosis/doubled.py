"""Both arms in float64, where nothing is left of rounding, and what their gradients are made of.

A guess about a formula is held against several runs: the call as it is, other numbers, other
cotangents, and lengths that are shorter by one. What holds in all of them is no coincidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.runs import RUN_KINDS
from manualbp.parity.arms.subject import Subject
from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.ingredients import Seen, watching
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.yardstick import in_float64

NUDGE = 0.1  # relative size of the change that makes other numbers of an input
SAME = 0.05  # how far the float64 run may be from the candidate's own, of its error
LENGTHS = 4  # lengths that are tried shorter, at most


@dataclass(frozen=True)
class View:
    """One float64 run of both arms.

    ``length`` is that of the first input, ``rows`` the outputs'; None where they have no common
    first dimension.
    """

    candidate: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]
    seen: Seen
    rows: int | None
    length: int
    dims: Mapping[tuple[str, int], int]  # of every input, by name and place

    @property
    def outputs(self) -> int:
        """How many numbers the first output has."""
        return next((t.numel() for n, t in self.exact.items() if n.startswith("output")), 1)

    def pair(self, name: str) -> tuple[Tensor, Tensor] | None:
        """A gradient of both arms; None where they cannot be subtracted."""
        c, o = self.candidate.get(name), self.exact.get(name)
        if c is None or o is None or c.shape != o.shape or not c.numel():
            return None
        return (c, o) if bool(c.isfinite().all() and o.isfinite().all()) else None


class Doubled:
    """The float64 runs of a comparison, each made when it is first asked for; None: it raises."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison, self._call = comparison, comparison.call
        self._shorter: dict[int, View | None] = {}
        self.bases: dict[tuple[str, bool, bool], Any] = {}  # what the kinds have made of the runs
        drawn = comparison.directions.drawn
        self._drawn = {name: to_double(value) for name, value in drawn.items()}

    @cached_property
    def given(self) -> View | None:
        """The call as it is."""
        return self._run(self._call, self._drawn)

    @cached_property
    def other_numbers(self) -> View | None:
        """Every input and parameter a little off, and cotangents of another seed."""
        generator = torch.Generator().manual_seed(self._call.seed + 77)
        leaves = {n: _changed(x, generator) for n, x in self._call.leaves.items()}
        call = in_float64(self._call).with_leaves(leaves)
        return self._run(replace(call, seed=call.seed + 77), {}, generator)

    @cached_property
    def other_cotangents(self) -> View | None:
        """The same inputs and parameters, cotangents of another seed."""
        return self._run(replace(self._call, seed=self._call.seed + 177), {})

    @cached_property
    def larger_cotangents(self) -> View | None:
        """The call as it is, the cotangents times two."""
        return self._run(self._call, {name: 2 * value for name, value in self._drawn.items()})

    @cached_property
    def returned(self) -> Mapping[str, Tensor]:
        """Gradients as the backward of a Function returned them, in whatever shape."""
        view = self._run(self._call, self._drawn, asked=True)
        return {} if view is None else view.seen.returned

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that the inputs have, the rows of the batch first."""
        leaves = self._call.leaves.values()
        first = [self._comparison.rows or 0, *(len(x) for x in leaves if x.dim())]
        found = [*first, *(n for x in leaves for n in x.shape)]
        return tuple(dict.fromkeys(n for n in found if n > 2))[:LENGTHS]

    @property
    def changed(self) -> list[View]:
        """Other numbers, and the batch shorter: what a formula has to hold in as well."""
        views = [self.other_numbers, *(self.shorter(n) for n in self.lengths[:2])]
        return [view for view in views if view is not None]

    def same_fault(self, name: str, c: Tensor, o: Tensor) -> bool:
        """Whether the candidate is wrong in float64 as it is in its own dtype."""
        found = None if self.given is None else self.given.pair(name)
        return found is not None and rms(found[0] - c) <= SAME * rms(c - o)

    def shorter(self, length: int) -> View | None:
        """Dimensions of that length are shorter by one: the first of each input, or all."""
        if length not in self._shorter:
            first = self._cut(length, lambda dim: dim == 0)
            self._shorter[length] = first or self._cut(length, lambda dim: True)
        return self._shorter[length]

    def _cut(self, length: int, which: Callable[[int], bool]) -> View | None:
        def cut(x: Any) -> Any:
            if isinstance(x, Tensor):
                for dim, n in enumerate(x.shape):
                    x = x.narrow(dim, 0, n - 1) if n == length and which(dim) else x
            return x

        call = self._call
        args, kwargs, target = pytree.tree_map(cut, (call.args, call.kwargs, call.target))
        same = all(a.shape == b.shape for a, b in zip(
            replace(call, args=args, kwargs=kwargs).leaves.values(), call.leaves.values(),
            strict=True))  # fmt: skip
        if same:
            return None
        return self._run(replace(call, args=args, kwargs=kwargs, target=target), {})

    def _run(
        self,
        call: Call,
        drawn: Mapping[str, Tensor],
        changed: torch.Generator | None = None,
        asked: bool = False,
    ) -> View | None:
        """Both arms once. Their outputs must agree, or they do not compute the same there."""
        comparison = self._comparison
        try:
            ours, double = comparison.candidate.copy(torch.float64), comparison.twins.double
            double.load(comparison.reference)
            if changed is not None:
                _change_parameters(ours, double, changed)
            directions = Directions(call.seed, dict(drawn))
            theirs_seen, seen = Seen(), Seen(asked=asked)
            watched = replace(double, call=watching(double, theirs_seen))
            exact = RUN_KINDS["backward"](watched, in_float64(call), directions)
            watched = replace(ours, call=watching(ours, seen))
            own = in_float64(replace(call, loss=comparison.candidate_call.loss))
            got = RUN_KINDS["backward"](watched, own, directions)
        except Exception:  # no float64, or no such lengths: nothing is claimed from it
            return None
        theirs = {n: to_double(t) for n, t in exact.tensors.items() if t is not None}
        found = {n: to_double(t) for n, t in got.tensors.items() if t is not None}
        if any(not _alike(found.get(n), t) for n, t in theirs.items() if n.startswith("output")
               and not n.endswith(".grad")):  # fmt: skip
            return None
        outputs = [t for n, t in theirs.items() if n.startswith("output")]
        lengths = {len(t) if t.dim() else None for t in outputs}
        rows = lengths.pop() if len(lengths) == 1 else None
        length = next((len(x) for x in call.leaves.values() if x.dim()), 1)
        dims = {(n, i): size for n, x in call.leaves.items() for i, size in enumerate(x.shape)}
        seen.borrow(theirs_seen)
        return View(found, theirs, seen, rows, length, dims)


def _changed(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (1 + NUDGE u) in float64, u uniform in [-1, 1]; integers and masks stay as they are."""
    if not x.is_floating_point():
        return x
    noise = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
    return x.double() * (1 + NUDGE * noise.to(x.device))


def _change_parameters(ours: Subject, theirs: Subject, generator: torch.Generator) -> None:
    """The same change in both arms; zeros move as well, or a bias of zeros would hide a term."""
    with torch.no_grad():
        for name, parameter in theirs.parameters.items():
            value = _changed(parameter, generator)
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            value = value + NUDGE * noise.to(value.device) * max(rms(value), NUDGE)
            for arm in (ours, theirs):
                if name in arm.parameters:
                    arm.parameters[name].copy_(value)


def _alike(got: Tensor | None, expected: Tensor) -> bool:
    if got is None or got.shape != expected.shape:
        return False
    return rms(got - expected) <= 1e-9 * rms(expected)
