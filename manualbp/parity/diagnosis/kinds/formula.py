"""Kinds seen from the float64 runs: a term that is missing, a factor that is missing or too many.

Each is only said where nothing but rounding is left, for other numbers and shorter inputs as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.doubled import View
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of
from manualbp.parity.diagnosis.formulas.bases import Base
from manualbp.parity.diagnosis.formulas.dictionary import KINDS
from manualbp.parity.diagnosis.formulas.expressions import FUNCTIONS, LAID, OWN, laid
from manualbp.parity.diagnosis.formulas.fit import LIKELY, REST, Fit, find, sample_of

EXACT = ": exact in float64, for other numbers as well"
TENSORS = 4  # gradients of one comparison that are looked at: one takes up to a second
LARGEST = 1 << 16  # numbers in a gradient, more are too slow


def missing_factor(s: Suspect) -> Pattern | None:
    """O = k c f or c = k o f, f made of one or two tensors that are known."""
    bases = _bases(s)
    if not bases:
        return None
    for lacking, several in ((True, False), (False, False), (True, True)):
        found = _factor(bases, lacking, several)
        if found:
            break
    else:
        return None
    k, words = found
    times = "" if abs(k - 1) < 1e-9 else f"{k:.4g} * "
    if lacking:
        said = f"{s.name} lacks the factor {times}{words}"
        step = f"multiply by {times}{words} in the backward of {s.layer}"
    else:
        said = f"{s.name} has the factor {times}{words}, which the reference has not"
        step = f"take {times}{words} out in the backward of {s.layer}"
    return Pattern("missing factor", said + EXACT, step, found)


def missing_term(s: Suspect) -> Pattern | None:
    """O - c = k_1 t_1 (+ k_2 t_2)."""
    return _fitted(s, False)


def other_formula(s: Suspect) -> Pattern | None:
    """O = k_1 t_1 (+ k_2 t_2), whatever c is."""
    return _fitted(s, True)


def with_the_references(s: Suspect) -> Pattern | None:
    """As the two above, also of what only the reference's graph saved."""
    return _fitted(s, False, borrowed=True) or _fitted(s, True, borrowed=True)


def _fitted(s: Suspect, whole: bool, borrowed: bool = False) -> Pattern | None:
    """What is missing, or else the whole gradient, in words."""
    for bases in (_bases(s, borrowed=borrowed), _bases(s, grouped=True, borrowed=borrowed)):
        fits = (find(kind, bases, whole) for kind in KINDS if bases)
        fit = next((fit for fit in fits if fit is not None), None)
        if fit is not None and (whole or fit.own is None):
            return _said(s, fit, bases[0].groups)
    return None


def _said(s: Suspect, fit: Fit, groups: int) -> Pattern:
    words, should = fit.in_words(), fit.whole or fit.own is not None
    parts = [term for i, term in enumerate(fit.terms) if i != fit.own]
    notes = [f"{OWN} is the candidate's {s.name}"] if any(term.own for term in parts) else []
    notes += (
        [f"everything in {groups} groups of channels, as (N, {groups}, rest)"] if groups else []
    )
    where = f" ({'; '.join(notes)})" if notes else ""
    if "reference." in words:
        notes.append("reference.* is what the reference's graph saved")
    verb = "should be" if should else "lacks"
    step = f"add {words} in the backward of {s.layer}, or mend the term it should be part of"
    if should:
        step = f"hold the backward of {s.layer} against {words}"
    kind = "formula" if should else "missing term"
    return Pattern(kind, f"{s.name} {verb} {words}{where}{EXACT}", step, words)


def _bases(s: Suspect, grouped: bool = False, borrowed: bool = False) -> list[Base]:
    """This gradient in all runs; none where the candidate's float64 run has another fault."""
    runs = s.evidence.doubled
    if runs is None or not s.name.endswith(".grad") or s.o.numel() > LARGEST:
        return []
    if not runs.same_fault(s.name, s.c, s.o):
        return []
    key = s.name, grouped, borrowed
    if key not in runs.bases:
        if len({name for name, *_ in runs.bases} - {s.name}) >= TENSORS:
            return []
        views = [view for view in (*runs.changed, runs.given) if view is not None]
        pairs = [(view, view.pair(s.name)) for view in views]
        groups = _groups(s, views[0]) if grouped else 0
        found = [Base(view, s.name, groups, borrowed) for view, pair in pairs
                 if pair and not torch.equal(*pair) and grouped == bool(groups)]  # fmt: skip
        runs.bases[key] = found if len(found) > 1 else []
    return runs.bases[key]


def _groups(s: Suspect, view: View) -> int:
    """How many groups of channels there are: a saved tensor has one number for each."""
    shape = s.o.shape
    found = (int(x.shape[1]) for x in view.seen.values.values()
             if x.dim() > 2 and len(shape) > 2 and x.shape[0] == shape[0]
             and x.numel() == x.shape[0] * x.shape[1] and x.shape[1] < shape[1]
             and shape[1] % x.shape[1] == 0)  # fmt: skip
    return next(found, 0)


def _factor(bases: list[Base], lacking: bool, several: bool) -> tuple[float, str] | None:
    """k and f in words, the shortest first."""
    base, sample = bases[0], sample_of(bases[0].o.numel())
    c, o = _sides(base, lacking)
    functions = _functions(base)
    if not functions or base.o.numel() < 4 or not o.any():
        return None
    names, f = list(functions), torch.stack([x.flatten()[sample] for x in functions.values()])
    c, o = c.flatten()[sample], o.flatten()[sample]
    found = [(names[i], "") for i in _along(c * f, o[None])]
    for i, name in enumerate(names) if several else ():
        found += [(name, f" * {names[j]}") for j in _along(c * f * f[i], o[None]) if j > i]
        found += [(name, f" / {names[j]}") for j in _along(c[None] * f[i], o * f) if j != i]
    for name, other in sorted(found, key=lambda pair: _length(*pair))[:20]:
        factors = [_constant(each, name, other, lacking) for each in bases]
        k = factors[0]
        if k is not None and all(x is not None and abs(x - k) <= 1e-9 * abs(k) for x in factors):
            return k, name + other
    return None


def _sides(base: Base, lacking: bool) -> tuple[Tensor, Tensor]:
    """What f is multiplied with, and what that gives."""
    return (base.c, base.o) if lacking else (base.o, base.c)


def _length(name: str, other: str) -> int:
    """How much there is to say; a function counts more than the letters of its name."""
    return len(name + other) + 20 * (name + other).count("(")


def _along(made: Tensor, wanted: Tensor) -> list[int]:
    """The lines in which what is made is a multiple of what is wanted."""
    products = (made * wanted).sum(-1)
    sizes = made.square().sum(-1) * wanted.square().sum(-1)
    return ((products.square() > (1 - LIKELY) * sizes) & (sizes > 0)).nonzero().flatten().tolist()


def _constant(base: Base, name: str, other: str, lacking: bool) -> float | None:
    """k of one run; None where more than rounding is left."""
    c, o = _sides(base, lacking)
    functions = _functions(base)
    if name not in functions or (other and other[3:] not in functions):
        return None
    made = c * functions[name]
    if other.startswith(" *"):
        made = made * functions[other[3:]]
    elif other:
        o = o * functions[other[3:]]
    k = factor_of(o, made)
    return k if rms(o - k * made) <= REST * rms(o) else None


def _functions(base: Base) -> dict[str, Tensor]:
    """What may be a factor of the gradient, by its words: laid over its shape."""
    found = {}
    for name, x in base.factors.items():
        for how in LAID:
            y = laid(x, how, base.o.shape) if x.numel() > 1 else None
            if y is None:
                continue
            for words, f in FUNCTIONS.items():
                value = f(y)
                if value.isfinite().all():
                    found[words.format(how.format(name))] = value.expand_as(base.o)
    return found
