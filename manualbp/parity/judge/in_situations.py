"""How a candidate does in the situations of situations.py: one row of the report each.

In each the candidate runs once more, and its gradients are held against those of its plain run:

    equal bits     agree
    else           the yardstick judges them, as in the plain run
    else           the reference runs in the same situation; where it changes as well, or raises,
                   the situation is not judged
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from torch import Tensor

from manualbp.parity.arms import reruns
from manualbp.parity.arms.calls import Call, Directions
from manualbp.parity.arms.forward import Tensors
from manualbp.parity.arms.runs import backward
from manualbp.parity.bits import bit_identical
from manualbp.parity.judge.comparison import Comparison, raised
from manualbp.parity.judge.situations import GRAD_OUTPUT, INPUTS, SITUATIONS, Kind, Variant
from manualbp.parity.judge.yardstick import TWINS, Yardstick
from manualbp.parity.record import AGREE, DIFFER, NOT_JUDGED, Situation

Measure = Callable[[], tuple[Yardstick, Tensors]]  # found when it is first asked for
# torch.compile frees what it saved at the first backward, and says so instead of being wrong.
DONATED, REFUSED = "donated buffer", "torch.compile refuses a second backward"


def layout_at_fault(comparison: Comparison) -> Situation | None:
    """A candidate that differs, but not for the same numbers without gaps; None for any other."""
    wrong = next((r for r in comparison.reports if r.verdict == DIFFER), None)
    if wrong is None:
        return None
    own, leaves = comparison.candidate_call, comparison.call.leaves
    drawn = comparison.directions.drawn
    dense = {n: d.contiguous() for n, d in drawn.items()}
    inputs = own.with_leaves({n: x.contiguous() for n, x in leaves.items()})
    for kind, strided, call, cotangents in (
        (GRAD_OUTPUT, drawn, own, dense), (INPUTS, leaves, inputs, drawn)
    ):  # fmt: skip
        if all(t.is_contiguous() for t in strided.values()):
            continue
        try:
            directions = Directions(call.seed, dict(cotangents))
            found = reruns.plain(comparison.candidate, call, directions)
        except Exception:  # it does not run on dense ones either
            continue
        if not _by_yardstick(partial(_measure, comparison, None), found)[1]:
            words = f"{kind.words}: {wrong.name}: {wrong.reason}"
            return Situation(kind.name, DIFFER, words, wrong.name, kind.step)
    return None


def judge_situations(comparison: Comparison) -> tuple[Situation, ...]:
    """Every situation that there is for a ``backward`` comparison which agrees."""
    found = (_judge(comparison, kind) for kind in SITUATIONS)
    return tuple(situation for situation in found if situation)


def _judge(comparison: Comparison, kind: Kind) -> Situation | None:
    """The verdict of the first case that does not agree; None where there is no case."""
    verdict = None
    for case in kind.cases(comparison):
        verdict = Situation(kind.name, AGREE) if verdict is None else verdict
        measure = cache(partial(_measure, comparison, case.plain))
        tensor, wrong = _wrong(comparison, case, measure)
        if not wrong:
            continue
        where = f" ({case.detail})" if case.detail else ""
        excuse = REFUSED if DONATED in wrong else _excuse(comparison, case, tensor, measure)
        if excuse:
            verdict = Situation(kind.name, NOT_JUDGED, f"{excuse}{where}")
            continue
        words = f"{kind.words}{where}: {wrong}" if tensor else f"{wrong}{where}"
        return Situation(kind.name, DIFFER, words, tensor, kind.step)
    return verdict


def _wrong(comparison: Comparison, case: Variant, measure: Measure) -> tuple[str, str]:
    """The first tensor that differs, and how; the empty string where none does."""
    own = comparison.candidate_call
    try:
        got = case.run(comparison.candidate, own, comparison.directions)
        expected = comparison.ours.tensors
        if case.plain:
            call, directions = case.plain
            expected = comparison.candidate_tensors(call, directions)
    except Exception as error:
        return "", raised(error)
    unequal = {n: t for n, t in got.items() if not _same(t, expected.get(n))}
    try:
        return _by_yardstick(measure, unequal) if unequal else ("", "")
    except Exception as error:  # the reference's own plain run
        return "", f"cannot be judged: {' '.join(str(error).split())}"


def _measure(
    comparison: Comparison, plain: tuple[Call, Directions] | None
) -> tuple[Yardstick, Tensors]:
    """The yardstick and the reference's tensors of a plain run, None for the check's own."""
    if plain is None:
        return comparison.yardstick.extend(TWINS), comparison.theirs.tensors
    call, directions = plain
    theirs = reruns.plain(comparison.reference, call, directions)
    yardstick = Yardstick(backward, comparison.reference, call, directions, comparison.twins)
    return yardstick.extend(TWINS), theirs


def _by_yardstick(measure: Measure, tensors: Tensors) -> tuple[str, str]:
    """The first of these tensors that is further from the float64 run than rounding allows."""
    yardstick, theirs = measure()
    for name, value in tensors.items():
        report = yardstick.judge(name, value, theirs.get(name))
        if report.verdict == DIFFER:
            return name, f"{name}: {report.reason}"
    return "", ""


def _excuse(comparison: Comparison, case: Variant, tensor: str, measure: Measure) -> str:
    """Why the candidate is not to blame: the reference does the same."""
    try:
        theirs = case.run(comparison.reference, comparison.call, comparison.directions)
    except Exception as error:
        return f"the reference raises {type(error).__name__} there"
    if tensor and _by_yardstick(measure, {tensor: theirs.get(tensor)})[1]:
        return f"the reference's {tensor} changes there as well"
    return ""


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal bits; no gradient is as good as one of zeros."""
    if a is None or b is None:
        there = a if b is None else b
        return there is None or not there.any()
    return bit_identical(a, b)
