r"""How far a correct run may be from the float64 run: measured for each element, by twins.

    s = |o| + max over twins |o_rounded - o| / eps       e = max over twins |r_twin - o_twin|

A twin is the reference with every input, parameter and output gradient off by at most one eps of
the working dtype. It runs three times:

    r_twin       in the working dtype
    o_twin       in float64; e, the reference's own error, is how far r_twin is from it
    o_rounded    in float64 with the result of every operator off by at most one eps as well;
                 how far it moves, over eps, is the size s of the sums behind a number, also where
                 large terms cancel halfway

Limits only grow with the number of twins: what agrees by two agrees by all nine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from manualbp.parity.arms.calls import Call, Directions, cast_loss, moved
from manualbp.parity.arms.forward import Hook, Tensors
from manualbp.parity.arms.rounding import Lowered, Rounded, nudged
from manualbp.parity.arms.runs import ArmRun, autocast, autocast_dtype, device_of
from manualbp.parity.arms.subject import Subject
from manualbp.parity.bits import rms, to_double
from manualbp.parity.judge.limits import Limits
from manualbp.parity.judge.tolerance import decided
from manualbp.parity.record import TensorReport

TWINS = 9


@dataclass(frozen=True)
class Twins:
    """Two copies of the reference, in the working dtype and in float64; every use loads them."""

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

    ``lowered`` is the coarsest dtype that the float64 run goes through, None where it is float64;
    ``random`` names what is another number in a second run.

    Args:
        run: what is run, one of ``RUN_KINDS``.
        reference: as it stands now; it is read, not run.
        call: what it is called with.
        directions: as drawn by the reference's own run.
        twins: copies of the reference, made here where none are given.
        steady: it is known that two runs of the reference are alike.

    Raises:
        ValueError: the reference has no float64 run.
    """

    def __init__(
        self,
        run: Callable[..., ArmRun],
        reference: Subject,
        call: Call,
        directions: Directions,
        twins: Twins | None = None,
        steady: bool = False,
    ) -> None:
        self._run, self._reference, self._directions = run, reference, directions
        self._call, self.double_call = call, in_float64(call)
        self._twins = twins or Twins.of(reference)
        floats = [*reference.parameters.values(), *call.leaves.values()]
        self.dtype = next((t.dtype for t in floats if t.is_floating_point()), torch.float32)
        # Under autocast another implementation may round to its dtype at other places.
        inside = autocast_dtype(device_of(reference, call)) if run is autocast else self.dtype
        self.eps = max(torch.finfo(dtype).eps for dtype in (self.dtype, inside))
        self._generator = torch.Generator().manual_seed(call.seed + 1)
        self.count = 0
        self._twins.double.load(reference)
        with Lowered() as seen:  # type: ignore[no-untyped-call]
            self.exact = self._in_double(self.double_call)
        self.lowered = seen.dtype
        again = self.exact if steady else self._in_double(self.double_call)
        self.random = {n for n, value in self.exact.items() if another(value, again.get(n))}
        self._moved = {name: torch.zeros_like(value) for name, value in self.exact.items()}
        self.noise = {name: torch.zeros_like(value) for name, value in self.exact.items()}

    @property
    def sums(self) -> dict[str, Tensor]:
        """s by name; |o| alone before the first twin."""
        return {name: self.sums_of(name) for name in self.exact}

    @property
    def least_eps(self) -> float:
        """The rounding inside a run where it is coarser than the dtype's; 0 elsewhere."""
        return self.eps if self.eps > torch.finfo(self.dtype).eps else 0.0

    def sums_of(self, name: str) -> Tensor:
        """s of one tensor."""
        return self.exact[name].abs() + self._moved[name] / self.eps

    def judge(
        self, name: str, candidate: Tensor | None, reference: Tensor | None, exact: bool = False
    ) -> TensorReport:
        """The verdict on one tensor, by the twins that are drawn."""
        report = decided(name, candidate, reference, self.exact.get(name))
        if report is not None:
            return report
        assert candidate is not None and reference is not None
        return self.limits(name, reference).report(name, candidate, exact)

    def limits(self, name: str, reference: Tensor) -> Limits:
        """What is allowed for one tensor, by the twins that are drawn."""
        return Limits.of(
            reference, self.exact[name], self.sums_of(name), self.noise[name], self.lowered,
            self.least_eps, name in self.random,
        )  # fmt: skip

    def extend(self, count: int) -> Yardstick:
        """Draw twins until there are ``count`` pairs."""
        while self.count < count:
            self.count += 1
            self._draw()
        return self

    def rerun(
        self, call: Call, directions: Directions, hook: Hook | None = None
    ) -> dict[str, Tensor]:
        """The float64 run for another call, other directions, or other gradients of the outputs."""
        self._twins.double.load(self._reference)
        return self._in_double(in_float64(call), hook, directions)

    def _draw(self) -> None:
        """One more twin: its three runs, and how far they lie apart."""
        working, double, generator = self._twins.working, self._twins.double, self._generator
        working.load(self._reference)
        with torch.no_grad():
            for parameter in working.parameters.values():
                parameter.copy_(nudged(parameter, self.eps, generator))
        double.load(working)
        floating = {n: x for n, x in self._call.leaves.items() if x.is_floating_point()}
        call = self._call.with_leaves(
            {n: nudged(x, self.eps, generator) for n, x in floating.items()}
        )
        state = generator.get_state()  # both twins get the same nudge of the output's gradient

        def hook(gradient: Tensor) -> Tensor:
            return nudged(gradient, self.eps, generator)

        run = self._run(working, call, self._directions, hook).tensors
        generator.set_state(state)
        doubled = moved({n: call.leaves[n] for n in floating}, torch.float64)
        double_call = self.double_call.with_leaves(doubled)
        other = self._in_double(double_call, hook)
        for name in self.exact.keys() & other.keys():
            mine, value = run.get(name), other[name]
            if mine is not None:
                self.noise[name] = _larger(self.noise[name], to_double(mine) - value)
        double.load(working)  # its buffers have moved
        # The fused kernel of attention is written out as well.
        with sdpa_kernel(SDPBackend.MATH), Rounded(self.eps, generator):
            rounded = self._in_double(double_call, hook)
        for name in self.exact.keys() & rounded.keys():
            self._moved[name] = _larger(self._moved[name], rounded[name] - self.exact[name])

    def _in_double(
        self, call: Call, hook: Hook | None = None, directions: Directions | None = None
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


def judge_tensors(
    candidate: Tensors,
    reference: Tensors,
    yardstick: Yardstick,
    exact: bool = False,
    pairs: Sequence[int] = (TWINS,),
) -> tuple[TensorReport, ...]:
    """One TensorReport for each tensor of either arm, the reference's order first.

    ``pairs``: how many twins are drawn at first, and how many next as long as a tensor differs.
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


def another(one: Tensor, other: Tensor | None) -> bool:
    """Whether two runs are apart by more than any order of summation makes them."""
    if other is None or one.shape != other.shape:
        return True
    if not one.is_floating_point():
        return False
    return rms((one - other).nan_to_num(nan=0.0)) > math.sqrt(torch.finfo(one.dtype).eps) * rms(one)


def _larger(known: Tensor, apart: Tensor) -> Tensor:
    """max(known, |apart|) where that is finite: a twin that overflows has nothing to say."""
    return torch.maximum(known, apart.abs().nan_to_num(nan=0.0, posinf=0.0))


def in_float64(call: Call) -> Call:
    """The same call in float64: arguments, target, and a loss that is a module."""
    return replace(call.to(torch.float64), loss=cast_loss(call.loss, torch.float64))
