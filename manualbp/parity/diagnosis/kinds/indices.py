"""Kinds seen from whole-numbered inputs, and from the shape in which a gradient was returned."""

from __future__ import annotations

import torch
from torch import Tensor

from manualbp.parity.diagnosis.doubled import View
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of

CLOSE = 1e-10  # relative, of float64
NEAR = 1e-3  # relative, of the candidate's dtype


def once_per_row(s: Suspect) -> Pattern | None:
    """c = n o where n copies of o were returned, and autograd added them up."""
    runs = s.evidence.doubled
    k = factor_of(s.c, s.o)
    if runs is None or not k > 1.5 or not runs.same_fault(s.name, s.c, s.o):
        return None
    pair = runs.given.pair(s.name) if runs.given is not None else None
    got = runs.returned.get(s.name)
    if pair is None or got is None or got.numel() <= pair[1].numel() or got.dim() < s.o.dim():
        return None
    try:
        copies = pair[1].expand_as(got)
    except RuntimeError:
        return None
    if not _close(got, copies) or abs(k * s.o.numel() / got.numel() - 1) > NEAR:
        return None
    shapes = tuple(got.shape), tuple(s.o.shape)
    words = (f"{s.name} = {k:#.4g} x reference: it was returned as {shapes[0]} for {shapes[1]}, "
             "the same numbers once per row, and autograd added the rows up")  # fmt: skip
    step = f"return {shapes[1]} in the backward of {s.layer}"
    return Pattern("returned shape", words, step, shapes[0])


def repeated_index(s: Suspect) -> Pattern | None:
    """c_j = o_j but for the lines j that an input of whole numbers names more than once."""
    runs = s.evidence.doubled
    views = [runs.given, *runs.changed] if runs is not None else []
    known = [view for view in views if view is not None and view.pair(s.name) is not None]
    names = known[0].seen.indices if len(known) > 1 else {}
    for name in names:
        if not all(_only_repeated(view, s.name, name) for view in known):
            continue
        words = f"{s.name} is wrong only in the rows that {name} names more than once"
        if all(_last_alone(view, s.name, name) for view in known):
            words += ": the last one alone is kept there, the others are written over"
        step = f"add with index_add in the backward of {s.layer}, do not assign"
        return Pattern("repeated index", words, step, name)
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * b.abs().max())


def _only_repeated(view: View, tensor: str, name: str) -> bool:
    """Whether wrong are some of the lines that are named twice or more, and all of the others not.

    Every line of them is wrong where it can be: this is the claim.
    """
    pair, index = view.pair(tensor), view.seen.indices[name].flatten()
    if pair is None or not pair[0].dim() or index.dtype not in (torch.int32, torch.int64):
        return False
    c, o = pair
    if not index.numel() or int(index.min()) < 0 or int(index.max()) >= len(o):
        return False
    counts = torch.bincount(index.long(), minlength=len(o))
    wrong = ((c - o).abs() > CLOSE * o.abs().max()).flatten(1).any(1) if o.dim() > 1 else (
        (c - o).abs() > CLOSE * o.abs().max())  # fmt: skip
    return bool(wrong.any()) and torch.equal(wrong, counts > 1)


def _last_alone(view: View, tensor: str, name: str) -> bool:
    """Whether a line is what the last place that names it gives."""
    pair, index = view.pair(tensor), view.seen.indices[name]
    given = list(view.seen.cotangents.values())
    if pair is None or len(given) != 1 or given[0].shape != index.shape + pair[1].shape[1:]:
        return False
    last = torch.zeros_like(pair[1])
    rows = given[0].reshape(-1, *pair[1].shape[1:])
    for place, line in enumerate(index.flatten().tolist()):
        last[line] = rows[place]
    return _close(pair[0], last)
