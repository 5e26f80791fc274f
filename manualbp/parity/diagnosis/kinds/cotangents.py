"""Kinds seen from how a gradient follows its grad_output: a gradient is linear in it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.doubled import Doubled, View
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of

SAME = 1e-11  # relative, of float64
# c(2 d) over c(d), and what that says.
GROWTH = {
    4.0: "grad_output is in it twice: it grows by 4 where grad_output grows by 2",
    0.5: "it is divided by grad_output",
    1.0: "the size of grad_output is not used: twice as much gives the same",
}
# The number a row is scaled by in place of its own grad_output, from all of them.
TAKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "grad_output[0]": lambda d: d[:1].expand_as(d),
    "grad_output[-1]": lambda d: d[-1:].expand_as(d),
    "the mean of grad_output": lambda d: d.mean().expand_as(d),
    "the sum of grad_output": lambda d: d.sum().expand_as(d),
    "grad_output of the row before": lambda d: d.roll(1),
    "grad_output of the row behind": lambda d: d.roll(-1),
    "grad_output in reverse order": lambda d: d.flip(0),
}


def unused(s: Suspect) -> Pattern | None:
    """c(d) = c(d') for other cotangents d', where o(d) is not o(d')."""
    runs = _runs(s)
    first, second = (_pair(runs.given, s), _pair(runs.other_cotangents, s)) if runs else (None,) * 2
    if first is None or second is None or not first[0].any():
        return None
    if not _same(first[0], second[0]) or _same(first[1], second[1]):
        return None
    words = f"grad_output is not used: {s.name} is the same for another one"
    return Pattern("cotangent", words, f"multiply by grad_output in the backward of {s.layer}",
                   "unused")  # fmt: skip


def twice(s: Suspect) -> Pattern | None:
    """c(2 d) = 4 c(d): grad_output is in it twice; c(2 d) = c(d): only its sign."""
    runs = _runs(s)
    first = _pair(runs.given, s) if runs else None
    second = _pair(runs.larger_cotangents, s) if runs and first else None
    if first is None or second is None or not first[0].any() or not _same(2 * first[1], second[1]):
        return None
    for k, words in GROWTH.items():
        if _same(k * first[0], second[0]):
            step = f"multiply by grad_output once in the backward of {s.layer}"
            return Pattern("cotangent", f"{s.name}: {words}", step, k)
    return None


def other_rows(s: Suspect) -> Pattern | None:
    """c_n = o_n e_n / d_n, e_n made of the cotangents of other rows."""
    runs = _runs(s)
    views = [runs.given, *runs.changed] if runs else []
    known = [view for view in views if view is not None and _scales(view, s) is not None]
    if len(known) < 2:
        return None
    for words, taken in TAKEN.items():
        if all(_taken(view, s, taken) for view in known):
            said = f"every row is scaled by {words} in place of its own grad_output"
            step = f"multiply row n by grad_output[n] in the backward of {s.layer}"
            return Pattern("cotangent", f"{s.name}: {said}", step, words)
    return None


def _runs(s: Suspect) -> Doubled | None:
    runs = s.evidence.doubled
    if runs is None or not s.name.endswith(".grad") or not runs.same_fault(s.name, s.c, s.o):
        return None
    return runs


def _pair(view: View | None, s: Suspect) -> tuple[Tensor, Tensor] | None:
    return None if view is None else view.pair(s.name)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and rms(a - b) <= SAME * rms(b)


def _scales(view: View, s: Suspect) -> tuple[Tensor, Tensor] | None:
    """d, and the number e_n that scales each row of c; None where rows are not scaled."""
    pair, given = view.pair(s.name), list(view.seen.cotangents.values())
    if pair is None or len(given) != 1 or given[0].dim() != 1 or not pair[0].dim():
        return None
    (c, o), d = pair, given[0]
    if len(d) < 2 or len(c) != len(d):
        return None
    k = torch.tensor([factor_of(x, y) for x, y in zip(c, o, strict=True)], dtype=torch.float64)
    scaled = o * k.reshape(-1, *[1] * (o.dim() - 1))
    return (d, k * d) if bool(k.isfinite().all()) and _same(scaled, c) else None


def _taken(view: View, s: Suspect, taken: Callable[[Tensor], Tensor]) -> bool:
    found = _scales(view, s)
    return found is not None and _same(taken(found[0]), found[1])
