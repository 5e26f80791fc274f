"""What is known about a gradient that differs, and when a guess explains it.

    |guess - c|_i <= eps (ELEMENT s_i + 2 l_i)    and    rms(guess - c) <= TENSOR eps rms(s)

c is the candidate's tensor, o its float64 value, s the size of the sums behind each element, l as
in limits.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from manualbp.parity.arms.forward import Tensors
from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.doubled import Doubled
from manualbp.parity.judge.limits import of_lines
from manualbp.parity.record import TensorReport

# Looser than the verdict's own floors: a guess has to tell kinds of wrong apart, not right from
# wrong, and the candidate may round less well than the reference.
ELEMENT, TENSOR = 24.0, 6.0
# What a guess may leave of the distance to o.
NEARER = 0.25

# Both arms' tensors of a changed run: the candidate's, and the float64 run's.
Rerun = tuple[Mapping[str, Tensor | None], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Evidence:
    """One backward check of two arms, and ways to ask them again.

    Attributes:
        reports: of output(s), loss, input gradients, parameters' gradients.
        candidate: the candidate's tensors by name, in the working dtype.
        exact: the float64 run of the reference.
        sums: s, the size of the sums behind each element, float64.
        order: the reference's gradients in backward order, the last executed layer's first.
        layers: a gradient's name -> its layer's name.
        rows: N, the rows of the batch; None where the outputs have no common first dimension.
        pre_activations: the output of each layer that owns parameters, float64, by layer name.
        probe: both arms, the gradients of the outputs zero outside of a bool mask of rows, (N,).
        prefix: both arms on the first n rows of the inputs.
        incoming: layer name -> whether the gradient that arrives at its output agrees; None where
            that cannot be watched.
        doubled: both arms in float64, also with other numbers and lengths.
    """

    reports: tuple[TensorReport, ...]
    candidate: Tensors
    exact: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    order: tuple[str, ...] = ()
    layers: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    pre_activations: Mapping[str, Tensor] = field(default_factory=dict)
    probe: Callable[[Tensor], Rerun] | None = None
    prefix: Callable[[int], Rerun] | None = None
    incoming: Mapping[str, bool] | None = None
    doubled: Doubled | None = None
    _reruns: dict[tuple[int, ...], Rerun | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def of_rows(self, start: int, stop: int) -> Rerun | None:
        """``probe`` of rows [start, stop), run once; None where it cannot be run."""
        n = torch.arange(self.rows or 0)
        return self._run_once((start, stop), self.probe, (n >= start) & (n < stop))

    def of_first(self, n: int) -> Rerun | None:
        """``prefix`` of n rows, run once; None where it cannot be run."""
        return self._run_once((n,), self.prefix, n)

    def _run_once(
        self, key: tuple[int, ...], run: Callable[..., Rerun] | None, argument: Tensor | int
    ) -> Rerun | None:
        if key not in self._reruns:
            try:
                self._reruns[key] = None if run is None else run(argument)
            except Exception:  # a candidate that cannot be run this way leaves the question open
                self._reruns[key] = None
        return self._reruns[key]


@dataclass(frozen=True)
class Pattern:
    """A kind of wrong that was recognized. Two of equal kind and ``detail`` are the same wrong."""

    kind: str
    words: str
    step: str
    detail: Hashable = None

    @property
    def key(self) -> tuple[str, Hashable]:
        """What makes two wrongs the same one."""
        return self.kind, self.detail


@dataclass(frozen=True)
class Suspect:
    """A tensor that differs: candidate c, float64 value o, sums s, all float64 and of one shape."""

    name: str
    c: Tensor
    o: Tensor
    s: Tensor
    eps: float
    evidence: Evidence

    @staticmethod
    def of(name: str, evidence: Evidence) -> Suspect | None:
        """The tensor of that name; None where numbers cannot be compared."""
        c, o = evidence.candidate.get(name), evidence.exact.get(name)
        if c is None or o is None or c.shape != o.shape or not c.is_floating_point():
            return None
        info, c, o = torch.finfo(c.dtype), to_double(c), to_double(o)
        alike = c.isinf() & (c == o)  # minus infinity where a mask says so
        s = torch.maximum(to_double(evidence.sums.get(name, o)), o.abs())
        c, o, s = (values.masked_fill(alike, 0.0) for values in (c, o, s))
        if not (c.isfinite().all() and o.isfinite().all() and s.isfinite().all()):
            return None
        return Suspect(name, c, o, s.clamp(min=info.smallest_normal), info.eps, evidence)

    @property
    def layer(self) -> str:
        """Its layer in words."""
        return title(self.evidence.layers.get(self.name))

    @property
    def right(self) -> bool:
        """Whether c is o but for rounding."""
        return explains(self.o, self.c, self.s, self.eps)

    def is_(self, guess: Tensor, sums: Tensor | None = None) -> bool:
        """Whether c is the guess, and much nearer to it than to o: in 16 bits much is rounding."""
        near = explains(guess, self.c, self.s if sums is None else sums, self.eps)
        return near and rms(guess - self.c) <= NEARER * rms(self.o - self.c)

    @cached_property
    def wrong(self) -> Tensor:
        """Where c is not o, elementwise."""
        return (self.c - self.o).abs() > limit(self.s, self.eps)


def explains(guess: Tensor, got: Tensor, sums: Tensor, eps: float) -> bool:
    """Whether ``got`` is ``guess`` but for rounding, given the size of the sums behind it."""
    if guess.shape != got.shape or not (guess.isfinite().all() and got.isfinite().all()):
        return False
    apart, sums = (guess - got).abs(), torch.maximum(sums, guess.abs())
    return bool((apart <= limit(sums, eps)).all()) and rms(apart) <= TENSOR * eps * rms(sums)


def limit(sums: Tensor, eps: float) -> Tensor:
    """What rounding may do to each element."""
    return eps * (ELEMENT * sums + 2 * of_lines(sums))


def factor_of(c: Tensor, o: Tensor) -> float:
    """k = <c, o> / <o, o>: the factor that brings k o nearest to c; NaN where o is zero."""
    size = float(o.abs().max()) if o.numel() else 0.0
    if size == 0:
        return float("nan")
    c, o = c / size, o / size
    return float((c * o).sum() / (o * o).sum())


def cosine(c: Tensor, o: Tensor) -> float:
    """<c, o> / |c| |o|; NaN where one of them is zero."""
    k, size = factor_of(c, o), rms(c)
    return k * rms(o) / size if size else float("nan")


def title(layer: str | None) -> str:
    """A layer's name in a sentence: ``fc1``, ``layer 0``, ``the module`` itself."""
    if not layer:
        return "the module"
    return f"layer {layer}" if layer.isdigit() else layer
