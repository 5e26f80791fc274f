"""A gradient that is a multiple of the reference's, and what the multiple comes from.

A factor is named after a length only where it follows that length when it changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from manualbp.parity.diagnosis.doubled import Doubled, View
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of

# A named factor is taken for k within this relative distance, or 4 eps where that is more.
NEAR = 1e-3
EXACT = 1e-9  # the same in float64


class _Name(NamedTuple):
    """What a factor may come from: its value in a run, the words for it, and what to do."""

    value: Callable[[View], float]
    words: str
    step: str


def factor(s: Suspect) -> Pattern | None:
    """c = k o with k = <c, o> / <o, o>."""
    k = factor_of(s.c, s.o)
    if not s.is_(k * s.o, max(1.0, abs(k)) * s.s):
        return None
    named = _named(k, s)
    if s.o.count_nonzero() < 2 and not named:
        return None  # a single number is always some multiple of another
    words = f"{s.name} = {k:#.4g} x reference, cosine {math.copysign(1, k):.3f}"
    kind = "sign" if abs(k + 1) < max(NEAR, 4 * s.eps) else "factor"
    if named:
        words += f": {' or '.join(name.words for name in named)}"
    step = named[0].step if named else f"look for a scale of {k:.4g} that is left over"
    if not named and not _constant(k, s):
        words += "; another factor for other numbers"
        step = f"look for what scales {s.name} by a number that depends on the inputs"
    exact = named[0].words if named else float(f"{k:.3g}")
    return Pattern(kind, words, f"in the backward of {s.layer}, {step}", exact)


def _named(k: float, s: Suspect) -> list[_Name]:
    """The names whose value is k in every run."""
    runs, near = s.evidence.doubled, max(NEAR, 4 * s.eps)
    constants = [
        (-1.0, "the sign is wrong", f"negate {s.name}"),
        (2.0, "counted twice, or the 1/2 of the squared error is missing", "halve it"),
        (0.5, "half of it is missing, or the 2 of a square's derivative", "double it"),
    ]
    named = [_Name(partial(_fixed, value), words, step) for value, words, step in constants
             if abs(k / value - 1) < near]  # fmt: skip
    if runs is None or runs.given is None or not runs.same_fault(s.name, s.c, s.o):
        return named
    lengths = [name for name in _of_lengths(s, runs) if _is(k, name.value(runs.given), near)]
    followed = [name for name in lengths if _follows(name, s, runs)]
    if followed:
        return _unlike(followed, runs)
    return named if _constant(k, s) else []


def _unlike(names: list[_Name], runs: Doubled) -> list[_Name]:
    """The first of those that are the same number in every run."""
    views = [runs.given, *(runs.shorter(n) for n in runs.lengths)]
    known = [view for view in views if view is not None]
    return list({tuple(name.value(view) for view in known): name
                 for name in reversed(names)}.values())[::-1]  # fmt: skip


def _fixed(value: float, _: View) -> float:
    return value


def _length(place: tuple[str, int], view: View) -> float:
    return float(view.dims[place])


def _is(k: float, value: float, near: float) -> bool:
    return value not in (0, 1) and math.isfinite(value) and abs(k / value - 1) < near


def _constant(k: float, s: Suspect) -> bool:
    """Whether the factor is the same in all runs that there are."""
    runs = s.evidence.doubled
    views = [] if runs is None or not runs.same_fault(s.name, s.c, s.o) else runs.changed
    found = [_factor_in(view, s.name) for view in views]
    return all(x is None or abs(x / k - 1) < max(NEAR, 4 * s.eps) for x in found)


def _factor_in(view: View | None, name: str) -> float | None:
    """k of another run; None where it is no multiple there, or where nothing is known."""
    pair = None if view is None else view.pair(name)
    if pair is None or not pair[1].any():
        return None
    k = factor_of(*pair)
    apart = (pair[0] - k * pair[1]).abs().max()
    return k if apart <= EXACT * max(abs(k), 1) * pair[1].abs().max() else None


def _follows(name: _Name, s: Suspect, runs: Doubled) -> bool:
    """Whether k is the name's value in every run, also in one where that is another number."""
    given = runs.given
    assert given is not None
    views = [given, runs.other_numbers, *(runs.shorter(n) for n in runs.lengths)]
    pairs = [(_factor_in(view, s.name), view) for view in views if view is not None]
    known = [(k, name.value(view)) for k, view in pairs if k is not None]
    moved = any(abs(value - name.value(given)) > EXACT for _, value in known)
    return moved and all(abs(k - value) <= EXACT * abs(value) for k, value in known)


def _of_lengths(s: Suspect, runs: Doubled) -> list[_Name]:
    """Every length, its root, its inverse: as a sum for a mean, a scale that is missing, ..."""
    terms = ("delta", "delta^T a")[s.o.dim() - 1] if s.o.dim() in (1, 2) else "its terms"
    terms = "its terms" if s.name.startswith("input") else terms
    given = runs.given
    assert given is not None
    counts: list[tuple[Callable[[View], float], str, str]] = []
    if given.rows:
        rows, outputs = given.rows, given.outputs // given.rows
        counts = [(lambda v: float(v.rows or 0), f"the {rows} rows", "the batch"),
                  (lambda v: v.outputs / (v.rows or 1), f"the {outputs} outputs of a row",
                   "the outputs")]  # fmt: skip
    else:
        counts = [(lambda v: float(v.length), f"the {given.length} rows", "the batch")]
    counts.append((lambda v: float(v.outputs), f"all {given.outputs} outputs", "all outputs"))
    counts += [(partial(_length, place), f"the {n} numbers of dimension "
                f"{place[1]} of {place[0]}", f"dimension {place[1]}")
               for place, n in given.dims.items()]  # fmt: skip
    found = []
    for value, what, short in counts:
        found += _names(value, what, short, terms)
    return found


def _names(value: Callable[[View], float], what: str, short: str, terms: str) -> list[_Name]:
    n = what.split()[1]

    def of(f: Callable[[float], float]) -> Callable[[View], float]:
        return lambda view: f(value(view)) if value(view) > 1 else 0.0

    return [
        _Name(of(lambda x: x), f"a sum over {what} where the reference takes a mean",
              f"average {terms} over {short} instead of summing"),
        _Name(of(lambda x: 1 / x), f"a mean over {what} where the reference takes a sum",
              f"sum {terms} over {short} instead of averaging"),
        _Name(of(math.sqrt), f"the scale 1/sqrt({n}) is missing, {n} for {what}",
              f"divide by sqrt({n})"),
        _Name(of(lambda x: 1 / math.sqrt(x)),
              f"the scale 1/sqrt({n}) is in it once too often, {n} for {what}",
              f"take the scale 1/sqrt({n}) only once"),
        _Name(of(lambda x: x / (x - 1)), f"divided by {n} - 1 in place of {n}, for {what}",
              f"divide by {n}"),
        _Name(of(lambda x: (x - 1) / x), f"divided by {n} in place of {n} - 1, for {what}",
              f"divide by {n} - 1"),
    ]  # fmt: skip
