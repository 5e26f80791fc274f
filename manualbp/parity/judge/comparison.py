"""One check of two arms: both run once, then judged; kept, so that more can be asked afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Directions, Loss, WrongShape, named
from manualbp.parity.arms.runs import KINDS, Run, Tensors
from manualbp.parity.arms.subject import AFTER, Subject
from manualbp.parity.judge.tolerance import without_numbers
from manualbp.parity.judge.yardstick import Twins, Yardstick, judge
from manualbp.parity.record import TensorReport


class Comparison:
    """Both arms' runs of one kind, the yardstick, and the ``reports`` on every tensor.

    Args:
        kind: one of ``runs.KINDS``.
        candidate: the arm under test; what it raises is a difference.
        reference: the arm it should equal; what it raises is raised.
        call: arguments, loss, target and seed.
        candidate_loss: the candidate's own loss, ``call.loss`` by default.
        cotangent: of the loss or the outputs; random by default.
        exact: ask for the reference's bits.
        twins: copies of the reference to work with; made here by default.
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
        self.directions = Directions(call.seed, _by_name(cotangent, call))
        self.theirs = self._run_reference()
        self.ours, problems = self._run_candidate()
        self.yardstick = Yardstick(KINDS[kind], reference, call, self.directions, self.twins)
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

    def judge_one(self, name: str, candidate: Tensor | None) -> TensorReport:
        """The verdict on another value of one of the candidate's tensors."""
        return self.yardstick.judge(name, candidate, self.theirs.tensors.get(name), self.exact)

    def rerun_candidate(
        self,
        call: Call | None = None,
        directions: Directions | None = None,
        hook: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensors:
        """The candidate's tensors for another call, or with the outputs' gradients changed."""
        own = replace(call or self.call, loss=self.candidate_call.loss)
        return KINDS[self.kind](self.candidate, own, directions or self.directions, hook).tensors

    def _run_reference(self) -> Run:
        """What it raises in an ordinary backward is the user's to see; beyond, say what to do."""
        try:
            return KINDS[self.kind](self.reference, self.call, self.directions)
        except Exception as error:
            if self.kind == "backward":
                raise
            text = " ".join(str(error).split())
            raise ValueError(
                f"expected a reference that has {self.kind}, got {type(error).__name__}: {text}; "
                f"leave {self.kind} out"
            ) from error

    def _run_candidate(self) -> tuple[Run, list[TensorReport]]:
        """The run, and what is wrong with it before any number is compared."""
        first = next(iter(self.theirs.tensors))
        try:
            run = KINDS[self.kind](self.candidate, self.candidate_call, self.directions)
        except WrongShape as error:
            return Run({}), [without_numbers(error.name, str(error))]
        except Exception as error:
            reason = f"the candidate raised {type(error).__name__}: {' '.join(str(error).split())}"
            return Run({}), [without_numbers(first, reason)]
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
        # A buffer counts where both arms have one of that name; in one alone it is an arm's own.
        common = self.candidate.buffers & self.reference.buffers
        ours, theirs = (
            {n: t for n, t in run.tensors.items() if not n.endswith(AFTER) or n in common}
            for run in (self.ours, self.theirs)
        )
        return judge(ours, theirs, self.yardstick, self.exact)


def _by_name(cotangent: Any, call: Call) -> dict[str, Tensor]:
    """A given cotangent under the names of what it belongs to."""
    if cotangent is None:
        return {}
    root = "output" if call.loss is None else "loss"
    return named(cotangent, lambda path: root + pytree.keystr(path))
