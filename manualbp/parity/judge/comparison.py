"""One check of two arms: both run once, then are judged. More can be asked of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Directions, Loss, WrongShape, named
from manualbp.parity.arms.forward import LOSS, Hook, Tensors
from manualbp.parity.arms.runs import RUN_KINDS, ArmRun
from manualbp.parity.arms.subject import AFTER, Subject
from manualbp.parity.bits import bit_identical, to_double
from manualbp.parity.judge.yardstick import Twins, Yardstick, judge_tensors
from manualbp.parity.record import TensorReport, without_numbers

# An independent float64 oracle must meet the float64 run this closely, relative to the sums.
ORACLE_TOLERANCE = 1e-12


class Comparison:
    """Both arms' runs of one kind, the yardstick, and the ``reports`` on every tensor.

    Args:
        kind: one of ``RUN_KINDS``.
        candidate: the arm under test; what it raises is a difference.
        reference: the arm it should equal; what it raises is raised.
        call: arguments, loss, target and seed.
        candidate_loss: the candidate's own loss, ``call.loss`` by default.
        cotangent: of the loss or the outputs; random by default.
        exact: ask for the reference's bits.
        twins: copies of the reference to run; made here by default.
    """

    def __init__(
        self,
        kind: str,
        candidate: Subject,
        reference: Subject,
        call: Call,
        *,
        candidate_loss: Loss | None = None,
        cotangent: Any = None,
        exact: bool = False,
        twins: Twins | None = None,
    ) -> None:
        self.kind, self.call, self.exact = kind, call, exact
        self.candidate, self.reference = candidate, reference
        self.candidate_call = replace(call, loss=candidate_loss or call.loss)
        self.twins = twins or Twins.of(reference)
        root = "output" if call.loss is None else LOSS
        given = named(cotangent, lambda path: root + pytree.keystr(path))
        self.directions = Directions(call.seed, given)
        self.theirs = self._run_reference()
        self.ours, problems = self._run_candidate()
        self.yardstick = Yardstick(RUN_KINDS[kind], reference, call, self.directions, self.twins)
        self.reports = (*problems, *self._judged())

    @property
    def agrees(self) -> bool:
        """Every tensor agrees."""
        return all(report.agrees for report in self.reports)

    @property
    def rows(self) -> int | None:
        """N, the rows of the batch: the common length of the outputs' first dimension."""
        outputs = [t for n, t in self.theirs.tensors.items()
                   if n.startswith("output") and not n.endswith((".grad", AFTER))]  # fmt: skip
        lengths = {t.shape[0] if t is not None and t.dim() else None for t in outputs}
        return lengths.pop() if len(lengths) == 1 else None

    def dtype(self, name: str) -> torch.dtype:
        """The reference's dtype of a tensor."""
        value = self.theirs.tensors.get(name)
        return self.yardstick.dtype if value is None else value.dtype

    def judge_of(self, name: str) -> Callable[[Tensor], bool]:
        """Whether another value of one of the candidate's tensors differs, quickly for many."""
        reference = self.theirs.tensors[name]
        assert reference is not None
        if self.exact:
            return lambda value: not bit_identical(value, reference)
        return self.yardstick.limits(name, reference).differs

    def candidate_tensors(self, call: Call, directions: Directions) -> Tensors:
        """The candidate's plain run for another call and other directions."""
        own = call if call.loss is None else replace(call, loss=self.candidate_call.loss)
        return RUN_KINDS[self.kind](self.candidate, own, directions).tensors

    def rerun_candidate(
        self,
        call: Call | None = None,
        directions: Directions | None = None,
        hook: Hook | None = None,
    ) -> Tensors:
        """The candidate's tensors for another call, or with the outputs' gradients changed."""
        own = replace(call or self.call, loss=self.candidate_call.loss)
        return RUN_KINDS[self.kind](
            self.candidate, own, directions or self.directions, hook
        ).tensors

    def with_oracle(self, oracle: Mapping[str, NDArray[Any]]) -> tuple[TensorReport, ...]:
        """The reports; a tensor differs, too, where its oracle is far from the float64 run.

        Raises:
            ValueError: the oracle names a tensor that is not compared.
        """
        if self.kind != "backward":
            return self.reports
        unknown = set(oracle) - set(self.theirs.tensors)
        if unknown:
            raise ValueError(
                f"the oracle names {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join(self.theirs.tensors)}"
            )
        return tuple(
            self._beside_oracle(report, oracle[report.name]) if report.name in oracle else report
            for report in self.reports
        )

    def _beside_oracle(self, report: TensorReport, oracle: NDArray[Any]) -> TensorReport:
        exact = self.yardstick.exact.get(report.name)
        if exact is None or tuple(oracle.shape) != tuple(exact.shape):
            shape = None if exact is None else tuple(exact.shape)
            reason = f"the oracle is {tuple(oracle.shape)}, the float64 run {shape}"
        else:
            apart = (to_double(oracle) - exact).abs()
            relative = torch.where(apart == 0, 0.0, apart / self.yardstick.sums_of(report.name))
            difference = float(relative.max()) if relative.numel() else 0.0
            report = replace(report, oracle_difference=difference)
            if difference <= ORACLE_TOLERANCE:  # false for NaN
                return report
            reason = (
                f"the oracle is {difference:.1e} from the float64 run, allowed {ORACLE_TOLERANCE}"
            )
        both = f"{report.reason}; {reason}" if report.reason else reason
        return replace(report, agrees=False, reason=both)

    def _run_reference(self) -> ArmRun:
        """An error in an ordinary backward is raised as it is; else the message says what to do."""
        try:
            return RUN_KINDS[self.kind](self.reference, self.call, self.directions)
        except Exception as error:
            if self.kind == "backward":
                raise
            text = " ".join(str(error).split())
            raise ValueError(
                f"expected a reference that has {self.kind}, got {type(error).__name__}: {text}; "
                f"leave {self.kind} out"
            ) from error

    def _run_candidate(self) -> tuple[ArmRun, list[TensorReport]]:
        """The run, and what is wrong with it before any number is compared."""
        first = next(iter(self.theirs.tensors))
        try:
            run = RUN_KINDS[self.kind](self.candidate, self.candidate_call, self.directions)
        except WrongShape as error:
            return ArmRun({}), [without_numbers(error.name, str(error))]
        except Exception as error:
            return ArmRun({}), [without_numbers(first, raised(error))]
        problems = []
        if run.structure != self.theirs.structure:
            reason = f"{run.structure}, expected {self.theirs.structure}"
            problems.append(without_numbers("structure", f"structure {reason}"))
        for name in sorted(set(run.sparse) ^ set(self.theirs.sparse)):
            got, expected = ("sparse", "dense") if name in run.sparse else ("dense", "sparse")
            problems.append(without_numbers(f"{name} (layout)", f"{got}, expected {expected}"))
        for name in run.edited:
            if name not in self.theirs.edited:
                reason = "written over by the candidate, which may only read it; clone it first"
                problems.append(without_numbers(f"{name} (read only)", reason))
        return run, problems

    def _judged(self) -> tuple[TensorReport, ...]:
        if not self.ours.tensors:  # it raised: that is the one report
            return ()
        # A buffer is compared where both arms have one of that name.
        both = self.candidate.buffers.keys() & self.reference.buffers.keys()
        common = {f"{name}{AFTER}" for name in both}
        ours, theirs = (
            {n: t for n, t in run.tensors.items() if not n.endswith(AFTER) or n in common}
            for run in (self.ours, self.theirs)
        )
        return judge_tensors(ours, theirs, self.yardstick, self.exact)


def raised(error: Exception) -> str:
    """What the candidate raised, on one line."""
    return f"the candidate raised {type(error).__name__}: {' '.join(str(error).split())}"
